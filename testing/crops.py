"""Runs on the crops of a canvas, which windows that do not overlap have to equal.

Whatever the model is, a window is a picture of its own to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.sample
import torch
from quadtree_pack.utils import Box
from torch import Tensor

from .support import Spy, patched, tree_of
from .tiny_models.building import Entry, sample

RUN = {"steps": 3, "cfg": 3.0, "denoise": 0.8}


def crops_of(width: int, side: int) -> list[Box]:
    """Square crops of a canvas that is as high as they are, in cells."""
    return [Box(x, 0, x + side, side) for x in range(0, width, side)]


def sample_crops(
    entry_for: Callable[[Box], Entry], latent: Tensor, boxes: Sequence[Box], **options: Any
) -> Tensor:
    """Plain runs on each crop, with the noise that the canvas has there, side by side."""
    run = {**RUN, **options}
    noise = comfy.sample.prepare_noise(latent, 42)
    parts = []
    for box in boxes:
        rows, columns = box.slices
        there = noise[..., rows, columns]
        parts.append(sample(entry_for(box), latent[..., rows, columns], noise=there, **run))
    return torch.cat(parts, -1)


def tiled_run(
    entry: Entry,
    latent: Tensor,
    side_px: int,
    batch: int = 4,
    px_per_cell: int = 8,
    **options: Any,
) -> tuple[Tensor, Spy]:
    """The same run in windows of this size, so many in a call, and what the model was asked."""
    everything = tree_of([[1.0]], *latent.shape[-2:], px_per_cell)
    spy = Spy(patched(entry, everything, tile_px=side_px, batch=batch, method="MultiDiffusion"))
    return sample(entry, latent, model=spy.model, **{**RUN, **options}), spy
