"""How windows are blended into one picture: a weight per window and cell for each method, normalised. Pure torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .planning import Window

FALL = 2.0  # how far a gaussian falls across an overlap, as a natural logarithm
STRONGEST = 60.0  # and rises in the middle of a core, at most: more makes no difference to shares in float64


def flat(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """MultiDiffusion (Bar-Tal et al. 2023): every window counts alike."""
    return torch.ones_like(cells)


def gaussian(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """Mixture of Diffusers (Jimenez 2023): a gaussian around the core's middle, 1 at its borders, 0 half an overlap beyond.

    So neighbours of any two lengths are equal where their cores meet, and none begins with a jump. The paper's variance, 0.01
    of the window's length squared, blends across a part of a wide overlap and jumps at the ends of a thin one; here the
    variance follows from the overlap.
    """
    if margin == 0:
        return core_only(cells, window, core, length, margin)
    reach = (core.stop - core.start) / 2
    distance = cells - (core.start + core.stop) / 2
    falls = FALL * (distance.square() - reach**2) / (4 * margin * reach)
    lowest = FALL * (2 * reach + margin) / (4 * reach)
    return (torch.exp(-falls.clamp(min=-STRONGEST)) - math.exp(-lowest)).clamp(min=0)


def core_only(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """SpotDiffusion (Frolov et al. 2024): no overlap; the moving lattice evens the borders out over the steps."""
    return ((cells > core.start) & (cells < core.stop)).to(cells.dtype)


def feathered(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """Shifted Feather: a linear ramp over `margin` cells on both sides of each inner border of the core.

    Linear, since that spreads what two windows differ by evenly. Smooth steps, and shorter ramps with an average between
    them, come closer to the untiled result on plain gradients by 0.1 dB, but gather the difference on a line or two.
    """
    if margin == 0:
        return core_only(cells, window, core, length, margin)
    rise = (
        (cells - (core.start - margin)) / (2 * margin) if core.start > 0 else torch.ones_like(cells)
    )
    fall = (
        ((core.stop + margin) - cells) / (2 * margin)
        if core.stop < length
        else torch.ones_like(cells)
    )
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


def shares(
    windows: Sequence[Window], size: tuple[int, int], method: Method, margin: int
) -> tuple[Tensor, ...]:
    """A weight [h, w] per window; at every cell they add up to 1, to the bit where one window covers it alone.

    `size` is (height, width) of the latent and `margin` half the overlap, in cells. A cell that windows hold as mere
    context, outside of all cores, may get 0 from all.
    """
    raw = []
    total = torch.zeros(size, dtype=torch.float64)
    for window in windows:
        rows, columns = (
            method.weight(
                torch.arange(along.start, along.stop, dtype=torch.float64) + 0.5,
                along,
                core,
                length,
                margin,
            )
            for along, core, length in zip(window.box.slices, window.core.slices, size, strict=True)
        )
        raw.append(rows[:, None] * columns[None, :])
        total[window.box.slices] += raw[-1]
    total[total == 0] = 1
    return tuple(
        weight / total[window.box.slices] for weight, window in zip(raw, windows, strict=True)
    )
