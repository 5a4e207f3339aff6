"""Photos of scikit-image, for benchmarks, figures and tests."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

SIDE_PX = 16  # two cells
WAYS_TO_ENLARGE = {  # the resampling, and whether the result is sharpened
    "bicubic": (Image.Resampling.BICUBIC, False),
    "lanczos": (Image.Resampling.LANCZOS, False),
    "sharpened": (Image.Resampling.LANCZOS, True),
}


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


def enlarge_as_users_do(image: torch.Tensor, way: str, factor: float) -> torch.Tensor:
    """Return [H, W, 3] enlarged in one of WAYS_TO_ENLARGE, rounded to 8 bits.

    "sharpened" is as crisp as an upscale model makes it: edges are steeper than the picture's own.
    """
    picture = Image.fromarray((image * 255).round().to(torch.uint8).numpy())
    size = round(picture.width * factor), round(picture.height * factor)
    resampling, sharpen = WAYS_TO_ENLARGE[way]
    larger = picture.resize(size, resampling)
    if sharpen:
        larger = larger.filter(ImageFilter.UnsharpMask(radius=factor, percent=150, threshold=0))
    return torch.from_numpy(np.array(larger)) / 255
