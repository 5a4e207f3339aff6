"""A step that workers take part in: what they are sent of each batch, and what they send back."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..sampling.board import Board
from ..sampling.conditioning import crop_entries, cropper_of
from ..sampling.control import crop_hint
from ..sampling.parallel import Task
from ..sampling.protocols import ModelCall
from .packing import Packed, pack, unpack
from .rounding import make_estimate


class SentControl(NamedTuple):
    """A ControlNet as workers find it, how it is applied, and its hint for the canvas."""

    digest: str
    settings: dict[str, Any]
    hint: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A step to take part in: its batches, and what their messages have in common.

    `here` is the task's call on the CPU. `dtype` is what windows are rounded to on their way, and
    `model` the BaseModel that then makes estimates of what the network returns.
    """

    board: Board[Tensor]
    task: Task
    here: ModelCall
    message: dict[str, Any]
    controls: list[SentControl]
    dtype: torch.dtype | None
    model: Any

    def pack_batch(self, number: int) -> dict[str, Any]:
        """Return the message about one batch of windows."""
        task, message = self.task, self.message
        boxes, images = task.boxes[number], task.images[number]
        cropper = cropper_of(self.here, boxes, task.unit, images)
        cropped = crop_entries(self.here, cropper, task.memory)
        controls = [
            (control.digest, control.settings, crop_hint(control.hint, cropper))
            for control in self.controls
        ]
        whole = {key[1] for key, _ in message["whole"][1]}
        cut = {key: value for key, value in cropped["c"].items() if key not in whole}
        noisy = cropped["input"]
        return {
            **message,
            "boxes": [tuple(box) for box in boxes],
            "images": images,
            "input": pack(noisy if self.dtype is None else noisy.to(self.dtype)),
            "rounded": self.dtype is not None,
            "timestep": pack(cropped["timestep"]),
            "cut": pack(cut),
            "controls": pack(controls),
        }

    def unpack_result(self, number: int, packed: Packed) -> Tensor:
        """Return a batch's denoised windows [rows, C, ..., h, w] on the device of the call."""
        result = unpack(packed).to(self.task.device)
        if self.dtype is None:
            return result
        task, call = self.task, self.task.call
        cropper = cropper_of(call, task.boxes[number], task.unit, task.images[number])
        noisy, sigma = cropper.crop_grid(call["input"]), cropper.pass_whole(call["timestep"])
        return make_estimate(self.model, result, noisy, sigma)
