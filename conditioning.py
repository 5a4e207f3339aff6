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


def window_args(args: dict[str, Any], boxes: Sequence[Box]) -> dict[str, Any]:
    """The arguments of a model-function wrapper for a batch of windows of one shape; nothing of `args` is changed."""
    noisy, conds = args["input"], len(args["cond_or_uncond"])
    if args["c"].get("control") is not None:
        raise ValueError(
            "Quadtree Diffusion cannot cut ControlNet or T2I-Adapter hints into windows yet. Remove the control, or set "
            "tile_size to at least the image's longer side and min_denoise above 0, so that one window covers the image."
        )

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
