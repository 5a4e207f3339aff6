"""The crops of a picture that a captioner describes, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quadtree import Quadtree, count_clip_frames
from ..tree.blocks import GRID_PX
from ..tree.crops import choose_crops, stretch
from ..utils import Box, ceil_div


def cut_crops(
    images: Tensor, trees: Sequence[Quadtree], *, most: int, size_px: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return crops [1, h, w, C] of an image, and where each lies as a mask [1, H, W].

    `images` [B, H, W, C] are one image, or the frames of a clip, of which the middle one is shown.
    Together the at most `most` crops hold all that the trees refine. Crops with a side longer than
    `size_px` are reduced to it, and no cut leaves sides shorter than half of it. Raises ValueError
    for several images, and for trees of another aspect.
    """
    is_clip = count_clip_frames(trees) > 1
    if not is_clip and max(len(images), len(trees)) > 1:
        raise ValueError(
            f"Quadtree Crops cuts one image, but {len(images)} images and {len(trees)} trees came. "
            "Select one with Get Image from Batch, or set batch of Quadtree Visualizer to clip if "
            "they are the frames of a video."
        )
    image = images[len(images) // 2]
    height, width = image.shape[:2]
    boxes = place_crops(trees, height, width, most=most, size_px=size_px)
    crops = [_reduce(image[box.slices], size_px) for box in boxes]
    return crops, mark_crops(boxes, height, width)


def place_crops(
    trees: Sequence[Quadtree], height: int, width: int, *, most: int, size_px: int
) -> list[Box]:
    """Return where the crops of `cut_crops` lie on an image of height x width px."""
    trees[0].check_fits(height, width, "image", "px")
    cells = ceil_div(height, GRID_PX), ceil_div(width, GRID_PX)
    denoise = torch.stack([tree.denoise_map(*cells) for tree in trees]).amax(0)
    # With a cell more on every side: the image's cells need not end where leaves do.
    refined = F.max_pool2d(denoise[None], 3, stride=1, padding=1)[0] > 0
    least_share = size_px / 2 / max(height, width)
    boxes = choose_crops(refined, most, least_share)
    return [stretch(box, cells, (height, width)) for box in boxes]


def mark_crops(boxes: Sequence[Box], height: int, width: int) -> list[Tensor]:
    """Return a mask [1, height, width] for each box: 1 inside of it."""
    masks = [torch.zeros(1, height, width) for _ in boxes]
    for mask, box in zip(masks, boxes, strict=True):
        mask[0][box.slices] = 1
    return masks


def _reduce(crop: Tensor, size_px: int) -> Tensor:
    """Return [h, w, C] as [1, h, w, C] with no side longer than `size_px`."""
    crop = crop[None]
    height, width = crop.shape[1:3]
    scale = size_px / max(height, width)
    if scale >= 1:
        return crop.clone()
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return F.interpolate(crop.movedim(-1, 1), size, mode="area").movedim(1, -1)
