"""Values painted on grids of blocks, sampled at the centres or by area of other cells, and feathered towards lower ones."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..utils import ceil_div

MEAN_NOISE = 1e-6  # of sums that are taken apart again; a hundred times less than one step of a run of 100 tells apart


def painted(
    groups: Iterable[tuple[int, Tensor, Tensor, Tensor]], width: int, height: int, root_px: int
) -> tuple[Tensor, int]:
    """Leaves (side, x0 [n], y0 [n], value [n]), the largest first, on blocks of the last side: ([rows, columns], that side)."""
    side = root_px
    grid = torch.zeros(ceil_div(height, side), ceil_div(width, side), dtype=torch.float64)
    for next_side, x0, y0, values in groups:
        # No block outside the image is made: a root can be far larger than it.
        rows, columns = (
            torch.arange(ceil_div(length, next_side)) * next_side // side
            for length in (height, width)
        )
        grid, side = grid[rows][:, columns], next_side
        grid.index_put_((y0 // side, x0 // side), values, accumulate=True)
    return grid, side


def centre_blocks(cells: int, length_px: int, side: int) -> Tensor:
    """Index of the block of `side` px at the centre of each of `cells` equal cells along `length_px`; exact integers."""
    return (2 * torch.arange(cells) + 1) * length_px // (2 * cells * side)


def area_weights(cells: int, length_px: int, side: int, blocks: int) -> Tensor:
    """Share of each block in each cell along one axis, [cells, blocks] float64; rows sum to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * length_px / cells
    starts = torch.arange(blocks, dtype=torch.float64) * side
    overlap = torch.minimum(edges[1:, None], starts + side) - torch.maximum(
        edges[:-1, None], starts
    )
    overlap = overlap.clamp_min(0)
    return overlap / overlap.sum(1, keepdim=True)


def feathered(values: Tensor, radius: int) -> Tensor:
    """Linear ramp over 2 * radius cells from a lower neighbour up into a higher region, never above `values` [H, W].

    A minimum over the radius, then a mean over the radius: every mean takes only minima that include the cell itself.
    """
    ramp = window_min(window_min(values, radius, 0), radius, 1)
    ramp = window_mean(window_mean(ramp, radius, 0), radius, 1)
    return torch.where(ramp > values - MEAN_NOISE, values, ramp.clamp_min(0))


def window_min(values: Tensor, radius: int, axis: int) -> Tensor:
    """Minimum over the cells up to `radius` away along an axis, same shape; in as many passes as the radius has bits."""
    radius = min(radius, values.shape[axis])
    edge = values.new_full(
        [radius if dim == axis else length for dim, length in enumerate(values.shape)], math.inf
    )
    found, reached = torch.cat([edge, values, edge], axis), 1
    while reached < 2 * radius + 1:
        step = min(reached, 2 * radius + 1 - reached)
        length = found.shape[axis] - step
        found = torch.minimum(found.narrow(axis, 0, length), found.narrow(axis, step, length))
        reached += step
    return found


def window_mean(values: Tensor, radius: int, axis: int) -> Tensor:
    """Mean over the cells up to `radius` away along an axis, same shape; at the edge over those that there are."""
    length = values.shape[axis]
    sums = values.double().cumsum(axis)
    sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis)
    place = torch.arange(length, device=values.device)
    low, high = (place - radius).clamp_min(0), (place + radius + 1).clamp_max(length)
    count = (high - low).view(
        [-1 if dim == axis % values.ndim else 1 for dim in range(values.ndim)]
    )
    return ((sums.index_select(axis, high) - sums.index_select(axis, low)) / count).to(values.dtype)
