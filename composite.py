"""The refined image where the tree lets it change, the original everywhere else: to the bit, and without a visible border."""

from __future__ import annotations

import torch
from torch import Tensor

from .quadtree import Quadtree, feathered

BAND_ROWS = 512  # composed at once: a whole 8192 px picture would need several times its own memory


def composite(original: Tensor, refined: Tensor, tree: Quadtree, feather_px: int) -> Tensor:
    """`refined` [H, W, C] in 0..1 over `original` of the same shape, the original's own px where the tree has denoise 0.

    From there the refined image fades in over `feather_px`. Kept px are copied, so they are equal to the bit.
    """
    height, width = original.shape[:2]
    free = (tree.denoise_map(height, width) > 0).float()
    result = torch.empty_like(original)
    for start in range(0, height, BAND_ROWS):
        stop = min(start + BAND_ROWS, height)
        first, last = max(0, start - feather_px), min(height, stop + feather_px)
        share = feathered(free[first:last], feather_px // 2)[start - first : stop - first, :, None].to(original)
        share = share * share * (3 - 2 * share)  # a soft start and end
        rows = slice(start, stop)
        result[rows] = torch.where(share > 0, original[rows].lerp(refined[rows].to(original), share), original[rows])
    return result
