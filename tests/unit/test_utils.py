import pytest
from quadtree_pack.ui.inputs import check_number
from quadtree_pack.utils import cells_from_px, comes_with_comfyui, round_down, round_up


@pytest.mark.parametrize(
    ("px", "px_per_cell", "unit", "cells"),
    [(0, 8, 1, 0), (1, 8, 1, 1), (64, 8, 1, 8), (65, 8, 2, 10), (64, 16, 4, 4), (64, 42, 1, 2)],
)
def test_px_become_whole_cells_rounded_up(px, px_per_cell, unit, cells):
    assert cells_from_px(px, px_per_cell, unit) == cells


def test_rounding_goes_to_multiples():
    assert (round_down(17, 8), round_up(17, 8), round_down(16, 8), round_up(16, 8)) == (
        16,
        24,
        16,
        16,
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 2.5, "1", None, True])
def test_a_value_that_does_not_fit_is_named(value):
    with pytest.raises(ValueError, match=r"strength is .* from 0 to 2 px"):
        check_number("strength", value, 0, 2, "px")


def test_whole_numbers_may_come_as_float_but_not_broken():
    assert check_number("tile", 64.0, 0, 100, kind=int) == 64
    with pytest.raises(ValueError, match="whole number"):
        check_number("tile", 64.5, 0, 100, kind=int)


@pytest.mark.parametrize(
    ("module", "known"),
    [
        ("comfy.ldm.flux.model", True),
        ("comfy_extras.nodes_easycache", True),
        ("/srv/ComfyUI/comfy_extras/nodes_easycache", True),  # as ComfyUI's server names it
        ("C:\\ComfyUI\\comfy_extras\\nodes_pag", True),
        ("quadtree_pack.sampling.run", True),
        ("/srv/ComfyUI/custom_nodes/ComfyUI-TeaCache.nodes", False),
        ("C:\\comfy_extras_copy\\custom_nodes\\some", False),
        ("comfyui_pack", False),
        ("functools", False),
        (None, False),
    ],
)
def test_what_comes_with_comfyui_is_told_by_its_module(module, known):
    thing = type("Thing", (), {"__module__": module})
    assert comes_with_comfyui(thing) == known
