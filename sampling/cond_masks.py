"""Where the conds with a mask count: a window that none of a mask touches needs no evaluation.

ComfyUI evaluates each cond on the whole canvas and multiplies by its mask afterwards.
"""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

from ..utils import Box
from .protocols import Conds


class CondMasks:
    """The cells of the canvas in which masked conds count, by the id that core gives the cond."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def note(self, cond: Conds) -> None:
        """Note the mask [B or 1, ..., H, W] of a cond, which core has resized to the canvas.

        The mask of a default cond does not count in core: it stands for what others leave. A mask
        that is known already is not read again, since that would wait for its device.
        """
        mask, cond_id = cond.get("mask"), cond.get("uuid")
        if mask is None or "default" in cond:
            self._known.pop(cond_id, None)
        elif cond_id not in self._known or self._known[cond_id][0] is not mask:
            strength = cond.get("mask_strength", 1.0) * cond.get("strength", 1.0)
            cells = (mask * strength != 0).flatten(0, -3).any(0)
            self._known[cond_id] = mask, cells.cpu()

    def find(self, cond_id: Hashable, canvas: Box) -> Tensor | None:
        """Return the cells in which a cond counts, bool [H, W] on the CPU; None: in all of them."""
        if cond_id not in self._known:
            return None
        cells = self._known[cond_id][1]
        return cells if cells.shape == (canvas.height, canvas.width) else None
