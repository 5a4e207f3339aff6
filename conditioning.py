"""What goes to the model with a window: every tensor of the canvas' size is cut like the latent, the rest goes whole.

Rows of a batch of windows are cond-major: all windows of the first cond, then all of the next, each with its whole latent
batch. So patches that do `x.chunk(len(cond_or_uncond))` find what they look for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .quadtree import Box

# Tokens and vectors: never cut, even if their last two dimensions happen to equal the canvas'.
NEVER_SPATIAL = frozenset({"c_crossattn", "y", "attention_mask", "guidance", "num_video_frames", "frame_rate"})


def stack_windows(value: Tensor, boxes: Sequence[Box], conds: int) -> Tensor:
    """[conds * B, ..., H, W] cut to boxes of one shape, as [conds * len(boxes) * B, ..., h, w]."""
    if len(boxes) == 1:
        return value[(..., *boxes[0].slices)]
    value = value.unflatten(0, (conds, -1))
    return torch.stack([value[(..., *box.slices)] for box in boxes], dim=1).flatten(0, 2)


def repeat_rows(value: Tensor, windows: int, conds: int) -> Tensor:
    """[conds * B, ...] repeated for each window, as [conds * windows * B, ...]."""
    if windows == 1:
        return value
    value = value.unflatten(0, (conds, -1))
    return value[:, None].expand(-1, windows, *value.shape[1:]).flatten(0, 2)


def unstack_windows(value: Tensor, windows: int, conds: int) -> tuple[Tensor, ...]:
    """The inverse of `stack_windows`: one [conds * B, ..., h, w] per window."""
    return tuple(part.flatten(0, 1) for part in value.unflatten(0, (conds, windows, -1)).unbind(1))


# Conditioning that would go to every window uncut, silently wrong: what the user sees it as.
UNCUT_ENTRIES = {"control": "ControlNet or T2I-Adapter", "attention_mask_img_shape": "a style model (Redux) with a strength"}
UNCUT_PATCHES = {
    "Gligen": "GLIGEN boxes",
    "DiffSynthCnetPatch": "a DiffSynth ControlNet",
    "ZImageControlPatch": "a Z-Image ControlNet",
    "WanUni3CCnetPatch": "a Uni3C ControlNet",
}


def _refuse(c: dict[str, Any]) -> None:
    lists = c.get("transformer_options", {}).get("patches", {}).values()
    names = {getattr(patch, "__qualname__", type(patch).__qualname__).split(".")[0] for patches in lists for patch in patches}
    uncut = [what for key, what in UNCUT_ENTRIES.items() if c.get(key) is not None]
    uncut += [what for name, what in UNCUT_PATCHES.items() if name in names]
    if uncut:
        raise ValueError(
            f"Quadtree Diffusion cannot cut {uncut[0]} into windows yet. Remove it, or set tile_size to at least the image's "
            "longer side (with ControlNet that is enough; otherwise also min_denoise = max_denoise)."
        )


def window_args(args: dict[str, Any], boxes: Sequence[Box]) -> dict[str, Any]:
    """The arguments of a model-function wrapper for a batch of windows of one shape; nothing of `args` is changed."""
    noisy, conds = args["input"], len(args["cond_or_uncond"])
    _refuse(args["c"])

    def repeat(value: Any) -> Any:
        has_rows = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == len(noisy)
        return repeat_rows(value, len(boxes), conds) if has_rows else value

    def cut(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(cut(entry) for entry in value)
        if not isinstance(value, Tensor) or value.ndim < 3 or value.shape[-2:] != noisy.shape[-2:]:
            return repeat(value)
        if value.shape[0] not in (1, len(noisy)):
            raise ValueError(f"A conditioning tensor of the latent's size has {value.shape[0]} rows, not {len(noisy)}.")
        return stack_windows(value.expand(len(noisy), *value.shape[1:]), boxes, conds)

    c = {key: repeat(value) if key in NEVER_SPATIAL else cut(value) for key, value in args["c"].items()}
    c["transformer_options"] = dict(args["c"].get("transformer_options", {}))  # models write into it
    return {**args, "input": cut(noisy), "timestep": repeat(args["timestep"]), "c": c}
