"""Builds an image's tree from the inputs of Quadtree Visualizer, for the node and its panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..quadtree import Quadtree
from ..tree.detail import BlockSums
from ..tree.regions import Region
from ..tree.subdivision import choose_tile_sizes, list_sides
from .budget import Choice, build_for_cost
from .coverage import COVERAGE, build_by_coverage, draw_curve, list_tile_sides


def build_tree(
    sums: BlockSums,
    *,
    content_threshold: float = 0.0,
    coverage: float = COVERAGE,
    budget: float = 0.0,
    min_tile_px: int = 0,
    max_tile_px: int = 0,
    min_denoise: float = 0.2,
    max_denoise: float = 0.8,
    denoise_by: str = "area",
    detail_metric: str = "color",
    invert: bool = False,
    mask: Tensor | None = None,
    mask_mode: str = "multiply",
    regions: Sequence[Region] = (),
) -> tuple[Quadtree, Choice | None]:
    """Build the tree, by coverage where `content_threshold` is 0; return what a budget chose, too.

    The arguments are the node's inputs, checked, and its defaults. Tile sizes of 0 are automatic. A
    budget of 0 chooses nothing. `denoise_by` and `detail_metric` belong to the threshold.
    """
    smallest, largest = choose_tile_sizes(sums.width, sums.height, min_tile_px, max_tile_px)
    options: dict[str, Any] = {
        "budget": budget,
        "min_tile_px": smallest,
        "max_tile_px": largest,
        "min_denoise": min_denoise,
        "max_denoise": max_denoise,
        "invert": invert,
        "mask": mask,
        "mask_mode": mask_mode,
        "regions": regions,
    }
    if not content_threshold:
        tree, choice = build_by_coverage(sums, coverage=coverage, **options)
    else:
        tree, choice = build_for_cost(
            sums,
            content_threshold=content_threshold,
            denoise_by=denoise_by,
            detail_metric=detail_metric,
            **options,
        )
    return replace(tree, luma=sums.luma), choice


def find_smallest_side(
    sums: BlockSums,
    *,
    content_threshold: float = 0.0,
    min_tile_px: int = 0,
    max_tile_px: int = 0,
    **_: Any,
) -> int:
    """Return the side in px of the smallest tile that the arguments of `build_tree` allow."""
    smallest, largest = choose_tile_sizes(sums.width, sums.height, min_tile_px, max_tile_px)
    if content_threshold:
        return list_sides(smallest, largest)[-1]
    return list_tile_sides(sums, smallest, largest)[-1]


def find_curve(
    sums: BlockSums,
    *,
    content_threshold: float = 0.0,
    budget: float = 0.0,
    min_tile_px: int = 0,
    max_tile_px: int = 0,
    **_: Any,
) -> list[float] | None:
    """Return how detail is spread over tiles, see `draw_curve`; None where no coverage decides."""
    if content_threshold or budget:
        return None
    smallest, largest = choose_tile_sizes(sums.width, sums.height, min_tile_px, max_tile_px)
    return draw_curve(sums, min_tile_px=smallest, max_tile_px=largest)
