"""The conditioning of one model call: what goes to the model with a window, a cond or an area.

An *area* is the part of the canvas that a cond applies to, as core's Conditioning (Set Area) sets
it; the whole canvas where none is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..utils import Box, ceil_div, warn
from ..windows.tiling import Images
from .cropping import (
    Cropper,
    RunMemory,
    Tokens,
    box_on_grid,
    crop,
    find_scale,
    grid_of,
    stack_windows,
)
from .frames import count_frames
from .guides import cut_guides
from .patch_controls import cut_controls
from .patches import PatchCutter
from .protocols import Conds, ModelCall, Options
from .references import ENTRIES
from .remaking import remake_entries, remake_gligen
from .rules import LEFT_BY_CORE, RULES, refusal


def crop_call(
    call: ModelCall,
    boxes: Sequence[Box],
    *,
    unit: int,
    memory: RunMemory,
    images: Sequence[Images] | None = None,
    has_masks: bool = True,
) -> ModelCall:
    """Return a model call for a batch of windows of one shape; nothing of `call` is changed.

    `unit` is the model's patch in cells; `images` are those that each window is for, None: all of
    the batch. `c["control"]` is left out: it is the caller's. Entries that may be spatial in a way
    that nobody declared are reported once. See `cut_options` for `has_masks`.
    """
    cropper = cropper_of(call, boxes, unit, images)
    options = call["c"].get("transformer_options", {})
    cropped = crop_entries(call, cropper, memory)
    cropped["c"]["transformer_options"] = cut_options(options, call, cropper, memory, has_masks)
    return cropped


def crop_entries(call: ModelCall, cropper: Cropper, memory: RunMemory) -> ModelCall:
    """Return `crop_call` without the options of the transformer, where patches are."""
    boxes = cropper.boxes
    cropped: Conds = {}
    if "vinput_mask" in call["c"]:
        rows = sum(cropper.list_rows())
        cropped.update(remake_entries(call, boxes[0], rows, memory.sources, memory.made))
    cropped.update(cut_guides(call["c"], boxes, canvas=cropper.canvas, conds=cropper.conds))
    for key, value in call["c"].items():
        if key in ("control", "transformer_options") or key in cropped:
            continue
        if key not in RULES and key not in memory.warned and cropper.looks_spatial(value):
            memory.warned.add(key)
            warn(
                "unknown conditioning entry %r looks spatial; it is passed uncropped to every "
                "window.",
                key,
            )
        lies = memory.references.find(call, key) if key in ENTRIES else None
        if lies is None:
            cropped[key] = RULES.get(key, Cropper.crop_by_shape)(cropper, value)
        else:
            cropped[key] = cropper.crop_references(value, lies)
    return {
        **call,
        "input": stack_windows(call["input"], boxes, cropper.conds, cropper.images),
        "timestep": cropper.pass_whole(call["timestep"]),
        "c": cropped,
    }


def cut_options(
    options: Options,
    call: ModelCall,
    cropper: Cropper,
    memory: RunMemory,
    has_masks: bool = True,
) -> Options:
    """Return the transformer options of a call for a batch of windows of one shape.

    They are given as `fit_to_windows` returns them. Of the call's tensors only their shapes count.
    Masks in patches are cut for a single window only; `has_masks` False tells that there are none,
    so that nobody looks for them in every window.
    """
    options = remake_gligen(options, call, cropper, memory.sources, memory.made)
    options = cut_controls(options, call, cropper, memory.hints)
    if has_masks and len(cropper.boxes) == 1:
        options = cutter_of(call, memory).cut(options, cropper.boxes[0])
    return dict(options)  # models write into it


def cropper_of(
    call: ModelCall, boxes: Sequence[Box], unit: int, images: Sequence[Images] | None = None
) -> Cropper:
    """Return what crops the entries of this call to a batch of windows; see `crop_call`."""
    conds, text_tokens = len(call["cond_or_uncond"]), _count_text_tokens(call["c"])
    return Cropper(
        call["input"], boxes, conds=conds, unit=unit, text_tokens=text_tokens, images=images
    )


def cutter_of(call: ModelCall, memory: RunMemory) -> PatchCutter:
    """Return what cuts masks in the patches of this call."""
    noisy = call["input"]
    canvas = grid_of(noisy)
    tokens = Tokens(
        text=_count_text_tokens(call["c"]),
        units=(ceil_div(canvas[0], memory.unit), ceil_div(canvas[1], memory.unit)),
        frames=count_frames(noisy),
        image_first=memory.image_first,
    )
    return PatchCutter(noisy, tokens, memory, conds=len(call["cond_or_uncond"]))


def _count_text_tokens(c: Conds) -> int:
    text = c.get("c_crossattn")
    return text.shape[1] if isinstance(text, Tensor) and text.ndim > 1 else 0


def locate_area(area: Sequence[int], noisy: Tensor) -> Box:
    """Return where core puts an area, in cells of the canvas `noisy` [B, C, ..., H, W].

    `area` holds sizes and then offsets, over (frames,) height and width. Raises ValueError for an
    area over a part of a video's frames.
    """
    ranks, dims = len(area) // 2, noisy.ndim - 2
    sizes, offsets = list(area[:ranks])[:dims], list(area[ranks:])[:dims]
    frames, (height, width) = noisy.shape[2], grid_of(noisy)
    if ranks > 2 and dims > 2 and min(sizes[0], frames - offsets[0]) < frames:
        raise ValueError(
            "Quadtree Diffusion takes no conditioning area over some frames of a video. Use one "
            "over all frames."
        )
    (high, wide), (y, x) = sizes[-2:], offsets[-2:]
    return Box(x, y, min(width, x + wide), min(height, y + high))


def crop_to_area(c: Conds, *, canvas: Box, area: Box, unit: int) -> Conds:
    """Return the entries of a call for an area, with what core left at the canvas' size cropped.

    Returns `c` itself if nothing had to be cropped. Raises ValueError for a mask between image
    tokens, which no area can be cropped from.
    """
    size = canvas.height, canvas.width
    patches = ceil_div(canvas.height, unit) * ceil_div(canvas.width, unit)
    mask = c.get("attention_mask")
    if isinstance(mask, Tensor) and mask.ndim > 2 and mask.shape[-1] == mask.shape[-2] > patches:
        raise refusal(
            "a style model with a strength (Redux) and a conditioning area", "Remove one of the two"
        )
    cropped = cut_guides(c, [area], canvas=size, conds=1)
    for key in LEFT_BY_CORE & c.keys():
        value = c[key]
        if not isinstance(value, Tensor) or value.ndim < 3:
            continue
        grid = grid_of(value)
        if find_scale(size, grid) is not None:
            cropped[key] = crop(value, box_on_grid(area, canvas=size, grid=grid))
    return {**c, **cropped} if cropped else c


def select_conds(c: Conds, numbers: Sequence[int], *, conds: int, rows: int) -> Conds:
    """Return the entries of a model call of `rows` rows for some of its conds, in this order."""

    def select(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(select(entry) for entry in value)
        if isinstance(value, dict):
            return {name: select(entry) for name, entry in value.items()}
        if hasattr(value, "select_conds"):
            return value.select_conds(numbers)
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != rows:
            return value
        return value.unflatten(0, (conds, -1))[list(numbers)].flatten(0, 1)

    options = dict(c.get("transformer_options", {}))
    for key in ("cond_or_uncond", "uuids"):
        if key in options:
            options[key] = [options[key][number] for number in numbers]
    selected = {key: select(value) for key, value in c.items() if key != "transformer_options"}
    return {**selected, "transformer_options": options}


def select_call(call: ModelCall, numbers: Sequence[int]) -> ModelCall:
    """Return a model call for some of its conds, in this order."""
    conds, noisy = call["cond_or_uncond"], call["input"]
    entries = {**call["c"], "input": noisy, "timestep": call["timestep"]}
    c = select_conds(entries, numbers, conds=len(conds), rows=len(noisy))
    return {
        **call,
        "input": c.pop("input"),
        "timestep": c.pop("timestep"),
        "c": c,
        "cond_or_uncond": [conds[number] for number in numbers],
    }
