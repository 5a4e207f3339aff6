"""How long a step takes where several evaluate its windows at once, and what is cut for that.

All shares are taken to be equally fast. How many there are is a setting, not a fact found out, so
that a plan does not depend on who is there.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

import numpy as np

from .shapes import batch_windows
from .tiling import PlannedWindow, Tiling, Window

# Costs to which the dearest window of a step is held; for each of them plans are tried.
LIMITS = 32
# As many pieces of an axis are tried as make so many windows for each, with more of which overlaps
# cost more than an even end gains, and so many times the fewest at least.
ROUNDS = 4
LEAST_STRETCH = 1.5


def predict_makespan(costs: Iterable[float], shares: int) -> float:
    """Predict when the last of several is done, each taking the dearest batch when it is free."""
    done = [0.0] * shares
    for cost in sorted(costs, reverse=True):
        heapq.heapreplace(done, done[0] + cost)
    return max(done)


def predict_shared_cost(windows: Sequence[PlannedWindow], tiling: Tiling) -> float:
    """Predict what a step costs all shares together, with those that wait for the last one."""
    if tiling.together > 1:
        batches = range(1, tiling.together + 1)
        spans = (_predict_batches(windows, batch, tiling, tiling.unit**2) for batch in batches)
        return tiling.shares * min(spans)
    costs = []
    for window in windows:
        cells = window.box.extent * tiling.unit**2
        costs.append(tiling.cost.predict_window(cells, tiling.batch))
    return tiling.shares * predict_makespan(costs, tiling.shares)


def choose_batch(windows: Sequence[Window], tiling: Tiling, most: int) -> int:
    """Return how many windows of one shape are evaluated together, so that shares end together.

    It is `most` where nobody shares.
    """

    def predict(batch: int) -> float:
        return _predict_batches(windows, batch, tiling, 1)

    return most if tiling.shares == 1 else min(range(1, most + 1), key=predict)


def _predict_batches(
    windows: Sequence[Window] | Sequence[PlannedWindow], batch: int, tiling: Tiling, scale: int
) -> float:
    """Predict when the last share is done with batches of windows, which count `scale` cells each
    where their boxes count one."""
    costs = []
    for numbers in batch_windows(windows, batch):
        cells, count = windows[numbers[0]].box.extent * scale, len(numbers)
        costs.append(tiling.cost.predict_shape(cells, count=count, batch=count))
    return predict_makespan(costs, tiling.shares)


def list_limits(tiling: Tiling) -> np.ndarray:
    """Return what the dearest window may cost, float64 [limits]: no limit where nobody shares."""
    if tiling.shares == 1:
        return np.array([np.inf])
    most, least = (
        tiling.cost.predict_window((side * tiling.unit) ** 2, tiling.batch)
        for side in (tiling.tile, tiling.smallest)
    )
    return np.geomspace(most, least, LIMITS)


def choose_stretch(grid: tuple[int, int], tiling: Tiling) -> float:
    """Return how many times as many pieces of an axis as there have to be are tried.

    `grid` is (rows, columns) of the latent in units. It is 1 where nobody shares, and 0 where one
    window can hold the latent, which then keeps it: smaller ones may be cheaper, but one window has
    all the context.
    """
    rows, columns = grid
    if max(grid) <= tiling.tile:
        return 0.0
    if tiling.shares == 1:
        return 1.0
    return max(LEAST_STRETCH, math.sqrt(ROUNDS * tiling.shares * tiling.tile**2 / (rows * columns)))
