"""Made pictures for tests."""

from __future__ import annotations

import torch
from torch import Tensor


def patchwork(height: int, width: int, seed: int) -> Tensor:
    """Flat, noisy and gradient patches side by side, so that leaves of every size occur."""
    generator = torch.Generator().manual_seed(seed)
    amount = torch.rand(1, 1, 3, 4, generator=generator).pow(3)
    amount = torch.nn.functional.interpolate(amount, size=(height, width), mode="nearest")[
        0, 0, :, :, None
    ]
    return (0.5 + amount * (torch.rand(height, width, 3, generator=generator) - 0.5)).clamp(0, 1)
