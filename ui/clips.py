"""Builds trees from a batch of images: one tree per image, one for a clip, or one per frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quadtree import FrameTrees, Quadtree
from ..tree.blocks import GRID_PX
from ..tree.clips import (
    ClipSums,
    average_frames,
    find_busiest,
    group_frames,
    measure_frames,
)
from ..tree.detail import BlockSums
from ..tree.masks import Mask
from ..tree.merging import merge_tiles
from ..tree.raster import rasterize, window_min
from ..tree.regions import Region, paint_regions
from ..tree.subdivision import check_limits, choose_tile_sizes, list_sides
from ..utils import ceil_div
from ..windows.selection import GRADES
from .budget import Choice
from .building import build_tree
from .coverage import find_smallest_tile, list_denoise
from .overlay import draw_overlay

# A tile keeps the largest denoise that it has within so many groups of frames, before or after: it
# is released ahead of what moves, and does not flicker where its detail is near the limit.
REACH_GROUPS = 1
SHOWN_FRAMES = 8  # of a clip are drawn ...
SHOWN_PX = 1024  # ... with this longest side at most: a clip in full is as large as its video


class Built(NamedTuple):
    """The trees of a batch, what a budget chose for each, and the sums that the panel shows.

    `clip` has the sums of the frames, where the images are those of a clip.
    """

    trees: tuple[Quadtree, ...]
    choices: list[Choice | None]
    sums: BlockSums
    clip: ClipSums | None = None


Masks = Sequence[Tensor | None]


def build_for_images(images: Tensor, masks: Masks, **options: Any) -> Built:
    """Build one tree per image of [B, H, W, C], each with its mask [h, w]."""
    # Everything is summed in any case, since the panel may ask for it later.
    sums = [BlockSums.of_image(image, edges=True, octaves=True) for image in images]
    built = [build_tree(one, mask=mask, **options) for one, mask in zip(sums, masks, strict=True)]
    trees, choices = zip(*built, strict=True)
    return Built(trees, list(choices), sums[0])


def join_frames(clip: ClipSums, batch: str) -> BlockSums:
    """Return the sums of all frames that a tree of CLIPS follows."""
    return average_frames(clip) if batch == "clip" else find_busiest(clip)


def build_for_clip(clip: ClipSums, masks: Masks, **options: Any) -> Built:
    """Build one tree for all frames, by the detail and motion of the whole clip."""
    return _build_one(clip, average_frames(clip), masks, options)


def build_for_busiest(clip: ClipSums, masks: Masks, **options: Any) -> Built:
    """Build one tree for all frames, by the most detail and motion that any of them has."""
    return _build_one(clip, find_busiest(clip), masks, options)


def _build_one(clip: ClipSums, sums: BlockSums, masks: Masks, options: dict[str, Any]) -> Built:
    tree, choice = build_tree(sums, mask=_join_masks(masks), **options)
    return Built((tree,), [choice], sums, clip)


def _join_masks(masks: Masks) -> Tensor | None:
    """Return the largest of several masks [h, w]; None without any."""
    given = [mask for mask in masks if mask is not None]
    largest = given[0] if given else None
    for mask in given[1:]:
        largest = torch.maximum(mask, mask if largest is None else largest)
    return largest


def build_for_frames(
    clip: ClipSums, masks: Masks, *, budget: float, mask_mode: str, **options: Any
) -> Built:
    """Build one tree per group of frames; they share the detail of the clip, and a budget.

    Of a single frame it is the tree of a still, which serves any clip.
    """
    if clip.count == 1:
        return build_for_clip(clip, masks, budget=budget, mask_mode=mask_mode, **options)
    busiest = find_busiest(clip)
    choice = None
    if budget:
        whole = {**options, "mask": _join_masks(masks), "mask_mode": mask_mode}
        _, choice = build_tree(busiest, budget=budget, **whole)
    if choice is not None:
        options[choice.name] = choice.value
    tiles = (_threshold_groups if options["content_threshold"] else _grade_groups)(clip, **options)
    largest = -window_min(-tiles.denoise, REACH_GROUPS, 0)
    trees: list[Quadtree] = []
    for group, denoise, detail in zip(group_frames(clip.count), largest, tiles.detail, strict=True):
        joined = _join_masks(masks[group])
        limit = None if joined is None else Mask.from_tensor(joined, mask_mode)
        size = busiest.width, busiest.height
        leaves = merge_tiles(denoise, detail, *size, tiles.sides)
        tree = Quadtree(*size, tiles.sides[0], leaves, limit)
        trees += [tree] * (group.stop - group.start)
    return Built(FrameTrees(trees), [choice], busiest, clip)


class GroupTiles(NamedTuple):
    """Denoise and detail of the tiles of each group of frames, [groups, rows, columns], and sides.

    The tiles have the smallest of the sides in px, which is the last.
    """

    denoise: Tensor
    detail: Tensor
    sides: Sequence[int]


def _grade_groups(
    clip: ClipSums,
    *,
    coverage: float,
    min_tile_px: int,
    max_tile_px: int,
    min_denoise: float,
    max_denoise: float,
    invert: bool = False,
    regions: Sequence[Region] = (),
    **_: Any,
) -> GroupTiles:
    """Refine the tiles, of all frames, that together hold the share `coverage` of the detail."""
    width, height = clip.width, clip.height
    smallest, largest = choose_tile_sizes(width, height, min_tile_px, max_tile_px)
    check_limits(smallest, largest, min_denoise, max_denoise)
    smallest = max(smallest, find_smallest_tile(width, height))
    sides = list_sides(smallest, max(smallest, largest))
    detail = measure_frames(clip, sides[-1])
    ranks = _rank(detail)
    grades = torch.stack([ranks < coverage * share for share in GRADES]).sum(0)
    denoise = list_denoise(min_denoise, max_denoise, invert=invert)[grades]
    painted = paint_regions(regions, width, height, sides[-1])
    if painted is not None:
        denoise = painted.where(painted >= 0, denoise)
    detail *= detail.numel()
    return GroupTiles(_join_groups(denoise), _join_groups(detail), sides)


def _join_groups(frames: Tensor) -> Tensor:
    """Return the largest values of each group of frames [N, rows, columns]."""
    return torch.stack([frames[group].amax(0) for group in group_frames(len(frames))])


def _rank(detail: Tensor) -> Tensor:
    """Return the share of all detail in the tiles that have more of it; 1 for tiles with none."""
    values, order = detail.flatten().sort(descending=True)
    ranks = torch.empty_like(values)
    ranks[order] = (values.cumsum(0) - values).where(values > 0, 1.0)
    return ranks.view(detail.shape)


def _threshold_groups(
    clip: ClipSums, *, min_tile_px: int, max_tile_px: int, **options: Any
) -> GroupTiles:
    """Halve the tiles of each group of frames whose detail is above the threshold."""
    width, height = clip.width, clip.height
    smallest, largest = choose_tile_sizes(width, height, min_tile_px, max_tile_px)
    sides = list_sides(smallest, largest)
    tiles = []
    for sums in clip.colours:
        one = BlockSums(width, height, sums)
        tree, _ = build_tree(one, min_tile_px=smallest, max_tile_px=largest, **options)
        leaves = tree.columns
        values = (
            _spread(rasterize(leaves, value, width, height, tree.root_px), one, sides[-1])
            for value in (leaves.denoise, leaves.detail)
        )
        tiles.append(torch.stack(tuple(values)))
    denoise, detail = torch.stack(tiles, 1)
    return GroupTiles(denoise, detail, sides)


def _spread(blocks: tuple[Tensor, int], sums: BlockSums, side: int) -> Tensor:
    """Return a grid of blocks [rows, columns], and of their side in px, on tiles of `side` px."""
    grid, block_px = blocks
    times = block_px // side
    grid = grid.repeat_interleave(times, 0).repeat_interleave(times, 1)
    return grid[: ceil_div(sums.height, side), : ceil_div(sums.width, side)]


CLIPS: dict[str, Callable[..., Built]] = {
    "clip": build_for_clip,
    "clip maximum": build_for_busiest,
    "clip per frame": build_for_frames,
}
IMAGES = "images"


def _sum_and_build(
    build: Callable[..., Built], frames: Tensor, masks: Masks, **options: Any
) -> Built:
    return build(ClipSums.of_frames(frames), masks, **options)


# What a batch of images is taken for; each builds the trees of images [B, H, W, C].
BATCHES: dict[str, Callable[..., Built]] = {
    IMAGES: build_for_images,
    **{name: partial(_sum_and_build, build) for name, build in CLIPS.items()},
}


def draw_trees(
    images: Tensor, trees: Sequence[Quadtree], maps: Tensor, batch: str, line_px: int
) -> Tensor:
    """Return images [B, H, W, 3] with their trees drawn over them; of a clip, some and smaller.

    `maps` are those of `map_denoise`.
    """
    if batch == IMAGES:
        parts = zip(images, maps, trees, strict=True)
        return torch.stack([draw_overlay(*part, line_px) for part in parts])
    count = min(SHOWN_FRAMES, len(images))
    pictures = []
    for frame in torch.linspace(0, len(images) - 1, count).round().long().tolist():
        tree = trees[frame % len(trees)]
        denoise = maps[0]
        if denoise.shape != images.shape[1:3]:
            denoise = tree.denoise_map(tree.height, tree.width).float()
        pictures.append(_reduce(draw_overlay(images[frame], denoise, tree, line_px)))
    return torch.stack(pictures)


def _reduce(picture: Tensor) -> Tensor:
    """Return a picture [H, W, 3] with SHOWN_PX on its longer side at most."""
    height, width = picture.shape[:2]
    scale = SHOWN_PX / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return F.interpolate(picture.movedim(-1, 0)[None], size=size, mode="area")[0].movedim(0, -1)


def map_denoise(trees: Sequence[Quadtree]) -> Tensor:
    """Return the denoise of trees as masks: by px, and of a clip's frames by GRID_PX x GRID_PX px.

    One mask serves all frames that share a tree; together they are float32 [trees, height, width].
    """
    per = GRID_PX if isinstance(trees, FrameTrees) else 1
    maps: dict[int, Tensor] = {}
    for tree in trees:
        if id(tree) not in maps:
            size = ceil_div(tree.height, per), ceil_div(tree.width, per)
            maps[id(tree)] = tree.denoise_map(*size).float()
    return torch.stack([maps[id(tree)] for tree in trees])
