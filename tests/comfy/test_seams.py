"""Promise 4 on a model whose pictures mean something: the Tiny Refiner on the demo's photo,
measured as in `bench quality`."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from quadtree_pack.sampling.model import Settings
from quadtree_pack.testing import measures, refiner
from quadtree_pack.testing.registration import ROOT
from quadtree_pack.testing.support import tree_of

CELLS = 64  # 512 px
STEPS, DENOISE = 8, 0.5


@pytest.fixture(scope="module", autouse=True)
def models_are_freed_before_the_interpreter_ends():
    yield
    refiner.load.cache_clear()
    untiled.cache_clear()


def picture(kind):
    """[512, 512, 3]: the photo, enlarged as in the demo, or a plain gradient, where seams show
    most."""
    side = measures.CELL_PX * CELLS
    if kind == "gradient":
        return refiner.plain_gradient(side, side)
    photo = (
        Image.open(ROOT / "demo" / "photo.png")
        .convert("RGB")
        .crop((60, 20, 231, 191))
        .resize((side, side), Image.BICUBIC)
    )
    return torch.from_numpy(np.array(photo)).float() / 255


@cache
def untiled(kind):
    return refiner.refine(picture(kind), STEPS, DENOISE)


def seam_index(kind, **settings):
    """Of the last step's windows."""
    tree = tree_of([[1.0]], CELLS, CELLS)
    run = refiner.refine(picture(kind), STEPS, DENOISE, [tree], Settings(tile_px=256, **settings))
    borders = measures.window_borders(run.windows[-1], CELLS, CELLS)
    return measures.window_seam_index(run.change, untiled(kind).change, borders, run.free > 0)


@pytest.mark.parametrize("kind", ["photo", "gradient"])
@pytest.mark.parametrize(
    ("method", "most"),
    [
        ("Shifted Feather", 1.06),
        # Its borders stand still, and windows of 256 px may overlap by no more than was asked for.
        ("Mixture of Diffusers", 1.12),
    ],
)
def test_the_borders_of_blended_windows_do_not_show(kind, method, most):
    assert seam_index(kind, method=method, overlap_px=64) < most


@pytest.mark.parametrize(
    ("method", "overlap_px", "least"), [("MultiDiffusion", 0, 1.5), ("MultiDiffusion", 64, 1.1)]
)
def test_the_measure_sees_the_borders_of_windows_that_are_not_blended(method, overlap_px, least):
    """With flat weights the picture jumps where a window begins, beside the middle of the
    overlap."""
    assert seam_index("photo", method=method, overlap_px=overlap_px) > least
