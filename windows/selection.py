"""Ranks the tiles of an image: how early each is given up, with the windows that it needs in mind.

A tile is worth the detail in it and costs what it adds to the windows of a run. The calmest tiles
go first: together they hold next to nothing. Then windows are planned over the tiles that are left,
as a run plans them, and where little detail makes much to evaluate (an island with a window of its
own, the end of a long window), it is given up, again and again until nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..utils import Box, ceil_div
from .planning import PlanSearch
from .tiling import HalfUnitBox, PlannedWindow, Tiling

# Shares of all detail, found on half of the pictures of `python dev.py bench decide`.
CALMEST = 0.025  # is given up with the calmest tiles, wherever they lie
PER_ROUND = 0.03  # is given up at most between two plans
LEAST = 0.4  # windows are planned down to this share; below it the calmest tiles go first again
# Shares of the refined detail that are refined at each grade, the lowest grade first.
GRADES = (1.0, 0.88, 0.79)
CALM = 0.2  # of the mean detail: a tile with less is kept inside a window, too
ENDS = (1, 2, 4)  # tiles by which a window may be shortened at once

TileBox = tuple[slice, slice]  # rows and columns of tiles


class Offer(NamedTuple):
    """Tiles that may be given up together: their detail, and the units that windows lose by it."""

    detail: float
    units: float
    tiles: TileBox

    @property
    def price(self) -> float:
        return self.detail / self.units


@dataclass(frozen=True)
class TileGrid:
    """The tiles of an image as a plan of windows sees them.

    `rows` and `columns` are the tiles at the units of a latent, int [units] each; `tiling` is how
    windows may be laid on it.
    """

    rows: np.ndarray
    columns: np.ndarray
    tiling: Tiling

    def plan(self, chosen: np.ndarray) -> Sequence[PlannedWindow]:
        """Return the windows over the chosen tiles, bool [rows, columns]."""
        active = chosen[np.ix_(self.rows, self.columns)]
        if not active.any():
            return ()
        return PlanSearch(active, self.tiling, (), ()).find_cheapest().windows

    def find_tiles(self, core: HalfUnitBox) -> TileBox:
        """Return the tiles at the units of a window's core."""
        down, across = _find_units(core)
        rows, columns = self.rows[down], self.columns[across]
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

    def find_free_tiles(self, chosen: np.ndarray) -> np.ndarray:
        """Return which tiles lie wholly in the cores of the windows over the chosen tiles.

        To evaluate them as well takes no other windows.
        """
        covered = np.zeros((len(self.rows), len(self.columns)), dtype=bool)
        for window in self.plan(chosen):
            covered[_find_units(window.core)] = True
        free = np.ones_like(chosen)
        rows, columns = (~covered).nonzero()
        free[self.rows[rows], self.columns[columns]] = False
        return free

    def find_offers(self, window: PlannedWindow, detail: np.ndarray) -> Iterator[Offer]:
        """Yield what of a window may be given up; `detail` is 0 in tiles that already are."""
        tiles = self.find_tiles(window.core)
        inside = detail[tiles]
        box: Box = window.box
        yield Offer(float(inside.sum()), box.extent, tiles)
        units_per_row = len(self.rows) / len(detail)
        units_per_column = len(self.columns) / detail.shape[1]
        for count in ENDS:
            # A window that is as short as it may be costs as much without its end.
            lines = min(count * units_per_row, box.height - self.tiling.smallest) * box.width
            if count < len(inside) and lines > 0:
                above, below = _find_ends(tiles[0], count)
                yield Offer(float(inside[:count].sum()), lines, (above, tiles[1]))
                yield Offer(float(inside[-count:].sum()), lines, (below, tiles[1]))
            lines = min(count * units_per_column, box.width - self.tiling.smallest) * box.height
            if count < inside.shape[1] and lines > 0:
                left, right = _find_ends(tiles[1], count)
                yield Offer(float(inside[:, :count].sum()), lines, (tiles[0], left))
                yield Offer(float(inside[:, -count:].sum()), lines, (tiles[0], right))


def _find_units(core: HalfUnitBox) -> tuple[slice, slice]:
    """Return the rows and columns of units that a core lies on, in part at least."""
    box: Box = core
    return slice(box.y0 // 2, ceil_div(box.y1, 2)), slice(box.x0 // 2, ceil_div(box.x1, 2))


def _find_ends(tiles: slice, count: int) -> tuple[slice, slice]:
    return slice(tiles.start, tiles.start + count), slice(tiles.stop - count, tiles.stop)


def rank_tiles(detail: np.ndarray, grids: Sequence[TileGrid]) -> np.ndarray:
    """Return the share of all detail that is left when a tile is given up, [rows, columns].

    The tiles with less than c are those to refine so that at least the share c of the detail is;
    they are fewer for every smaller c. A tile without detail has 1. `detail` is float64
    [rows, columns], at least 0; `grids` are planned in turn.
    """
    total = float(detail.sum())
    ranks = np.ones_like(detail)
    if not total:
        return ranks
    left = detail / total
    _give_up_calmest(ranks, left, 1 - CALMEST)
    turn, refused = 0, 0
    while left.sum() > LEAST and refused < len(grids):
        gave_up = _give_up_dearest(ranks, left, grids[turn % len(grids)])
        refused = 0 if gave_up else refused + 1
        turn += 1
    _give_up_calmest(ranks, left, 0.0)
    return ranks


def _give_up_calmest(ranks: np.ndarray, left: np.ndarray, share: float) -> None:
    """Give up the calmest tiles while the detail that is `left` is above `share`."""
    order = left.ravel().argsort(kind="stable")
    after = (left.sum() - left.ravel()[order].cumsum()).clip(0)
    gone = (after >= share) & (left.ravel()[order] > 0)
    ranks.ravel()[order[gone]] = after[gone]
    left.ravel()[order[gone]] = 0


def _give_up_dearest(ranks: np.ndarray, left: np.ndarray, grid: TileGrid) -> bool:
    """Give up tiles with little detail in many units, once per window; return whether any was."""
    offers = [
        (number, offer)
        for number, window in enumerate(grid.plan(left > 0))
        for offer in grid.find_offers(window, left)
    ]
    share = float(left.sum())
    spent = 0.0
    used: set[int] = set()
    for number, offer in sorted(offers, key=lambda one: one[1].price):
        if number in used or spent + offer.detail > PER_ROUND:
            continue
        used.add(number)
        spent += offer.detail
        given = left[offer.tiles] > 0
        ranks[offer.tiles][given] = share - spent
        left[offer.tiles] = 0
    return bool(used)


def grade_tiles(
    detail: np.ndarray, ranks: np.ndarray, grid: TileGrid, coverage: float
) -> np.ndarray:
    """Return the grade of each tile, 0 (kept) to len(GRADES), int [rows, columns].

    The tiles of rank below `coverage` are refined, and of those that are worth more than they cost
    the longer. What lies inside a window that runs anyway costs nothing: there a tile with some
    detail is refined as well, and a refined one gets the next higher grade.
    """
    grades = np.zeros(detail.shape, dtype=int)
    for share in GRADES:
        grades += ranks < coverage * share
    for grade in range(1, len(GRADES) + 1):
        free = grid.find_free_tiles(grades >= grade) & (grades == grade - 1)
        if grade == 1:
            free &= detail >= CALM * detail.mean()
        grades[free] = grade
    return grades
