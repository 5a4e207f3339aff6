"""The picture of a quadtree over its image: what is kept, what is regenerated, and where the leaves lie."""

from __future__ import annotations

import torch
from torch import Tensor

from .quadtree import Quadtree

KEEP = (0.10, 0.35, 1.00)  # blue at denoise 0
REGENERATE = (1.00, 0.15, 0.05)  # red at denoise 1
TINT = 0.35  # share of the colour in a leaf's area; the photo stays readable
SHADE = 0.4  # brightness beside a border, so that it shows on bright photos; the border itself shows on dark ones


def draw_overlay(image: Tensor, tree: Quadtree, line_px: int) -> Tensor:
    """`image` [H, W, C >= 3] in 0..1, tinted by denoise from blue to red, with leaf borders, as [H, W, 3] in 0..1."""
    height, width = image.shape[:2]
    denoise = tree.denoise_map(height, width).to(image)[..., None]
    colour = torch.lerp(image.new_tensor(KEEP), image.new_tensor(REGENERATE), denoise)
    picture = torch.lerp(image[..., :3].expand(-1, -1, 3), colour, TINT)
    if line_px > 0:
        sides = tree.side_map().to(image.device)
        # Leaves lie on the grid of their own side, so the remainder is the distance from the leaf's left or top edge.
        along = torch.minimum(
            torch.arange(width, device=image.device) % sides, torch.arange(height, device=image.device)[:, None] % sides
        )
        picture = picture.where((along >= line_px + 1)[..., None], picture * SHADE)
        picture = picture.where((along >= line_px)[..., None], colour.lerp(torch.ones_like(colour), 0.15))
    return picture.clamp(0, 1)
