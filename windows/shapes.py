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

    def price(cells: np.ndarray, count: np.ndarray) -> np.ndarray:
        return tiling.cost.predict_shape(cells, count=count, batch=tiling.batch)

    becomes = _merge_shapes(_count_shapes(windows), tiling.unit, price)
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

    def price(cells: np.ndarray, count: np.ndarray) -> np.ndarray:
        once = tiling.cost.per_shape * (count > 0)
        return count * tiling.cost.predict_window(cells, tiling.batch) + once

    becomes = _merge_shapes(counts, tiling.unit, price)
    return [_grow_all(windows, becomes, grid) for windows in steps]


def grow_span(
    start: np.ndarray | int, end: np.ndarray | int, size: np.ndarray | int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of start..end, grown to `size` around its middle, and inside 0..`length`."""
    start = np.minimum(np.maximum(start - (size - (end - start)) // 2, 0), length - size)
    return start, start + size


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
        for small in sorted(counts, key=lambda shape: shape[0] * shape[1]):
            merge = _find_best_merge(small, counts, unit, price)
            if merge is None or merge.change >= 0:
                continue
            merged = True
            counts[merge.shape] = sum(counts.pop(member) for member in merge.members)
            for was, now in becomes.items():
                if now in merge.members:
                    becomes[was] = merge.shape
    return becomes


def _find_best_merge(small: Shape, counts: Counter[Shape], unit: int, price: Price) -> Merge | None:
    """Return the cheapest merge of a shape with another; None where there is no other.

    Both get the smallest shape that holds both. Where there are windows of that shape already, they
    join the others' batches. All merges are priced at once.
    """
    if small not in counts or len(counts) == 1:  # merged into another one already
        return None
    others = [shape for shape in counts if shape != small]
    joined = [(max(small[0], height), max(small[1], width)) for height, width in others]
    windows = [
        (counts[small], counts[other], 0 if shape in (small, other) else counts[shape])
        for other, shape in zip(others, joined, strict=True)
    ]
    count = np.array(windows).T  # of the small shape, of the other, and of the one that holds both
    cells = np.array([[h * w for h, w in others], [h * w for h, w in joined]]) * unit**2
    of_small = np.full_like(cells[0], small[0] * small[1] * unit**2)
    apart = price(np.stack((of_small, *cells)), count).sum(0)
    changes = (price(cells[1], count.sum(0)) - apart).tolist()
    change, shape, other = min(zip(changes, joined, others, strict=True))
    return Merge(change, shape, {member for member in (small, other, shape) if member in counts})


def _grow_all(
    windows: Sequence[PlannedWindow], becomes: dict[Shape, Shape], grid: Shape
) -> list[PlannedWindow]:
    return [_grow(window, becomes[_shape_of(window)], grid) for window in windows]


def _grow(window: PlannedWindow, shape: Shape, grid: Shape) -> PlannedWindow:
    box = window.box
    y0, y1 = grow_span(box.y0, box.y1, shape[0], grid[0])
    x0, x1 = grow_span(box.x0, box.x1, shape[1], grid[1])
    return window._replace(box=UnitBox(Box(int(x0), int(y0), int(x1), int(y1))))
