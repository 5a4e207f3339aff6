"""Masks and pictures inside the patches of other nodes: masks are cut, other pictures reported.

A patch of attention (IP-Adapter with a mask, regional prompts, attention couples) holds a mask of
the whole image and resizes it to what it sees; in a window it would squeeze all of it in. One of
blocks (Fooocus Inpaint) holds a feature map of the whole image that it adds to theirs. So
everything that a patch or a wrapper can reach is walked, and one that reaches a mask or a feature
map is replaced by a copy that holds the window's part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor

from ..utils import Box
from .contents import Found, find_tensors, replace_tensors
from .cropping import (
    SHORTEST_PICTURE,
    Grid,
    RunMemory,
    Tokens,
    box_on_grid,
    crop,
    find_scale,
    grid_of,
)

MASK_WORDS = ("mask",)  # in the names of masks
MOTION_WORDS = ("multival", "effect", "scale")  # in AnimateDiff's names for those of the user
MASK_PX_PER_CELL = 8  # masks are resized to so many px per cell, where they are no whole multiple
ASPECT_TOLERANCE = 0.02
# A mask of two dimensions with sides as long as this is a picture, whatever its aspect: calls do
# not have as many rows.
MOST_ROWS = 32
FEWEST_FEATURES = 32  # channels of a feature map; a picture has fewer

Holder = TypeVar("Holder")


class PatchCutter:
    """Cuts what patches hold to one window, or finds it.

    The call is on `noisy` [rows, C, ..., H, W] with so many conds. `tokens` are what the model
    attends to: a mask between all of them is cut like a picture, and one between those of the text
    alone is not.
    """

    def __init__(self, noisy: Tensor, tokens: Tokens, memory: RunMemory, conds: int = 1) -> None:
        self.canvas = grid_of(noisy)
        self.channels = noisy.shape[1]
        self.images = len(noisy) // conds
        self.tokens = tokens
        self.resized = memory.resized_masks
        self.unit = memory.unit
        self.maps = memory.feature_maps

    def note_maps(self, holder: Any) -> list[Found]:
        """Note the feature maps that patches hold before the first window, and return them.

        What patches keep of windows may have the size of one later.
        """
        found = [one for one in find_tensors(holder) if self._looks_like_map(one.value)]
        self.maps.update(one.name for one in found)
        return found

    def find_masks(self, holder: Any) -> list[Found]:
        """Return the masks and feature maps that `cut` would cut."""
        return [found for found in find_tensors(holder) if self._is_cut(found)]

    def find_motion_masks(self, attached: Sequence[object]) -> list[Found]:
        """Return the masks among what `list_attached` returned."""
        return [found for found in find_tensors(attached) if self._is_mask(found, MOTION_WORDS)]

    def find_unknown(self, holder: Any) -> list[Found]:
        """Return what looks like a picture over the canvas and is nothing that `cut` would cut."""
        found = find_tensors(holder)
        return [one for one in found if not self._is_cut(one) and self._lies_on_canvas(one)]

    def cut(self, holder: Holder, box: Box) -> Holder:
        """Return options, or a wrapper, with all masks and feature maps cut to a box of the canvas.

        They are the same if none is in them.
        """
        result: Holder = replace_tensors(holder, lambda name, value: self._cut(name, value, box))
        return result

    def _cut(self, name: str, value: Tensor, box: Box) -> Tensor:
        if self._is_feature_map(Found("", name, value)):
            return crop(value, box_on_grid(box, canvas=self.canvas, grid=grid_of(value)))
        if not self._is_mask(Found("", name, value)):
            return value
        if self._is_of_tokens(value):
            in_units = box_on_grid(box, canvas=self.canvas, grid=self.tokens.units)
            return self.tokens.crop(value, in_units)
        rows, columns = self.canvas
        height, width = grid_of(value)
        finer = height // rows
        if not finer or (height, width) != (finer * rows, finer * columns):
            finer = MASK_PX_PER_CELL
            value = self._resize(value, finer)
        return crop(value, Box(*(edge * finer for edge in box)))

    def _resize(self, mask: Tensor, finer: int) -> Tensor:
        """Return [..., h, w] at `finer` times the canvas' resolution, kept for the run."""
        key = mask.data_ptr(), mask.dtype, mask.shape, mask.stride()
        if key not in self.resized:
            size = [finer * side for side in self.canvas]
            planes = mask.reshape(1, -1, *mask.shape[-2:]).float()
            resized = F.interpolate(planes, size=size, mode="nearest-exact").to(mask.dtype)
            # The mask itself is kept, too, or another might get its memory.
            self.resized[key] = mask, resized.reshape(*mask.shape[:-2], *size)
        return self.resized[key][1]

    def _is_cut(self, found: Found) -> bool:
        return self._is_feature_map(found) or self._is_mask(found)

    def _is_feature_map(self, found: Found) -> bool:
        return found.name in self.maps and self._looks_like_map(found.value)

    def _looks_like_map(self, value: Tensor) -> bool:
        """Tell by its size whether a tensor [rows, C, h, w] is what a block makes of the canvas.

        One with a latent's channels may be a reference, which may show anything, and one with a row
        for each cond is something kept of an earlier call.
        """
        if value.ndim != 4 or value.shape[1] < FEWEST_FEATURES or value.shape[1] == self.channels:
            return False
        grid = grid_of(value)
        if min(grid) < SHORTEST_PICTURE or len(value) not in (1, self.images):
            return False
        scale = find_scale(self.canvas, grid)
        return scale is not None and scale[0] == 1 and self.unit % scale[1] == 0

    def _is_mask(self, found: Found, words: Sequence[str] = MASK_WORDS) -> bool:
        """Tell by its name and size whether a tensor is a mask over the canvas.

        A mask is stretched to the canvas whatever its own aspect. A small one of two dimensions may
        also be of words [rows, tokens], so it has to have the canvas' aspect.
        """
        name, mask = found.name.lower(), found.value
        if not any(word in name for word in words) or "text" in name or mask.ndim < 2:
            return False
        grid = grid_of(mask)
        if min(grid) < SHORTEST_PICTURE or grid == 2 * (self.tokens.text,):
            return False
        return mask.ndim > 2 or min(grid) > MOST_ROWS or self._has_its_aspect(grid)

    def _is_of_tokens(self, mask: Tensor) -> bool:
        """Tell whether a mask is between all that the model attends to."""
        return self.tokens.text > 0 and grid_of(mask) == 2 * (self.tokens.number,)

    def _lies_on_canvas(self, found: Found) -> bool:
        """Tell by its aspect whether a tensor is a picture; of two dimensions it may be weights."""
        grid, value = grid_of(found.value), found.value
        if min(grid) < SHORTEST_PICTURE or not self._has_its_aspect(grid):
            return False
        return value.ndim > 2 or bool((value >= 0).all())

    def _has_its_aspect(self, grid: Grid) -> bool:
        ratio = grid[0] * self.canvas[1] / (grid[1] * self.canvas[0])
        return abs(ratio - 1) <= ASPECT_TOLERANCE


def list_attached(patcher: Any) -> list[object]:
    """Return what nodes attached to the models that come along with a `ModelPatcher`.

    AnimateDiff's motion models do. They are inside the network while it runs, so nothing of that
    can be cut.
    """
    along = getattr(patcher, "additional_models", {}).values()
    return [one.attachments for models in along for one in models]
