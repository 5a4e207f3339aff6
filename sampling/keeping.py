"""Finds what patches and wrappers of other packs keep of the windows that they saw.

A cache keeps what a block returned, to return it again at a later call: that is another window's.
Those that are known by name are refused; of others it shows after a step that they hold something
new, in the size of a window.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from .contents import Found, find_tensors
from .cropping import REDUCTIONS, Grid, grid_of


class KeepWatch:
    """Compares what is held during a run with what was held when it began."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Tensor] | None = None

    def find(self, holders: Any, windows: Iterable[Grid]) -> list[Found]:
        """Return what came since the first call, if it has the size of one of these windows."""
        held = {(one.value.data_ptr(), *one.value.shape): one for one in find_tensors(holders)}
        if self._known is None:
            self._known = {key: one.value for key, one in held.items()}
        grids = set(windows)
        new = [one for key, one in held.items() if key not in self._known]
        return [one for one in new if any(shows(one.value, grid) for grid in grids)]


def shows(value: Tensor, window: Grid) -> bool:
    """Tell whether a tensor has the size of a window of so many cells, or of its tokens."""
    height, width = window
    for coarser in (1, *REDUCTIONS):
        grid = height // coarser, width // coarser
        if min(grid) < 2 or height % coarser or width % coarser:
            return False
        if grid_of(value) == grid or (value.ndim > 2 and value.shape[-2] == grid[0] * grid[1]):
            return True
    return False
