"""Composes the refined image over the original, which stays bit-for-bit unchanged where it is kept.

The refined image shows where the tree lets the picture change, and fades in without a visible
border.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quadtree import FrameTrees, Quadtree
from ..tree.blocks import GRID_PX
from ..tree.raster import feather, window_mean
from ..utils import Box, ceil_div

# Rows that are composed at once, in whole cells: an 8192 px picture as a whole would need several
# times its own memory.
BAND_ROWS = 512
# Deviation, in linear light, below which an area counts as plain; its contrast is left alone.
PLAIN_DEVIATION = 1 / 255  # one level of an 8-bit picture
MOST_CONTRAST = 2.0  # factor by which a deviation is raised or lowered at most


class Canvas(NamedTuple):
    """One image to compose into.

    The `original` [H, W, 3] in 0..1, its tree, and which px, bool [H, W], the tree lets change.
    """

    original: Tensor
    tree: Quadtree
    free: Tensor


def build_canvases(
    original: Tensor,
    trees: Sequence[Quadtree],
    size: tuple[int, int],
    count: int,
    *,
    frames: int = 1,
    frames_per_latent: int = 1,
) -> list[Canvas]:
    """Build `count` canvases of `size` = (height, width) px from original [B, H, W, 3] and trees.

    Originals and trees repeat; clips of `frames` frames follow each other, with a tree for each, or
    for each of their frames. Of a larger original the middle is taken, as ComfyUI's VAE Encode
    crops it. A tree of the original lies on it before the crop, so what it keeps is kept where it
    was seen; a tree of an image that was cropped itself lies on the crop. A frame of a clip may
    change where the tree of any frame in its latent frame lets it, see `FrameTrees`. Raise
    ValueError where a tree fits neither.
    """
    height, width = size
    whole_height, whole_width = original.shape[1:3]
    x, y = (whole_width - width) // 2, (whole_height - height) // 2
    rows, columns = Box(x, y, x + width, y + height).slices

    def find_free_px(tree: Quadtree) -> Tensor:
        if (tree.height, tree.width) == size:
            return tree.denoise_map(height, width) > 0
        tree.check_fits(whole_height, whole_width, "image", "px")
        return (tree.denoise_map(whole_height, whole_width) > 0)[rows, columns]

    free: dict[tuple[int, ...], Tensor] = {}  # frames share trees
    canvases = []
    for number in range(count):
        if isinstance(trees, FrameTrees):
            length = frames if frames > 1 else count  # a batch of images may be a clip, too
            group = select_trees(trees, number, length, frames_per_latent)
        else:
            group = [trees[number // frames % len(trees)]]
        key = tuple(map(id, group))
        if key not in free:
            free[key] = torch.stack([find_free_px(tree) for tree in group]).any(0)
        picture = original[number % len(original)][rows, columns]
        canvases.append(Canvas(picture, group[0], free[key]))
    return canvases


def select_trees(
    trees: Sequence[Quadtree], number: int, frames: int, frames_per_latent: int
) -> list[Quadtree]:
    """Return the trees that say where frame `number`, of clips of `frames` frames, may change.

    They are those of all frames in the same latent frame, and all for a single image, each once.
    """
    group: Sequence[Quadtree] = trees
    if frames > 1:
        latent_frame = ceil_div(number % frames, frames_per_latent)
        first = max(0, (latent_frame - 1) * frames_per_latent + 1)
        group = trees[first : latent_frame * frames_per_latent + 1]
    return list({id(tree): tree for tree in group}.values())


def composite(canvas: Canvas, refined: Tensor, feather_px: int, *, match: bool = False) -> Tensor:
    """Compose `refined` [H, W, C] in 0..1 over the canvas' original of the same size.

    Where the tree has denoise 0, px of the original are copied, so they are bit-for-bit unchanged.
    From there the refined image fades in over `feather_px`. `match` gives the refined image the
    local colour of the original first, see `ColourMatch`.
    """
    original, tree, free = canvas
    matching = ColourMatch(original, refined, tree) if match else None
    result = torch.empty_like(original)
    for start, stop in _split_rows(len(original)):
        share = _fade_in(free, start, stop, feather_px).to(original)
        share = share * share * (3 - 2 * share)  # a soft start and end
        new, old = refined[start:stop], original[start:stop]
        if matching is not None:
            new = matching.apply(new.float(), start)
        result[start:stop] = torch.where(share > 0, old.lerp(new.to(original), share), old)
    return result


def _fade_in(free: Tensor, start: int, stop: int, feather_px: int) -> Tensor:
    """Return a linear ramp into what is free in the rows start..stop, [rows, W, 1] in 0..1."""
    first, last = max(0, start - feather_px), min(len(free), stop + feather_px)
    ramp = feather(free[first:last].float(), feather_px // 2)
    return ramp[start - first : stop - first, :, None]


class ColourMatch:
    """Gives `refined` the local colours of `original`, in linear light (Reinhard et al. 2001).

    Around each leaf, the refined image gets the original's mean and deviation. They are taken of
    means over 8 x 8 px cells, in a window of twice the leaf's side: new fine detail does not count,
    so it is not evened out. What changes from leaf to leaf is smoothed over the smallest leaf, so
    no leaf shows.
    """

    def __init__(self, original: Tensor, refined: Tensor, tree: Quadtree) -> None:
        was = _average_cells(original, original.device)
        now = _average_cells(refined, original.device)
        rows, columns = was.shape[-2:]
        sides = tree.sides_at(rows, columns).to(was.device)
        gain, offset = torch.ones_like(was), torch.zeros_like(was)
        for leaf_px in sides.unique().tolist():
            reach = _cells_in(leaf_px, tree, columns)
            leaf_gain, leaf_offset = _match_statistics(was, now, reach)
            gain = torch.where(sides == leaf_px, leaf_gain, gain)
            offset = torch.where(sides == leaf_px, leaf_offset, offset)
        smallest = _cells_in(int(sides.min()), tree, columns)
        self.gain = _average_around(_average_around(gain, smallest), smallest)
        self.offset = _average_around(_average_around(offset, smallest), smallest)

    def apply(self, refined: Tensor, start: int) -> Tensor:
        """Return rows of the refined image with the original's colours, [h, W, C] in 0..1.

        `refined` [h, W, C] are the rows from `start` on, a multiple of 8 px.
        """
        height, width = refined.shape[:2]
        gain = _interpolate_px(self.gain, start, height, width)
        offset = _interpolate_px(self.offset, start, height, width)
        return _to_srgb((_to_linear(refined) * gain + offset).clamp(0, 1))


def _cells_in(leaf_px: int, tree: Quadtree, columns: int) -> int:
    """Return the cells along a leaf's side, at least 1, where the tree is `columns` cells wide."""
    return max(1, round(leaf_px * columns / tree.width))


def _match_statistics(was: Tensor, now: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return gain and offset [C, H, W] that give `now` the local mean and deviation of `was`."""
    mean, deviation = _measure_around(was, reach)
    new_mean, new_deviation = _measure_around(now, reach)
    gain = (deviation + PLAIN_DEVIATION) / (new_deviation + PLAIN_DEVIATION)
    gain = gain.clamp(1 / MOST_CONTRAST, MOST_CONTRAST)
    return gain, mean - gain * new_mean


def _split_rows(height: int) -> Iterator[tuple[int, int]]:
    """Yield the ends of bands of BAND_ROWS rows."""
    for start in range(0, height, BAND_ROWS):
        yield start, min(start + BAND_ROWS, height)


def _to_linear(srgb: Tensor) -> Tensor:
    """Convert sRGB to linear light (IEC 61966-2-1); values outside 0..1 are clamped."""
    srgb = srgb.clamp(0, 1)
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: Tensor) -> Tensor:
    """Convert linear light in 0..1 to sRGB (IEC 61966-2-1)."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _average_cells(image: Tensor, device: torch.device) -> Tensor:
    """Return means of linear light over 8 x 8 px cells of [H, W, C], as [C, rows, columns].

    Cells at the right and at the bottom may have fewer px.
    """
    bands = []
    for start, stop in _split_rows(len(image)):
        light = _to_linear(image[start:stop].to(device, torch.float32)).movedim(-1, 0)
        bands.append(F.avg_pool2d(light, GRID_PX, ceil_mode=True))
    return torch.cat(bands, 1)


def _measure_around(cells: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of [C, H, W] over the cells up to `reach` away."""
    mean = _average_around(cells, reach)
    variance = _average_around(cells.square(), reach) - mean.square()
    return mean, variance.clamp_min(0).sqrt()


def _average_around(cells: Tensor, reach: int) -> Tensor:
    """Return the means of [C, H, W] over the cells up to `reach` away."""
    return window_mean(window_mean(cells, reach, 1), reach, 2)


def _interpolate_px(cells: Tensor, start: int, height: int, width: int) -> Tensor:
    """Interpolate [C, rows, columns] between the centres of cells, as px [height, width, C].

    The px are those of `height` rows from `start` on.
    """
    first, last = max(0, start // GRID_PX - 1), ceil_div(start + height, GRID_PX) + 1
    px = F.interpolate(cells[None, :, first:last], scale_factor=GRID_PX, mode="bilinear")[0]
    top = start - first * GRID_PX
    return px[:, top : top + height, :width].movedim(0, -1)
