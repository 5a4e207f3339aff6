"""Finds where a latent lies on the image that a quadtree was built from: on all of it, or a crop.

Nodes that sample crops (UltimateSDUpscale, detailers, lists of tiles) give every crop to the same
patched model, and nothing tells which part of the image it is. The picture does: a linear map of a
latent's channels shows the luma well enough to compare it. Gradients are compared, since of smooth
shades almost any two pictures share some.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tree.blocks import GRID_PX
from ..utils import ceil_div

# Share of the luma's gradients that a latent must explain. Of another picture, or of another part
# of the same, it is below 0.15 in one place, however the latent is made; of what it shows it is
# 0.7 to 1 with a linear VAE, and the less, the less linear the VAE is.
SHOWS = 0.4
SHOWS_CROP = 0.7  # the best of many positions and scales fits by chance up to 0.66
PROMISING = 0.6  # times that: a coarse match that is worth a closer look
CLEARER = 1.5  # times what the whole explains
COARSE_CELLS, COARSEST_CELLS = 256, 64  # along the longer side: to search, and to compare wholes
FEWEST, FEWEST_PER_CHANNEL = 1100, 40  # gradients: a good fit of fewer proves nothing
CALM = 0.25  # of the image's mean of squared gradients: of less, a good fit proves nothing either
TINY = 1e-12
SCALES = [0.1 * 1.06**step for step in range(40)]  # of a crop's width to the image's, up to 0.97
FINER = [1 + 0.005 * step for step in range(-6, 7)]  # then, around the best of them


class Part(NamedTuple):
    """A part of an image, as shares of its width and height."""

    x: float
    y: float
    width: float
    height: float


WHOLE = Part(0.0, 0.0, 1.0, 1.0)


class Match(NamedTuple):
    """The part of an image that a latent shows best, and the share of gradients it explains."""

    share: float
    part: Part


def locate(latent: Tensor, luma: Tensor, width_px: int) -> Part | None:
    """Return which part of an image a latent [C, h, w] shows; None where that cannot be told.

    `luma` [H, W] is the image's, of cells of GRID_PX, and `width_px` the width of what the latent
    shows, if it was not resized.
    """
    if min(*latent.shape[-2:], *luma.shape) < 2:
        return None  # without gradients
    latent, luma = latent.double().cpu(), luma.double().cpu()
    whole = compare_whole(latent, luma)
    if whole.share >= SHOWS:
        return WHOLE
    coarse = shrink(luma, COARSE_CELLS)
    found = search(latent, coarse, [width_px / (GRID_PX * luma.shape[1])])
    if found.share < SHOWS_CROP:
        found = search(latent, coarse, SCALES)
    if found.share < PROMISING * SHOWS_CROP:
        return None
    found = refine(latent, luma, found)
    is_crop = found.share >= max(SHOWS_CROP, CLEARER * whole.share)
    return found.part if is_crop else None


def compare_whole(latent: Tensor, luma: Tensor) -> Match:
    """Compare a latent with all of the image."""
    small = shrink(luma, COARSEST_CELLS)
    return Match(float(explain(resize(latent, *small.shape), small)), WHOLE)


def search(latent: Tensor, luma: Tensor, scales: Iterable[float]) -> Match:
    """Return the best match among all positions of a crop that has one of these scales."""
    best = Match(0.0, WHOLE)
    for scale in scales:
        width = round(scale * luma.shape[1])
        height = round(width * latent.shape[1] / latent.shape[2])
        fits = 2 <= height <= luma.shape[0] and 2 <= width <= luma.shape[1]
        if not fits or 2 * height * width < max(FEWEST, FEWEST_PER_CHANNEL * len(latent)):
            continue
        shares = explain(resize(latent, height, width), luma)
        row, column = divmod(int(shares.argmax()), shares.shape[1])
        best = max(
            best, Match(float(shares[row, column]), part_of(row, column, height, width, luma))
        )
    return best


def refine(latent: Tensor, luma: Tensor, coarse: Match) -> Match:
    """Return the best match near one that was found on a coarser luma."""
    x, y, width, height = coarse.part
    rows, columns = luma.shape
    margin = 2 * ceil_div(max(luma.shape), COARSE_CELLS) + 0.04 * max(
        width * columns, height * rows
    )
    top, left = (max(0, int(edge - margin)) for edge in (y * rows, x * columns))
    near = luma[
        top : ceil((y + height) * rows + margin), left : ceil((x + width) * columns + margin)
    ]
    scales = [width * columns * finer / near.shape[1] for finer in FINER]
    share, part = search(latent, near, scales)
    found = Part(
        (left + part.x * near.shape[1]) / columns,
        (top + part.y * near.shape[0]) / rows,
        part.width * near.shape[1] / columns,
        part.height * near.shape[0] / rows,
    )
    return max(coarse, Match(share, found))


def part_of(row: int, column: int, height: int, width: int, luma: Tensor) -> Part:
    rows, columns = luma.shape
    return Part(column / columns, row / rows, width / columns, height / rows)


def explain(latent: Tensor, luma: Tensor) -> Tensor:
    """Return the share of the luma's gradients that the latent's explain, at every position.

    `latent` is [C, h, w] and `luma` [H, W], with cells of one size; the result is
    [H - h + 1, W - w + 1], at most 1 and about 0 by chance. It is the R squared of least squares,
    adjusted for the channels.
    """
    channels, height, width = latent.shape
    rows, columns = luma.shape[0] - height + 1, luma.shape[1] - width + 1
    gram = torch.zeros(channels, channels, dtype=torch.float64)
    found = torch.zeros(channels, rows, columns, dtype=torch.float64)
    energy = torch.zeros(rows, columns, dtype=torch.float64)
    mean_energy = TINY
    for axis in (-2, -1):
        ours, theirs = latent.diff(dim=axis), luma.diff(dim=axis)
        gram += torch.einsum("cij,dij->cd", ours, ours)
        found += correlate(ours, theirs)[:, :rows, :columns]
        energy += correlate(torch.ones_like(ours[:1]), theirs.square())[0, :rows, :columns]
        mean_energy += float(theirs.square().mean())
    # A little more on the diagonal: channels may repeat each other, or be empty.
    gram += torch.eye(channels, dtype=torch.float64) * (1e-6 * gram.diagonal().mean() + TINY)
    fitted = torch.linalg.solve(gram, found.flatten(1)).view_as(found)
    calm = CALM * mean_energy * height * width
    share = (fitted * found).sum(0) / energy.clamp_min(calm)
    count = 2 * height * width
    return 1 - (1 - share) * count / max(1, count - channels)


def correlate(planes: Tensor, picture: Tensor) -> Tensor:
    """Return the sum of products of planes [C, h, w] with a picture [H, W], at every shift."""
    size = picture.shape
    return torch.fft.irfft2(torch.fft.rfft2(planes, size).conj() * torch.fft.rfft2(picture), size)


def shrink(luma: Tensor, longest: int) -> Tensor:
    """Return the luma with at most so many cells along a side."""
    scale = min(1.0, longest / max(luma.shape))
    height, width = (max(2, round(scale * side)) for side in luma.shape)
    return resize(luma, height, width)


def resize(cells: Tensor, height: int, width: int) -> Tensor:
    planes = cells.reshape(1, -1, *cells.shape[-2:])
    resized = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return resized.reshape(*cells.shape[:-2], height, width)
