"""Shapes of windows. Those of one shape are evaluated together, so few shapes mean few calls."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..utils import Box
from .tiling import PlannedWindow, Tiling, UnitBox, Window

Shape = tuple[int, int]  # height and width; in this module always in units


class Merge(NamedTuple):
    """All windows of some shapes, given one shape, and what that adds to the predicted cost."""

    change: float
    shape: Shape
    members: set[Shape]


def batch_windows(windows: Sequence[Window], most: int) -> list[list[int]]:
    """Return batches of at most `most` windows of one shape, each a list of their indices."""
    by_shape: dict[Shape, list[int]] = defaultdict(list)
    for number, window in enumerate(windows):
        by_shape[window.box.height, window.box.width].append(number)
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
    """Return the windows, some of them grown to the shape of others where that lowers the cost.

    It does where it saves more calls than it adds cells. `grid` is (rows, columns) of the latent in
    units. Shapes are tried once each, from the smallest on.
    """
    counts = _count_shapes(windows)
    becomes = {shape: shape for shape in counts}
    for small in sorted(counts, key=lambda shape: shape[0] * shape[1]):
        merge = _find_best_merge(small, counts, tiling)
        if merge is None or merge.change >= 0:
            continue
        counts[merge.shape] = sum(counts.pop(member) for member in merge.members)
        for was, now in becomes.items():
            if now in merge.members:
                becomes[was] = merge.shape
    return [_grow(window, becomes[_shape_of(window)], grid) for window in windows]


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


def _predict_shape(shape: Shape, count: int, tiling: Tiling) -> float:
    cells = shape[0] * shape[1] * tiling.unit**2
    return tiling.cost.predict_shape(cells, count=count, batch=tiling.batch)


def _find_best_merge(small: Shape, counts: Counter[Shape], tiling: Tiling) -> Merge | None:
    """Return the cheapest merge of a shape with another; None where there is no other."""
    if small not in counts:  # merged into another one already
        return None
    merges = [_merge(small, large, counts, tiling) for large in counts if large != small]
    return min(merges, key=lambda merge: (merge.change, merge.shape), default=None)


def _merge(small: Shape, large: Shape, counts: Counter[Shape], tiling: Tiling) -> Merge:
    """Return what it changes to give both shapes the smallest one that holds both.

    Where there are windows of that shape already, they join the others' batches.
    """
    shape = max(small[0], large[0]), max(small[1], large[1])
    members = {small, large}
    if shape in counts:
        members.add(shape)
    together = _predict_shape(shape, sum(counts[member] for member in members), tiling)
    apart = sum(_predict_shape(member, counts[member], tiling) for member in members)
    return Merge(together - apart, shape, members)


def _grow(window: PlannedWindow, shape: Shape, grid: Shape) -> PlannedWindow:
    box = window.box
    y0, y1 = grow_span(box.y0, box.y1, shape[0], grid[0])
    x0, x1 = grow_span(box.x0, box.x1, shape[1], grid[1])
    return window._replace(box=UnitBox(Box(int(x0), int(y0), int(x1), int(y1))))
