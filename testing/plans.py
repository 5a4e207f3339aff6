"""Plans of windows for tests: tilings as a strategy, random active cells, the plan over them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from ..windows.planning import Cost, Planner, Tiling, Window, units_with

TRANSFORMER = Cost(per_call=600, per_window=1700, quadratic=65_000)
TILINGS = st.builds(
    lambda unit, tile, overlap, smallest, moving, batch: Tiling(
        unit,
        tile,
        min(tile, smallest),
        min(overlap, tile // 2) // (1 + unit % 2) * (1 + unit % 2),
        moving,
        TRANSFORMER,
        batch,
    ),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(2, 40),
    st.integers(0, 9),
    st.integers(1, 12),
    st.booleans(),
    st.integers(1, 5),
)


def random_cells(height: int, width: int, share: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(height // 7 + 1, width // 7 + 1, generator=generator) < share
    return coarse.repeat_interleave(7, 0).repeat_interleave(7, 1)[:height, :width]


def plan_of(tiling: Tiling, active: Tensor, turns: int = 1) -> tuple[Window, ...]:
    """The windows of the last of some steps over one set of active cells."""
    planner = Planner(tuple(active.shape), tiling)
    return [planner.plan(units_with(active, tiling.unit)) for _ in range(turns)][-1]
