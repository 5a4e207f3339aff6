"""Draws a quadtree over its image: what is kept, what is regenerated, and where the leaves lie."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quadtree import Quadtree

KEEP = (0.10, 0.35, 1.00)  # blue at denoise 0
REGENERATE = (1.00, 0.15, 0.05)  # red at denoise 1
TINT = 0.35  # share of the colour in a leaf's area; the photo stays readable
LIGHT = 0.15  # share of white in a border, so that it shows on dark photos
SHADE = 0.4  # brightness beside a border, so that it shows on bright photos
BAND_ROWS = 256  # drawn at once: an 8192 px picture would else need five times its own memory


def draw_overlay(image: Tensor, denoise: Tensor, tree: Quadtree, line_px: int) -> Tensor:
    """Return the image as [H, W, 3], tinted from blue to red by denoise, with the leaves' borders.

    `image` is [H, W, 1, 3 or 4] and `denoise` [H, W], both in 0..1 and of the tree's size.
    """
    picture = image.new_empty(*image.shape[:2], 3)
    grid, block_px = tree.side_grid()
    x, y = (torch.arange(length) for length in (tree.width, tree.height))
    for rows in y.split(BAND_ROWS):
        sides = grid[rows // block_px][:, x // block_px]
        # Leaves lie on the grid of their own side, so the remainder is the distance from the
        # leaf's left or top edge.
        distance = torch.minimum(x % sides, rows[:, None] % sides).to(image.device)
        band = slice(int(rows[0]), int(rows[-1]) + 1)
        picture[band] = _draw_band(image[band, :, :3], denoise[band].to(image), distance, line_px)
    return picture


def _draw_band(image: Tensor, denoise: Tensor, distance: Tensor, line_px: int) -> Tensor:
    """Return rows of the picture; `distance` [h, W] in px is that from the nearest border."""
    colour = torch.lerp(image.new_tensor(KEEP), image.new_tensor(REGENERATE), denoise[..., None])
    picture = torch.lerp(image.expand(-1, -1, 3), colour, TINT)
    if line_px > 0:
        picture = picture.where((distance > line_px)[..., None], picture * SHADE)
        border = colour.lerp(torch.ones_like(colour), LIGHT)
        picture = picture.where((distance >= line_px)[..., None], border)
    return picture.clamp(0, 1)
