"""Chooses the windows of a step by predicted cost: integers on the CPU, nothing of the model.

Leaves decide how much may change; windows decide what is computed. The active cells, which may
change at this step, are cut into strips, and the strips into pieces. Each piece is trimmed to what
is active in it and becomes a window, with half of the overlap as context on every side that is not
the edge of the latent. Of all the ways to cut, the cheapest is taken; a moving lattice takes, of
those that are about as cheap, one whose borders lie far from those of the last steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .cutting import AxisCutter, Cut
from .shapes import predict_cost, share_shapes, share_shapes_in_run
from .sharing import choose_stretch, predict_makespan, predict_shared_cost
from .strips import ActiveField, Strip
from .tiling import PlannedWindow, Tiling, Window, to_cells

# After a change of these numbers, `python dev.py bench plan` shows what runs cost and planning
# takes.
FINALISTS = 8  # ways to cut into strips whose windows get shared shapes and are priced exactly
REMEMBERED_STEPS = 6  # steps whose borders a moving lattice keeps away from


class Plan(NamedTuple):
    """The windows of one step, their predicted cost, and all borders, down and across."""

    cost: float
    windows: list[PlannedWindow]
    borders_y: Sequence[int]
    borders_x: Sequence[int]


class Way(NamedTuple):
    """A way to cut what is active into strips, and each of them into windows."""

    cut: Cut
    strips: tuple[Strip, ...]

    @property
    def penalty(self) -> float:
        return self.cut.penalty * max(strip.penalty for strip in self.strips)


def mark_active_units(active: Tensor, unit: int) -> np.ndarray:
    """Return which units hold an active cell, bool [ceil(H / unit), ceil(W / unit)].

    `active` are cells, bool [H, W].
    """
    cells = active[None, None].float()
    return (F.max_pool2d(cells, unit, unit, ceil_mode=True)[0, 0] > 0).numpy()


class Planner:
    """Plans the steps of one run on a latent of `size` = (height, width) cells."""

    def __init__(self, size: tuple[int, int], tiling: Tiling) -> None:
        self.size = size
        self.tiling = tiling
        self.recent_x: deque[Sequence[int]] = deque(maxlen=REMEMBERED_STEPS)
        self.recent_y: deque[Sequence[int]] = deque(maxlen=REMEMBERED_STEPS)

    def plan(self, active: np.ndarray) -> tuple[Window, ...]:
        """Return the windows of one step, as `plan_run` does."""
        return self.plan_run([active])[0]

    def plan_run(self, steps: Sequence[np.ndarray]) -> list[tuple[Window, ...]]:
        """Return the windows of each step of a run, in cells.

        `steps` has the active units of each step, from `mark_active_units`. The cores of a step's
        windows are disjoint and hold every active cell; where nothing is active, there are no
        windows. Unless the lattice moves, equal steps get equal windows; one that moves stays for
        `standing` of them.
        """
        plans: list[list[PlannedWindow]] = []
        known: dict[bytes, list[PlannedWindow]] = {}
        stood = 0  # for how many steps the moving lattice has stood
        for active in steps:
            key = active.tobytes()
            if key not in known or (self.tiling.moving and stood == self.tiling.standing):
                if self.tiling.moving:
                    known.clear()
                known[key], stood = self._plan_step(active), 0
            plans.append(known[key])
            stood += 1
        if not plans:
            return []
        unit = self.tiling.unit
        plans = share_shapes_in_run(plans, steps[0].shape, self.tiling)
        return [tuple(to_cells(window, unit, self.size) for window in plan) for plan in plans]

    def _plan_step(self, active: np.ndarray) -> list[PlannedWindow]:
        """Return the cheapest windows of the next step, and note its borders."""
        if not active.any():
            return []
        plan = PlanSearch(active, self.tiling, self.recent_y, self.recent_x).find_cheapest()
        if self.tiling.moving:
            self.recent_y.append(plan.borders_y)
            self.recent_x.append(plan.borders_x)
        return plan.windows


class PlanSearch:
    """The search for the cheapest windows over one set of active units, bool [rows, columns]."""

    def __init__(
        self,
        active: np.ndarray,
        tiling: Tiling,
        recent_y: Sequence[Sequence[int]],
        recent_x: Sequence[Sequence[int]],
    ) -> None:
        active_rows = np.flatnonzero(active.any(1))
        self.start, self.end = int(active_rows[0]), int(active_rows[-1]) + 1
        self.tiling = tiling
        self.grid = rows, columns = active.shape
        stretch = choose_stretch(self.grid, tiling)
        self.down = AxisCutter(rows, tiling, recent_y, stretch)
        self.across = AxisCutter(columns, tiling, recent_x, stretch)
        self.field = ActiveField(active, tiling)
        self.known: dict[tuple[int, int, bool], list[Strip]] = {}

    def find_cheapest(self) -> Plan:
        """Return the cheapest plan, of the few ways to cut into strips that look cheapest.

        Where several share, a cut is tried with each limit on its dearest window, since the dearest
        ones make all wait.
        """
        ways = [
            Way(cut, strips)
            for cut in self.down.find_cuts(self.start, self.end)
            for strips in dict.fromkeys(zip(*self._find_strips(cut), strict=True))
        ]
        finalists = sorted(ways, key=self._estimate)[:FINALISTS]
        return min(map(self._finish, finalists), key=lambda plan: plan.cost)

    def _estimate(self, way: Way) -> float:
        """Return the cost of a way to cut, if all batches were full."""
        if self.tiling.shares == 1:
            return way.cut.penalty * sum(strip.cost for strip in way.strips)
        costs = np.concatenate([strip.costs for strip in way.strips])
        return way.penalty * predict_makespan(costs.tolist(), self.tiling.shares)

    def _finish(self, way: Way) -> Plan:
        """Return the plan of a way to cut, its windows in their final shapes."""
        windows: list[PlannedWindow] = []
        borders_x: list[int] = []
        for strip in way.strips:
            windows += strip.list_windows()
            borders_x += strip.borders
        windows = share_shapes(windows, self.grid, self.tiling)
        predict = predict_cost if self.tiling.shares == 1 else predict_shared_cost
        cost = way.penalty * predict(windows, self.tiling)
        return Plan(cost, windows, way.cut.borders, borders_x)

    def _find_strips(self, cut: Cut) -> list[list[Strip]]:
        """Return the strips of a cut, each by limit."""
        ends = pairwise((self.start, *cut.borders, self.end))
        return [self._find_strip(low, high, index > 0) for index, (low, high) in enumerate(ends)]

    def _find_strip(self, low: int, high: int, inner_low: bool) -> list[Strip]:
        key = low, high, inner_low
        if key not in self.known:
            self.known[key] = self.field.find_strips(
                low, high, inner_low=inner_low, inner_high=high < self.end, across=self.across
            )
        return self.known[key]
