"""SeedVR2, an upscaler of clips: what it refines is cut with the windows, one in each call."""

from copy import copy

import pytest
import torch
from quadtree_pack.sampling.model import Geometry
from quadtree_pack.testing.crops import crops_of, sample_crops, tiled_run
from quadtree_pack.testing.support import error
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import clean_latent


def of_canvas(condition):
    entry = copy(entry_of("seedvr2"))
    for name in ("positive", "negative"):
        conds = [
            [text, {**values, "condition": condition}] for text, values in getattr(entry, name)
        ]
        setattr(entry, name, conds)
    return entry


def test_it_may_be_cut_at_its_patches():
    assert Geometry.of(entry_of("seedvr2").model).unit == 2


@pytest.mark.parametrize("windows", [1, 12])
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_equal_plain_runs_on_the_crops(windows, batch):
    latent = entry_of("seedvr2").latent(18, 54, batch=batch)
    mask = torch.ones(batch, 1, 3, 18, 54)
    condition = torch.cat([clean_latent((batch, 16, 3, 18, 54), 70), mask], 1)
    boxes = crops_of(54, 18)
    plain = sample_crops(lambda box: of_canvas(condition[(..., *box.slices)]), latent, boxes)
    tiled, spy = tiled_run(of_canvas(condition), latent, 144, windows)
    assert {shape[-2:] for shape in spy.shapes} == {(18, 18)}
    assert {shape[0] for shape in spy.shapes} == {batch}  # ComfyUI's network mixes its rows
    assert error(tiled, plain) < 1e-5
