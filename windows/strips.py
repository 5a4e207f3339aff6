"""The cheapest windows over a strip, which is a row of windows between two borders; in units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..utils import Box
from .cutting import AxisCutter, Cut
from .shapes import grow_span
from .sharing import list_limits
from .tiling import HalfUnitBox, PlannedWindow, Tiling, UnitBox

NOWHERE = 1 << 30  # the first active row of a column that has none

Ends = tuple[np.ndarray, np.ndarray]  # where spans start, and where they end


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """A row of windows: its predicted cost, the penalty in that cost, its borders, its windows.

    `costs` [windows] are theirs without the penalty. `edges` [windows, 8] are the ends of their
    boxes, then of their cores. Most strips are only priced, so the windows are not made of them
    before they are asked for.
    """

    cost: float
    penalty: float
    borders: tuple[int, ...]
    costs: np.ndarray
    edges: np.ndarray

    def list_windows(self) -> list[PlannedWindow]:
        return [
            PlannedWindow(box=UnitBox(Box(*ends[:4])), core=HalfUnitBox(Box(*ends[4:])))
            for ends in self.edges.tolist()
        ]


NOTHING = Strip(
    cost=0.0, penalty=1.0, borders=(), costs=np.empty(0), edges=np.empty((0, 8), dtype=int)
)


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces of several ways to cut an axis, one way after the other.

    `ends` are arrays [pieces], and `bounds` [2 * pieces] has both in turn. `inner` tells which of
    them are borders, where another piece begins, and not the ends of what is active. Way i has the
    pieces from `offsets`[i] to `offsets`[i + 1], and the factor `penalties`[i] on its cost.
    """

    ends: Ends
    bounds: np.ndarray
    inner: Ends
    offsets: np.ndarray
    penalties: np.ndarray

    @classmethod
    def from_cuts(cls, cuts: Sequence[Cut], start: int, end: int, shared: int) -> Pieces:
        """Build the pieces of start..end; at every border, `shared` units belong to two pieces."""
        lows: list[int] = []
        highs: list[int] = []
        offsets = [0]
        for cut in cuts:
            lows += (start, *cut.borders)
            highs += (*(border + shared for border in cut.borders), end)
            offsets.append(len(lows))
        firsts = np.array(offsets)
        inner_low = np.ones(len(lows), dtype=bool)
        inner_high = np.ones(len(lows), dtype=bool)
        inner_low[firsts[:-1]] = False
        inner_high[firsts[1:] - 1] = False
        bounds = np.array((lows, highs)).T.ravel()
        return cls(
            ends=(bounds[::2], bounds[1::2]),
            bounds=bounds,
            inner=(inner_low, inner_high),
            offsets=firsts,
            penalties=np.array([cut.penalty for cut in cuts]),
        )


class ActiveField:
    """Finds the cheapest windows over any rows of a field of active units, bool [rows, columns]."""

    def __init__(self, active: np.ndarray, tiling: Tiling) -> None:
        self.tiling = tiling
        self.limits = list_limits(tiling)
        self.rows, self.columns = active.shape
        self.pieces: dict[tuple[int, int], Pieces] = {}  # by the ends of what is active
        index = np.arange(self.rows, dtype=np.int32)[:, None]
        at_or_below = np.where(active, index, NOWHERE)
        above = np.where(active, index + 1, 0)
        # Row by row: `accumulate` along this axis takes ten times as long.
        for row in range(1, self.rows):
            np.minimum(at_or_below[-row - 1], at_or_below[-row], out=at_or_below[-row - 1])
            np.maximum(above[row], above[row - 1], out=above[row])
        # `first` [row, column] is the first active row at or below `row`, and `last` the end of the
        # last active row above it. Both have a row more, and a column more that is never active.
        self.first = np.pad(at_or_below, ((0, 1), (0, 1)), constant_values=NOWHERE)
        self.last = np.pad(above, ((1, 0), (0, 1)), constant_values=0)

    def find_strips(
        self, low: int, high: int, *, inner_low: bool, inner_high: bool, across: AxisCutter
    ) -> list[Strip]:
        """Return the cheapest windows over the active units of the rows low..high, by limit.

        For each of `limits` they are the cheapest of which none costs more; where all ways have a
        dearer one, those whose dearest is the cheapest. `inner_low` and `inner_high` tell which of
        the rows is a border to another strip. `across` knows the ways to cut the columns. All
        pieces of all these ways are priced at once.
        """
        tiling = self.tiling
        if inner_high:
            high += tiling.shared
        first = np.where(self.first[low] < high, self.first[low], NOWHERE)
        last = np.where(self.last[high] > low, self.last[high], 0)
        columns = np.flatnonzero(first < NOWHERE)
        if not len(columns):
            return [NOTHING] * len(self.limits)
        left, right = int(columns[0]), int(columns[-1]) + 1
        cuts = across.find_cuts(left, right)
        if (left, right) not in self.pieces:
            self.pieces[left, right] = Pieces.from_cuts(cuts, left, right, tiling.shared)
        pieces = self.pieces[left, right]

        trimmed_x = _trim_to_active(pieces.ends, columns)
        trimmed_y = _find_active_rows(pieces.bounds, first, last)
        boxes_x, cores_x = _extend(trimmed_x, pieces.ends, pieces.inner, self.columns, tiling)
        boxes_y, cores_y = _extend(
            trimmed_y, (low, high), (inner_low, inner_high), self.rows, tiling
        )

        filled = trimmed_x[0] < trimmed_x[1]
        cells = (boxes_x[1] - boxes_x[0]) * (boxes_y[1] - boxes_y[0]) * tiling.unit**2
        costs = np.where(filled, tiling.cost.predict_window(cells, tiling.batch), 0.0)
        totals = np.add.reduceat(costs, pieces.offsets[:-1]) * pieces.penalties
        box = (boxes_x[0], boxes_y[0], boxes_x[1], boxes_y[1])
        core = (cores_x[0], cores_y[0], cores_x[1], cores_y[1])

        def make(way: int) -> Strip:
            chosen = slice(pieces.offsets[way], pieces.offsets[way + 1])
            inside = filled[chosen]
            edges = np.array([ends[chosen] for ends in (*box, *core)]).T[inside]
            cut = cuts[way]
            return Strip(float(totals[way]), cut.penalty, cut.borders, costs[chosen][inside], edges)

        if len(self.limits) == 1:
            return [make(int(totals.argmin()))]
        dearest = np.maximum.reduceat(costs, pieces.offsets[:-1])
        ways = _choose_ways(totals, dearest, self.limits)
        strips = {way: make(way) for way in set(ways)}
        return [strips[way] for way in ways]


def _choose_ways(totals: np.ndarray, dearest: np.ndarray, limits: np.ndarray) -> list[int]:
    """Return the numbers of the ways that `ActiveField.find_strips` takes, one for each limit.

    `totals` [ways] are their costs, and `dearest` [ways] those of their dearest windows.
    """
    allowed = dearest <= np.maximum(limits, dearest.min())[:, None]
    ways: list[int] = np.where(allowed, totals, np.inf).argmin(1).tolist()
    return ways


def _trim_to_active(ends: Ends, columns: np.ndarray) -> Ends:
    """Return the ends of the active columns in each piece; `columns` are the active ones, sorted.

    A piece without active columns gets an end that is not after its start. (A piece without any
    columns at all, at the very start, gets all of them: the way that has it never is the cheapest.)
    """
    first = np.searchsorted(columns, ends[0])
    last = np.searchsorted(columns, ends[1]) - 1
    return columns[first], columns[last] + 1


def _find_active_rows(bounds: np.ndarray, first: np.ndarray, last: np.ndarray) -> Ends:
    """Return the ends of the active rows in each piece; `first` and `last` are those per column."""
    # reduceat reduces from each index to the next: every second one is the gap between two pieces.
    return np.minimum.reduceat(first, bounds)[::2], np.maximum.reduceat(last, bounds)[::2]


def _extend(
    trimmed: Ends,
    piece: Ends | tuple[int, int],
    inner: Ends | tuple[bool, bool],
    length: int,
    tiling: Tiling,
) -> tuple[Ends, Ends]:
    """Return one axis of windows in units, and of their cores in half units.

    `trimmed` is what is active of each `piece`. Where it reaches an end of its piece that is an
    `inner` border, the core ends in the middle of the overlap. Elsewhere the core ends with what is
    active, and half the overlap is context.
    """
    at_low_border = (trimmed[0] == piece[0]) & inner[0]
    at_high_border = (trimmed[1] == piece[1]) & inner[1]
    margin, shared = tiling.margin, tiling.shared
    start = np.maximum(0, trimmed[0] - margin - shared * ~at_low_border)
    end = np.minimum(length, trimmed[1] + margin + shared * ~at_high_border)
    size = np.minimum(np.maximum(end - start, tiling.smallest), length)
    core_start = 2 * trimmed[0] + shared * at_low_border
    core_end = 2 * trimmed[1] - shared * at_high_border
    return grow_span(start, end, size, length), (core_start, core_end)
