"""How long a step takes where several evaluate its windows at once, and what is cut for that.

All shares are taken to be equally fast. How many there are is a setting, not a fact found out, so
that a plan does not depend on who is there.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from .shapes import batch_windows
from .tiling import PlannedWindow, Tiling, Window

# The longest side of windows that is tried, in parts of a tile: nearly all numbers of windows come
# up on the way, and below half a tile overlaps cost more than is gained.
TILE_PARTS = (24, 22, 20, 18, 17, 16, 14, 12)
WHOLE_TILE = 24
ABOUT_EQUAL = 1.003  # of two costs: even cuts, which shorter windows have, are shared better


def predict_makespan(costs: Iterable[float], shares: int) -> float:
    """Predict when the last of several is done, each taking the dearest batch when it is free."""
    done = [0.0] * shares
    for cost in sorted(costs, reverse=True):
        heapq.heapreplace(done, done[0] + cost)
    return max(done)


def predict_shared_cost(windows: Iterable[PlannedWindow], tiling: Tiling) -> float:
    """Predict what a step costs all shares together, with those that wait for the last one."""
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
        costs = []
        for numbers in batch_windows(windows, batch):
            box, count = windows[numbers[0]].box, len(numbers)
            costs.append(tiling.cost.predict_shape(box.extent, count=count, batch=count))
        return predict_makespan(costs, tiling.shares)

    return most if tiling.shares == 1 else min(range(1, most + 1), key=predict)


def list_tiles(tiling: Tiling) -> list[int]:
    """Return the longest sides of windows, in units, that are tried for a run."""
    least = max(tiling.smallest, tiling.fewest, 2 * tiling.overlap)
    tiles = {tiling.tile * part // WHOLE_TILE for part in TILE_PARTS}
    return [tiling.tile, *(tile for tile in tiles if least <= tile < tiling.tile)]
