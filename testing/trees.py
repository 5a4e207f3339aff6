"""Checks of a quadtree that several tests make."""

from __future__ import annotations

import torch

from ..quadtree import Quadtree


def is_sound(tree: Quadtree) -> bool:
    """Return whether leaves lie on the grid of their own side and cover each px once."""
    cover = torch.zeros(tree.height, tree.width)
    for leaf in tree.leaves:
        if leaf.x0 % leaf.side or leaf.y0 % leaf.side:
            return False
        cover[leaf.box.slices] += 1
    return bool(cover.eq(1).all())
