"""The denoise of every cell of a latent, from the trees and what the latent shows of their image.

Imports no ComfyUI.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..quadtree import FrameTrees, Quadtree
from ..utils import Box, cells_from_px, info
from .cropping import crop
from .frames import count_frames, fit_maps
from .model import Geometry, Settings
from .placing import WHOLE, Part, locate


def are_apart(trees: Sequence[Quadtree], geometry: Geometry) -> bool:
    """Tell whether each image of a batch may have windows of its own; frames of a clip may not."""
    return not (geometry.mixes_rows or isinstance(trees, FrameTrees))


def build_denoise_maps(
    trees: Sequence[Quadtree],
    settings: Settings,
    geometry: Geometry,
    height: int,
    width: int,
    part: Part = WHOLE,
) -> Tensor:
    """Return the denoise per cell of each tree, float64 [trees, height, width] in 0..1.

    `part` is what the cells show of the trees' image.
    """
    feather = cells_from_px(settings.feather_px, geometry.px_per_cell)
    rows, columns = round(height / part.height), round(width / part.width)
    top = min(round(part.y * rows), rows - height)
    left = min(round(part.x * columns), columns - width)
    cells = Box(left, top, left + width, top + height)
    maps: dict[int, Tensor] = {}  # frames of a clip share trees
    for tree in trees:
        if id(tree) not in maps:
            kept = tree.keep_below(settings.keep_below_px)
            maps[id(tree)] = crop(kept.denoise_map(rows, columns, feather), cells)
    return torch.stack([maps[id(tree)] for tree in trees])


def build_latent_maps(
    trees: Sequence[Quadtree],
    settings: Settings,
    geometry: Geometry,
    latent: Tensor,
    parts: Sequence[Part],
) -> Tensor:
    """Return the denoise of every cell of a latent, as `fit_maps` does.

    `parts` are those of `locate_images`. ValueError where the latent has another aspect.
    """
    height, width = latent.shape[-2:]
    if not parts or WHOLE in parts:
        for tree in trees:
            tree.check_fits(height, width)
    own = [trees] * len(parts or [WHOLE])
    if len(own) > 1:  # each image has a part of its own tree
        own = [[tree] for tree, _ in zip(itertools.cycle(trees), parts, strict=False)]
    maps = [
        build_denoise_maps(some, settings, geometry, height, width, part)
        for some, part in zip(own, parts or [WHOLE], strict=True)
    ]
    fade = settings.feather_px > 0
    return fit_maps(torch.cat(maps), trees, latent, geometry.frames_per_latent, fade=fade)


def locate_images(trees: Sequence[Quadtree], clean: Tensor, px_per_cell: int) -> list[Part]:
    """Return the part of the quadtree's image that each image of a clean latent shows.

    It is [WHOLE] where they show all of it, and empty where that cannot be told.
    """
    of_frames = isinstance(trees, FrameTrees) and len(trees) > 1
    if of_frames or count_frames(clean) > 1:
        return []
    parts: list[Part] = []
    images = clean.squeeze(2) if clean.ndim > 4 else clean
    for image, tree in zip(images, itertools.cycle(trees), strict=False):
        width_px = px_per_cell * image.shape[-1]
        part = None if tree.luma is None else locate(image, tree.luma, width_px)
        if part is None:
            return []
        parts.append(part)
        if parts == [WHOLE]:
            return parts  # so are the others of a batch
    info("the latent shows a part of the quadtree's image; that part's tiles are used.")
    return parts
