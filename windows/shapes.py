"""Shapes of windows. Those of one shape are evaluated together, so few shapes mean few calls."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..utils import Box
from .tiling import PlannedWindow, Tiling, UnitBox, Window

Shape = tuple[int, int]  # height and width; in this module always in units
Price = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of so many cells a window, so many windows

TRIED_AT_ONCE = 16  # shapes whose merges with all others are priced together


class Merge(NamedTuple):
    """All windows of some shapes, given one shape."""

    shape: Shape
    members: set[Shape]


def batch_windows(
    windows: Sequence[Window] | Sequence[PlannedWindow],
    most: int,
    numbers: Iterable[int] | None = None,
) -> list[list[int]]:
    """Return batches of at most `most` windows of one shape, each a list of their indices.

    Batches with neighbours follow each other where they can: what one has written is in a
    processor's cache for the next. `numbers` are the indices of those that are batched; None: all.
    """
    by_shape: dict[Shape, list[int]] = defaultdict(list)
    for number in range(len(windows)) if numbers is None else numbers:
        box = windows[number].box
        by_shape[box.height, box.width].append(number)
    batches = []
    for same in by_shape.values():
        batches += [same[start : start + most] for start in range(0, len(same), most)]
    return sorted(batches)


def predict_cost(windows: Iterable[PlannedWindow], tiling: Tiling) -> float:
    """Predict the cost of windows that are evaluated in batches of one shape each."""
    counts = _count_shapes(windows)
    return sum(_predict_shape(shape, count, tiling) for shape, count in counts.items())


def share_shapes(
    windows: Sequence[PlannedWindow], grid: Shape, tiling: Tiling
) -> list[PlannedWindow]:
    """Return the windows of a step, some grown to the shape of others where that lowers its cost.

    It does where it saves more calls than it adds cells. `grid` is (rows, columns) of the latent in
    units.
    """

    def price(cells: np.ndarray, count: np.ndarray) -> np.ndarray:
        return tiling.cost.predict_shape(cells, count=count, batch=tiling.batch)

    becomes = _merge_shapes(_count_shapes(windows), tiling.unit, price)
    return _grow_all(windows, becomes, grid)


def share_shapes_in_run(
    steps: Sequence[Sequence[PlannedWindow]], grid: Shape, tiling: Tiling
) -> list[list[PlannedWindow]]:
    """Return the windows of all steps, some grown where a shape costs more than the cells added.

    A device prepares itself for every shape that it has not seen yet (`Cost.per_shape`). Unless the
    model is compiled, no step comes to evaluate more than a plain grid would.
    """
    counts: Counter[Shape] = Counter()
    for windows in steps:
        counts.update(_count_shapes(windows))

    def price(cells: np.ndarray, count: np.ndarray) -> np.ndarray:
        once = tiling.cost.per_shape * (count > 0)
        return count * tiling.cost.predict_window(cells, tiling.batch) + once

    becomes = _merge_shapes(counts, tiling.unit, price)
    grown = [_grow_all(windows, becomes, grid) for windows in steps]
    if tiling.compiled:
        return grown
    most = tiling.count_grid(grid)
    return [
        new if _count_units(new) <= max(most, _count_units(old)) else list(old)
        for old, new in zip(steps, grown, strict=True)
    ]


def grow_span(
    start: np.ndarray | int, end: np.ndarray | int, size: np.ndarray | int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of start..end, grown to `size` around its middle, and inside 0..`length`."""
    start = np.minimum(np.maximum(start - (size - (end - start)) // 2, 0), length - size)
    return start, start + size


def _count_units(windows: Iterable[PlannedWindow]) -> int:
    return sum(window.box.extent for window in windows)


def _shape_of(window: PlannedWindow) -> Shape:
    return window.box.height, window.box.width


def _count_shapes(windows: Iterable[PlannedWindow]) -> Counter[Shape]:
    return Counter(_shape_of(window) for window in windows)


def _predict_shape(shape: Shape, count: int, tiling: Tiling) -> float:
    cells = shape[0] * shape[1] * tiling.unit**2
    return tiling.cost.predict_shape(cells, count=count, batch=tiling.batch)


def _merge_shapes(counts: Counter[Shape], unit: int, price: Price) -> dict[Shape, Shape]:
    """Return what each shape becomes, so that all windows together cost less.

    `counts` tells how many windows have each shape; it is changed. Shapes are tried in turn, from
    the smallest on, until no merge of two lowers the cost.
    """
    becomes = {shape: shape for shape in counts}
    merged = True
    while merged:
        merged = False
        waiting = sorted(counts, key=lambda shape: shape[0] * shape[1])
        while waiting and len(counts) > 1:
            tried = waiting[:TRIED_AT_ONCE]
            found = _find_first_merge(tried, counts, unit, price)
            if found is None:
                del waiting[: len(tried)]
                continue
            place, merge = found
            merged = True
            counts[merge.shape] = sum(counts.pop(member) for member in merge.members)
            waiting = [shape for shape in waiting[place + 1 :] if shape in counts]
            for was, now in becomes.items():
                if now in merge.members:
                    becomes[was] = merge.shape
    return becomes


def _find_first_merge(
    tried: Sequence[Shape], counts: Counter[Shape], unit: int, price: Price
) -> tuple[int, Merge] | None:
    """Return the first shape tried whose merge with another lowers the cost, and its cheapest one.

    Both get the smallest shape that holds both. Where there are windows of that shape already, they
    join the others' batches. All merges are priced at once, in arrays [shapes tried, shapes].
    """
    shapes = np.array(list(counts))
    lookup = np.zeros(shapes.max(0) + 1, dtype=int)  # the count of every shape
    lookup[tuple(shapes.T)] = list(counts.values())
    small = np.array(tried)[:, None]
    joined = np.maximum(small, shapes)
    is_small, is_other = (joined == small).all(-1), (joined == shapes).all(-1)
    count_small, count_other = lookup[tuple(small.T)].T, lookup[tuple(shapes.T)]
    count_held = np.where(is_small | is_other, 0, lookup[tuple(joined.T)].T)
    cells_small, cells_other, cells_joined = (
        pair.prod(-1) * unit**2 for pair in (small, shapes, joined)
    )
    count = np.stack(np.broadcast_arrays(count_small, count_other, count_held))
    cells = np.stack(np.broadcast_arrays(cells_small, cells_other, cells_joined))
    changes = price(cells_joined, count.sum(0)) - price(cells, count).sum(0)
    changes[is_small & is_other] = np.inf  # the shape itself
    lowering = np.flatnonzero(changes.min(1) < 0)
    if not len(lowering):
        return None
    place = int(lowering[0])
    ways = zip(changes[place].tolist(), map(tuple, joined[place].tolist()), counts, strict=True)
    _, shape, other = min(ways)
    members = {member for member in (tried[place], other, shape) if member in counts}
    return place, Merge(shape, members)


def _grow_all(
    windows: Sequence[PlannedWindow], becomes: dict[Shape, Shape], grid: Shape
) -> list[PlannedWindow]:
    return [_grow(window, becomes[_shape_of(window)], grid) for window in windows]


def _grow(window: PlannedWindow, shape: Shape, grid: Shape) -> PlannedWindow:
    box = window.box
    y0, y1 = grow_span(box.y0, box.y1, shape[0], grid[0])
    x0, x1 = grow_span(box.x0, box.x1, shape[1], grid[1])
    return window._replace(box=UnitBox(Box(int(x0), int(y0), int(x1), int(y1))))
