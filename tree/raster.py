"""Values of leaves on grids of blocks, sampled at cells, and feathered towards lower neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..utils import ceil_div
from .leaves import Leaves

# Rounding noise of sums that are taken apart again; a hundred times less than the smallest
# difference of denoise that a run of 100 steps tells apart.
MEAN_NOISE = 1e-6


def rasterize(
    leaves: Leaves, values: Tensor, width: int, height: int, root_px: int
) -> tuple[Tensor, int]:
    """Return one value per leaf [n] on blocks of the smallest leaf's side, and that side in px.

    The grid is float64 [rows, columns] and covers an image of width x height px.
    """
    side = root_px
    grid = torch.zeros(ceil_div(height, side), ceil_div(width, side), dtype=torch.float64)
    for next_side in leaves.side.unique(sorted=True).flip(0).tolist():
        # No block outside the image is made: a root can be far larger than the image.
        rows = torch.arange(ceil_div(height, next_side)) * next_side // side
        columns = torch.arange(ceil_div(width, next_side)) * next_side // side
        grid, side = grid[rows][:, columns], next_side
        chosen = leaves.side == side
        places = leaves.y0[chosen] // side, leaves.x0[chosen] // side
        grid.index_put_(places, values[chosen], accumulate=True)
    return grid, side


def centre_blocks(cells: int, length_px: int, side: int) -> Tensor:
    """Return the block of `side` px at the centre of each of `cells` equal cells of a length."""
    return (2 * torch.arange(cells) + 1) * length_px // (2 * cells * side)


def weigh_blocks(cells: int, length_px: int, side: int, blocks: int) -> Tensor:
    """Return the share of each block in each cell of one axis, [cells, blocks]; rows sum to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * length_px / cells
    starts = torch.arange(blocks, dtype=torch.float64) * side
    overlap = torch.minimum(edges[1:, None], starts + side) - torch.maximum(
        edges[:-1, None], starts
    )
    overlap = overlap.clamp_min(0)
    return overlap / overlap.sum(1, keepdim=True)


def sample_area(
    grid: Tensor, side: int, size_px: tuple[int, int], cells: tuple[int, int]
) -> Tensor:
    """Return the area means of blocks of `side` px over [height, width] cells of the image."""
    vertical = weigh_blocks(cells[0], size_px[0], side, grid.shape[0])
    horizontal = weigh_blocks(cells[1], size_px[1], side, grid.shape[1])
    return vertical @ grid @ horizontal.T


def feather(values: Tensor, radius: int) -> Tensor:
    """Return `values` [H, W] with ramps of 2 * radius cells from low areas up into higher ones.

    The result is never above `values`: a minimum over the radius is followed by a mean over the
    radius, and every mean takes only minima that include the cell itself.
    """
    return feather_along(values, radius, (0, 1))


def feather_along(values: Tensor, radius: int, axes: Sequence[int]) -> Tensor:
    """Return `values` of any rank with ramps along these axes, as `feather` lays them."""
    ramp = values
    for axis in axes:
        ramp = window_min(ramp, radius, axis)
    for axis in axes:
        ramp = window_mean(ramp, radius, axis)
    return torch.where(ramp > values - MEAN_NOISE, values, ramp.clamp_min(0))


def window_min(values: Tensor, radius: int, axis: int) -> Tensor:
    """Return the minimum over the cells up to `radius` away along an axis, same shape.

    Takes as many passes as the radius has bits.
    """
    radius = min(radius, values.shape[axis])
    edge = values.new_full(
        [radius if dim == axis else length for dim, length in enumerate(values.shape)], math.inf
    )
    found, reached = torch.cat([edge, values, edge], axis), 1
    while reached < 2 * radius + 1:
        shift = min(reached, 2 * radius + 1 - reached)
        length = found.shape[axis] - shift
        found = torch.minimum(found.narrow(axis, 0, length), found.narrow(axis, shift, length))
        reached += shift
    return found


def window_mean(values: Tensor, radius: int, axis: int) -> Tensor:
    """Return the mean over the cells up to `radius` away along an axis, same shape.

    At the edge it is the mean over the cells that exist.
    """
    length = values.shape[axis]
    sums = values.double().cumsum(axis)
    sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis)
    index = torch.arange(length, device=values.device)
    low, high = (index - radius).clamp_min(0), (index + radius + 1).clamp_max(length)
    count = (high - low).view(
        [-1 if dim == axis % values.ndim else 1 for dim in range(values.ndim)]
    )
    return ((sums.index_select(axis, high) - sums.index_select(axis, low)) / count).to(values.dtype)
