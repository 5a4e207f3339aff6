"""Measures where a refine has detail to add: in the finest octaves that stand out of the noise.

An enlarged or soft picture has lost its finest octaves, and a refine brings them back where the
finest of those that are left is strong. So a tile's detail begins as E, the mean squared Laplacian
of the luma there. Three things say more of what was lost than the energy alone:

- Sharpness, E of an octave over that of the next coarser one. The spectrum goes on as it falls: a
  sharp edge has lost more than a blurred one that is as strong.
- Evenness, the geometric mean of E over the blocks of a tile and those beside them, over the
  arithmetic mean: one line in a calm tile counts less than texture all over it.
- Emptiness, how far the second octave is empty: after x4 it says little, and the next one is asked
  as well.

detail = E * S0^(SHARPNESS[0] * trust) * S1^SHARPNESS[1] * V0^EVENNESS[0]
           * (S2^SHARPNESS[2] * V1^EVENNESS[1])^emptiness

Its form and its exponents were found on half of the pictures of `python dev.py bench decide`, which
tells how near it comes, on the other half, to a ranking by the detail that was lost. What noise
alone would show is part of each E in a ratio, so that the ratios of a noisy picture are all alike.

A gradient has no Laplacian, however steep. Grain and the blocks of JPEG have one, mostly in the
finest octave, so each octave is trusted as far as it stands out of the noise.

What this cannot see: whether fine texture is wanted (grass in a blurred background counts as much
as hair), and structure coarser than 16 px.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import ceil_div
from .blocks import BAND_BYTES, GRID_PX, LUMA, pool_sums

OCTAVES = 4  # px, and means of 2 x 2, 4 x 4 and 8 x 8 px
RANKED = 3  # octaves, the finest, in which tiles may be ranked; the coarsest is for comparison only
HALO_PX = 1 << (RANKED - 1)  # one pixel of the coarsest of them
PLANES = 8  # float32 planes of a band that are in use at a time

# The variance of the 4-neighbour Laplacian of white noise of variance 1: 4^2 + 4 * 1^2.
LAPLACIAN_GAIN = 20.0
CHANGE_GAIN = 2.0  # that of the difference of two images
# Variance of the luma if R, G and B are rounded to 8 bits: the least noise of any picture.
QUANTIZED = sum(weight**2 for weight in LUMA) / 12 / 255**2
LARGEST_NOISE = (10 / 255) ** 2  # variance; stronger "noise" in the calmest tiles is texture
NOISE_PX = 32  # smallest side of the tiles among which the noise is looked up
CALMEST = 0.1  # quantile of the tiles' variance that is taken for the noise
# A tile's detail is what exceeds this multiple of the noise, since the calmest tiles show less than
# the others, and SCATTER / sqrt(n) of it more in a tile of n pixels: twice the standard deviation
# of the mean squared Laplacian of n pixels of white noise ...
NOISE_MARGIN = 1.5
SCATTER = 3.7
FLOOR = 0.5 / 255**2  # ... and this mean square, so that banding of one level is none.
# An octave with as much detail as this multiple of its noise has half a say; where all octaves
# together have less than LEAST_TRUST of a say, there is no detail.
DOUBT = 2.0
LEAST_TRUST = 0.05
# Exponents, see above: of the sharpness of the finest octaves, and of their evenness.
SHARPNESS = (0.25, 0.5, 0.15)
EVENNESS = (0.25, 0.25)
# The second octave is empty where its mean square is the first of these multiples of the third's,
# and full from the second on; after x4 it is 0.11 to 0.15, after x2 mostly above 0.25.
EMPTY, FULL = 0.15, 0.25


def sum_octaves(image: Tensor) -> Tensor:
    """Return sums over 8 x 8 px of the squared Laplacian of the luma, float64 [rows, columns, 4].

    The image is [H, W, C] in 0..1, and its edge is repeated outside. Field k is that of the image
    reduced by 2^k: its pixels are means of 2^k x 2^k px. The coarsest repeats its own edge, since
    its pixels are whole blocks. Raises ValueError for values that are too large to be squared.
    """
    height, width = image.shape[:2]
    rows, columns = ceil_div(height, GRID_PX), ceil_div(width, GRID_PX)
    band_rows = max(1, BAND_BYTES // (GRID_PX * width * PLANES * 4)) * GRID_PX
    sums = torch.empty(rows, columns, OCTAVES, dtype=torch.float64, device=image.device)
    coarsest = torch.empty(rows, columns, device=image.device)
    for y in range(0, height, band_rows):
        end = min(height, y + band_rows)
        luma = _project_to_luma(image[max(0, y - HALO_PX) : end + HALO_PX])
        # The band gets whole blocks, and a halo of HALO_PX on every side.
        above = HALO_PX - min(y, HALO_PX)
        below = HALO_PX + -(end - y) % GRID_PX - (min(height, end + HALO_PX) - end)
        padding = (HALO_PX, HALO_PX + -width % GRID_PX, above, below)
        plane = F.pad(luma[None], padding, mode="replicate")[0]
        first = y // GRID_PX
        for octave in range(RANKED):
            if octave:
                plane = halve(plane)
            square = square_laplacian(plane, HALO_PX >> octave)
            blocks = _sum_blocks(square, GRID_PX >> octave)
            sums[first : first + len(blocks), :, octave] = blocks
        coarsest[first : first + len(blocks)] = halve(plane[1:-1, 1:-1])
    sums[..., RANKED] = square_laplacian(
        F.pad(coarsest[None], (1, 1, 1, 1), mode="replicate")[0], 1
    )
    if not bool(sums.isfinite().all()):
        raise ValueError(
            "The image holds values far outside of 0 to 1; decode it again or clean it before "
            "building a quadtree."
        )
    return sums


def sum_motion(before: Tensor, after: Tensor) -> Tensor:
    """Return sums over 8 x 8 px of the squared change of the luma, float64 [rows, columns, 4].

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
        change = _project_to_luma(after[band]) - _project_to_luma(before[band])
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
    return share_detail([octaves], px, side)[0]


def share_detail(octaves: Sequence[Tensor], px: Tensor, side: int) -> Tensor:
    """Return each tile's share of the fine detail in all frames, float64 [N, rows, columns].

    `octaves` has those of each frame [rows, columns, OCTAVES], and `px` is that of all.
    """

    def measure(of_frame: Callable[[Tensor, int], Tensor], side: int) -> Tensor:
        """Return what is measured of the sums [rows, columns, OCTAVES + 1] of each frame."""
        factor = side // GRID_PX
        return torch.stack(
            [of_frame(torch.cat([one.double(), px[..., None]], -1), factor) for one in octaves]
        )

    noise = _estimate_noise(measure(pool_sums, max(side, NOISE_PX)))
    tiles = measure(pool_sums, side)
    detail, trusts = _find_beyond_noise(tiles, noise)
    if sum(trusts) < LEAST_TRUST:
        return torch.zeros_like(detail)
    means = _average(tiles, noise)
    geometric = measure(partial(_average_geometrically, noise), side)
    sharpness, evenness = means[..., :-1] / means[..., 1:], geometric / means[..., :2]
    emptiness = _measure_emptiness(tiles)
    first, second, third = SHARPNESS
    detail *= sharpness.pow(torch.tensor([trusts[0] * first, second, emptiness * third])).prod(-1)
    first, second = EVENNESS
    detail *= evenness.pow(torch.tensor([first, emptiness * second])).prod(-1)
    return detail / detail.sum()


def _find_beyond_noise(tiles: Tensor, noise: float) -> tuple[Tensor, list[float]]:
    """Return what exceeds the noise in each tile, and how far each ranked octave is trusted.

    `tiles` are sums [..., OCTAVES + 1], and `noise` is the variance of the noise. The result is
    [...]: the shares of the octaves' detail, weighted by their trusts, which sum to at most 1.
    """
    count = tiles[..., OCTAVES]
    detail, trusts, left = torch.zeros_like(count), [], 1.0
    for octave in range(RANKED):
        # Means of 4^k px have a 4^k-th of the noise's variance, and there are as many fewer.
        fewer = 4.0**octave
        pixels = count / fewer
        margin = NOISE_MARGIN + SCATTER / pixels.clamp_min(1).sqrt()
        floor = (margin * LAPLACIAN_GAIN * noise / fewer + FLOOR) * pixels
        beyond = (tiles[..., octave] - floor).clamp_min(0)
        total = float(beyond.sum())
        trusts.append(left * total / (total + DOUBT * float(floor.sum())))
        detail += trusts[-1] / max(total, 1e-30) * beyond
        left -= trusts[-1]
    return detail, trusts


def _measure_emptiness(tiles: Tensor) -> float:
    """Return how far the second octave is empty, 0 to 1, from sums [..., OCTAVES + 1]."""
    # There are four times as many pixels in it as in the third.
    second, third = float(tiles[..., 1].sum()) / 4, float(tiles[..., 2].sum())
    return min(max((FULL * third - second) / max((FULL - EMPTY) * third, 1e-30), 0.0), 1.0)


def _average(sums: Tensor, noise: float, octaves: int = OCTAVES) -> Tensor:
    """Return the finest octaves' mean squares and what noise adds, [..., octaves], of sums."""
    fewer = 4.0 ** torch.arange(octaves)
    means = sums[..., :octaves] * (fewer / sums[..., OCTAVES:].clamp_min(1))
    return means + (LAPLACIAN_GAIN * noise / fewer + FLOOR)


def _average_geometrically(noise: float, sums: Tensor, factor: int) -> Tensor:
    """Return the geometric means of the two finest octaves, in tiles and around them.

    `sums` are those of blocks, [rows, columns, OCTAVES + 1], of which tiles have factor x factor;
    the result is [rows, columns, 2].
    """
    logs = _average(sums, noise, 2).log_().permute(2, 0, 1)
    around = F.avg_pool2d(F.pad(logs[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    px = sums[..., OCTAVES:]
    tiles = pool_sums(torch.cat([around.permute(1, 2, 0) * px, px], -1), factor)
    return (tiles[..., :2] / tiles[..., 2:].clamp_min(1)).exp()


def _estimate_noise(sums: Tensor) -> float:
    """Return the variance of the noise, in 0..1 units, from sums [..., OCTAVES + 1].

    White noise shows the same variance in every octave, and real detail more in the coarser ones:
    a tile's noise is the least that an octave shows, and the image's is that of its calmest tiles.
    """
    count = sums[..., OCTAVES].clamp_min(1)
    variances = [
        16.0**octave * sums[..., octave] / (LAPLACIAN_GAIN * count) for octave in range(RANKED)
    ]
    least = torch.stack(variances).amin(0)
    return min(max(float(least.quantile(CALMEST)), QUANTIZED), LARGEST_NOISE)
