"""The quadtree of an image: where there is detail, leaves are small and their denoise is high.

A tree is built in image px and knows its image's size, so it fits any latent of the same aspect:
built on a 1024 px image it can be used on the 4096 px upscale. Pure torch, no ComfyUI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from .tree.detail import BlockSums, needs_edges
from .tree.leaves import Leaf, Leaves
from .tree.masks import Mask
from .tree.raster import centre_blocks, feather, rasterize, sample_area
from .tree.subdivision import Subdivision


@dataclass(frozen=True, eq=False)
class Quadtree:
    """Leaves that cover an image of `width` x `height` px exactly once, as `columns`.

    `root_px` is the side of the roots, squares laid from the top left. Leaves with a side below
    `kept_below_px` are kept, whatever the mask says. `frames` counts the frames of the clip that
    the tree was built from, 1 of an image. Two trees are equal if all of this is. `luma`, where it
    is known, is the image's own, float32 [rows, columns] in 0..1 of blocks of 8 x 8 px: by it a
    crop of the image is told.
    """

    width: int
    height: int
    root_px: int
    columns: Leaves
    mask: Mask | None = None
    kept_below_px: int = 0
    frames: int = 1
    luma: Tensor | None = None

    @classmethod
    def from_leaves(cls, width: int, height: int, root_px: int, leaves: Sequence[Leaf]) -> Quadtree:
        """Return the tree of these leaves, the largest first."""
        return cls(width, height, root_px, Leaves.from_rows(leaves))

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """The leaves as tuples, the largest first, row by row."""
        return self.columns.to_rows()

    @property
    def _value(self) -> tuple[object, ...]:
        size = self.width, self.height, self.root_px
        return *size, self.leaves, self.mask, self.kept_below_px, self.frames

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quadtree) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def denoise_map(self, height_cells: int, width_cells: int, feather_cells: int = 0) -> Tensor:
        """Return denoise per latent cell, float64 [height_cells, width_cells] in 0..1.

        Each cell takes the area mean of the leaves below it, feathered over `feather_cells` towards
        lower neighbours, but never more than the leaf at its own centre has: what that leaf keeps
        stays kept. Then the mask is applied.
        """
        values = self._sample_denoise(height_cells, width_cells)
        if feather_cells > 1:
            values = feather(values, feather_cells // 2)
        if self.mask is not None:
            values = self.mask.apply(values)
        if self.kept_below_px:
            sides = self.sides_at(height_cells, width_cells)
            values = values.where(sides >= self.kept_below_px, 0.0)
        return values

    def side_grid(self) -> tuple[Tensor, int]:
        """Return the side in px of the leaf at each block, int64 [rows, columns], and the block's.

        A block has the side of the smallest leaf.
        """
        grid, side = self._rasterize(self.columns.side.double())
        return grid.long(), side

    def sides_at(self, height_cells: int, width_cells: int) -> Tensor:
        """Return the side in px of the leaf at each cell's centre, int64 [height, width] cells."""
        return self._sample_centres(*self.side_grid(), height_cells, width_cells)

    def _sample_denoise(self, height: int, width: int) -> Tensor:
        """Return area means of the leaves, [height, width], at most the leaf's at each centre."""
        grid, side = self._rasterize(self.columns.denoise)
        own = self._sample_centres(grid, side, height, width)
        if side * height % self.height == 0 and side * width % self.width == 0:
            return own  # every cell lies inside one leaf
        return sample_area(grid, side, (self.height, self.width), (height, width)).minimum(own)

    def _sample_centres(self, grid: Tensor, side: int, height: int, width: int) -> Tensor:
        """Return the block of `side` px at the centre of each of height x width cells."""
        rows = centre_blocks(height, self.height, side)
        columns = centre_blocks(width, self.width, side)
        return grid[rows][:, columns]

    def _rasterize(self, values: Tensor) -> tuple[Tensor, int]:
        """Return one value per leaf on blocks of the smallest leaf's side, and that side in px."""
        return rasterize(self.columns, values, self.width, self.height, self.root_px)

    def check_fits(
        self, height: int, width: int, what: str = "latent", unit: str = "cells"
    ) -> None:
        """Raise ValueError unless `what`, of height x width `unit`, has this image's aspect.

        Each side may differ by one for rounding. The image's own px may be rounded, too: half of
        599 x 397 px are 300 x 198.
        """
        aspect, scale = self.width / self.height, height / self.height
        if abs(width - height * aspect) > 1.5 * max(1, aspect) + 0.5 * (1 + aspect) * scale:
            raise ValueError(
                f"The quadtree was built from an image of {self.width} x {self.height} px, but the "
                f"{what} has {width} x {height} {unit}, another aspect. Build it from the image "
                "that is refined (or from a smaller or larger copy of it)."
            )

    def keep_below(self, side_px: int) -> Quadtree:
        """Return the same tree with denoise 0 in every leaf with a side smaller than `side_px`."""
        denoise = self.columns.denoise.where(self.columns.side >= side_px, 0.0)
        return replace(
            self,
            columns=self.columns._replace(denoise=denoise),
            kept_below_px=max(side_px, self.kept_below_px),
        )


class FrameTrees(tuple[Quadtree, ...]):
    """The trees of a clip's frames, in their order; a plain tuple of trees is one per image."""


def count_clip_frames(trees: Sequence[Quadtree]) -> int:
    """Return the frames of the clip that these are the trees of; 1 of single images."""
    return len(trees) if isinstance(trees, FrameTrees) else trees[0].frames


def build_quadtree(
    image: Tensor | BlockSums,
    *,
    content_threshold: float = 25.0,
    detail_metric: str = "color",
    mask: Tensor | None = None,
    mask_mode: str = "multiply",
    **limits: Any,
) -> Quadtree:
    """Build the quadtree of an image [H, W, C] in 0..1, or of its sums.

    A grid of squares of `max_tile_px` is laid from the top left. Each is halved while its detail is
    above `content_threshold` and its children keep at least `min_tile_px`. Detail is what
    `detail_metric` (one of DETAIL_METRICS) measures, in 0..255 units. A leaf's denoise lies between
    `min_denoise` and `max_denoise` by the rule `denoise_by` (one of DENOISE_BY); `invert` reverses
    it: detail is kept and calm areas change. Where the user painted a region, the leaf has that
    region's denoise, and leaves are halved along the region's edge. `limits` are the arguments of
    `Subdivision`. `mask` is [h, w] in 0..1 of any size, `mask_mode` one of MASK_MODES.

    Raises ValueError for an image that `BlockSums.of_image` refuses, and for limits that contradict
    each other.
    """
    sums = image
    if not isinstance(sums, BlockSums):
        sums = BlockSums.of_image(sums, needs_edges(detail_metric))
    subdivision = Subdivision(sums, detail_metric=detail_metric, **limits)
    columns = subdivision.find_leaves(content_threshold)
    limit = None if mask is None else Mask.from_tensor(mask, mask_mode)
    size = sums.width, sums.height
    return Quadtree(*size, subdivision.sides[0], columns, limit, frames=sums.frames)
