"""Measures the detail of an image: sums over blocks of 8 x 8 px, read once, and metrics of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import ceil_div
from .blocks import BAND_BYTES, GRID_PX, LUMA
from .octaves import sum_octaves

LARGEST_PX = 1 << 16
# With this gain, one threshold halves photos of 0.2-2 MP about as often by edges as by colour. The
# median over twelve photos of scikit-image is 3.8.
EDGES_GAIN = 4.0
COLOR_FIELDS = 5  # sums of R, G and B, sum of squares, px count; the edges are one more


@dataclass(frozen=True, slots=True, eq=False)
class BlockSums:
    """All that a tree needs of an image of `width` x `height` px: sums over blocks of 8 x 8 px.

    `sums` is float64 [rows, columns, fields], on the CPU: sums of R, G and B, the sum of squares,
    and the px count; then the sum of gradient magnitudes, if edges were asked for. `octaves` is
    what `sum_octaves` returns, if that was asked for. `frames` counts the frames of the clip that
    these are the sums of (see `tree.clips`), 1 of an image.
    """

    width: int
    height: int
    sums: Tensor
    octaves: Tensor | None = None
    frames: int = 1

    @classmethod
    def of_image(cls, image: Tensor, edges: bool = False, octaves: bool = False) -> BlockSums:
        """Return the sums of an image [H, W, C] in 0..1, C = 1, 3 or 4; alpha is ignored.

        Raises ValueError for another shape, an image that is empty or too large, and NaN in it.
        """
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.numel() == 0:
            raise ValueError(
                f"The image has shape {tuple(image.shape)}; it must be [height, width, 1, 3 or 4] "
                "and not empty."
            )
        height, width = image.shape[:2]
        if max(width, height) > LARGEST_PX:
            raise ValueError(
                f"The image has {width} x {height} px; the longest side may have {LARGEST_PX} px."
            )
        sums = _sum_colours(image)
        if edges:
            sums = torch.cat([sums, _sum_edges(image)[..., None]], -1)
        # Trees are built on the CPU, wherever the image lies: the sums are small.
        found = sum_octaves(image).cpu() if octaves else None
        return cls(width, height, sums.cpu(), found)

    @property
    def px(self) -> Tensor:
        """The px in each block, [rows, columns]: 64, and fewer at the edge."""
        return self.sums[..., 4]

    @property
    def luma(self) -> Tensor:
        """The mean luma of each block, float32 [rows, columns] in 0..1."""
        means = self.sums[..., :3] / self.px[..., None].clamp_min(1)
        return (means @ means.new_tensor(LUMA)).float()

    @property
    def edges(self) -> bool:
        """Whether the sums include gradients."""
        return self.sums.shape[-1] > COLOR_FIELDS


def detail_by_color(sums: Tensor) -> Tensor:
    """Return the standard deviation of R, G and B together, in 0..255 units.

    `sums` is [..., fields], as `BlockSums` holds them, and the result [...]; so for every metric.
    """
    count = sums[..., 4].clamp_min(1)
    mean_square = sums[..., 3] / count
    square_mean = (sums[..., :3] / count[..., None]).square().sum(-1)
    return 255 * (mean_square - square_mean).clamp_min(0).sqrt()


def detail_by_edges(sums: Tensor) -> Tensor:
    """Return the mean gradient of the luma (Scharr), in 0..255 units, times EDGES_GAIN."""
    return EDGES_GAIN * 255 * sums[..., COLOR_FIELDS] / sums[..., 4].clamp_min(1)


def detail_by_both(sums: Tensor) -> Tensor:
    """Return the larger of the two; EDGES_GAIN makes one threshold mean about the same for both."""
    return torch.maximum(detail_by_color(sums), detail_by_edges(sums))


DETAIL_METRICS: dict[str, Callable[[Tensor], Tensor]] = {
    "color": detail_by_color,
    "edges": detail_by_edges,
    "both": detail_by_both,
}


def needs_edges(detail_metric: str) -> bool:
    """Return whether a metric of DETAIL_METRICS needs sums with edges, see `BlockSums.of_image`."""
    return detail_metric != "color"


def _sum_colours(image: Tensor) -> Tensor:
    """Return sums over 8 x 8 px of [H, W, C], float64 [rows, columns, COLOR_FIELDS].

    float64 keeps the variance of a flat bright region at 0. The image is read once, in bands that
    fit the cache. Raises ValueError for NaN or infinite values.
    """
    height, width = image.shape[:2]
    columns = ceil_div(width, GRID_PX)
    band_rows = max(1, BAND_BYTES // (GRID_PX * width * 3 * 8)) * GRID_PX
    sums = torch.empty(
        ceil_div(height, GRID_PX), columns, COLOR_FIELDS, dtype=torch.float64, device=image.device
    )
    # One buffer for all bands: to allocate one for each would cost more than the sums.
    buffer = sums.new_empty(min(band_rows, height), width, 3)
    for y in range(0, height, band_rows):
        part = image[y : y + band_rows, :, :3]
        band = buffer[: len(part)].copy_(part)
        out = sums[y // GRID_PX : ceil_div(y + len(band), GRID_PX)]
        out[..., :3] = _sum_blocks(band)
        out[..., 3] = _sum_blocks(band.square_()).sum(-1)
    sums[..., 4] = _measure_blocks(height, sums)[:, None] * _measure_blocks(width, sums)[None, :]
    if not bool(sums.isfinite().all()):
        raise ValueError(
            "The image holds NaN or infinite values; decode it again or clean it before building a "
            "quadtree."
        )
    return sums


def _sum_edges(image: Tensor) -> Tensor:
    """Return sums over 8 x 8 px of the luma's gradient magnitude, float64 [rows, columns].

    The image is [H, W, C], and its edge is repeated outside. The filter is Scharr's 3 x 3, its
    smoothing normalised and the difference taken over two px, so that a step from 0 to 1 gives 1:
    sqrt(2) times skimage.filters.scharr.
    """
    height, width = image.shape[:2]
    columns = ceil_div(width, GRID_PX)
    # Six float32 planes are in use at a time.
    band_rows = max(1, BAND_BYTES // (GRID_PX * width * 6 * 4)) * GRID_PX
    sums = torch.empty(ceil_div(height, GRID_PX), columns, dtype=torch.float64, device=image.device)
    for y in range(0, height, band_rows):
        end = min(height, y + band_rows)
        luma = _compute_luma(image[max(0, y - 1) : end + 1])
        luma = F.pad(luma[None], (1, 1, int(y == 0), int(end == height)), mode="replicate")[0]
        down, across = luma[2:] - luma[:-2], luma[:, 2:] - luma[:, :-2]
        magnitude = _smooth(down[:, :-2], down[:, 1:-1], down[:, 2:]).square_()
        magnitude.add_(_smooth(across[:-2], across[1:-1], across[2:]).square_()).sqrt_()
        sums[y // GRID_PX : ceil_div(end, GRID_PX)] = _sum_blocks(magnitude[..., None])[..., 0]
    return sums


def _compute_luma(image: Tensor) -> Tensor:
    """Return the luma of [H, W, C] as float32 [H, W]."""
    if image.shape[2] == 1:
        return image[..., 0].float()
    red, green, blue = (image[..., channel].float() for channel in range(3))
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _smooth(before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
    """Return Scharr's smoothing of three neighbouring lines, which weigh 3, 10 and 3 sixteenths."""
    return (before + after).mul_(3 / 16).add_(middle, alpha=10 / 16)


def _sum_blocks(band: Tensor) -> Tensor:
    """Return sums of [h, w, C] over blocks of 8 x 8 px, [ceil(h / 8), ceil(w / 8), C].

    Blocks at the edge have fewer px.
    """
    height, width, channels = band.shape
    if height % GRID_PX:
        band = F.pad(band, (0, 0, 0, 0, 0, -height % GRID_PX))
    lines = band.view(-1, GRID_PX, width * channels).sum(1).view(-1, width, channels)
    lines = F.pad(lines, (0, 0, 0, -width % GRID_PX))
    return lines.view(len(lines), -1, GRID_PX, channels).sum(2)


def _measure_blocks(length_px: int, like: Tensor) -> Tensor:
    """Return the px in each block of a line of `length_px`: 8, and in the last what is left."""
    starts = torch.arange(0, length_px, GRID_PX, device=like.device)
    return (length_px - starts).clamp_max(GRID_PX).to(like.dtype)
