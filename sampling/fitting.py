"""How many windows of a run fit the free memory in one model call."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
from torch import Tensor

from ..windows.tiling import Tiling
from .protocols import BaseModel
from .run import Run

MOST_WINDOWS = 16  # in one model call, however much memory is free: beyond it nothing gets faster
# Core evaluates together what its own estimate, times this, says fits the free memory
# (`comfy.samplers._calc_cond_batch`).
CORE_MEMORY_FACTOR = 1.5


def shape_batch(shape: Sequence[int], tiling: Tiling, windows: int) -> list[int]:
    """Return the shape of so many of the largest windows of a latent [rows, C, ..., H, W]."""
    rows, *middle, height, width = shape
    tile = tiling.tile * tiling.unit
    return [rows * windows, *middle, min(tile, height), min(tile, width)]


def shape_calls(run: Run, shape: Sequence[int], windows: int) -> list[int]:
    """Return the shape of so many of a run's largest windows, as the model takes them."""
    if run.audio is None:
        return shape_batch(shape, run.tiling, windows)
    packing = run.audio.packing
    return packing.pack_shape(shape_batch([shape[0], *packing.video[1:]], run.tiling, windows))


def fit_batch(model: BaseModel, run: Run, noise: Tensor) -> int:
    """Return how many of the largest windows fit the free memory at once, with two conds each."""
    window = model.memory_required(shape_calls(run, noise.shape, 2))
    free = comfy.model_management.get_free_memory(noise.device)
    return max(1, min(MOST_WINDOWS, int(free / (CORE_MEMORY_FACTOR * window))))
