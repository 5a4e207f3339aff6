"""Refines pictures with the demo's Tiny Refiner on the real ComfyUI, for `bench quality` and the seam tests."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .registration import PACKAGE, ROOT

SEED = 7
TRAINED_PX = 256  # the refiner learnt from crops of this size
USUAL_PX = 1024  # native size of the models that the pack's costs were measured with


@dataclass(frozen=True)
class Refined:
    """One run: latents [1, C, h, w] and pictures [H, W, 3] before and after, the windows of each step, freedom [h, w] at the
    last step, canvases' worth of cells evaluated, seconds."""

    latent_before: Tensor
    latent_after: Tensor
    before: Tensor
    after: Tensor
    windows: list
    free: Tensor
    evaluations: float
    seconds: float

    @property
    def change(self) -> Tensor:
        return self.after - self.before


@cache
def load() -> tuple[Any, Any, list]:
    """Model, VAE and conditioning. ComfyUI must be importable."""
    spec = importlib.util.spec_from_file_location(
        "tiny_refiner_pack", ROOT / "demo" / "tiny_refiner" / "__init__.py"
    )
    pack = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    model, vae, cond = pack.load_tiny_refiner()
    model.model.diffusion_model.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    return model, vae, cond


def plain_gradient(height: int, width: int) -> Tensor:
    """[height, width, 3]: one colour ramps down, one across, one back."""
    down, across = torch.linspace(0.2, 0.8, height)[:, None], torch.linspace(0.2, 0.8, width)
    return torch.stack(
        [
            down.expand(height, width),
            across.expand(height, width),
            across.flip(0).expand(height, width),
        ],
        -1,
    )


def refine(
    picture: Tensor,
    steps: int,
    denoise: float,
    trees: Sequence = (),
    settings: Any = None,
    *,
    only_last: int | None = None,
    small_model: bool = False,
) -> Refined:
    """A run of euler, simple, cfg 1 on [H, W, 3]; without trees the pack takes no part.

    `only_last` starts that many steps before the end. `small_model` plans as for a model of the refiner's own size, not of
    USUAL_PX: what a window costs shrinks with it, so that windows stand to the picture as those of a large model to one of
    four times the side.
    """
    import comfy.sample

    model, vae, cond = load()
    latent = vae.encode(picture[None])
    runs = []
    if trees:
        attach = importlib.import_module(f"{PACKAGE}.tiled_diffusion").attach
        model = attach(model, trees, settings)
        patch = model.model_options["model_function_wrapper"]
        if small_model:
            shrink = (TRAINED_PX / USUAL_PX) ** 2
            cost = importlib.import_module(f"{PACKAGE}.sampling.model").TRANSFORMER_COST.scaled(
                shrink
            )
            patch.geometry = replace(patch.geometry, native_px=TRAINED_PX, cost=cost)
        opened = patch.open_run
        patch.open_run = lambda *args: runs.append(opened(*args)) or runs[-1]
    noise = comfy.sample.prepare_noise(latent, SEED)
    run = (model, noise, steps, 1.0, "euler", "simple", cond, cond, latent)
    start_step = None if only_last is None else steps - only_last
    start = time.perf_counter()
    samples = comfy.sample.sample(
        *run, denoise=denoise, start_step=start_step, seed=SEED, disable_pbar=True
    )
    seconds = time.perf_counter() - start
    size = latent.shape[-2:]
    return Refined(
        latent,
        samples,
        vae.decode(latent)[0],
        vae.decode(samples)[0],
        [runs[0].windows(step) for step in range(steps)] if runs else [],
        runs[0].freedom(steps - 1)[0] if runs else torch.ones(size),
        runs[0].tally.cells / size.numel() if runs else float(steps - (start_step or 0)),
        seconds,
    )
