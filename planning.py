"""Which windows the model sees at a step: pure integers, no tensors of the model, no ComfyUI.

Leaves decide how much may change; windows decide what is computed. A window is placed over the active cells (those that
may change at this step) of one piece of a lattice, with real context around it, near the model's native size. A piece
without active cells is not evaluated. Lengths are in *units*: the smallest step, in latent cells, at which the model may
be cut (its patch, or the downsampling of its UNet).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from .quadtree import Box
from .utils import ceil_div, round_down, round_up


class Window(NamedTuple):
    """`box` is what the model sees, `core` the part of it whose active cells this window answers for; both in cells."""

    box: Box
    core: Box


@dataclass(frozen=True, slots=True)
class Tiling:
    """How windows may be laid: `unit` in cells, the other lengths in units. Windows are `smallest` to `tile` long."""

    unit: int
    tile: int
    smallest: int
    overlap: int
    moving: bool

    @property
    def piece(self) -> int:
        """The longest piece between two inner borders whose window still fits the tile, in halves."""
        return 2 * (self.tile - self.overlap)


def units_with(active: Tensor, unit: int) -> Tensor:
    """Active cells, bool [H, W], as bool [ceil(H / unit), ceil(W / unit)]: units that hold an active cell."""
    return F.max_pool2d(active[None, None].float(), unit, unit, ceil_mode=True)[0, 0] > 0


def radical_inverse(index: int, base: int) -> float:
    """The `index`-th number of the van der Corput sequence in 0..1: halves, then quarters (Halton, 1960)."""
    result, digit = 0.0, 1.0
    while index:
        digit /= base
        result += digit * (index % base)
        index //= base
    return result


def even_borders(length: int, tiling: Tiling) -> list[int]:
    """Borders, in halves, of the fewest pieces of a fixed lattice over `length` units, as equal as they get.

    A piece at the edge of the image needs its overlap on one side only, so it may be longer by half of it.
    """
    if length <= tiling.tile:
        return [0, 2 * length]
    inner = length - tiling.overlap  # units
    count = ceil_div(inner, tiling.tile - tiling.overlap)
    return [0, *(tiling.overlap + 2 * (index * inner // count) for index in range(1, count)), 2 * length]


def moving_borders(length: int, tiling: Tiling, shift: float) -> list[int]:
    """Borders, in halves, of a lattice that moves by `shift` in 0..1 of a piece; one piece where one window holds it all."""
    if length <= tiling.tile:
        return [0, 2 * length]
    first = tiling.overlap + 2 + round_down(int(shift * tiling.piece), 2)
    return [0, *range(first, 2 * length - tiling.overlap, tiling.piece), 2 * length]


def plan_windows(active: Tensor, size: tuple[int, int], tiling: Tiling, turn: int = 0) -> tuple[Window, ...]:
    """Windows in cells over `active` (from `units_with`) of a latent of `size` = (height, width) cells.

    The cores are disjoint and hold every active cell. `turn` counts the positions of a moving lattice.
    """
    rows, columns = active.shape
    if tiling.moving:
        # Halton bases 2 and 3: a border does not come back near its place for as long as possible (Halton, 1960).
        borders_y = moving_borders(rows, tiling, radical_inverse(turn + 1, 3))
        borders_x = moving_borders(columns, tiling, radical_inverse(turn + 1, 2))
    else:
        borders_y, borders_x = even_borders(rows, tiling), even_borders(columns, tiling)
    windows = []
    for y0, y1 in pairwise(borders_y):
        for x0, x1 in pairwise(borders_x):
            core = _trimmed(active, Box(x0, y0, x1, y1))
            if core is not None:
                box = _around(core, rows, columns, tiling)
                windows.append(Window(_in_cells(box, size, tiling.unit), _in_cells(core, size, tiling.unit)))
    return tuple(windows)


def _trimmed(active: Tensor, piece: Box) -> Box | None:
    """The bounding box, in halves, of the active units of a piece, no larger than the piece; None where there are none."""
    first_x, first_y = piece.x0 // 2, piece.y0 // 2
    part = active[first_y : ceil_div(piece.y1, 2), first_x : ceil_div(piece.x1, 2)]
    rows, columns = part.any(1).nonzero()[:, 0].tolist(), part.any(0).nonzero()[:, 0].tolist()
    if not rows:
        return None
    return Box(
        max(piece.x0, 2 * (first_x + columns[0])),
        max(piece.y0, 2 * (first_y + rows[0])),
        min(piece.x1, 2 * (first_x + columns[-1] + 1)),
        min(piece.y1, 2 * (first_y + rows[-1] + 1)),
    )


def _around(core: Box, rows: int, columns: int, tiling: Tiling) -> Box:
    x0, x1 = _span(core.x0, core.x1, columns, tiling)
    y0, y1 = _span(core.y0, core.y1, rows, tiling)
    return Box(x0, y0, x1, y1)


def _span(start: int, end: int, length: int, tiling: Tiling) -> tuple[int, int]:
    """A core's extent on one axis with half the overlap on each side, grown to one of a few sizes, shifted inside the image.

    Takes halves and gives halves, but its ends are whole units of an axis of `length` units.
    """
    low, high = max(0, (start - tiling.overlap) // 2), min(length, ceil_div(end + tiling.overlap, 2))
    step = max(1, tiling.tile // 4)  # few distinct sizes: windows of one shape are evaluated together
    size = min(length, tiling.tile, round_up(max(high - low, tiling.smallest), step))
    low = max(0, min(low - (size - (high - low)) // 2, length - size))
    return 2 * low, 2 * (low + size)


def _in_cells(box: Box, size: tuple[int, int], unit: int) -> Box:
    height, width = size
    x0, y0, x1, y1 = (edge * unit // 2 for edge in box)
    return Box(x0, y0, min(x1, width), min(y1, height))
