"""The tree of an untouched Quadtree Visualizer, and checks that several tests make."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quadtree import Quadtree
from ..tree.detail import BlockSums
from ..ui.building import build_tree


def build_default_tree(image: Tensor) -> Quadtree:
    """Return the tree of an image [H, W, C] in 0..1 by the node's defaults."""
    return build_tree(BlockSums.of_image(image, octaves=True))[0]


def is_sound(tree: Quadtree) -> bool:
    """Return whether leaves lie on the grid of their own side and cover each px once."""
    cover = torch.zeros(tree.height, tree.width)
    for leaf in tree.leaves:
        if leaf.x0 % leaf.side or leaf.y0 % leaf.side:
            return False
        cover[leaf.box.slices] += 1
    return bool(cover.eq(1).all())
