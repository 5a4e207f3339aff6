"""Measures where a refine has detail to add: in the finest octaves that stand out of the noise.

An enlarged or soft picture has lost its finest octaves, and a refine brings them back where the
finest of those that are left is strong. Tiles that are ranked by the mean squared Laplacian of the
luma in that octave keep about as much area as tiles that are ranked by the detail that was lost
(`python dev.py bench decide`).

A gradient has no Laplacian, however steep. Grain and the blocks of JPEG have one, mostly in the
finest octave, so each octave is trusted as far as it stands out of the noise.

What this cannot see: whether fine texture is wanted (grass in a blurred background counts as much
as hair), and structure coarser than 16 px.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import ceil_div
from .blocks import BAND_BYTES, GRID_PX, LUMA, pool_sums

OCTAVES = 3  # px, means of 2 x 2 px, means of 4 x 4 px
HALO_PX = 1 << (OCTAVES - 1)  # one pixel of the coarsest octave
PLANES = 8  # float32 planes of a band that are in use at a time

# The variance of the 4-neighbour Laplacian of white noise of variance 1: 4^2 + 4 * 1^2.
LAPLACIAN_GAIN = 20.0
CHANGE_GAIN = 2.0  # that of the difference of two images
QUANTIZED = 1 / 12 / 255**2  # variance of the rounding to 8 bits
LARGEST_NOISE = (10 / 255) ** 2  # variance; stronger "noise" in the calmest tiles is texture
NOISE_PX = 32  # smallest side of the tiles among which the noise is looked up
CALMEST = 0.1  # quantile of the tiles' variance that is taken for the noise
# A tile's detail is what exceeds this multiple of the noise, since the calmest tiles show less than
# the others, and SCATTER / sqrt(n) of it more in a tile of n pixels: twice the standard deviation
# of the mean squared Laplacian of n pixels of white noise ...
NOISE_MARGIN = 1.5
SCATTER = 3.7
FLOOR = (1 / 255) ** 2  # ... and this mean square, so that banding of one level is none.
# An octave with as much detail as this multiple of its noise has half a say; where all octaves
# together have less than LEAST_TRUST of a say, there is no detail.
DOUBT = 2.0
LEAST_TRUST = 0.05


def sum_octaves(image: Tensor) -> Tensor:
    """Return sums over 8 x 8 px of the squared Laplacian of the luma, float64 [rows, columns, 3].

    The image is [H, W, C] in 0..1, and its edge is repeated outside. Field k is that of the image
    reduced by 2^k: its pixels are means of 2^k x 2^k px.
    """
    height, width = image.shape[:2]
    rows, columns = ceil_div(height, GRID_PX), ceil_div(width, GRID_PX)
    band_rows = max(1, BAND_BYTES // (GRID_PX * width * PLANES * 4)) * GRID_PX
    sums = torch.empty(rows, columns, OCTAVES, dtype=torch.float64, device=image.device)
    for y in range(0, height, band_rows):
        end = min(height, y + band_rows)
        luma = _project_to_luma(image[max(0, y - HALO_PX) : end + HALO_PX])
        # The band gets whole blocks, and a halo of HALO_PX on every side.
        above = HALO_PX - min(y, HALO_PX)
        below = HALO_PX + -(end - y) % GRID_PX - (min(height, end + HALO_PX) - end)
        padding = (HALO_PX, HALO_PX + -width % GRID_PX, above, below)
        plane = F.pad(luma[None], padding, mode="replicate")[0]
        first = y // GRID_PX
        for octave in range(OCTAVES):
            if octave:
                plane = halve(plane)
            square = square_laplacian(plane, HALO_PX >> octave)
            blocks = _sum_blocks(square, GRID_PX >> octave)
            sums[first : first + len(blocks), :, octave] = blocks
    return sums


def sum_motion(before: Tensor, after: Tensor) -> Tensor:
    """Return sums over 8 x 8 px of the squared change of the luma, float64 [rows, columns, 3].

    Both images are [H, W, C] in 0..1 and follow each other in a clip. Field k is that of the images
    reduced by 2^k. The change weighs as the squared Laplacian does in `sum_octaves`: white noise
    gives the same of both, so that the two can be added, and motion is detail like any other.
    """
    height, width = before.shape[:2]
    rows, columns = ceil_div(height, GRID_PX), ceil_div(width, GRID_PX)
    band_rows = max(1, BAND_BYTES // (GRID_PX * width * PLANES * 4)) * GRID_PX
    sums = torch.empty(rows, columns, OCTAVES, dtype=torch.float64, device=before.device)
    for y in range(0, height, band_rows):
        band = slice(y, min(height, y + band_rows))
        change = _project_to_luma(after[band]).sub_(_project_to_luma(before[band]))
        plane = F.pad(change, (0, -width % GRID_PX, 0, -len(change) % GRID_PX))
        first = y // GRID_PX
        for octave in range(OCTAVES):
            if octave:
                plane = halve(plane)
            blocks = _sum_blocks(plane.square(), GRID_PX >> octave)
            sums[first : first + len(blocks), :, octave] = blocks
    return sums.mul_(LAPLACIAN_GAIN / CHANGE_GAIN)


def _project_to_luma(image: Tensor) -> Tensor:
    """Return the luma of [H, W, C] as float32 [H, W]; a product is faster than three planes."""
    if image.shape[2] == 1:
        return image[..., 0].float()
    return image[..., :3].float() @ torch.tensor(LUMA, device=image.device)


def halve(plane: Tensor) -> Tensor:
    """Return the means of 2 x 2 px of [H, W], both even."""
    lines = plane[::2] + plane[1::2]
    return (lines[:, ::2] + lines[:, 1::2]).mul_(0.25)


def square_laplacian(plane: Tensor, halo: int) -> Tensor:
    """Return the squared 4-neighbour Laplacian of [H, W] without the `halo` px around it."""
    height, width = plane.shape

    def shift(down: int, right: int) -> Tensor:
        return plane[halo + down : height - halo + down, halo + right : width - halo + right]

    laplacian = shift(-1, 0) + shift(1, 0)
    laplacian.add_(shift(0, -1)).add_(shift(0, 1)).sub_(shift(0, 0), alpha=4)
    return laplacian.square_()


def _sum_blocks(plane: Tensor, side: int) -> Tensor:
    """Return the sums of [H, W] over side x side px, both multiples of it."""
    lines = plane.view(-1, side, plane.shape[1]).sum(1)
    return lines.view(len(lines), -1, side).sum(2)


def measure_fine_detail(octaves: Tensor, px: Tensor, side: int) -> Tensor:
    """Return each tile's share of the image's fine detail, float64 [rows, columns].

    Tiles are squares of `side` px. `octaves` are those of `sum_octaves`, and `px` [rows, columns]
    counts the px of each block of 8 x 8 px. The shares sum to 1, or are all 0 where no detail
    stands out of the noise.
    """
    sums = torch.cat([octaves, px[..., None]], -1)
    noise_tiles = pool_sums(sums, find_noise_side(side) // GRID_PX)
    return share_detail(pool_sums(sums, side // GRID_PX), noise_tiles)


def find_noise_side(side: int) -> int:
    """Return the side in px of the tiles among which the noise is looked up."""
    return max(side, NOISE_PX)


def share_detail(tiles: Tensor, noise_tiles: Tensor) -> Tensor:
    """Return each tile's share of the fine detail in all of them, float64 [rows, columns].

    Both are sums [rows, columns, OCTAVES + 1] of the octaves and the px over tiles; the noise is
    that of the calmest of `noise_tiles`.
    """
    noise = _estimate_noise(noise_tiles)
    count = tiles[..., OCTAVES]
    detail, left = torch.zeros_like(count), 1.0
    for octave in range(OCTAVES):
        # Means of 4^k px have a 4^k-th of the noise's variance, and there are as many fewer.
        fewer = 4.0**octave
        pixels = count / fewer
        margin = NOISE_MARGIN + SCATTER / pixels.clamp_min(1).sqrt()
        floor = (margin * LAPLACIAN_GAIN * noise / fewer + FLOOR) * pixels
        beyond = (tiles[..., octave] - floor).clamp_min(0)
        total = float(beyond.sum())
        if total:
            trust = left * total / (total + DOUBT * float(floor.sum()))
            detail += trust / total * beyond
            left -= trust
    return detail / (1 - left) if 1 - left > LEAST_TRUST else torch.zeros_like(detail)


def _estimate_noise(sums: Tensor) -> float:
    """Return the variance of the noise, in 0..1 units, from sums [rows, columns, OCTAVES + 1].

    White noise shows the same variance in every octave, and real detail more in the coarser ones:
    a tile's noise is the least that an octave shows, and the image's is that of its calmest tiles.
    """
    count = sums[..., OCTAVES].clamp_min(1)
    variances = [
        16.0**octave * sums[..., octave] / (LAPLACIAN_GAIN * count) for octave in range(OCTAVES)
    ]
    least = torch.stack(variances).amin(0)
    return min(float(least.quantile(CALMEST)), LARGEST_NOISE) + QUANTIZED
