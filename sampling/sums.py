"""The sum of a step's windows over what holds the cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..utils import Box
from ..windows.tiling import Images
from .cropping import crop


class WindowSum:
    """What an area becomes at a step: its base, and every window by its weight.

    The base [conds, B, C, ..., h, w] is what cells without any weight follow (see `Run.blend`), and
    counts by what `model_weight` leaves of 1. It is laid row by row as windows reach them: what was
    written just before is in the processor's cache still.
    """

    def __init__(self, base: Tensor, model_weight: Tensor) -> None:
        self.base, self.model_weight = base, model_weight
        dtype = torch.promote_types(base.dtype, model_weight.dtype)
        self.total = torch.empty(base.shape, dtype=dtype, device=base.device)
        self.laid = 0  # rows of the base that are in the total

    def add(
        self,
        part: Tensor,
        weight: Tensor,
        box: Box,
        *,
        conds: Sequence[int],
        images: Images | None = None,
    ) -> None:
        """Add a window's [conds * its images, C, ..., h, w] by its weight [B or 1, 1, ..., h, w].

        It counts for these conds of the area, and for these images of the batch; None: all.
        """
        self._lay(box.y1)
        target = crop(self.total, box)
        if images is None and len(conds) == target.shape[0]:
            target.addcmul_(part.reshape(target.shape), weight)
            return
        for cond, of_cond in zip(conds, part.unflatten(0, (len(conds), -1)), strict=True):
            if images is None:
                target[cond].addcmul_(of_cond, weight)
                continue
            for place, image in enumerate(images):
                of_image = weight[place if len(weight) > 1 else 0]
                target[cond, image].addcmul_(of_cond[place], of_image)

    def finish(self) -> Tensor:
        """Return the sum, [conds * B, C, ..., h, w]."""
        self._lay(self.total.shape[-2])
        return self.total.flatten(0, 1)

    def _lay(self, end: int) -> None:
        """Lay the base down to row `end`."""
        if end > self.laid:
            rows = slice(self.laid, end)
            base = self.total[..., rows, :].copy_(self.base[..., rows, :])
            base.mul_(1 - self.model_weight[..., rows, :])
            self.laid = end
