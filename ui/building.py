"""Builds an image's tree from the inputs of Quadtree Visualizer, for the node and its panel."""

from __future__ import annotations

from typing import Any

from ..quadtree import Quadtree
from ..tree.detail import BlockSums
from ..tree.subdivision import choose_tile_sizes
from .budget import Choice, build_for_cost
from .coverage import build_by_coverage


def build_tree(
    sums: BlockSums,
    *,
    content_threshold: float,
    coverage: float,
    min_tile_px: int,
    max_tile_px: int,
    denoise_by: str,
    detail_metric: str,
    **options: Any,
) -> tuple[Quadtree, Choice | None]:
    """Build the tree, by coverage where `content_threshold` is 0; return what a budget chose, too.

    The arguments are the node's inputs, checked; `options` are the other arguments of
    `build_by_coverage`. Tile sizes of 0 are automatic. A budget of 0 chooses nothing.
    """
    smallest, largest = choose_tile_sizes(sums.width, sums.height, min_tile_px, max_tile_px)
    options = {**options, "min_tile_px": smallest, "max_tile_px": largest}
    if not content_threshold:
        return build_by_coverage(sums, coverage=coverage, **options)
    return build_for_cost(
        sums,
        content_threshold=content_threshold,
        denoise_by=denoise_by,
        detail_metric=detail_metric,
        **options,
    )
