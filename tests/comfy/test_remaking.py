"""What ComfyUI makes for the canvas' size, HiDream-O1's tokens and GLIGEN's boxes: a window gets
what a picture of its own would get.

So windows that do not overlap equal plain runs on the crops.
"""

from copy import copy

import pytest
import torch
from quadtree_pack.sampling.remaking import crop_positions
from quadtree_pack.testing.crops import RUN, crops_of, sample_crops, tiled_run
from quadtree_pack.testing.features import gligen_for, with_gligen
from quadtree_pack.testing.support import error, free_cells, half_kept, patched
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import TOKENS, gauss, sample
from quadtree_pack.utils import Box


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_window_sees_the_gligen_boxes_that_lie_in_it(windows, batch):
    words = [gauss((1, TOKENS), seed) for seed in (1, 2, 3)]
    positions = [(words[0], 9, 20, 2, 4), (words[1], 6, 5, 10, 1), (words[2], 8, 12, 1, 36)]
    entry = entry_of("sd15")
    patcher = gligen_for(entry.model)
    latent = entry.latent(16, 48, batch=batch)
    boxes = crops_of(48, 16)
    by_hand = {
        0: [(words[0], 9, 12, 2, 4), (words[1], 6, 5, 10, 1)],
        16: [(words[0], 9, 8, 2, 0)],
        32: [(words[2], 8, 12, 1, 4)],
    }
    plain = sample_crops(lambda box: with_gligen(entry, patcher, by_hand[box.x0]), latent, boxes)
    assert error(sample_crops(lambda _: entry, latent, boxes), plain) > 0.02
    boxed = with_gligen(entry, patcher, positions)
    tiled, spy = tiled_run(boxed, latent, 128, windows)
    assert error(tiled, plain) < 1e-5
    assert max(len(noisy) // batch for noisy in map(torch.empty, spy.shapes)) == min(windows, 3)


def test_boxes_outside_of_a_window_are_dropped_and_others_clipped():
    box = Box(16, 8, 32, 24)
    assert crop_positions([("a", 4, 4, 0, 0), ("b", 8, 16, 8, 16), ("c", 40, 20, 0, 30)], box) == [
        ("b", 8, 16, 0, 0),
        ("c", 16, 2, 0, 14),
    ]


def test_what_gligen_keeps_is_kept():
    entry, positions = entry_of("sd15"), [(gauss((1, TOKENS), 1), 9, 20, 2, 4)]
    entry = with_gligen(entry, gligen_for(entry.model), positions)
    latent, tree = entry.latent(16, 48), half_kept(16, 48)
    samples = sample(entry, latent, model=patched(entry, tree), **RUN)
    held = ~free_cells(tree, latent)
    assert torch.equal(samples[..., held], latent[..., held])


def hidream_o1(references=()):
    entry = copy(entry_of("hidream_o1"))
    if references:
        for name in ("positive", "negative"):
            conds = [
                [text, {**values, "reference_latents": list(references)}]
                for text, values in getattr(entry, name)
            ]
            setattr(entry, name, conds)
    return entry


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("references", [0, 1])
def test_a_window_of_hidream_o1_has_tokens_of_its_own(windows, batch, references):
    pictures = [gauss((1, 96, 64, 3), seed).sigmoid() for seed in range(references)]
    entry = hidream_o1(pictures)
    latent = entry.latent(64, 192, batch=batch)
    plain = sample_crops(lambda _: entry, latent, crops_of(192, 64))
    if references:
        others = sample_crops(lambda _: hidream_o1(), latent, crops_of(192, 64))
        assert error(others, plain) > 0.001
    tiled, spy = tiled_run(entry, latent, 64, windows, px_per_cell=1)
    assert {shape[-2:] for shape in spy.shapes} == {(64, 64)}
    assert max(shape[0] for shape in spy.shapes) >= min(windows, 3) * batch
    assert error(tiled, plain) < 1e-5


def test_references_of_hidream_o1_are_prepared_once_for_a_shape(monkeypatch):
    entry = hidream_o1([gauss((1, 96, 64, 3), 1).sigmoid()])
    made = []
    base = type(entry.model.model)
    extra_conds = base.extra_conds

    def count(self, **values):
        made.append(tuple(values["noise"].shape[-2:]))
        return extra_conds(self, **values)

    monkeypatch.setattr(base, "extra_conds", count)
    tiled_run(entry, entry.latent(64, 192), 64, px_per_cell=1)
    assert made.count((64, 192)) == 2 and made.count((64, 64)) == 2  # for each prompt
