"""Promise 4 on a model whose pictures mean something: the Tiny Refiner on the demo's photo."""

import importlib.util
import sys
from functools import cache

import comfy.sample
import numpy as np
import pytest
import torch
from PIL import Image
from quadtree_pack.run import Settings
from quadtree_pack.tests.comfy.support import tree_of
from quadtree_pack.tests.conftest import ROOT
from quadtree_pack.tiled_diffusion import attach

CELLS = 64  # 512 px
STEPS = 8


@cache
def refiner():
    spec = importlib.util.spec_from_file_location("tiny_refiner_pack", ROOT / "demo" / "tiny_refiner" / "__init__.py")
    pack = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return pack.load_tiny_refiner()


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    torch.set_num_threads(2)  # unlike the tiny models, this one gains by it
    yield
    torch.set_num_threads(1)
    refiner.cache_clear()


def picture(kind):
    """[1, 512, 512, 3]: the photo, enlarged as in the demo, or a plain gradient, where seams show most."""
    if kind == "gradient":
        ramp = torch.linspace(0.2, 0.8, 8 * CELLS)
        return torch.stack(
            [ramp[:, None].expand(-1, 8 * CELLS), ramp.expand(8 * CELLS, -1), ramp.flip(0).expand(8 * CELLS, -1)], -1
        )[None]
    photo = (
        Image.open(ROOT / "demo" / "photo.png")
        .convert("RGB")
        .crop((60, 20, 231, 191))
        .resize((8 * CELLS, 8 * CELLS), Image.BICUBIC)
    )
    return torch.from_numpy(np.array(photo)).float()[None] / 255


def seam_index(kind, **settings):
    """Gradient of the change across the last step's window borders, over that elsewhere; 1 = invisible."""
    model, vae, cond = refiner()
    before = picture(kind)
    latent = vae.encode(before)
    runs = []
    tiled = attach(model, [tree_of([[1.0]], CELLS, CELLS)], Settings(tile_px=256, **settings))
    patch = tiled.model_options["model_function_wrapper"]
    opened = patch.open_run
    patch.open_run = lambda *args: runs.append(opened(*args)) or runs[-1]
    noise = comfy.sample.prepare_noise(latent, 7)
    run = (tiled, noise, STEPS, 1.0, "euler", "simple", cond, cond, latent)
    change = vae.decode(comfy.sample.sample(*run, denoise=0.5, seed=7, disable_pbar=True)) - before
    cores = [window.core for window in runs[0].windows(STEPS - 1)]
    ratios = []
    for axis, borders in ((1, {core.y0 for core in cores}), (2, {core.x0 for core in cores})):
        gradient = change.diff(dim=axis).abs().mean([dim for dim in range(4) if dim != axis])
        at_cells = torch.arange(7, len(gradient), 8)  # the autoencoder's own patches end here, too: compare like with like
        is_border = torch.tensor([(int(px) + 1) // 8 in borders for px in at_cells])
        assert is_border.any()
        ratios.append(float(gradient[at_cells][is_border].mean() / gradient[at_cells][~is_border].mean()))
    return max(ratios)


@pytest.mark.parametrize("kind", ["photo", "gradient"])
@pytest.mark.parametrize("method", ["Shifted Feather", "Mixture of Diffusers"])
def test_the_borders_of_blended_windows_do_not_show(kind, method):
    assert seam_index(kind, method=method, overlap_px=64) < 1.1


def test_the_measure_sees_the_borders_of_windows_that_are_not_blended():
    assert seam_index("photo", method="MultiDiffusion", overlap_px=0) > 1.5
