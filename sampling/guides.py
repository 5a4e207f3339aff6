"""LTXV's guide frames: pictures that a clip shall show at some of its frames.

ComfyUI's LTXVAddGuide appends them to the clip's latent as frames, with a noise mask of their own,
and notes in the conditioning where in the clip each of their tokens lies, in px and frames in px
(`keyframe_idxs`), and how far each guide is listened to (`guide_attention_entries`). A window holds
the tokens of its own cells, whose places count from its corner, as those of its frames do.

A guide may have a part of the latent's resolution (`reference_downscale_factor` of an IC-LoRA):
then a token lies on the first cell of each block, and the noise mask is negative at the others,
which ComfyUI leaves out of the model call. Windows begin and end on such blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..utils import Box
from .cropping import Grid, box_on_grid, crop, find_scale, grid_of, repeat_rows, stack_windows
from .protocols import Conds
from .rules import refusal

PLACES, LISTENING = "keyframe_idxs", "guide_attention_entries"  # the entries of a model call
ENTRIES = frozenset({PLACES, LISTENING})


class Guides(NamedTuple):
    """The guides of a latent: how many frames at its end, and the cells along a side of the blocks
    on which windows have to begin, 1 where all guides have the latent's resolution."""

    frames: int = 0
    block: int = 1

    @classmethod
    def of(cls, conds: Mapping[str, Iterable[Conds] | None], latent: Tensor) -> Guides:
        """Return the guides of a latent [B, C, T, H, W]; none of other latents.

        `conds` are the guider's. At least one frame is the clip's.
        """
        every = [cond for group in conds.values() for cond in group or ()]
        guided = [cond for cond in every if isinstance(cond.get(PLACES), Tensor)]
        if latent.ndim != 5 or not guided:
            return cls()
        canvas = grid_of(latent)
        counts = [cond[PLACES].shape[2] // (canvas[0] * canvas[1]) for cond in guided]
        block = math.lcm(*(_find_block(cond, canvas) for cond in guided))
        return cls(min(max(counts), latent.shape[2] - 1), block)


def _find_block(c: Conds, canvas: Grid) -> int:
    """Return the `Guides.block` of a cond, or of the entries of a model call."""
    return math.lcm(*(_measure_block(entry, canvas) for entry in c.get(LISTENING) or ()))


def _measure_block(entry: Conds, canvas: Grid) -> int:
    """Return the cells along a side for which a guide has one token."""
    return max(1, canvas[0] // entry["latent_shape"][1])


def cut_guides(c: Conds, boxes: Sequence[Box], *, canvas: Grid, conds: int) -> Conds:
    """Return the guides' entries of a call's `c` for boxes of one shape; none where it has none.

    The call is on a canvas of (rows, columns) of cells. A guide's mask is cut for a single box only
    (see `rules.reads_first_row`). Raises ValueError for boxes that divide the block of a token.
    """
    places, listening = c.get(PLACES), c.get(LISTENING)
    cut: Conds = {}
    if isinstance(places, Tensor) and places.shape[2] > 0:
        _check_blocks(c, boxes, canvas)
        cut[PLACES] = _cut_places(places, boxes, canvas=canvas, conds=conds)
    if listening:
        cut[LISTENING] = [_cut_listening(entry, boxes[0], canvas) for entry in listening]
    return cut


def _check_blocks(c: Conds, boxes: Sequence[Box], canvas: Grid) -> None:
    """Raise ValueError unless the boxes hold whole blocks of every guide."""
    height, width = canvas
    block, mask = _find_block(c, canvas), c.get("denoise_mask")
    unknown = block == 1 and isinstance(mask, Tensor) and bool((mask < 0).any())
    aligned = all(edge % block == 0 for box in boxes for edge in box)
    if unknown or not aligned or c[PLACES].shape[2] % (height * width):
        raise refusal(
            "LTXV guide frames whose tokens lie on some cells only, at unknown places, or on the "
            f"first of {block} x {block} cells that a conditioning area divides,",
            "Let areas begin and end on such blocks, or take the guides out of latent and prompts "
            "with LTXVCropGuides before this stage",
        )


def _cut_places(places: Tensor, boxes: Sequence[Box], *, canvas: Grid, conds: int) -> Tensor:
    """Cut [rows, 3, tokens, 2], where each token begins and ends in time, down and across.

    A window's first cell gets the place of the canvas' first cell.
    """
    planes = places.unflatten(2, (-1, *canvas)).movedim(-1, 2)
    windows = stack_windows(planes, boxes, conds)
    origin = repeat_rows(planes[..., :1, :1], windows=len(boxes), conds=conds)
    moved = windows - windows[..., :1, :1] + origin
    return moved.movedim(2, -1).flatten(2, 4)


def _cut_listening(entry: dict[str, Any], box: Box, canvas: Grid) -> dict[str, Any]:
    """Return what tells how far one guide is listened to, for a box of the canvas."""
    height, width = canvas
    frames, block = entry["pre_filter_count"] // (height * width), _measure_block(entry, canvas)
    tokens = Box(*(edge // block for edge in box))
    cut = {
        **entry,
        "pre_filter_count": frames * box.extent,
        "latent_shape": [frames, tokens.height, tokens.width],
    }
    if (mask := entry.get("pixel_mask")) is not None:
        cut["pixel_mask"] = _cut_mask(mask, tokens, (height // block, width // block))
    return cut


def _cut_mask(mask: Tensor, box: Box, canvas: Grid) -> Tensor:
    """Cut a mask [1, 1, frames, h, w] of any size over a guide's tokens, of which the model takes
    the mean over each."""
    scale = find_scale(canvas, grid_of(mask))
    if scale is None or scale[1] > 1:
        means = F.interpolate(mask.flatten(0, 2).unsqueeze(1), size=canvas, mode="area")
        mask = means.reshape(*mask.shape[:3], *canvas)
    return crop(mask, box_on_grid(box, canvas=canvas, grid=grid_of(mask)))
