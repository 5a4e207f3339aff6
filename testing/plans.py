"""Plans of windows for tests: tilings as a strategy, random active cells, the plan over them."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from ..windows.planning import Planner, mark_active_units
from ..windows.tiling import Cost, Tiling, Window

TRANSFORMER = Cost(per_call=600, per_window=1700, quadratic=65_000)
BLOCK_CELLS = 7  # side of the blocks that random cells come in: no multiple of a unit


def build_tiling(
    *,
    unit: int,
    tile: int,
    overlap: int,
    smallest: int,
    moving: bool,
    batch: int,
    per_shape: int = 0,
) -> Tiling:
    """Build a tiling as `Geometry.tiling` does: half an overlap is always whole cells."""
    overlap = min(overlap, tile // 2)
    if unit % 2:
        overlap -= overlap % 2
    return Tiling(
        unit=unit,
        tile=tile,
        smallest=min(tile, smallest),
        overlap=overlap,
        moving=moving,
        cost=replace(TRANSFORMER, per_shape=per_shape),
        batch=batch,
    )


TILINGS = st.builds(
    build_tiling,
    unit=st.sampled_from([1, 2, 4, 8]),
    tile=st.integers(2, 40),
    overlap=st.integers(0, 9),
    smallest=st.integers(1, 12),
    moving=st.booleans(),
    batch=st.integers(1, 5),
    per_shape=st.sampled_from([0, 3000, 10**6]),
)


def random_cells(height: int, width: int, share: float, seed: int) -> Tensor:
    """Return cells, bool [height, width], of which about this share is active, in square blocks."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(height // BLOCK_CELLS + 1, width // BLOCK_CELLS + 1, generator=generator)
    active = (blocks < share).repeat_interleave(BLOCK_CELLS, 0).repeat_interleave(BLOCK_CELLS, 1)
    return active[:height, :width]


def plan_of(tiling: Tiling, active: Tensor, turns: int = 1) -> tuple[Window, ...]:
    """Return the windows of the last of `turns` steps, all over one set of active cells [H, W]."""
    height, width = active.shape
    planner = Planner((height, width), tiling)
    units = mark_active_units(active, tiling.unit)
    windows: tuple[Window, ...] = ()
    for _ in range(turns):
        windows = planner.plan(units)
    return windows
