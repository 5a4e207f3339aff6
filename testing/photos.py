"""Photos of scikit-image, for benchmarks, figures and tests."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def sample_photo(name: str) -> torch.Tensor:
    """A photo of scikit-image as it comes, [H, W, 3] in 0..1."""
    from skimage import data

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(data, name)()
    return torch.from_numpy(np.array(pixels))[..., :3] / 255


def photo(name: str, long_side_px: int) -> torch.Tensor:
    image = sample_photo(name).permute(2, 0, 1)[None]
    scale = long_side_px / max(image.shape[2:])
    size = [round(side * scale / 16) * 16 for side in image.shape[2:]]
    return (
        F.interpolate(image, size=size, mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1).contiguous()
    )
