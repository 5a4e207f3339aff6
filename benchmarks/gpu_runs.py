"""Timed runs and timed single steps on the real ComfyUI, for `bench gpu`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from quadtree_pack.testing.registration import ROOT
from quadtree_pack.testing.trees import build_default_tree

from .gpu_models import GpuModel

CELL_PX = 8
PHOTO_UNIT_PX = 64  # the photo's sides are whole multiples
TIMED_STEPS = 3  # of cases whose steps are all alike, after one that warms up
WHOLE, UNIFORM = "without the pack", "uniform 1024 px / 128 px"
METHODS = ("Shifted Feather", "SpotDiffusion")


@dataclass(frozen=True)
class Case:
    """A patched model; where its steps are all `alike`, some of them stand for a whole run.

    `predicted` is the run's cost by the planner's own prices, as cells of its Cost.
    """

    make_model: Callable[[], Any]
    predicted: float
    alike: bool


def make_cases(model: GpuModel, image: torch.Tensor, steps: int) -> dict[str, Case]:
    """Return every case of an image, by its name."""
    from quadtree_pack.quadtree import build_quadtree
    from quadtree_pack.sampling.model import Settings

    everything = build_quadtree(image, min_denoise=1.0, max_denoise=1.0)
    uniform = Settings(method="MultiDiffusion", tile_px=1024, overlap_px=128, feather_px=0)
    cases = {
        WHOLE: Case(lambda: model.patcher, _predict_whole(model, image, steps), alike=True),
        UNIFORM: _make_case(model, image, everything, uniform, steps, alike=True),
    }
    tree = build_default_tree(image)
    for method in METHODS:
        settings = Settings(method=method)
        cases[method] = _make_case(model, image, tree, settings, steps, alike=False)
    return cases


def _make_case(
    model: GpuModel, image: torch.Tensor, tree: Any, settings: Any, steps: int, *, alike: bool
) -> Case:
    from quadtree_pack.tiled_diffusion import attach

    predicted = _predict_run(model, image, tree, settings, steps)
    return Case(partial(attach, model.patcher, [tree], settings), predicted, alike)


def _predict_whole(model: GpuModel, image: torch.Tensor, steps: int) -> float:
    from quadtree_pack.sampling.model import Geometry

    cells = image.shape[0] * image.shape[1] // CELL_PX**2
    return steps * Geometry.of(model.patcher).cost.predict_shape(cells, count=1, batch=1)


def _predict_run(
    model: GpuModel, image: torch.Tensor, tree: Any, settings: Any, steps: int
) -> float:
    """Return the planner's price of all windows of a run, batched as they are evaluated."""
    from quadtree_pack.sampling.maps import build_denoise_maps
    from quadtree_pack.sampling.model import Geometry
    from quadtree_pack.sampling.run import create_run
    from quadtree_pack.windows.shapes import batch_windows

    geometry = Geometry.of(model.patcher)
    height, width = (side // CELL_PX for side in image.shape[:2])
    denoise = build_denoise_maps([tree], settings, geometry, height, width)
    run = create_run(None, settings, geometry, denoise)
    run.start([float(steps - step) for step in range(steps + 1)])
    total = 0.0
    for step in range(steps):
        windows = run.layouts.windows(step)
        for batch in batch_windows(windows, run.batch):
            box = windows[batch[0]].box
            cells = box.height * box.width
            total += geometry.cost.predict_shape(cells, count=len(batch), batch=len(batch))
    return total


def measure_run(
    model: GpuModel, case: Case, latent: torch.Tensor, steps: int
) -> tuple[float, float]:
    """Return the seconds of a run, and its peak GiB above the weights."""
    patched = case.make_model()
    reset_peak()
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    if case.alike:
        seconds = steps * median(time_steps(model, patched, latent, TIMED_STEPS + 1)[1:])
    else:
        start = time.perf_counter()
        sample(model, patched, latent, steps)
        synchronize()
        seconds = time.perf_counter() - start
    return seconds, (peak_bytes() - before) / 2**30


def time_steps(model: GpuModel, patched: Any, latent: torch.Tensor, steps: int) -> list[float]:
    """Return the seconds of each step of a run."""
    times: list[float] = []

    def note(*_: Any) -> None:
        synchronize()
        times.append(time.perf_counter())

    synchronize()
    times.append(time.perf_counter())
    sample(model, patched, latent, steps, callback=note)
    return [after - before for before, after in pairwise(times)]


def sample(
    model: GpuModel,
    patched: Any,
    latent: torch.Tensor,
    steps: int,
    callback: Callable[..., None] | None = None,
) -> torch.Tensor:
    """Refine a latent with euler at denoise 1, and return the samples."""
    import comfy.sample

    noise = comfy.sample.prepare_noise(latent, 1)
    return comfy.sample.sample(
        patched,
        noise,
        steps,
        model.cfg,
        "euler",
        "simple",
        model.cond,
        model.cond,
        latent,
        seed=1,
        callback=callback,
        disable_pbar=True,
    )


def load_photo(side_px: int) -> torch.Tensor:
    """Return the demo's photo with its longer side at `side_px`, [H, W, 3] in 0..1."""
    import numpy as np
    from PIL import Image

    image = Image.open(ROOT / "demo" / "photo.png").convert("RGB")
    scale = side_px / max(image.size)
    size = [round(side * scale / PHOTO_UNIT_PX) * PHOTO_UNIT_PX for side in image.size]
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).float() / 255


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
