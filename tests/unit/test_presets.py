"""Presets and the help page that explains them."""

import pytest
from quadtree_pack import demo
from quadtree_pack.ui.inputs import check_visualizer_inputs
from quadtree_pack.ui.presets import PRESETS

PAGE = (demo.ROOT / "web" / "docs" / "QuadtreeVisualizer.md").read_text(encoding="utf-8")
SHOWN = ("coverage", "min_denoise", "max_denoise", "cost_budget")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fits_and_the_help_page_has_its_values(preset):
    values = PRESETS[preset]
    assert check_visualizer_inputs(**values)
    row = " | ".join([preset, *(f"{values[name]:g}" for name in SHOWN)])
    assert f"| {row} |" in PAGE


def test_every_preset_sets_the_same_inputs_and_no_two_are_one():
    assert len({frozenset(values) for values in PRESETS.values()}) == 1
    assert len({tuple(values.items()) for values in PRESETS.values()}) == len(PRESETS)
