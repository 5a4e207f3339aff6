"""Blocks of 8 x 8 px, on which an image is summed before anything is measured."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

GRID_PX = 8  # leaves begin and end on this px grid; detail is summed on it
BAND_BYTES = 6 << 20  # memory for one band of rows at a time, which stays in the CPU's cache
LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709


def pool_sums(sums: Tensor, factor: int) -> Tensor:
    """Return the sums of factor x factor blocks of [rows, columns, fields].

    At the edge they are sums of fewer blocks.
    """
    rows, columns, fields = sums.shape
    sums = F.pad(sums, (0, 0, 0, -columns % factor, 0, -rows % factor))
    down, across = sums.shape[0] // factor, sums.shape[1] // factor
    return sums.view(down, factor, across, factor, fields).sum((1, 3))
