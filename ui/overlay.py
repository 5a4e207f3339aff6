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
    borders = Borders(tree)
    for rows in torch.arange(tree.height).split(BAND_ROWS):
        band = slice(int(rows[0]), int(rows[-1]) + 1)
        _tint(picture[band], image[band, :, :3], denoise[band].to(image))
        if line_px > 0:
            distance = borders.measure(rows).to(image.device)
            _draw_borders(picture[band], denoise[band].to(image), distance, line_px)
    return picture.clamp_(0, 1)


class Borders:
    """How far each px is from the left and the top edge of its leaf."""

    def __init__(self, tree: Quadtree) -> None:
        sides, self.block_px = tree.side_grid()
        # Leaves lie on the grid of their own side, so the remainder is the distance from the
        # leaf's edge. A block is within one leaf: px further from its edge are as much further
        # from the leaf's.
        top, left = (self.block_px * torch.arange(length) for length in sides.shape)
        self.block_from_top = (top[:, None] % sides).int()
        px = torch.arange(tree.width)
        self.block_of_px = px // self.block_px
        self.from_left = (left % sides).int()[:, self.block_of_px]
        self.from_left += (px % self.block_px).int()

    def measure(self, rows: Tensor) -> Tensor:
        """Return the distance [rows, width] in px from the nearer of both edges."""
        by_row = rows // self.block_px
        from_top = self.block_from_top[by_row] + (rows % self.block_px).int()[:, None]
        return from_top[:, self.block_of_px].minimum(self.from_left[by_row])


def _tint(picture: Tensor, image: Tensor, denoise: Tensor) -> None:
    """Fill rows of the picture, one plane after the other: planes are fast to compute with."""
    for channel, (keep, regenerate) in enumerate(zip(KEEP, REGENERATE, strict=True)):
        tint = denoise.mul(TINT * (regenerate - keep)).add_(TINT * keep)
        plane = image[..., min(channel, image.shape[-1] - 1)]
        torch.add(tint, plane, alpha=1 - TINT, out=picture[..., channel])


def _draw_borders(picture: Tensor, denoise: Tensor, distance: Tensor, line_px: int) -> None:
    """Draw on rows of the picture; `distance` [h, w] in px is that from the nearest border."""
    near = (distance <= line_px).nonzero(as_tuple=True)
    keep, regenerate = (picture.new_tensor(colour) for colour in (KEEP, REGENERATE))
    border = denoise[near][:, None] * (regenerate - keep) + keep
    border = border.mul_(1 - LIGHT).add_(LIGHT)
    picture[near] = border.where((distance[near] < line_px)[:, None], picture[near] * SHADE)
