"""Photos of scikit-image, for benchmarks, figures and tests."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

SIDE_PX = 16  # two cells


def sample_photo(name: str) -> torch.Tensor:
    """Return a photo of scikit-image at its own size, [H, W, 3] in 0..1."""
    from skimage import data

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(data, name)()
    return torch.from_numpy(np.array(pixels))[..., :3] / 255


def photo(name: str, long_side_px: int) -> torch.Tensor:
    """Return a photo scaled to this long side, [H, W, 3]; sides are multiples of SIDE_PX."""
    image = sample_photo(name).permute(2, 0, 1)[None]
    scale = long_side_px / max(image.shape[2:])
    size = [round(side * scale / SIDE_PX) * SIDE_PX for side in image.shape[2:]]
    scaled = F.interpolate(image, size=size, mode="bicubic")[0]
    return scaled.permute(1, 2, 0).clamp(0, 1).contiguous()
