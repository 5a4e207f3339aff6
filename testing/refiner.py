"""Refines pictures with the demo's Tiny Refiner on the real ComfyUI.

For `bench quality` and the seam tests.
"""

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
TRAINED_PX = 256  # the refiner learned from crops of this size
USUAL_PX = 1024  # native size of the models that the pack's costs were measured with


@dataclass(frozen=True)
class Refined:
    """One run, before and after: latents [1, C, h, w] and pictures [H, W, 3] in 0..1.

    `windows` are those of each step, `free` is the freedom [h, w] at the last step, and
    `evaluations` counts the evaluated cells in canvases.
    """

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
    """Return model, VAE and conditioning; ComfyUI must be importable."""
    model, vae, cond = load_as_it_is()
    model.model.diffusion_model.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    return model, vae, cond


def load_as_it_is() -> tuple[Any, Any, list]:
    """Return them as the loader node makes them."""
    spec = importlib.util.spec_from_file_location(
        "tiny_refiner_pack", ROOT / "demo" / "tiny_refiner" / "__init__.py"
    )
    pack = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    loaded: tuple[Any, Any, list] = pack.load_tiny_refiner()
    return loaded


def plain_gradient(height: int, width: int) -> Tensor:
    """Return [height, width, 3]: one colour ramps down, one across, one back."""
    down = torch.linspace(0.2, 0.8, height)[:, None].expand(height, width)
    across = torch.linspace(0.2, 0.8, width)
    back = across.flip(0)
    return torch.stack([down, across.expand(height, width), back.expand(height, width)], -1)


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
    """Refine a picture [H, W, 3] with euler, simple, cfg 1; without trees the pack takes no part.

    `only_last` starts that many steps before the end. `small_model` plans as for a model of
    TRAINED_PX instead of USUAL_PX: the cost of a window shrinks with it, so that windows relate
    to the picture as those of a large model relate to one of four times the side.
    """
    import comfy.sample

    model, vae, cond = load()
    latent = vae.encode(picture[None])
    runs: list = []
    if trees:
        model = attach_recorded(model, trees, settings, runs, small_model)
    noise = comfy.sample.prepare_noise(latent, SEED)
    run = (model, noise, steps, 1.0, "euler", "simple", cond, cond, latent)
    start_step = None if only_last is None else steps - only_last
    start = time.perf_counter()
    samples = comfy.sample.sample(
        *run, denoise=denoise, start_step=start_step, seed=SEED, disable_pbar=True
    )
    seconds = time.perf_counter() - start
    height, width = latent.shape[-2:]
    if runs:
        recorded = read_record(runs[0], steps, height * width)
    else:
        recorded = {
            "windows": [],
            "free": torch.ones(height, width),
            "evaluations": float(steps - (start_step or 0)),
        }
    return Refined(
        latent_before=latent,
        latent_after=samples,
        before=vae.decode(latent)[0],
        after=vae.decode(samples)[0],
        seconds=seconds,
        **recorded,
    )


def read_record(run: Any, steps: int, cells: int) -> dict[str, Any]:
    """Return what a finished run of `steps` steps tells `Refined`; the canvas has `cells` cells."""
    return {
        "windows": [run.layouts.windows(step) for step in range(steps)],
        "free": run.freedom(steps - 1)[0],
        "evaluations": run.tally.cells / cells,
    }


def attach_recorded(
    model: Any, trees: Sequence, settings: Any, runs: list, small_model: bool
) -> Any:
    """Return the model with the trees attached; each run that it opens is appended to `runs`."""
    attach = importlib.import_module(f"{PACKAGE}.tiled_diffusion").attach
    model = attach(model, trees, settings)
    patch = model.model_options["model_function_wrapper"]
    if small_model:
        shrink = (TRAINED_PX / USUAL_PX) ** 2
        full_cost = importlib.import_module(f"{PACKAGE}.sampling.model").TRANSFORMER_COST
        geometry = replace(
            patch.inputs.geometry, native_px=TRAINED_PX, cost=full_cost.scale_cells(shrink)
        )
        patch.inputs = replace(patch.inputs, geometry=geometry)
    record_runs(patch, runs)
    return model


def record_runs(patch: Any, runs: list) -> None:
    """Append to `runs` each run that a TiledDiffusion opens from here on."""
    opened = patch.open_run

    def open_and_record(*args: Any, **options: Any) -> Any:
        runs.append(opened(*args, **options))
        return runs[-1]

    patch.open_run = open_and_record
