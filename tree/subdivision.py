"""Finds the leaves of an image: splits it where detail is high, gives each leaf its denoise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import round_down, round_up
from .blocks import GRID_PX, pool_sums
from .detail import DETAIL_METRICS, BlockSums, needs_edges
from .leaves import Leaves
from .regions import Region, paint_regions

# Shares of the image's area between which detail counts: a few odd leaves decide nothing.
PERCENTILES = (0.05, 0.95)

# Of the longer side: finer tiles keep more area, but the windows that cover them cost as much
# (`python dev.py bench decide`).
TILE_SHARE = 0.04
LARGEST_TILES = 8  # smallest tiles along a side of the largest


class Strength(Protocol):
    """Where between min_denoise (0) and max_denoise (1) the leaves of one side are.

    `largest` and `smallest` are the ends of the sides in px, `detail` [n] is that of the leaves,
    and `spread` is where the image's detail starts and ends (see PERCENTILES).
    """

    def __call__(
        self,
        side: int,
        *,
        largest: int,
        smallest: int,
        detail: Tensor,
        spread: tuple[float, float],
    ) -> Tensor | float: ...


def rank_by_area(side: int, *, largest: int, **_: object) -> float:
    """Return 1 - (side / largest)^2: at half the largest side it is three quarters already.

    `largest` is the largest tile allowed (the image's longer side if that is smaller), never the
    largest leaf found: an image that is busy everywhere would get the denoise of an empty one.
    """
    return 1 - min(1.0, (side / largest) ** 2)


def rank_by_depth(side: int, *, largest: int, smallest: int, **_: object) -> float:
    """Return the halvings from the largest side to this one, as a share of all halvings."""
    halvings = math.log2(largest / smallest) if largest > smallest else 1.0
    return min(1.0, max(0.0, math.log2(largest / side) / halvings))


def rank_by_detail(
    side: int, *, detail: Tensor, spread: tuple[float, float], **_: object
) -> Tensor:
    """Return where each leaf's detail lies in `spread`, so that a large busy leaf is refined."""
    low, high = spread
    return ((detail - low) / max(high - low, 1e-9)).clamp(0, 1)


class DenoiseRule(NamedTuple):
    """How a leaf's denoise is found, and whether that depends on the detail of all leaves."""

    rank: Strength
    needs_spread: bool = False


DENOISE_BY = {
    "area": DenoiseRule(rank_by_area),
    "depth": DenoiseRule(rank_by_depth),
    "detail": DenoiseRule(rank_by_detail, needs_spread=True),
}


class Candidates(NamedTuple):
    """Leaves of one side that have no denoise yet, and what was painted over each.

    `painted` [n] is the painted denoise, -1 where nothing was painted; None without regions.
    """

    side: int
    rows: Tensor
    columns: Tensor
    detail: Tensor
    painted: Tensor | None


class Subdivision:
    """All that decides an image's leaves but the threshold, so that many can be tried quickly."""

    def __init__(
        self,
        sums: BlockSums,
        *,
        min_tile_px: int = 64,
        max_tile_px: int = 1024,
        min_denoise: float = 0.2,
        max_denoise: float = 0.8,
        denoise_by: str = "area",
        detail_metric: str = "color",
        invert: bool = False,
        regions: Sequence[Region] = (),
    ) -> None:
        check_limits(min_tile_px, max_tile_px, min_denoise, max_denoise)
        if needs_edges(detail_metric) and not sums.edges:
            raise ValueError(
                f"These sums include no edges, which detail_metric {detail_metric!r} needs; "
                "see BlockSums.of_image."
            )
        self.size = sums.width, sums.height
        self.sides = list_sides(min_tile_px, max_tile_px)
        self.limits = min_denoise, max_denoise
        self.rule, self.invert = DENOISE_BY[denoise_by], invert
        pyramid = [pool_sums(sums.sums, self.sides[-1] // GRID_PX)]
        for _ in self.sides[1:]:
            pyramid.insert(0, pool_sums(pyramid[0], 2))
        self.details = [DETAIL_METRICS[detail_metric](level) for level in pyramid]
        painted = paint_regions(regions, *self.size, self.sides[-1])
        self.regions = None if painted is None else _build_region_pyramid(painted, len(self.sides))

    def find_leaves(self, threshold: float) -> Leaves:
        """Return the leaves at a threshold of detail, the largest first."""
        found = list(self._split(threshold))
        spread = self._find_spread(found) if self.rule.needs_spread else (0.0, 0.0)
        return Leaves.concatenate([self._finish(group, spread) for group in found])

    def _split(self, threshold: float) -> Iterable[Candidates]:
        """Halve squares whose detail is above the threshold; yield what is not halved further."""
        candidate = torch.ones_like(self.details[0], dtype=torch.bool)
        for level, (side, detail) in enumerate(zip(self.sides, self.details, strict=True)):
            region = None if self.regions is None else self.regions[level]
            last = side == self.sides[-1]
            split = torch.zeros_like(candidate) if last else candidate & (detail > threshold)
            if region is not None and not last:
                uniform = region[0] == region[1]
                # A painted area needs no smaller leaves; one that is painted in part is halved.
                split = candidate & torch.where(uniform, split & (region[0] < 0), True)
            rows, columns = (candidate & ~split).nonzero(as_tuple=True)
            if len(rows):
                painted = None if region is None else region[0][rows, columns]
                yield Candidates(side, rows, columns, detail[rows, columns], painted)
            if not last:
                # A square at the edge can have children wholly outside the image: drop those.
                inside = self.details[level + 1].shape
                candidate = split.repeat_interleave(2, 0).repeat_interleave(2, 1)
                candidate = candidate[: inside[0], : inside[1]]

    def _find_spread(self, found: Sequence[Candidates]) -> tuple[float, float]:
        """Return the detail at the PERCENTILES of the image's area."""
        details = torch.cat([group.detail for group in found])
        areas = torch.cat([self._find_areas(group) for group in found])
        order = details.argsort()
        cumulated = areas[order].cumsum(0).double()
        at = torch.tensor(PERCENTILES, dtype=torch.float64) * cumulated[-1]
        low, high = torch.searchsorted(cumulated, at).clamp_max(len(order) - 1).tolist()
        return float(details[order[low]]), float(details[order[high]])

    def _find_areas(self, group: Candidates) -> Tensor:
        """Return the area of each leaf inside the image, int64 [n] in square px."""
        (x0, y0), (x1, y1) = self._find_corners(group)
        return (x1 - x0) * (y1 - y0)

    def _find_corners(self, group: Candidates) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return (x0, y0) and (x1, y1) in px, clipped at the image's edge."""
        starts = group.columns * group.side, group.rows * group.side
        width, height = self.size
        ends = (
            (starts[0] + group.side).clamp_max(width),
            (starts[1] + group.side).clamp_max(height),
        )
        return starts, ends

    def _finish(self, group: Candidates, spread: tuple[float, float]) -> Leaves:
        """Give each leaf its denoise: the painted one, else the one that the rule computes."""
        rank = self.rule.rank(
            group.side,
            largest=min(self.sides[0], max(self.size)),
            smallest=self.sides[-1],
            detail=group.detail,
            spread=spread,
        )
        strength = torch.as_tensor(1 - rank if self.invert else rank, dtype=torch.float64)
        low, high = self.limits
        denoise = low + (high - low) * strength.expand(len(group.rows))
        if group.painted is not None:
            denoise = group.painted.where(group.painted >= 0, denoise)
        sides = torch.full_like(group.rows, group.side)
        starts, ends = self._find_corners(group)
        return Leaves(*starts, *ends, sides, group.detail, denoise)


def list_sides(min_tile_px: int, max_tile_px: int) -> list[int]:
    """Return sides in px from the root down, each half of the one before, on the 8 px grid.

    A `max_tile_px` that does not halve onto the grid is rounded down to one that does: (64, 1000)
    gives 960, 480, 240, 120.
    """
    smallest = round_up(min_tile_px, GRID_PX)
    halvings = max(0, (max_tile_px // smallest).bit_length() - 1)
    root = round_down(max_tile_px, GRID_PX << halvings)
    return [root >> level for level in range(halvings + 1)]


def choose_tile_sizes(
    width: int, height: int, min_tile_px: int, max_tile_px: int
) -> tuple[int, int]:
    """Return the smallest and the largest side in px for an image; 0 stands for automatic.

    The automatic smallest tile is TILE_SHARE of the longer side, on the 8 px grid, and the largest
    LARGEST_TILES times that.
    """
    smallest = min_tile_px
    if not smallest:
        smallest = max(GRID_PX, round(TILE_SHARE * max(width, height) / GRID_PX) * GRID_PX)
        smallest = min(smallest, max_tile_px or smallest)
    return smallest, max_tile_px or LARGEST_TILES * smallest


def check_limits(
    min_tile_px: int, max_tile_px: int, min_denoise: float, max_denoise: float
) -> None:
    """Raise ValueError where sides or denoise are out of range, or a minimum above its maximum."""
    if not GRID_PX <= min_tile_px <= max_tile_px:
        raise ValueError(
            f"min_tile_size is {min_tile_px} px and max_tile_size {max_tile_px} px; "
            f"min_tile_size must be at least {GRID_PX} px and at most max_tile_size."
        )
    if not 0 <= min_denoise <= max_denoise <= 1:
        raise ValueError(
            f"min_denoise is {min_denoise:g} and max_denoise {max_denoise:g}; "
            "both must lie in 0..1, and min_denoise must not be above max_denoise."
        )


def _build_region_pyramid(painted: Tensor, count: int) -> list[Tensor]:
    """Return [2, rows, columns] per level: the lowest and highest painted denoise in each block.

    Only px of the image itself count.
    """
    levels = [torch.stack([painted, -painted])]
    while len(levels) < count:
        levels.insert(0, -F.max_pool2d(-levels[0], 2, ceil_mode=True))
    return [torch.stack([low, -high]) for low, high in levels]
