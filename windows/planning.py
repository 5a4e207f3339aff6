"""Which windows the model sees at a step, chosen by predicted cost: integers on the CPU, no ComfyUI, nothing of the model.

Leaves decide how much may change; windows decide what is computed. The active cells (those that may change at this step)
are cut into strips and the strips into pieces; each piece is trimmed to what is active in it and becomes a window, with half
of the overlap as context on every side that is not the image's edge. Lengths are in *units*: the smallest step, in latent
cells, at which the model may be cut (its patch, or the downsampling of its UNet). Of all the ways to cut, the cheapest is
taken; a moving lattice takes, of those that are about as cheap, one whose borders lie far from those of the last steps.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..utils import Box, ceil_div

CANDIDATES = (
    40  # ways to cut an axis that are looked at closely, of those that a rough estimate likes best
)
FINALISTS = (
    8  # of these, ways whose windows are given shared shapes and priced as they will be evaluated
)
MEMORY = 6  # steps whose borders a moving lattice keeps away from
# A border on one of the last step's counts as this much of the cost. At 0 a lattice would not move where an even cut is
# cheapest; the moving costs 0.6% of the model's time on the benchmark's photos. Without overlap nothing but the moving hides a
# border, so there it counts more.
PRICE_OF_STAYING = 0.005
DEARER_WITHOUT_OVERLAP = 10
FADING = 0.7  # how much less a border counts with every step that it is older
NOWHERE = 1 << 30


class Window(NamedTuple):
    """`box` is what the model sees, `core` the part of it whose active cells this window answers for; both in cells."""

    box: Box
    core: Box


@dataclass(frozen=True, slots=True)
class Cost:
    """Predicted time of a model call in cells' worth: what a call and a window cost by themselves, and attention's growth."""

    per_call: float
    per_window: float
    quadratic: float

    def scaled(self, factor: float) -> Cost:
        """The same cost where so many times as many cells lie in a window."""
        return Cost(self.per_call * factor, self.per_window * factor, self.quadratic * factor)

    def of_windows(self, cells: np.ndarray | int, batch: int) -> np.ndarray | float:
        """Cost of one window of so many cells that is evaluated in batches of `batch`."""
        return self.per_call / batch + (cells + self.per_window) * (1 + cells / self.quadratic)

    def of_shape(self, cells: int, count: int, batch: int) -> float:
        """Cost of `count` windows of one shape; a last batch that is not full costs a call all the same."""
        spare_calls = ceil_div(count, batch) - count / batch
        return count * self.of_windows(cells, batch) + self.per_call * spare_calls


@dataclass(frozen=True, slots=True)
class Tiling:
    """How windows may be laid: `unit` in cells, other lengths in units. Windows are `smallest` to `tile` long, if the
    image is; plans count on `batch` of one shape being evaluated together. No model takes less than `fewest`."""

    unit: int
    tile: int
    smallest: int
    overlap: int
    moving: bool
    cost: Cost
    batch: int = 1
    fewest: int = 1

    @property
    def margin(self) -> int:
        """Whole units of context beyond a border; with an odd overlap the border's own unit belongs to both pieces."""
        return self.overlap // 2

    @property
    def odd(self) -> int:
        return self.overlap % 2


class Cut(NamedTuple):
    """One way to cut an axis: its inner borders, and the factor by which standing still makes it dearer."""

    borders: tuple[int, ...]
    penalty: float


class Strip(NamedTuple):
    """A row of windows: its predicted cost, the penalty that is in it, its inner borders, and its windows in units."""

    cost: float
    penalty: float
    borders: tuple[int, ...]
    windows: list[Window]


def units_with(active: Tensor, unit: int) -> np.ndarray:
    """Active cells, bool [H, W], as bool [ceil(H / unit), ceil(W / unit)]: units that hold an active cell."""
    return (F.max_pool2d(active[None, None].float(), unit, unit, ceil_mode=True)[0, 0] > 0).numpy()


class Planner:
    """Plans the steps of one run on a latent of `size` = (height, width) cells."""

    def __init__(self, size: tuple[int, int], tiling: Tiling) -> None:
        self.size = size
        self.tiling = tiling
        self.recent_x: deque[Sequence[int]] = deque(maxlen=MEMORY)
        self.recent_y: deque[Sequence[int]] = deque(maxlen=MEMORY)

    def plan(self, active: np.ndarray) -> tuple[Window, ...]:
        """Windows in cells over `active` (from `units_with`). Their cores are disjoint and hold every active cell."""
        rows = np.flatnonzero(active.any(1))
        if not len(rows):
            return ()
        start, end = int(rows[0]), int(rows[-1]) + 1
        whole = max(active.shape) <= self.tiling.tile
        down, across = (
            Axis(length, self.tiling, recent, whole)
            for length, recent in zip(active.shape, (self.recent_y, self.recent_x), strict=True)
        )
        field = ActiveField(active, self.tiling)
        strips: dict[tuple[int, int, bool], Strip] = {}

        def strips_of(cut: Cut) -> list[Strip]:
            rows = pairwise((start, *cut.borders, end))
            return [strip_between(low, high, index > 0) for index, (low, high) in enumerate(rows)]

        def strip_between(low: int, high: int, inner: bool) -> Strip:
            if (low, high, inner) not in strips:
                strips[low, high, inner] = field.strip(low, high, inner, end, across)
            return strips[low, high, inner]

        def rough(cut: Cut) -> float:
            return cut.penalty * sum(strip.cost for strip in strips_of(cut))

        def finished(cut: Cut) -> tuple[float, list[Window]]:
            strips = strips_of(cut)
            windows = with_shared_shapes(
                [window for strip in strips for window in strip.windows], active.shape, self.tiling
            )
            penalty = cut.penalty * max(strip.penalty for strip in strips)
            return penalty * cost_of(windows, self.tiling), windows

        finalists = sorted(down.cuts(start, end), key=rough)[:FINALISTS]
        (_, windows), best = min(
            ((finished(cut), cut) for cut in finalists), key=lambda way: way[0][0]
        )
        if self.tiling.moving:
            self.recent_y.append(best.borders)
            self.recent_x.append([border for strip in strips_of(best) for border in strip.borders])
        return tuple(self._in_cells(window) for window in windows)

    def _in_cells(self, window: Window) -> Window:
        """Boxes are in units, cores in halves of a unit: a border lies in the middle of an overlap."""
        unit, (height, width) = self.tiling.unit, self.size
        box = Box(*(edge * unit for edge in window.box))
        core = Box(*(edge * unit // 2 for edge in window.core))
        return Window(*(Box(b.x0, b.y0, min(b.x1, width), min(b.y1, height)) for b in (box, core)))


class Axis:
    """One axis of `length` units during one plan: the ways to cut it, cheapest first by a rough estimate."""

    def __init__(
        self, length: int, tiling: Tiling, recent: Iterable[Sequence[int]], whole: bool
    ) -> None:
        self.length, self.tiling = length, tiling
        # An image that one window can hold is not cut, though smaller windows may be cheaper: one window has all the context.
        self.more = 0 if whole else 3
        self.penalties = penalties(length, list(recent), tiling)
        sizes = (
            np.maximum(np.arange(tiling.tile + 1) + tiling.overlap, tiling.smallest) * tiling.unit
        )
        typical = (
            tiling.tile * tiling.unit * 3 // 4
        )  # of the other side of a window, which is not known yet
        self.prices = tiling.cost.of_windows(sizes * typical, tiling.batch).tolist()
        self.known: dict[tuple[int, int], list[Cut]] = {}

    def cuts(self, start: int, end: int) -> list[Cut]:
        """The most promising ways to cut the units start..end."""
        if (start, end) not in self.known:
            priced = sorted(self._priced(start, end))
            self.known[start, end] = [
                Cut(borders, penalty) for _, borders, penalty in priced[:CANDIDATES]
            ]
        return self.known[start, end]

    def _priced(self, start: int, end: int) -> Iterable[tuple[float, tuple[int, ...], float]]:
        tiling = self.tiling
        context = tiling.margin + tiling.odd  # around the active area, too
        low, high = max(0, start - context), min(self.length, end + context)
        span = max(0, high - low - tiling.overlap)
        longest = max(1, tiling.tile - tiling.overlap)
        fewest = max(1, ceil_div(span, longest))
        ways = {even_lengths(span, count) for count in range(fewest, fewest + self.more + 1)}
        if tiling.moving and fewest > 1:
            ways |= {
                way
                for count in range(fewest, fewest + 3)
                for way in uneven_lengths(span, count, longest, tiling)
            }
        for way in ways:
            borders = (
                tuple(accumulate(way[1:-1], initial=low + tiling.margin + way[0]))
                if len(way) > 1
                else ()
            )
            if borders and not start <= borders[0] <= borders[-1] < end:
                continue
            penalty = (
                sum(self.penalties[border] for border in borders) / len(borders) if borders else 1.0
            )
            yield penalty * sum(self.prices[length] for length in way), borders, penalty


def even_lengths(span: int, count: int) -> tuple[int, ...]:
    return tuple((index + 1) * span // count - index * span // count for index in range(count))


def uneven_lengths(
    span: int, count: int, longest: int, tiling: Tiling
) -> Iterable[tuple[int, ...]]:
    """Pieces of one length and one of another, at every place: borders move far while two lengths serve them all."""
    step = max(1, tiling.tile // 32)
    even = span // count
    for same in range(
        max(1, even - tiling.tile // 4), min(longest, even + tiling.tile // 4) + 1, step
    ):
        rest = span - (count - 1) * same
        if max(1, tiling.smallest - tiling.overlap) <= rest <= longest:
            for place in range(count):
                yield (same,) * place + (rest,) + (same,) * (count - 1 - place)


def penalties(length: int, recent: Sequence[Sequence[int]], tiling: Tiling) -> list[float]:
    """Per place: 1 an eighth of a tile or more away from all recent borders, rising to 1 + the price of staying on one of the
    last step. `recent` holds the borders of each step, the last step's at the end; older ones count less by FADING a step."""
    price = PRICE_OF_STAYING * (1 if tiling.overlap else DEARER_WITHOUT_OVERLAP)
    nearness = np.zeros(length + 1)
    for age, borders in enumerate(reversed(recent)):
        nearest = np.abs(
            np.subtract.outer(np.arange(length + 1), np.array([*borders, NOWHERE]))
        ).min(1)
        nearness = np.maximum(
            nearness, FADING**age * np.maximum(0.0, 1 - 8 * nearest / tiling.tile) ** 2
        )
    return (1 + price * nearness).tolist()


class ActiveField:
    """Answers, for any rectangle of units, what the bounding box of the active units in it is."""

    def __init__(self, active: np.ndarray, tiling: Tiling) -> None:
        self.tiling = tiling
        self.rows, self.columns = active.shape
        index = np.arange(self.rows)[:, None]
        at_or_below = np.minimum.accumulate(np.where(active, index, NOWHERE)[::-1])[::-1]
        before = np.maximum.accumulate(np.where(active, index + 1, 0))
        # [row, column]: first active row at or below `row`; end of the last active row above it. A column more, never active.
        self.first = np.pad(at_or_below, ((0, 1), (0, 1)), constant_values=NOWHERE)
        self.last = np.pad(before, ((1, 0), (0, 1)), constant_values=0)

    def strip(self, low: int, high: int, inner: bool, end: int, across: Axis) -> Strip:
        """The cheapest windows over the rows low..high (and the border's own row) of an active area that ends at `end`.

        `inner` tells whether `low` is a border; `high` is one where it lies before the end.
        """
        tiling = self.tiling
        inner_y = inner, high < end
        high += tiling.odd * inner_y[1]
        first = np.where(self.first[low] < high, self.first[low], NOWHERE)
        last = np.where(self.last[high] > low, self.last[high], 0)
        columns = np.flatnonzero(first < NOWHERE)
        if not len(columns):
            return Strip(0.0, 1.0, (), [])
        left_end, right_end = int(columns[0]), int(columns[-1]) + 1
        options = across.cuts(left_end, right_end)

        # All pieces of all ways at once: left and right end, then the bounding box of what is active between them.
        left = np.array([x for cut in options for x in (left_end, *cut.borders)])
        right = np.array(
            [
                x
                for cut in options
                for x in (*(border + tiling.odd for border in cut.borders), right_end)
            ]
        )
        x0, x1 = (
            columns[np.searchsorted(columns, left)],
            columns[np.searchsorted(columns, right) - 1] + 1,
        )
        between = np.stack([left, right], 1).ravel()
        y0, y1 = np.minimum.reduceat(first, between)[::2], np.maximum.reduceat(last, between)[::2]
        some = x0 < x1
        first_piece = np.cumsum([0, *(len(cut.borders) + 1 for cut in options)])
        inner_x = np.ones((2, len(left)), dtype=bool)
        inner_x[0, first_piece[:-1]] = inner_x[1, first_piece[1:] - 1] = False
        boxes_x, cores_x = _extents((x0, x1), (left, right), inner_x, self.columns, tiling)
        boxes_y, cores_y = _extents((y0, y1), (low, high), inner_y, self.rows, tiling)
        cells = (boxes_x[1] - boxes_x[0]) * (boxes_y[1] - boxes_y[0]) * tiling.unit**2
        costs = np.where(some, tiling.cost.of_windows(cells, tiling.batch), 0.0)
        totals = np.add.reduceat(costs, first_piece[:-1]) * [cut.penalty for cut in options]
        best = int(totals.argmin())
        windows = [
            Window(
                *(
                    Box(*(int(edge[piece]) for edge in (xs[0], ys[0], xs[1], ys[1])))
                    for xs, ys in ((boxes_x, boxes_y), (cores_x, cores_y))
                )
            )
            for piece in range(first_piece[best], first_piece[best + 1])
            if some[piece]
        ]
        return Strip(float(totals[best]), options[best].penalty, options[best].borders, windows)


Ends = tuple[np.ndarray, np.ndarray]


def _extents(
    trimmed: Ends,
    piece: Ends | tuple[int, int],
    inner: Ends | tuple[bool, bool],
    length: int,
    tiling: Tiling,
) -> tuple[Ends, Ends]:
    """One axis of windows and of their cores (in halves of a unit): `trimmed` is what is active of `piece`.

    Where a window reaches an end of its piece that is an `inner` border, its core ends in the middle of the overlap.
    Elsewhere the core ends with what is active, and half the overlap is context.
    """
    low_border = (trimmed[0] == piece[0]) & inner[0]
    high_border = (trimmed[1] == piece[1]) & inner[1]
    start = np.maximum(0, trimmed[0] - tiling.margin - tiling.odd * ~low_border)
    end = np.minimum(length, trimmed[1] + tiling.margin + tiling.odd * ~high_border)
    size = np.minimum(np.maximum(end - start, tiling.smallest), length)
    cores = 2 * trimmed[0] + tiling.odd * low_border, 2 * trimmed[1] - tiling.odd * high_border
    return _grown(start, end, size, length), cores


def _grown(
    start: np.ndarray, end: np.ndarray, size: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """start..end made `size` long, around its middle and shifted inside the axis."""
    start = np.clip(start - (size - (end - start)) // 2, 0, length - size)
    return start, start + size


def cost_of(windows: Iterable[Window], tiling: Tiling) -> float:
    """Predicted cost of windows in units."""
    shapes = Counter((window.box.height, window.box.width) for window in windows)
    area = tiling.unit**2
    return sum(
        tiling.cost.of_shape(height * width * area, count, tiling.batch)
        for (height, width), count in shapes.items()
    )


def batches(windows: Sequence[Window], most: int) -> list[list[int]]:
    """Indices of windows of one shape, at most `most` together."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, window in enumerate(windows):
        by_shape[window.box.height, window.box.width].append(number)
    return [
        same[start : start + most]
        for same in by_shape.values()
        for start in range(0, len(same), most)
    ]


def with_shared_shapes(
    windows: list[Window], size: tuple[int, int], tiling: Tiling
) -> list[Window]:
    """The windows, some of them grown to the shape of others where that saves more calls than it costs cells."""
    shapes = Counter((window.box.height, window.box.width) for window in windows)
    becomes = {shape: shape for shape in shapes}

    def cost(shape: tuple[int, int], count: int) -> float:
        return tiling.cost.of_shape(shape[0] * shape[1] * tiling.unit**2, count, tiling.batch)

    def merged_with(
        small: tuple[int, int], large: tuple[int, int]
    ) -> tuple[float, tuple[int, int], set[tuple[int, int]]]:
        """(cost of giving both one shape over that of leaving them, that shape, the shapes that take it)."""
        shape = max(small[0], large[0]), max(small[1], large[1])
        taking = {small, large} | ({shape} & shapes.keys())
        together = cost(shape, sum(shapes[one] for one in taking))
        return together - sum(cost(one, shapes[one]) for one in taking), shape, taking

    for small in sorted(shapes, key=lambda shape: shape[0] * shape[1]):
        others = [large for large in shapes if large != small] if small in shapes else []
        change, shape, taking = min(
            (merged_with(small, large) for large in others),
            default=(0.0, small, set()),
            key=lambda way: way[:2],
        )
        if change < 0:
            shapes[shape] = sum(shapes.pop(one) for one in taking)
            becomes = {was: shape if now in taking else now for was, now in becomes.items()}
    return [
        _as_shape(window, becomes[window.box.height, window.box.width], size) for window in windows
    ]


def _as_shape(window: Window, shape: tuple[int, int], size: tuple[int, int]) -> Window:
    box = window.box
    y0, y1 = _grown(box.y0, box.y1, shape[0], size[0])
    x0, x1 = _grown(box.x0, box.x1, shape[1], size[1])
    return window._replace(box=Box(int(x0), int(y0), int(x1), int(y1)))
