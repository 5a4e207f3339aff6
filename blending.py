"""How windows are blended into one picture: a weight per window and cell for each method, normalised. Pure torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .planning import Window


def flat(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """MultiDiffusion (Bar-Tal et al. 2023): every window counts alike."""
    return torch.ones_like(cells)


def gaussian(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """Mixture of Diffusers (Jimenez 2023): gaussian with variance 0.01, relative to the window's own length."""
    distance = (cells - (window.start + window.stop) / 2) / (window.stop - window.start)
    return torch.exp(-distance.square() / (2 * 0.01))


def core_only(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """SpotDiffusion (Frolov et al. 2024): no overlap; the moving lattice evens the borders out over the steps."""
    return ((cells > core.start) & (cells < core.stop)).to(cells.dtype)


def feathered(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """Shifted Feather: a linear ramp over `margin` cells on both sides of each inner border of the core."""
    if margin == 0:
        return core_only(cells, window, core, length, margin)
    rise = (cells - (core.start - margin)) / (2 * margin) if core.start > 0 else torch.ones_like(cells)
    fall = ((core.stop + margin) - cells) / (2 * margin) if core.stop < length else torch.ones_like(cells)
    return rise.clamp(0, 1) * fall.clamp(0, 1)


class Method(NamedTuple):
    weight: Callable[[Tensor, slice, slice, int, int], Tensor]
    moving: bool
    overlaps: bool


METHODS = {
    "Shifted Feather": Method(feathered, moving=True, overlaps=True),
    "Mixture of Diffusers": Method(gaussian, moving=False, overlaps=True),
    "MultiDiffusion": Method(flat, moving=False, overlaps=True),
    "SpotDiffusion": Method(core_only, moving=True, overlaps=False),
}


def shares(windows: Sequence[Window], size: tuple[int, int], method: Method, margin: int) -> tuple[Tensor, ...]:
    """A weight [h, w] per window; at every cell they add up to 1, to the bit where one window covers it alone.

    `size` is (height, width) of the latent and `margin` half the overlap, in cells. A cell that windows hold as mere
    context, outside of all cores, may get 0 from all.
    """
    raw = []
    total = torch.zeros(size, dtype=torch.float64)
    for window in windows:
        rows, columns = (
            method.weight(torch.arange(along.start, along.stop, dtype=torch.float64) + 0.5, along, core, length, margin)
            for along, core, length in zip(window.box.slices, window.core.slices, size, strict=True)
        )
        raw.append(rows[:, None] * columns[None, :])
        total[window.box.slices] += raw[-1]
    total[total == 0] = 1
    return tuple(weight / total[window.box.slices] for weight, window in zip(raw, windows, strict=True))
