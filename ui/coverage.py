"""Builds the tree that refines a share of the picture's detail at the least cost.

The share is called coverage. Which tiles that takes depends on the windows that they need, so they
are planned for a typical model and a typical upscale; the tree fits any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..quadtree import Quadtree
from ..sampling.cost import estimate_rough_cost
from ..sampling.model import ROUGH, ROUGH_PX, ROUGH_SETTINGS, TYPICAL_STEPS
from ..tree.blocks import GRID_PX
from ..tree.detail import BlockSums
from ..tree.masks import Mask
from ..tree.merging import merge_tiles
from ..tree.octaves import measure_fine_detail
from ..tree.raster import centre_blocks
from ..tree.regions import Region, paint_regions
from ..tree.subdivision import check_limits, list_sides
from ..utils import ceil_div, round_up
from ..windows.selection import GRADES, TileGrid, grade_tiles, rank_tiles
from .budget import Choice

COVERAGE = 0.95  # the default
# Windows are planned for an image of this side, or of its own if that is larger, and of half of it.
TYPICAL_PX = 4096
# How often each of the two is planned: twice the larger, where windows cost more.
TURNS = (1.0, 1.0, 0.5)
CURVE_STEPS = 64  # of the strip in the panel
PER_UNIT = 100  # a budget finds coverage in whole percent, so that what the user sees is exact


@dataclass(frozen=True)
class RankedTiles:
    """The tiles of an image, [rows, columns]: their shares of the detail, and their ranks.

    `grid` is the plan of windows in which tiles are graded, and `flips` are the axes along which
    that plan sees the image mirrored.
    """

    detail: np.ndarray
    ranks: np.ndarray
    grid: TileGrid
    flips: tuple[int, ...]

    def grade(self, coverage: float) -> np.ndarray:
        """Return the grade of each tile, 0 to len(GRADES), see `grade_tiles`."""
        detail, ranks = np.flip(self.detail, self.flips), np.flip(self.ranks, self.flips)
        return np.flip(grade_tiles(detail, ranks, self.grid, coverage), self.flips)


def build_by_coverage(
    sums: BlockSums,
    *,
    coverage: float,
    budget: float,
    min_tile_px: int,
    max_tile_px: int,
    min_denoise: float,
    max_denoise: float,
    invert: bool = False,
    mask: Tensor | None = None,
    mask_mode: str = "multiply",
    regions: Sequence[Region] = (),
) -> tuple[Quadtree, Choice | None]:
    """Build the quadtree that refines the share `coverage` of the detail, or costs `budget`.

    Kept tiles have denoise 0, and the others `min_denoise` to `max_denoise` by their grade;
    `invert` reverses the grades. For a budget above 0 the coverage is the one with the nearest
    cost, and it is returned. `sums` must include octaves.
    """
    check_limits(min_tile_px, max_tile_px, min_denoise, max_denoise)
    sides = list_tile_sides(sums, min_tile_px, max_tile_px)
    tiles = rank_image(sums, sides[-1])
    painted = paint_regions(regions, sums.width, sums.height, sides[-1])
    limit = None if mask is None else Mask.from_tensor(mask, mask_mode)
    denoise_of_grade = list_denoise(min_denoise, max_denoise, invert=invert)

    def build(share: float) -> Quadtree:
        denoise = denoise_of_grade[torch.from_numpy(tiles.grade(share).copy())]
        if painted is not None:
            denoise = painted.where(painted >= 0, denoise)
        detail = torch.from_numpy(tiles.detail * tiles.detail.size)
        leaves = merge_tiles(denoise, detail, sums.width, sums.height, sides)
        size = sums.width, sums.height
        return Quadtree(*size, sides[0], leaves, limit, frames=sums.frames)

    if not budget:
        return build(coverage), None
    choice = choose_coverage(build, budget, invert=invert)
    return build(choice.value), choice


def draw_curve(sums: BlockSums, *, min_tile_px: int, max_tile_px: int) -> list[float] | None:
    """Return the share of the detail in the first tiles, by rank: of none to all, in equal steps.

    None for an image without any detail. The arguments are those of `build_by_coverage`.
    """
    tiles = rank_image(sums, list_tile_sides(sums, min_tile_px, max_tile_px)[-1])
    detail = tiles.detail.ravel()[tiles.ranks.ravel().argsort(kind="stable")]
    if not detail.any():
        return None
    gathered = np.concatenate([[0.0], detail.cumsum()]) / detail.sum()
    places = np.linspace(0, detail.size, CURVE_STEPS + 1)
    return np.interp(places, np.arange(detail.size + 1), gathered).round(5).tolist()


def list_denoise(min_denoise: float, max_denoise: float, *, invert: bool) -> Tensor:
    """Return the denoise of each grade, float64 [1 + len(GRADES)]; that of kept tiles is 0."""
    steps = torch.linspace(min_denoise, max_denoise, len(GRADES), dtype=torch.float64)
    denoise = torch.cat([torch.zeros(1, dtype=torch.float64), steps])
    return denoise.flip(0) if invert else denoise


def list_tile_sides(sums: BlockSums, min_tile_px: int, max_tile_px: int) -> list[int]:
    """Return the sides in px of the tiles that a tree by coverage may have, the largest first."""
    smallest = max(min_tile_px, find_smallest_tile(sums.width, sums.height))
    return list_sides(smallest, max(smallest, max_tile_px))


def choose_coverage(build: Callable[[float], Quadtree], budget: float, *, invert: bool) -> Choice:
    """Return the coverage whose tree, built by `build`, has the estimated cost nearest to `budget`.

    The cost rises with coverage (or falls, where `invert` keeps detail), so it is bisected.
    """
    costs: dict[int, float] = {}

    def estimate(percent: int) -> float:
        if percent not in costs:
            tree = build(percent / PER_UNIT)
            size = ceil_div(tree.height, ROUGH_PX), ceil_div(tree.width, ROUGH_PX)
            denoise = tree.denoise_map(*size)
            costs[percent] = estimate_rough_cost(denoise, TYPICAL_STEPS, tree.frames)
        return costs[percent]

    low, high = 1, PER_UNIT
    while high - low > 1:
        middle = (low + high) // 2
        if (estimate(middle) > budget) != invert:
            high = middle
        else:
            low = middle
    nearest = min((low, high), key=lambda percent: abs(estimate(percent) - budget))
    return Choice("coverage", nearest / PER_UNIT, costs[nearest], budget)


@lru_cache(maxsize=4)
def rank_image(sums: BlockSums, side: int) -> RankedTiles:
    """Return the ranks of an image's tiles of `side` px; those of the last images are remembered.

    Plans of windows begin at the top left. So that a mirrored picture gets a mirrored tree, every
    picture is mirrored to have the larger part of its detail there.
    """
    if sums.octaves is None:
        raise ValueError("These sums include no octaves; see BlockSums.of_image.")
    detail = measure_fine_detail(sums.octaves, sums.px, side).numpy()
    flips = tuple(axis for axis in (0, 1) if _weighs_more_at_the_end(detail.sum(1 - axis)))
    grids = [_lay_grid(sums, side, turn, flips) for turn in TURNS]
    ranks = rank_tiles(np.flip(detail, flips), grids)
    return RankedTiles(detail, np.flip(ranks, flips), grids[0], flips)


def _weighs_more_at_the_end(sums: np.ndarray) -> bool:
    return float(sums @ np.linspace(-1, 1, len(sums))) > 1e-9


def _lay_grid(sums: BlockSums, side: int, scale: float, flips: tuple[int, ...]) -> TileGrid:
    """Return the tiles at the units of a latent of the typical size, times `scale`."""
    longest = max(sums.width, sums.height)
    units_per_px = scale * max(TYPICAL_PX, longest) / longest / ROUGH_PX

    def find_tiles(length: int, units: int, *, mirrored: bool) -> np.ndarray:
        tiles = centre_blocks(units, length, side).numpy()
        # Whole tiles lie the same in the mirror.
        return ceil_div(length, side) - 1 - tiles[::-1] if mirrored and length % side else tiles

    rows, columns = (max(1, round(px * units_per_px)) for px in (sums.height, sums.width))
    return TileGrid(
        rows=find_tiles(sums.height, rows, mirrored=0 in flips),
        columns=find_tiles(sums.width, columns, mirrored=1 in flips),
        tiling=ROUGH.choose_tiling(ROUGH_SETTINGS, rows, columns, ROUGH.count_frames(sums.frames)),
    )


def find_smallest_tile(width: int, height: int) -> int:
    """Return the side in px of the smallest tile that the plan of windows can see."""
    longest = max(width, height)
    return round_up(min(ROUGH_PX, ceil_div(longest * ROUGH_PX, TYPICAL_PX)), GRID_PX)
