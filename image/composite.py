"""The refined image where the tree lets it change, the original everywhere else: to the bit, and without a visible border."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quadtree import Quadtree
from ..tree.detail import GRID_PX
from ..tree.raster import feathered, window_mean
from ..utils import Box, ceil_div

BAND_ROWS = 512  # composed at once, whole cells: a whole 8192 px picture would need several times its own memory
EVEN = (
    1 / 255
)  # deviation, in linear light, below which an area counts as plain: its contrast is left alone
MOST_CONTRAST = 2.0  # by which a deviation is raised, or lowered


class Canvas(NamedTuple):
    """One image to compose into: the original [H, W, 3] in 0..1, its tree, and the px [H, W] that the tree lets change."""

    original: Tensor
    tree: Quadtree
    free: Tensor


def canvases(
    original: Tensor, trees: Sequence[Quadtree], size: tuple[int, int], count: int
) -> list[Canvas]:
    """`count` canvases of `size` (height, width) from original [B, H, W, 3] and trees, which repeat.

    Of a larger original it is the middle, as core's VAE Encode crops it. A tree lies on the original before the crop, so what
    it keeps is kept where it was seen; a tree of an image that was cropped itself lies on the crop.
    """
    whole, (height, width) = original.shape[1:3], size
    y, x = (whole[0] - height) // 2, (whole[1] - width) // 2
    middle = Box(x, y, x + width, y + height).slices

    def free_px(tree: Quadtree) -> Tensor:
        if (tree.height, tree.width) == size:
            return tree.denoise_map(*size) > 0
        tree.check_fits(*whole, "image", "px")
        return (tree.denoise_map(*whole) > 0)[middle]

    free = {tree: free_px(tree) for tree in dict.fromkeys(trees)}
    chosen = (
        (original[number % len(original)][middle], trees[number % len(trees)])
        for number in range(count)
    )
    return [Canvas(picture, tree, free[tree]) for picture, tree in chosen]


def composite(canvas: Canvas, refined: Tensor, feather_px: int, *, match: bool = False) -> Tensor:
    """`refined` [H, W, C] in 0..1 over the canvas' original of the same shape, which stays where the tree has denoise 0.

    From there the refined image fades in over `feather_px`. Kept px are copied, so they are equal to the bit. `match` gives
    the refined image the original's local colour first, see `ColourMatch`.
    """
    original, tree, free = canvas
    height = len(original)
    matched = ColourMatch(original, refined, tree) if match else None
    result = torch.empty_like(original)
    for start, stop in _bands(height):
        first, last = max(0, start - feather_px), min(height, stop + feather_px)
        share = feathered(free[first:last].float(), feather_px // 2)[
            start - first : stop - first, :, None
        ].to(original)
        share = share * share * (3 - 2 * share)  # a soft start and end
        rows = slice(start, stop)
        new = refined[rows] if matched is None else matched(refined[rows].float(), start)
        result[rows] = torch.where(
            share > 0, original[rows].lerp(new.to(original), share), original[rows]
        )
    return result


class ColourMatch:
    """Gives `refined` the mean and deviation that `original` has around each leaf, in linear light (Reinhard et al. 2001).

    They are taken of means over 8 x 8 px cells, in a window of twice the leaf's side: new fine detail counts as nothing, so
    it is not evened out. What changes from leaf to leaf is smoothed over the smallest leaf, so no leaf shows. The result
    lies in 0..1.
    """

    def __init__(self, original: Tensor, refined: Tensor, tree: Quadtree) -> None:
        was, now = (_linear_cells(image, original.device) for image in (original, refined))
        sides = tree.sides_at(*was.shape[-2:]).to(was.device)
        gain, offset = torch.ones_like(was), torch.zeros_like(was)

        def cells_of(leaf_px: int) -> int:
            return max(1, round(leaf_px * was.shape[-1] / tree.width))

        for leaf_px in sides.unique().tolist():
            (mean, deviation), (new_mean, new_deviation) = (
                _local(cells, cells_of(leaf_px)) for cells in (was, now)
            )
            here = ((deviation + EVEN) / (new_deviation + EVEN)).clamp(
                1 / MOST_CONTRAST, MOST_CONTRAST
            )
            gain = torch.where(sides == leaf_px, here, gain)
            offset = torch.where(sides == leaf_px, mean - here * new_mean, offset)
        reach = cells_of(int(sides.min()))
        self.gain, self.offset = (
            _box_mean(_box_mean(cells, reach), reach) for cells in (gain, offset)
        )

    def __call__(self, refined: Tensor, start: int) -> Tensor:
        """Rows of the refined image [h, W, C] from `start`, a multiple of 8 px, with the original's colours."""
        size = refined.shape[:2]
        gain, offset = (_at_px(cells, start, *size) for cells in (self.gain, self.offset))
        return _encoded((_linear(refined) * gain + offset).clamp(0, 1))


def _bands(height: int) -> Iterable[tuple[int, int]]:
    return ((start, min(start + BAND_ROWS, height)) for start in range(0, height, BAND_ROWS))


def _linear(encoded: Tensor) -> Tensor:
    """sRGB in 0..1 as linear light (IEC 61966-2-1)."""
    encoded = encoded.clamp(0, 1)
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def _encoded(linear: Tensor) -> Tensor:
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _linear_cells(image: Tensor, device: torch.device) -> Tensor:
    """Means of linear light over 8 x 8 px cells of [H, W, C], as [C, rows, columns]; cells at the edge are smaller."""
    bands = [
        F.avg_pool2d(
            _linear(image[a:b].to(device, torch.float32)).movedim(-1, 0), GRID_PX, ceil_mode=True
        )
        for a, b in _bands(len(image))
    ]
    return torch.cat(bands, 1)


def _local(cells: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of [C, H, W] over the cells up to `reach` away."""
    mean = _box_mean(cells, reach)
    return mean, (_box_mean(cells.square(), reach) - mean.square()).clamp_min(0).sqrt()


def _box_mean(cells: Tensor, reach: int) -> Tensor:
    """[C, H, W], over the cells up to `reach` away."""
    return window_mean(window_mean(cells, reach, 1), reach, 2)


def _at_px(cells: Tensor, start: int, height: int, width: int) -> Tensor:
    """Rows `start`.. of [C, rows, columns] between the cells' centres, as [height, width, C]."""
    first, last = max(0, start // GRID_PX - 1), ceil_div(start + height, GRID_PX) + 1
    px = F.interpolate(cells[None, :, first:last], scale_factor=GRID_PX, mode="bilinear")[0]
    top = start - first * GRID_PX
    return px[:, top : top + height, :width].movedim(0, -1)
