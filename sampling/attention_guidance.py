"""ComfyUI's Self-Attention Guidance, which blurs what the negative prompt looks at most.

A patch in the middle of the network keeps the attention of the latest call, in a variable that it
shares with the node's function after guidance. Here that gets the scores of all windows of an area
in their places, as if the area had been evaluated at once; a cell that no window covers has none
and is not blurred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import CellType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import Box
from ..windows.tiling import Images
from .cropping import Grid, crop, grid_of, unstack_windows
from .protocols import ModelCall, Options

NODE = "SelfAttentionGuidance"
PLACE = ("middle", 0, 0)  # of its patch, which replaces self-attention
VARIABLE = "attn_scores"  # [B * heads, queries, keys] of the negative prompt
NEGATIVE = 1  # in a call's cond_or_uncond


def find_variable(transformer_options: Options) -> CellType | None:
    """Return the variable in which Self-Attention Guidance keeps scores; None without it."""
    patch = transformer_options.get("patches_replace", {}).get("attn1", {}).get(PLACE)
    if not getattr(patch, "__qualname__", "").startswith(f"{NODE}."):
        return None
    names: Sequence[str] = patch.__code__.co_freevars
    cell: CellType = patch.__closure__[names.index(VARIABLE)]
    return cell


class AreaScores:
    """The scores of one model call [conds * B, C, h, w] on an area, gathered from its windows.

    It does nothing where there is no Self-Attention Guidance, or no negative prompt in the call.
    """

    def __init__(self, call: ModelCall) -> None:
        variable = find_variable(call["c"].get("transformer_options", {}))
        self._variable = variable if NEGATIVE in call["cond_or_uncond"] else None
        if self._variable is None:
            return
        noisy = call["input"]
        images = len(noisy) // len(call["cond_or_uncond"])
        self._sum = torch.zeros(images, *grid_of(noisy), device=noisy.device)
        self._windows = torch.zeros_like(self._sum)
        self._variable.cell_contents = None  # a cache may skip the call that would set it

    def add(self, boxes: Sequence[Box], images: Sequence[Images] | None = None) -> None:
        """Take the scores of these windows, which were evaluated together just now.

        `images` are those that each is for; None: all of the batch.
        """
        if self._variable is None or self._variable.cell_contents is None:
            return
        attention: Tensor = self._variable.cell_contents
        self._variable.cell_contents = None
        images = images or [tuple(range(len(self._sum)))] * len(boxes)
        heads = attention.unflatten(0, (sum(map(len, images)), -1)).float()
        scores = heads.mean(1).sum(1)  # of each key
        parts = unstack_windows(scores, windows=len(boxes), conds=1, images=images)
        for box, some, part in zip(boxes, images, parts, strict=True):
            size = box.height, box.width
            tokens = part.unflatten(1, find_token_grid(part.shape[1], size))
            resized = F.interpolate(tokens[:, None], size)[:, 0]
            for image, of_image in zip(some, resized, strict=True):
                crop(self._sum[image], box).add_(of_image)
                crop(self._windows[image], box).add_(1)

    def hand_on(self) -> None:
        """Give Self-Attention Guidance the mean of what the windows that cover a cell gave it."""
        if self._variable is not None:
            mean = self._sum / self._windows.clamp(min=1)
            self._variable.cell_contents = mean.flatten(1)[:, None]  # as of one query


def find_token_grid(tokens: int, size: Grid) -> Grid:
    """Return the rows and columns of so many tokens over (h, w) cells: the squarest ones."""

    def stretch(rows: int) -> float:
        return abs(math.log(size[0] * tokens / (size[1] * rows * rows)))

    rows = min((rows for rows in range(1, tokens + 1) if tokens % rows == 0), key=stretch)
    return rows, tokens // rows
