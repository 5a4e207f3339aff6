"""Merges tiles of one size into the fewest leaves that have the same denoise everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .leaves import Leaves


def merge_tiles(
    denoise: Tensor, detail: Tensor, width: int, height: int, sides: Sequence[int]
) -> Leaves:
    """Return the leaves of tiles of the smallest of `sides`, the largest first, row by row.

    `denoise` and `detail` are float64 [rows, columns] over an image of width x height px; `sides`
    are those of `list_sides`. A square is one leaf if all of it has one denoise, and is halved if
    not: of all trees with these sides, no other has as few leaves for the same denoise. A leaf's
    detail is the mean of its tiles'.
    """
    lowest = highest = denoise
    levels = [(lowest, highest, detail)]
    for _ in sides[1:]:
        lowest, highest = _pool_extreme(lowest, -1), _pool_extreme(highest, 1)
        detail = _pool_mean(detail)
        levels.insert(0, (lowest, highest, detail))
    candidate = torch.ones_like(levels[0][0], dtype=torch.bool)
    found = []
    for side, (lowest, highest, detail) in zip(sides, levels, strict=True):
        rows_in, columns_in = lowest.shape
        candidate = candidate[:rows_in, :columns_in]
        whole = candidate & (lowest == highest)
        rows, columns = whole.nonzero(as_tuple=True)
        x0, y0 = columns * side, rows * side
        x1, y1 = (x0 + side).clamp_max(width), (y0 + side).clamp_max(height)
        sides_px = torch.full_like(rows, side)
        found.append(Leaves(x0, y0, x1, y1, sides_px, detail[rows, columns], lowest[rows, columns]))
        candidate = (candidate & ~whole).repeat_interleave(2, 0).repeat_interleave(2, 1)
    return Leaves.concatenate(found)


def _pool_extreme(values: Tensor, sign: int) -> Tensor:
    """Return the largest (sign 1) or smallest (-1) of 2 x 2; what lies outside does not count."""
    return sign * F.max_pool2d(sign * values[None], 2, ceil_mode=True)[0]


def _pool_mean(values: Tensor) -> Tensor:
    """Return the means of 2 x 2 of those inside."""
    return F.avg_pool2d(values[None], 2, ceil_mode=True, count_include_pad=False)[0]
