"""The quadtree of an image: where there is detail, leaves are small and their denoise is high.

A tree is built in image px and knows its image's size, so it fits any latent of the same aspect: built on a 1024 px
image it can be used on the 4096 px upscale. Pure torch, no ComfyUI.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tree.detail import DETAIL_METRICS, GRID_PX, CellSums, needs_edges, pooled
from .tree.raster import area_weights, centre_blocks, feathered, painted
from .tree.regions import Region, painted_grid
from .utils import Box, round_down, round_up


class Leaf(NamedTuple):
    """One square of the tree in image px, clipped at the image's edge; `side` is its nominal side."""

    x0: int
    y0: int
    x1: int
    y1: int
    side: int
    detail: float
    denoise: float

    @property
    def box(self) -> Box:
        return Box(*self[:4])


@dataclass(frozen=True, slots=True)
class Mask:
    """A say in denoise per px of a grid of its own: one byte each, row by row, and how it joins the leaf's (MASK_MODES)."""

    width: int
    height: int
    levels: bytes
    mode: str = "multiply"

    @classmethod
    def from_tensor(cls, mask: Tensor, mode: str = "multiply") -> Mask:
        """From [H, W] in 0..1; values outside are clamped."""
        if not bool(mask.isfinite().all()):
            raise ValueError(
                "mask holds NaN or infinite values; it must hold numbers from 0 (keep) to 1."
            )
        levels = (mask.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
        return cls(mask.shape[-1], mask.shape[-2], levels.cpu().numpy().tobytes(), mode)

    def resampled(self, height: int, width: int) -> Tensor:
        """Mean over each cell, as float64 [height, width] in 0..1."""
        levels = torch.frombuffer(bytearray(self.levels), dtype=torch.uint8).view(
            1, 1, self.height, self.width
        )
        return F.interpolate(levels.double() / 255, size=(height, width), mode="area")[0, 0]


@dataclass(frozen=True, slots=True)
class Quadtree:
    """Leaves that cover an image of `width` x `height` px exactly once, the largest first, row by row."""

    width: int
    height: int
    root_px: int
    leaves: tuple[Leaf, ...]
    mask: Mask | None = None
    kept_below_px: int = 0  # leaves of a smaller side are kept, whatever the mask says

    def denoise_map(self, height_cells: int, width_cells: int, feather_cells: int = 0) -> Tensor:
        """Denoise per latent cell, float64 [height_cells, width_cells] in 0..1.

        Each cell takes the area mean of the leaves below it, feathered over `feather_cells` towards lower neighbours,
        but never more than the leaf at its own centre has: what that leaf keeps stays kept. Then the mask has its say.
        """
        values = self._sampled(height_cells, width_cells)
        if feather_cells > 1:
            values = feathered(values, feather_cells // 2)
        if self.mask is not None:
            values = MASK_MODES[self.mask.mode](
                values, self.mask.resampled(height_cells, width_cells)
            )
        if self.kept_below_px:
            values = values.where(
                self.sides_at(height_cells, width_cells) >= self.kept_below_px, 0.0
            )
        return values

    def side_grid(self) -> tuple[Tensor, int]:
        """Side in px of the leaf at each block of the smallest leaf's side: (int64 [rows, columns], that side in px)."""
        grid, side = self._painted(leaf.side for leaf in self.leaves)
        return grid.long(), side

    def sides_at(self, height_cells: int, width_cells: int) -> Tensor:
        """Side in px of the leaf at each cell's centre, int64 [height_cells, width_cells]."""
        sides, side = self.side_grid()
        return sides[centre_blocks(height_cells, self.height, side)][
            :, centre_blocks(width_cells, self.width, side)
        ]

    def _sampled(self, height: int, width: int) -> Tensor:
        """Area means of the leaves, [height, width], capped by the leaf at each cell's centre."""
        grid, side = self._painted(leaf.denoise for leaf in self.leaves)
        own = grid[centre_blocks(height, self.height, side)][
            :, centre_blocks(width, self.width, side)
        ]
        if side * height % self.height == 0 and side * width % self.width == 0:
            return own  # every cell lies inside one leaf
        vertical = area_weights(height, self.height, side, grid.shape[0])
        horizontal = area_weights(width, self.width, side, grid.shape[1])
        return torch.minimum(vertical @ grid @ horizontal.T, own)

    def _painted(self, values: Iterable[float]) -> tuple[Tensor, int]:
        """One value per leaf, painted on blocks of the smallest leaf's side: ([rows, columns] float64, that side in px)."""
        x0, y0, sides = torch.tensor(
            [(leaf.x0, leaf.y0, leaf.side) for leaf in self.leaves]
        ).unbind(1)
        values = torch.tensor(list(values), dtype=torch.float64)
        chosen = ((side, sides == side) for side in sides.unique(sorted=True).flip(0).tolist())
        groups = ((side, x0[some], y0[some], values[some]) for side, some in chosen)
        return painted(groups, self.width, self.height, self.root_px)

    def check_fits(
        self, height: int, width: int, what: str = "latent", unit: str = "cells"
    ) -> None:
        """Raise ValueError unless `what`, of height x width `unit`, has this image's aspect, give or take one for rounding.

        The image's own px may be rounded, too: half of 599 x 397 px are 300 x 198.
        """
        aspect, scale = self.width / self.height, height / self.height
        if abs(width - height * aspect) > 1.5 * max(1, aspect) + 0.5 * (1 + aspect) * scale:
            raise ValueError(
                f"The quadtree was built from an image of {self.width} x {self.height} px, but the {what} has "
                f"{width} x {height} {unit}, another aspect. Build it from the image that is refined "
                "(or from a smaller or larger copy of it)."
            )

    def keep_below(self, side_px: int) -> Quadtree:
        """The same tree with denoise 0 in every leaf whose side is smaller than `side_px`."""
        leaves = tuple(
            leaf._replace(denoise=0.0) if leaf.side < side_px else leaf for leaf in self.leaves
        )
        return replace(self, leaves=leaves, kept_below_px=max(side_px, self.kept_below_px))


class Group(NamedTuple):
    """The leaves of one side in px, as columns [n]: corners in px, detail in 0..255 units, denoise in 0..1."""

    side: int
    x0: Tensor
    y0: Tensor
    x1: Tensor
    y1: Tensor
    detail: Tensor
    denoise: Tensor


class Subdivision:
    """All that decides an image's leaves but the threshold; asked for many thresholds it sums nothing twice."""

    def __init__(
        self,
        cells: CellSums,
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
        _check_limits(min_tile_px, max_tile_px, min_denoise, max_denoise)
        if needs_edges(detail_metric) and not cells.edges:
            raise ValueError(
                f"These cell sums hold no edges, which detail_metric {detail_metric!r} needs; see CellSums.of_image."
            )
        self.size = cells.width, cells.height
        self.sides = tree_sides(min_tile_px, max_tile_px)
        self.limits = min_denoise, max_denoise
        self.busy, self.invert = DENOISE_BY[denoise_by], invert
        pyramid = [pooled(cells.sums, self.sides[-1] // GRID_PX)]
        for _ in self.sides[1:]:
            pyramid.insert(0, pooled(pyramid[0], 2))
        self.details = [DETAIL_METRICS[detail_metric](sums) for sums in pyramid]
        painted = painted_grid(regions, *self.size, self.sides[-1])
        self.regions = None if painted is None else _region_pyramid(painted, len(self.sides))

    def groups(self, threshold: float) -> list[Group]:
        """The leaves at a threshold, largest first."""
        found = list(self._split(threshold))
        spread = _detail_spread(found) if self.busy is busy_by_detail else (0.0, 0.0)
        return [self._with_denoise(group, region, spread) for group, region in found]

    def _split(self, threshold: float) -> Iterable[tuple[Group, Tensor | None]]:
        """Groups without denoise, and what is painted over their leaves: -1 where there is nothing."""
        candidate = torch.ones_like(self.details[0], dtype=torch.bool)
        for level, (side, detail) in enumerate(zip(self.sides, self.details, strict=True)):
            region = None if self.regions is None else self.regions[level]
            last = side == self.sides[-1]
            split = torch.zeros_like(candidate) if last else candidate & (detail > threshold)
            if region is not None and not last:
                same = region[0] == region[1]
                split = candidate & torch.where(
                    same, split & (region[0] < 0), True
                )  # a painted area needs no smaller leaves
            rows, columns = (candidate & ~split).nonzero(as_tuple=True)
            if len(rows):
                x0, y0 = columns * side, rows * side
                ends = (
                    start.add(side).clamp_max(edge)
                    for start, edge in zip((x0, y0), self.size, strict=True)
                )
                group = Group(side, x0, y0, *ends, detail[rows, columns], detail.new_zeros(()))
                yield group, None if region is None else region[0][rows, columns]
            if not last:
                rows, columns = self.details[
                    level + 1
                ].shape  # children that lie wholly outside the image are none
                candidate = split.repeat_interleave(2, 0).repeat_interleave(2, 1)[:rows, :columns]

    def _with_denoise(
        self, group: Group, region: Tensor | None, spread: tuple[float, float]
    ) -> Group:
        reference = min(self.sides[0], max(self.size))
        busy = self.busy(group.side, (reference, self.sides[-1]), group.detail, spread)
        share = torch.as_tensor(1 - busy if self.invert else busy, dtype=torch.float64).expand(
            len(group.x0)
        )
        low, high = self.limits
        computed = low + (high - low) * share
        return group._replace(
            denoise=computed if region is None else region.where(region >= 0, computed)
        )


def build_quadtree(
    image: Tensor | CellSums,
    *,
    content_threshold: float = 25.0,
    detail_metric: str = "color",
    mask: Tensor | None = None,
    mask_mode: str = "multiply",
    **limits: Any,
) -> Quadtree:
    """Quadtree of an image [H, W, C] in 0..1, or of its cell sums; mask [h, w] in 0..1 of any size.

    A grid of squares of `max_tile_px` is laid from the top left; each is halved while its detail is above
    `content_threshold` and its children keep at least `min_tile_px`. Detail is what `detail_metric` (one of DETAIL_METRICS)
    measures, in 0..255 units. A leaf's denoise lies between `min_denoise` and `max_denoise` by what `denoise_by` (one of
    DENOISE_BY) says; `invert` turns that round: detail is kept and calm areas change. Where the user painted a region it
    has that region's, and leaves are halved along the region's edge. `limits` are the arguments of `Subdivision`.
    `mask_mode` is one of MASK_MODES.
    ValueError for an image that `CellSums.of_image` refuses, or limits that contradict each other.
    """
    cells = (
        image
        if isinstance(image, CellSums)
        else CellSums.of_image(image, needs_edges(detail_metric))
    )
    subdivision = Subdivision(cells, detail_metric=detail_metric, **limits)
    leaves: list[Leaf] = []
    for side, *columns, detail, denoise in subdivision.groups(content_threshold):
        rows = zip(
            *(column.tolist() for column in columns),
            repeat(side),
            detail.tolist(),
            denoise.tolist(),
        )
        # An image of 8192 px can have 262,144 leaves: tuple.__new__ makes them without a Python call for each.
        leaves += map(partial(tuple.__new__, Leaf), rows)
    limit = None if mask is None else Mask.from_tensor(mask, mask_mode)
    return Quadtree(cells.width, cells.height, subdivision.sides[0], tuple(leaves), limit)


def busy_by_area(
    side: int, ends: tuple[int, int], _detail: Tensor, _spread: tuple[float, float]
) -> float:
    """1 - (side / largest)^2: a leaf of half the largest side already has three quarters of the way.

    The largest of `ends` is the largest tile allowed (the image's longer side where that is smaller), never the largest leaf
    found: an image that is busy everywhere would else get the same denoise as an empty one.
    """
    return 1 - min(1.0, (side / ends[0]) ** 2)


def busy_by_depth(
    side: int, ends: tuple[int, int], _detail: Tensor, _spread: tuple[float, float]
) -> float:
    """Linear in the number of halvings between the largest and the smallest of `ends`."""
    halvings = math.log2(ends[0] / ends[1]) if ends[0] > ends[1] else 1.0
    return min(1.0, max(0.0, math.log2(ends[0] / side) / halvings))


def busy_by_detail(
    _side: int, _ends: tuple[int, int], detail: Tensor, spread: tuple[float, float]
) -> Tensor:
    """By the measured detail of each leaf, so that a large busy leaf is not kept; `spread` is where it starts and ends."""
    low, high = spread
    return ((detail - low) / max(high - low, 1e-9)).clamp(0, 1)


DENOISE_BY = {"area": busy_by_area, "depth": busy_by_depth, "detail": busy_by_detail}
PERCENTILES = (
    0.05,
    0.95,
)  # of the image's area, between which detail counts: a few odd leaves decide nothing
MASK_MODES = {
    "multiply": torch.mul,
    "limit": torch.minimum,
    "at least": torch.maximum,
    "replace": lambda _values, mask: mask,
}


def _detail_spread(found: Sequence[tuple[Group, Tensor | None]]) -> tuple[float, float]:
    """Detail at the PERCENTILES of the image's area."""
    details = torch.cat([group.detail for group, _ in found])
    areas = torch.cat([(group.x1 - group.x0) * (group.y1 - group.y0) for group, _ in found])
    order = details.argsort()
    share = areas[order].cumsum(0).double()
    at = torch.searchsorted(
        share, torch.tensor(PERCENTILES, dtype=torch.float64) * share[-1]
    ).clamp_max(len(order) - 1)
    low, high = details[order[at]].tolist()
    return low, high


def tree_sides(min_tile_px: int, max_tile_px: int) -> list[int]:
    """Sides in px from the root down, each half of the one before, all on the 8 px grid and within the two limits.

    A `max_tile_px` that does not halve onto the grid is rounded down to one that does: (64, 1000) gives 960, 480, 240, 120.
    """
    smallest = round_up(min_tile_px, GRID_PX)
    halvings = max(0, (max_tile_px // smallest).bit_length() - 1)
    root = round_down(max_tile_px, GRID_PX << halvings)
    return [root >> level for level in range(halvings + 1)]


def _check_limits(
    min_tile_px: int, max_tile_px: int, min_denoise: float, max_denoise: float
) -> None:
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


def _region_pyramid(painted: Tensor, count: int) -> list[Tensor]:
    """[2, rows, columns] per level: the lowest and the highest painted denoise in each block, of px of the image alone."""
    levels = [torch.stack([painted, -painted])]
    while len(levels) < count:
        levels.insert(0, -F.max_pool2d(-levels[0], 2, ceil_mode=True))
    return [torch.stack([low, -high]) for low, high in levels]
