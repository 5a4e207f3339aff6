"""The pictures of `bench decide`, and what is done to them before a tree sees them.

They are the still pictures that ComfyUI's own packages of workflow templates install, and photos of
scikit-image. Nothing is downloaded, and nothing is copied into the project.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from quadtree_pack.testing.photos import sample_photo
from quadtree_pack.tree.blocks import GRID_PX, LUMA
from torch import Tensor

PACKAGES = "comfyui_workflow_templates_media_"  # how their names begin
SUFFIXES = (".webp", ".png", ".jpg", ".jpeg")
SMALLEST_PX = 384  # of the shorter side
PHOTOS = ("astronaut", "coffee", "rocket", "hubble_deep_field", "chelsea", "motorcycle_left")
GRAIN = 4.0  # standard deviation in levels of 255
JPEG_QUALITY = 60
GRADIENT = 0.1  # what is added at the right edge, of 1


class Picture(NamedTuple):
    """A file's name and its path, or a photo of scikit-image and None."""

    name: str
    path: Path | None

    @property
    def digest(self) -> str:
        return hashlib.sha1(self.name.encode()).hexdigest()

    @property
    def held_out(self) -> bool:
        """Whether the picture is in the half that the constants of the tree were not found on."""
        return int(self.digest, 16) % 2 == 1

    def load(self) -> Image.Image:
        """Return the picture in RGB, cropped to whole blocks of 8 x 8 px."""
        if self.path is None:
            picture = as_picture(sample_photo(self.name))
        else:
            picture = Image.open(self.path).convert("RGB")
        width, height = (side - side % GRID_PX for side in picture.size)
        return picture.crop((0, 0, width, height))


def find_pictures() -> list[Picture]:
    """Return all pictures, in the order of their hashes."""
    # Two packages may hold the same picture.
    files = {path.name: path for path in find_files()}
    pictures = [Picture(name, path) for name, path in files.items() if is_large_still(path)]
    for name in PHOTOS:
        if min(sample_photo(name).shape[:2]) >= SMALLEST_PX:
            pictures.append(Picture(name, None))
    return sorted(pictures, key=lambda picture: picture.digest)


def find_files() -> Iterator[Path]:
    """Yield the pictures among the files of the installed PACKAGES."""
    for package in importlib.metadata.distributions():
        if package.metadata["Name"].lower().replace("-", "_").startswith(PACKAGES):
            for file in package.files or ():
                if file.suffix.lower() in SUFFIXES:
                    yield Path(str(file.locate()))


def is_large_still(path: Path) -> bool:
    with Image.open(path) as picture:
        return not getattr(picture, "is_animated", False) and min(picture.size) >= SMALLEST_PX


def as_tensor(picture: Image.Image) -> Tensor:
    """Return a picture as [H, W, 3] in 0..1."""
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)


def as_picture(image: Tensor) -> Image.Image:
    """Return [H, W, 3], clamped to 0..1 and rounded to 8 bits."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def measure_luma(picture: Image.Image) -> Tensor:
    """Return the luma in 0..1, float64 [H, W]."""
    return as_tensor(picture).double() @ torch.tensor(LUMA, dtype=torch.float64)


def sum_blocks(plane: Tensor) -> Tensor:
    """Return the sums of [H, W] over blocks of 8 x 8 px."""
    height, width = plane.shape
    return plane.view(height // GRID_PX, GRID_PX, width // GRID_PX, GRID_PX).sum((1, 3))


# --- What is lost, and what disturbs --------------------------------------------------------------


def enlarge(sharp: Image.Image, factor: int) -> Image.Image:
    """Return the picture reduced by a factor and enlarged to its own size again, both bicubic."""
    small = [max(1, side // factor) for side in sharp.size]
    bicubic = Image.Resampling.BICUBIC
    return sharp.resize((small[0], small[1]), bicubic).resize(sharp.size, bicubic)


def sum_lost_detail(sharp: Image.Image, enlarged: Image.Image) -> Tensor:
    """Return the sum of the squared difference of the luma in each block of 8 x 8 px."""
    return sum_blocks((measure_luma(sharp) - measure_luma(enlarged)).square())


def add_grain(picture: Image.Image) -> Image.Image:
    image = as_tensor(picture)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return as_picture(image + GRAIN / 255 * noise)


def compress(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return Image.open(file).convert("RGB")


def add_gradient(picture: Image.Image) -> Image.Image:
    return as_picture(as_tensor(picture) + torch.linspace(0, GRADIENT, picture.width)[:, None])


DISTURBANCES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grain": add_grain,
    "JPEG": compress,
    "gradient": add_gradient,
}
