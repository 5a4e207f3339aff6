"""The vocabulary of windows: how they are measured, how they may be laid, what they cost.

A window is a rectangle that is sent to the model. Its core is the part whose active cells it
answers for; the rest of its box is context. Lengths are counted in three spaces:

- cells: one latent position. What leaves this room is in cells (`Window`).
- units: the smallest block of cells at which the model can be cut, its patch or the downsampling of
  its UNet (`Tiling.unit` cells). Windows are planned in units (`UnitBox`), so no box can lie off
  the model's grid.
- half units: only the ends of cores (`HalfUnitBox`), since two cores may meet in the middle of a
  unit.

A planned window (`PlannedWindow`) holds a box in units and a core in half units. `to_cells` is the
one place that converts it.

An axis is cut at borders; a border is the number of the unit before which the cut lies. Two windows
overlap by `Tiling.overlap` units at a border, which is 2 * `margin` + `shared`: `margin` whole
units of context on either side of it, and one unit that belongs to both where the overlap is odd.
Here is border 4 on an axis of 8 units; capitals are core, small letters context:

    unit          0 1 2 3 4 5 6 7     box    core in half units
    overlap 0     A A A A             0..4   0..8
                          B B B B     4..8   8..16
    overlap 2     A A A A a           0..5   0..8
                        b B B B B     3..8   8..16
    overlap 1     A A A A *           0..5   0..9     * half core, half context:
                          * B B B     4..8   9..16    the cores meet in its middle
    overlap 3     A A A A * a         0..6   0..9
                        b * B B B     3..8   9..16
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, NewType, overload

import numpy as np

from ..utils import Box, ceil_div

Images = tuple[int, ...]  # numbers of images of a batch

UnitBox = NewType("UnitBox", Box)
HalfUnitBox = NewType("HalfUnitBox", Box)


class Window(NamedTuple):
    """A window in cells: what the model sees, and the part of it that it answers for."""

    box: Box
    core: Box


class PlannedWindow(NamedTuple):
    """A window while it is planned: its box in units, its core in half units."""

    box: UnitBox
    core: HalfUnitBox


def to_cells(window: PlannedWindow, unit: int, size: tuple[int, int]) -> Window:
    """Convert a planned window to cells, inside a latent of `size` = (height, width) cells.

    The last unit of an axis may reach beyond the latent; the window ends with the latent.
    """
    height, width = size

    def scale(box: Box, numerator: int, denominator: int = 1) -> Box:
        x0, y0, x1, y1 = (edge * numerator // denominator for edge in box)
        return Box(x0, y0, min(x1, width), min(y1, height))

    return Window(box=scale(window.box, unit), core=scale(window.core, unit, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Predicted time of model calls, counted in cells: as long as the model takes for so many.

    A call costs `per_call`, however many windows it evaluates. Every window costs as many cells as
    it has and `per_window` more, which stands for the text that a transformer reads with every
    window. In a window of `quadratic` cells attention takes as long as all the rest. `per_shape` is
    what the first call of a shape costs beyond that, once in a run: convolutions are prepared for
    every shape, and compiled models are compiled for it.
    """

    per_call: float
    per_window: float
    quadratic: float
    per_shape: float = 0.0

    def scale_cells(self, factor: float) -> Cost:
        """Return the same cost for cells of which `factor` times as many lie in a window."""
        return Cost(
            per_call=self.per_call * factor,
            per_window=self.per_window * factor,
            quadratic=self.quadratic * factor,
            per_shape=self.per_shape * factor,
        )

    @overload
    def predict_window(self, cells: np.ndarray, batch: int) -> np.ndarray: ...

    @overload
    def predict_window(self, cells: int, batch: int) -> float: ...

    def predict_window(self, cells: np.ndarray | int, batch: int) -> np.ndarray | float:
        """Predict the cost of one window of so many cells, evaluated in full batches of `batch`."""
        return self.per_call / batch + (cells + self.per_window) * (1 + cells / self.quadratic)

    @overload
    def predict_shape(self, cells: np.ndarray, *, count: np.ndarray, batch: int) -> np.ndarray: ...

    @overload
    def predict_shape(self, cells: int, *, count: int, batch: int) -> float: ...

    def predict_shape(
        self, cells: np.ndarray | int, *, count: np.ndarray | int, batch: int
    ) -> np.ndarray | float:
        """Predict the cost of `count` windows of one shape, of so many cells each.

        A last batch that is not full costs a whole call all the same.
        """
        spare_calls = -(-count // batch) - count / batch
        return count * self.predict_window(cells, batch) + self.per_call * spare_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How windows may be laid; lengths are in units, except for `unit` itself.

    Attributes:
        unit: Cells in a unit.
        tile: Longest side of a window.
        smallest: Shortest side of a window, where the latent is as long.
        overlap: Units by which two windows overlap where they meet.
        moving: Whether borders move from step to step.
        standing: For how many steps they stay before they move.
        cost: Predicted cost of windows.
        batch: Windows of one shape that plans expect to be evaluated together.
        fewest: Shortest side that the model takes at all; `tile` never shrinks below it.
        shares: How many evaluate the windows of a step at once.
        together: Windows of one shape that one of them evaluates together, at most.
        compiled: Whether every shape is compiled, and few of them are worth more cells.
    """

    unit: int
    tile: int
    smallest: int
    overlap: int
    moving: bool
    cost: Cost
    batch: int = 1
    fewest: int = 1
    standing: int = 1
    shares: int = 1
    together: int = 1
    compiled: bool = False

    def count_grid(self, size: tuple[int, int]) -> int:
        """Return the units that a plain grid of such windows evaluates of (height, width)."""
        return math.prod(
            side
            if side <= self.tile
            else ceil_div(side - self.overlap, self.tile - self.overlap) * self.tile
            for side in size
        )

    @property
    def margin(self) -> int:
        """Whole units of context on either side of a border."""
        return self.overlap // 2

    @property
    def shared(self) -> int:
        """Units at a border that belong to both windows: 1 where the overlap is odd, else 0."""
        return self.overlap % 2
