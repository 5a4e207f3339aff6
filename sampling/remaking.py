"""Conditioning that ComfyUI makes for the canvas' size, made anew for the size of windows.

HiDream-O1's entries hold a token for every patch of the canvas, with its position; GLIGEN's boxes
are shares of the canvas. Nothing of that can be cropped. But a cond tells what both were made from,
so ComfyUI's own code makes them again for windows, as if each were a picture of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..utils import Box
from .cropping import Cropper
from .protocols import Conds, Hints, ModelCall, Options, Source, Sources, ids_of_conds
from .rules import refusal

# Entries of HiDream-O1 (`comfy.ldm.hidream_o1.conditioning.build_extra_conds`).
REMADE_ENTRIES = frozenset(
    {
        "input_ids",
        "position_ids",
        "token_types",
        "vinput_mask",
        "ar_len",
        "ref_pixel_values",
        "ref_image_grid_thw",
        "ref_patches",
    }
)
MIDDLE = "middle_patch"  # where ComfyUI registers a cond's GLIGEN boxes

Position = tuple[Any, int, int, int, int]  # GLIGEN's: embedding, height, width, y and x in cells


def is_remade(cond: Conds) -> bool:
    """Tell whether a cond holds anything that is made anew for windows."""
    return "gligen" in cond or "vinput_mask" in cond.get("model_conds", {})


def remake_entries(call: ModelCall, box: Box, rows: int, sources: Sources, made: Hints) -> Conds:
    """Return the REMADE_ENTRIES of a call for windows of a box' shape, of so many rows per cond.

    `made` keeps them for the length of a run: the model remembers references by their identity.
    """
    ids = ids_of_conds(call)
    if not all(cond_id in sources for cond_id in ids):
        raise refusal("the tokens of HiDream-O1", "Sample with one of ComfyUI's own samplers")
    noisy = call["input"]
    key: Hashable = "entries", *ids, rows, box.height, box.width, noisy.device
    if key not in made:
        shape = rows, *noisy.shape[1:-2], box.height, box.width
        of_conds = [_make_entries(sources[cond_id], noisy.new_empty(shape)) for cond_id in ids]
        first, *others = of_conds
        made[key] = {
            name: entry.concat([other[name] for other in others]) if others else entry.cond
            for name, entry in first.items()
        }
    return dict(made[key])


def _make_entries(source: Source, noise: Tensor) -> dict[str, Any]:
    """Return the entries of a cond for windows of this shape [rows, C, ..., h, w]."""
    values = {key: value for key, value in source.cond.items() if key != "area"}
    entries = source.model.extra_conds(**{**values, "noise": noise, "device": noise.device})
    return {
        name: entry.process_cond(batch_size=len(noise), area=None)
        for name, entry in entries.items()
        if name in REMADE_ENTRIES
    }


def has_gligen(options: Options) -> bool:
    """Tell whether a call's transformer options hold the boxes of a GLIGEN."""
    return any(map(_is_gligen, options.get("patches", {}).get(MIDDLE, ())))


def _is_gligen(patch: Any) -> bool:
    return getattr(patch, "__qualname__", "").startswith("Gligen.")


def remake_gligen(
    options: Options, call: ModelCall, cropper: Cropper, sources: Sources, made: Hints
) -> Options:
    """Return the options with the GLIGEN boxes of each window; the same options without boxes.

    ComfyUI evaluates such a cond in a call of its own.
    """
    if not has_gligen(options):
        return options
    ids = ids_of_conds(call)
    if len(ids) != 1 or "gligen" not in getattr(sources.get(ids[0]), "cond", {}):
        raise refusal("GLIGEN boxes", "Set them with ComfyUI's GLIGENTextboxApply")
    noisy, rows = call["input"], cropper.list_rows()
    patches = []
    for box, count in zip(cropper.boxes, rows, strict=True):
        key: Hashable = "gligen", ids[0], box, count, noisy.device
        if key not in made:
            made[key] = _make_gligen(sources[ids[0]].cond["gligen"], noisy[:count], box)
        patches.append(made[key])
    middle = [
        _join_rows(patches, rows) if _is_gligen(patch) else patch
        for patch in options["patches"][MIDDLE]
    ]
    return {**options, "patches": {**options["patches"], MIDDLE: middle}}


def _make_gligen(gligen: tuple[str, Any, list[Position]], noisy: Tensor, box: Box) -> Any:
    """Return the patch that shows one window what of the boxes lies in it."""
    kind, patcher, positions = gligen
    shape = *noisy.shape[:2], box.height, box.width
    if kind != "position":
        return patcher.model.set_empty(shape, noisy.device)
    return patcher.model.set_position(shape, crop_positions(positions, box), noisy.device)


def crop_positions(positions: Sequence[Position], box: Box) -> list[Position]:
    """Return the parts of GLIGEN's boxes that lie in a window, relative to it."""
    cropped = []
    for embedding, height, width, y, x in positions:
        x0, y0 = max(x, box.x0), max(y, box.y0)
        x1, y1 = min(x + width, box.x1), min(y + height, box.y1)
        if x0 < x1 and y0 < y1:
            cropped.append((embedding, y1 - y0, x1 - x0, y0 - box.y0, x0 - box.x0))
    return cropped


def _join_rows(
    patches: Sequence[Callable[..., Tensor]], rows: Sequence[int]
) -> Callable[..., Tensor]:
    """Return the patch for a batch of windows, whose rows lie one window after the other."""

    def patch(x: Tensor, extra_options: Options) -> Tensor:
        parts = x.split(list(rows))
        done = [one(part, extra_options) for one, part in zip(patches, parts, strict=True)]
        return torch.cat(done)

    return patches[0] if len(patches) == 1 else patch
