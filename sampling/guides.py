"""LTXV's guide frames: pictures that a clip shall show at some of its frames.

ComfyUI's LTXVAddGuide appends them to the clip's latent as frames, with a noise mask of their own,
and notes in the conditioning where in the clip each of their tokens lies, in px and frames in px
(`keyframe_idxs`), and how far each guide is listened to (`guide_attention_entries`). A window holds
the tokens of its own cells, whose places count from its corner, as those of its frames do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..utils import Box
from .cropping import Grid, box_on_grid, crop, find_scale, grid_of, repeat_rows, stack_windows
from .protocols import Conds
from .rules import refusal

PLACES, LISTENING = "keyframe_idxs", "guide_attention_entries"  # the entries of a model call
ENTRIES = frozenset({PLACES, LISTENING})


def count_guide_frames(conds: Mapping[str, Iterable[Conds] | None], latent: Tensor) -> int:
    """Return how many frames at the end of a latent [B, C, T, H, W] are guides.

    `conds` are the guider's. It is 0 of other latents; at least one frame is the clip's.
    """
    if latent.ndim != 5:
        return 0
    height, width = grid_of(latent)
    counts = [
        cond[PLACES].shape[2] // (height * width)
        for group in conds.values()
        for cond in group or ()
        if isinstance(cond.get(PLACES), Tensor)
    ]
    return min(max(counts, default=0), latent.shape[2] - 1)


def cut_guides(c: Conds, boxes: Sequence[Box], *, canvas: Grid, conds: int) -> Conds:
    """Return the guides' entries of a call's `c` for boxes of one shape; none where it has none.

    The call is on a canvas of (rows, columns) of cells. A guide's mask is cut for a single box only
    (see `rules.reads_first_row`). Raises ValueError for guides whose tokens lie on some cells only.
    """
    places, listening = c.get(PLACES), c.get(LISTENING)
    cut: Conds = {}
    if isinstance(places, Tensor) and places.shape[2] > 0:
        _check_resolution(c, canvas)
        cut[PLACES] = _cut_places(places, boxes, canvas=canvas, conds=conds)
    if listening:
        cut[LISTENING] = [_cut_listening(entry, boxes[0], canvas) for entry in listening]
    return cut


def _check_resolution(c: Conds, canvas: Grid) -> None:
    """Raise ValueError unless every cell of the guides' frames holds a token.

    The noise mask is negative at cells without one, which ComfyUI leaves out of the model call.
    """
    height, width = canvas
    mask = c.get("denoise_mask")
    sparse = isinstance(mask, Tensor) and bool((mask < 0).any())
    if sparse or c[PLACES].shape[2] % (height * width):
        raise refusal(
            "LTXV guide frames at another resolution than the latent's (an IC-LoRA with a "
            "reference_downscale_factor), whose tokens lie on some of its cells only,",
            "Add the guide without iclora_parameters, or take it out of latent and prompts with "
            "LTXVCropGuides before this stage",
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
    frames = entry["pre_filter_count"] // (height * width)
    cut = {
        **entry,
        "pre_filter_count": frames * box.extent,
        "latent_shape": [frames, box.height, box.width],
    }
    if (mask := entry.get("pixel_mask")) is not None:
        cut["pixel_mask"] = _cut_mask(mask, box, canvas)
    return cut


def _cut_mask(mask: Tensor, box: Box, canvas: Grid) -> Tensor:
    """Cut a mask [1, 1, frames, h, w] of any size over the canvas, of which the model takes the
    mean over each cell."""
    scale = find_scale(canvas, grid_of(mask))
    if scale is None or scale[1] > 1:
        means = F.interpolate(mask.flatten(0, 2).unsqueeze(1), size=canvas, mode="area")
        mask = means.reshape(*mask.shape[:3], *canvas)
    return crop(mask, box_on_grid(box, canvas=canvas, grid=grid_of(mask)))
