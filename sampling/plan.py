"""What is fixed when a run is opened: what its quadtree means, and which cells each step frees.

Imports no ComfyUI.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils import Box
from ..velocity import SCHEDULES, txt2img_scale
from ..windows.blending import Method
from .protocols import ModelFunctionWrapper


class Mode(Enum):
    """What the quadtree means for a run."""

    PRESERVE = "hold every cell to the clean latent according to its denoise"
    SCALE = "text to image: there is nothing to hold to, so scale the velocity"
    FREE = "a noisy latent whose clean one is not known: windows only"


class Stage(NamedTuple):
    """The part of a schedule of `all_steps` steps that a run samples: `steps` from `first` on."""

    first: int
    steps: int
    all_steps: int

    def place(self, index: int) -> tuple[int, int]:
        """Return where in the whole schedule a step of the run is, and how many that has."""
        return self.first + index, self.all_steps


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunPlan:
    """What is fixed when a run is opened.

    `owner` is the patch that opened it: of two in one chain only the later one acts. `denoise` is
    float64 [B or 1, H, W] in 0..1 and [B or 1, T or 1, H, W] for videos, and so is `open`, bool:
    the cells that core's noise mask lets change. `inner` is a wrapper of another node, which is
    called in the model's place. `apart` tells that each image of a batch has windows of its own;
    else all have the same, as the frames of a clip must.
    """

    owner: object
    mode: Mode
    method: Method
    schedule: str
    denoise: Tensor
    open: Tensor
    inner: ModelFunctionWrapper | None = None
    apart: bool = False

    @property
    def canvas(self) -> Box:
        return Box(0, 0, self.open.shape[-1], self.open.shape[-2])

    def freedom(self, index: int, steps: int) -> Tensor:
        """Return the freedom in 0..1 of every cell at a step, in the shape of `denoise`."""
        if self.mode is not Mode.PRESERVE:
            return torch.ones_like(self.denoise)
        return SCHEDULES[self.schedule](self.denoise, index, steps)

    def active(self, index: int, steps: int) -> Tensor:
        """Return the cells, bool [B or 1, H, W], that are evaluated at a step, in any frame.

        They are those of each image, or where images are not `apart` those of any.
        """
        cells = (self.freedom(index, steps) > 0) & self.open
        cells = cells.reshape(len(cells), -1, *cells.shape[-2:]).any(1)
        return cells if self.apart else cells.any(0, keepdim=True)

    def model_weight(self, index: int, steps: int) -> Tensor:
        """Return the weight in 0..1 of the model's estimate at a step, for every cell.

        It is a cell's freedom, 0 where core's mask closes it; in text to image it is the factor of
        the cell's velocity.
        """
        if self.mode is Mode.SCALE:
            return txt2img_scale(self.denoise, index, steps)
        return self.freedom(index, steps).where(self.open, 0.0)
