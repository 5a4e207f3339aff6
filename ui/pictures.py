"""Saves pictures for the panel, among ComfyUI's temporary files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from PIL import Image

SHOWN_PX = 1024  # longest side of a picture
VEIL = 0.6  # darkness of the panel where a mask is 0

PictureFile = dict[str, str]  # as ComfyUI names a file


def save_picture(image: torch.Tensor, key: str, longest_px: int = SHOWN_PX) -> PictureFile:
    """Save a small picture of an image [H, W, C] for the panel; return its file."""
    # Skip px first, or an 8192 px image would be copied whole.
    step = max(1, max(image.shape[:2]) // (2 * longest_px))
    shown = image[::step, ::step, :3].expand(-1, -1, 3).clamp(0, 1)
    picture = Image.fromarray((shown * 255).round().to(torch.uint8).cpu().numpy())
    picture.thumbnail((longest_px, longest_px))
    return _save(picture, f"quadtree_{key}.jpg", quality=90)


def save_veil(mask: torch.Tensor, width: int, height: int, key: str) -> PictureFile:
    """Save a picture that darkens what a mask [h, w] keeps of an image of width x height px."""
    alpha = ((1 - mask) * VEIL * 255).round().to(torch.uint8).cpu().numpy()
    scale = min(1, SHOWN_PX / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    veil = Image.new("RGBA", size)
    veil.putalpha(Image.fromarray(alpha).resize(size, Image.Resampling.BILINEAR))
    return _save(veil, f"quadtree_mask_{key}.png")


def _save(picture: Image.Image, name: str, **options: Any) -> PictureFile:
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / name, **options)
    return {"filename": name, "subfolder": "", "type": "temp"}
