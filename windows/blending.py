"""How windows are blended into one picture: normalised weights per window and cell.

A method gives weights along one axis; the weight of a cell is the product of those of its row and
its column. All is float64, in cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .tiling import Window

GAUSSIAN_FALL = 2.0  # how far a gaussian falls across an overlap, as a natural logarithm
# How far it rises in the middle of a core, at most. More makes no difference to shares in float64.
GAUSSIAN_RISE = 60.0


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a window on a latent of `length` cells; `margin` is half the overlap."""

    window: slice
    core: slice
    length: int
    margin: int

    @property
    def centres(self) -> Tensor:
        """The centres of the window's cells, which lie half a cell behind their numbers."""
        return torch.arange(self.window.start, self.window.stop, dtype=torch.float64) + 0.5


def weigh_evenly(centres: Tensor, span: Span) -> Tensor:
    """Return 1 for every cell of the window (MultiDiffusion, Bar-Tal et al. 2023)."""
    return torch.ones_like(centres)


def weigh_core(centres: Tensor, span: Span) -> Tensor:
    """Return 1 for the cells of the core, 0 for others (SpotDiffusion, Frolov et al. 2024).

    There is no overlap; the lattice moves, which evens the borders out over the steps.
    """
    return ((centres > span.core.start) & (centres < span.core.stop)).to(centres.dtype)


def weigh_by_gaussian(centres: Tensor, span: Span) -> Tensor:
    """Return a gaussian around the middle of the core (Mixture of Diffusers, Jimenez 2023).

    It is lowered and scaled to be 1 at the ends of the core and 0 half an overlap beyond. So
    neighbours of any two lengths are equal where their cores meet, and none begins with a jump. The
    variance of the paper, 0.01 of the window's length squared, blends across a part of a wide
    overlap and jumps at the ends of a thin one; here the variance follows from the overlap.
    """
    if span.margin == 0:
        return weigh_core(centres, span)
    reach = (span.core.stop - span.core.start) / 2
    distance = centres - (span.core.start + span.core.stop) / 2
    falls = GAUSSIAN_FALL * (distance.square() - reach**2) / (4 * span.margin * reach)
    lowest = GAUSSIAN_FALL * (2 * reach + span.margin) / (4 * reach)
    return (torch.exp(-falls.clamp(min=-GAUSSIAN_RISE)) - math.exp(-lowest)).clamp(min=0)


def weigh_by_ramp(centres: Tensor, span: Span) -> Tensor:
    """Return 1 in the core, and a linear ramp across each overlap (Shifted Feather).

    A ramp is linear since that spreads the difference of two windows evenly. Smooth steps, and
    shorter ramps with an average between them, come closer to the untiled result on plain gradients
    by 0.1 dB, but gather the difference on a line or two. There is no ramp at the edge of the
    latent.
    """
    margin = span.margin
    if margin == 0:
        return weigh_core(centres, span)
    rise = fall = torch.ones_like(centres)
    if span.core.start > 0:
        rise = (centres - (span.core.start - margin)) / (2 * margin)
    if span.core.stop < span.length:
        fall = ((span.core.stop + margin) - centres) / (2 * margin)
    return rise.clamp(0, 1) * fall.clamp(0, 1)


class Method(NamedTuple):
    """A way to blend: its weights, and whether its lattice moves and its windows overlap."""

    weigh: Callable[[Tensor, Span], Tensor]
    moving: bool
    overlaps: bool


METHODS = {
    "Shifted Feather": Method(weigh_by_ramp, moving=True, overlaps=True),
    "Mixture of Diffusers": Method(weigh_by_gaussian, moving=False, overlaps=True),
    "MultiDiffusion": Method(weigh_evenly, moving=False, overlaps=True),
    "SpotDiffusion": Method(weigh_core, moving=True, overlaps=False),
}


def compute_shares(
    windows: Sequence[Window], size: tuple[int, int], method: Method, margin: int
) -> tuple[Tensor, ...]:
    """Return the share of each window in each of its cells, float64 [h, w] per window.

    At every cell that lies in a core, the shares of all windows add up to 1, and are exactly 1
    where one window covers it alone. A cell that windows hold as mere context may get 0 from all of
    them. `size` is (height, width) of the latent and `margin` half the overlap, in cells.
    """
    weights = []
    total = torch.zeros(size, dtype=torch.float64)
    for window in windows:
        rows, columns = _weigh_axes(window, size, method, margin)
        weights.append(rows[:, None] * columns[None, :])
        total[window.box.slices] += weights[-1]
    total[total == 0] = 1
    return tuple(
        weight / total[window.box.slices] for weight, window in zip(weights, windows, strict=True)
    )


def _weigh_axes(
    window: Window, size: tuple[int, int], method: Method, margin: int
) -> tuple[Tensor, Tensor]:
    """Return the weights of the window's rows [h] and of its columns [w]."""
    (y, x), (core_y, core_x), (height, width) = window.box.slices, window.core.slices, size
    down, across = Span(y, core_y, height, margin), Span(x, core_x, width, margin)
    return method.weigh(down.centres, down), method.weigh(across.centres, across)
