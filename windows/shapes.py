"""Shapes of windows. Those of one shape are evaluated together, so few shapes mean few calls."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..utils import Box
from .tiling import PlannedWindow, Tiling, UnitBox, Window

Shape = tuple[int, int]  # height and width; in this module always in units
Price = Callable[[Shape, int], float]  # the predicted cost of so many windows of a shape


class Merge(NamedTuple):
    """All windows of some shapes, given one shape, and what that adds to the predicted cost."""

    change: float
    shape: Shape
    members: set[Shape]


def batch_windows(
    windows: Sequence[Window], most: int, numbers: Iterable[int] | None = None
) -> list[list[int]]:
    """Return batches of at most `most` windows of one shape, each a list of their indices.

    `numbers` are the indices of those that are batched; None: all.
    """
    by_shape: dict[Shape, list[int]] = defaultdict(list)
    for number in range(len(windows)) if numbers is None else numbers:
        box = windows[number].box
        by_shape[box.height, box.width].append(number)
    batches = []
    for same in by_shape.values():
        batches += [same[start : start + most] for start in range(0, len(same), most)]
    return batches


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

    def price(shape: Shape, count: int) -> float:
        return _predict_shape(shape, count, tiling)

    becomes = _merge_shapes(_count_shapes(windows), price)
    return _grow_all(windows, becomes, grid)


def share_shapes_in_run(
    steps: Sequence[Sequence[PlannedWindow]], grid: Shape, tiling: Tiling
) -> list[list[PlannedWindow]]:
    """Return the windows of all steps, some grown where a shape costs more than the cells added.

    A device prepares itself for every shape that it has not seen yet (`Cost.per_shape`).
    """
    counts: Counter[Shape] = Counter()
    for windows in steps:
        counts.update(_count_shapes(windows))

    def price(shape: Shape, count: int) -> float:
        cells = _count_cells(shape, tiling)
        return count * tiling.cost.predict_window(cells, tiling.batch) + tiling.cost.per_shape

    becomes = _merge_shapes(counts, price)
    return [_grow_all(windows, becomes, grid) for windows in steps]


def grow_span(
    start: np.ndarray | int, end: np.ndarray | int, size: np.ndarray | int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of start..end, grown to `size` around its middle, and inside 0..`length`."""
    start = np.clip(start - (size - (end - start)) // 2, 0, length - size)
    return start, start + size


def _shape_of(window: PlannedWindow) -> Shape:
    return window.box.height, window.box.width


def _count_shapes(windows: Iterable[PlannedWindow]) -> Counter[Shape]:
    return Counter(_shape_of(window) for window in windows)


def _count_cells(shape: Shape, tiling: Tiling) -> int:
    return shape[0] * shape[1] * tiling.unit**2


def _predict_shape(shape: Shape, count: int, tiling: Tiling) -> float:
    cells = _count_cells(shape, tiling)
    return tiling.cost.predict_shape(cells, count=count, batch=tiling.batch)


def _merge_shapes(counts: Counter[Shape], price: Price) -> dict[Shape, Shape]:
    """Return what each shape becomes, so that all windows together cost less.

    `counts` tells how many windows have each shape; it is changed. Shapes are tried in turn, from
    the smallest on, until no merge of two lowers the cost.
    """
    becomes = {shape: shape for shape in counts}
    merged = True
    while merged:
        merged = False
        for small in sorted(counts, key=lambda shape: shape[0] * shape[1]):
            merge = _find_best_merge(small, counts, price)
            if merge is None or merge.change >= 0:
                continue
            merged = True
            counts[merge.shape] = sum(counts.pop(member) for member in merge.members)
            for was, now in becomes.items():
                if now in merge.members:
                    becomes[was] = merge.shape
    return becomes


def _find_best_merge(small: Shape, counts: Counter[Shape], price: Price) -> Merge | None:
    """Return the cheapest merge of a shape with another; None where there is no other."""
    if small not in counts:  # merged into another one already
        return None
    merges = [_merge(small, large, counts, price) for large in counts if large != small]
    return min(merges, key=lambda merge: (merge.change, merge.shape), default=None)


def _merge(small: Shape, large: Shape, counts: Counter[Shape], price: Price) -> Merge:
    """Return what it changes to give both shapes the smallest one that holds both.

    Where there are windows of that shape already, they join the others' batches.
    """
    shape = max(small[0], large[0]), max(small[1], large[1])
    members = {small, large}
    if shape in counts:
        members.add(shape)
    together = price(shape, sum(counts[member] for member in members))
    apart = sum(price(member, counts[member]) for member in members)
    return Merge(together - apart, shape, members)


def _grow_all(
    windows: Sequence[PlannedWindow], becomes: dict[Shape, Shape], grid: Shape
) -> list[PlannedWindow]:
    return [_grow(window, becomes[_shape_of(window)], grid) for window in windows]


def _grow(window: PlannedWindow, shape: Shape, grid: Shape) -> PlannedWindow:
    box = window.box
    y0, y1 = grow_span(box.y0, box.y1, shape[0], grid[0])
    x0, x1 = grow_span(box.x0, box.x1, shape[1], grid[1])
    return window._replace(box=UnitBox(Box(int(x0), int(y0), int(x1), int(y1))))
