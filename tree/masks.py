"""A mask from the user, and the ways to combine it with the leaves' denoise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Each mode combines the leaves' denoise and the mask, both [H, W] in 0..1.
MASK_MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "multiply": torch.mul,
    "limit": torch.minimum,
    "at least": torch.maximum,
    "replace": lambda _values, mask: mask,
}


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask of `width` x `height` px, one byte each, row by row, and its mode of MASK_MODES."""

    width: int
    height: int
    levels: bytes
    mode: str = "multiply"

    @classmethod
    def from_tensor(cls, mask: Tensor, mode: str = "multiply") -> Mask:
        """Return the mask of [H, W] in 0..1; values outside are clamped.

        Raises ValueError for NaN or infinite values.
        """
        if not bool(mask.isfinite().all()):
            raise ValueError(
                "mask holds NaN or infinite values; it must hold numbers from 0 (keep) to 1."
            )
        levels = (mask.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
        return cls(mask.shape[-1], mask.shape[-2], levels.cpu().numpy().tobytes(), mode)

    def resample(self, height: int, width: int) -> Tensor:
        """Return the mean over each of height x width equal parts, float64 in 0..1."""
        levels = torch.frombuffer(bytearray(self.levels), dtype=torch.uint8)
        levels = levels.view(1, 1, self.height, self.width).double() / 255
        return F.interpolate(levels, size=(height, width), mode="area")[0, 0]

    def apply(self, values: Tensor) -> Tensor:
        """Return denoise [H, W] combined with the mask, resampled to its size."""
        return MASK_MODES[self.mode](values, self.resample(*values.shape))
