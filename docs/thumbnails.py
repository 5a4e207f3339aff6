"""The pictures that the Templates dialog shows of the example workflows.

Photos: the demo's (CC0), and scikit-image's `astronaut` (NASA, public domain), `rocket` (SpaceX,
public domain), `chelsea` (Stefan van der Walt, CC0) and `coffee` (Rachel Michetti, CC0).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from quadtree_pack.testing.photos import sample_photo
from quadtree_pack.ui.crops import cut_crops
from torch import Tensor

from .drawing import PAPER, Draw, as_picture, build_automatic_tree, draw_tiles, make_saver, photo

SIDE_PX = 640  # the photos whose trees are drawn
SAVED_PX = 256  # keeps the registry's archive small
QUALITY = 25
LABEL_PX, MARGIN_PX = 28, 8
FRAMES, FRAME_GAP_PX = 3, 12
RIM_PX = 5
CROP_TINTS = (1.0, 0.8, 0.2), (0.3, 0.9, 0.4), (0.3, 0.7, 1.0), (1.0, 0.4, 0.8)

Crop = tuple[float, float, float]  # left, top and side, as shares of the shorter side


def crop_photo(name: str, crop: Crop = (0, 0, 1)) -> Tensor:
    """Return a square of a photo, [SIDE_PX, SIDE_PX, 3] in 0..1."""
    image = photo((960, 640)) if name == "demo" else sample_photo(name).float()
    shorter = min(image.shape[:2])
    left, top, side = (round(share * shorter) for share in crop)
    picture = as_picture(image[top : top + side, left : left + side])
    scaled = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    return (
        torch.frombuffer(bytearray(scaled.tobytes()), dtype=torch.uint8).view(SIDE_PX, SIDE_PX, 3)
        / 255
    )


def make_ellipse_mask(centre: tuple[float, float], radii: tuple[float, float]) -> Tensor:
    """Return a mask of the square, 1 inside an ellipse and 0 outside; shares of its side."""
    places = torch.linspace(0, 1, SIDE_PX)
    y, x = torch.meshgrid(places, places, indexing="ij")
    return (((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1).float()


def split(image: Tensor) -> Tensor:
    """Draw the photo at the left and its tiles at the right of a slanted border."""
    place = torch.arange(SIDE_PX)
    right = place[None] + place[:, None] // 4 > SIDE_PX // 2
    return draw_tiles(image, build_automatic_tree(image)).where(right[..., None], image)


def cover(image: Tensor) -> Tensor:
    """Draw the photo below its tiles."""
    return draw_tiles(image, build_automatic_tree(image), 3)


def keep(image: Tensor, mask: Tensor) -> Tensor:
    """Draw the tiles where a mask keeps a part of the photo, which is shown as it is."""
    tiles = draw_tiles(image, build_automatic_tree(image, mask=1 - mask), 3)
    return image.where(mask[..., None] > 0, tiles)


def paint(image: Tensor, mask: Tensor) -> Tensor:
    """Draw the tiles where a mask alone says what changes, and the rest of the photo as it is."""
    tiles = draw_tiles(image, build_automatic_tree(image, mask=mask, mask_mode="replace"), 3)
    return tiles.where(mask[..., None] > 0, image)


def frame_crops(image: Tensor) -> Tensor:
    """Draw the photo with its crops, each in a frame and in a tint of its own."""
    tree = build_automatic_tree(image)
    _, masks = cut_crops(image[None], [tree], most=4, size_px=SIDE_PX // 2)
    drawn = image * 0.5
    for mask, tint in zip(masks, CROP_TINTS, strict=False):
        inside = mask[0] > 0
        rim = inside & (F.max_pool2d(1 - mask, 2 * RIM_PX + 1, 1, RIM_PX)[0] > 0)
        colour = torch.tensor(tint)
        drawn = (0.75 * image + 0.25 * colour).where(inside[..., None], drawn)
        drawn = colour.expand_as(drawn).where(rim[..., None], drawn)
    return drawn


def film(image: Tensor) -> Tensor:
    """Draw frames of a clip below each other, with the tiles that they share."""
    height = (SIDE_PX - (FRAMES - 1) * FRAME_GAP_PX) // FRAMES
    strip = torch.tensor(PAPER).div(255).expand(SIDE_PX, SIDE_PX, 3).clone()
    tiles = cover(image)
    for frame in range(FRAMES):
        top = frame * (height + FRAME_GAP_PX)
        start = SIDE_PX // 4 + frame * 24
        shown = image if frame == 0 else tiles
        strip[top : top + height] = shown[start : start + height]
    return strip


def draw(label: str, name: str, crop: Crop, change: Callable[[Tensor], Tensor]) -> Image.Image:
    """Draw a thumbnail with the name of its template's model or purpose."""
    picture = as_picture(change(crop_photo(name, crop)))
    small = picture.resize((SAVED_PX, SAVED_PX), Image.Resampling.LANCZOS)
    canvas, font = ImageDraw.Draw(small), ImageFont.load_default(LABEL_PX)
    place = (MARGIN_PX, SAVED_PX - MARGIN_PX)
    canvas.text(place, label, "white", font, "ls", stroke_width=4, stroke_fill="black")
    return small


FACE = make_ellipse_mask((0.45, 0.42), (0.24, 0.34))
CUP = make_ellipse_mask((0.5, 0.38), (0.3, 0.26))
THUMBNAILS: dict[str, Callable[[], Image.Image]] = {
    "Quadtree-Z-Image-upscale": partial(draw, "Z-Image", "rocket", (0.2, 0.1, 0.85), split),
    "Quadtree-Qwen-Image-upscale": partial(draw, "Qwen-Image", "chelsea", (0.3, 0, 1), split),
    "Quadtree-Flux-upscale": partial(draw, "Flux", "demo", (0.25, 0, 1), split),
    "Quadtree-SDXL-upscale": partial(draw, "SDXL", "demo", (0.25, 0, 1), cover),
    "Quadtree-keep-the-face": partial(
        draw, "keep the face", "astronaut", (0.2, 0, 0.5), partial(keep, mask=FACE)
    ),
    "Quadtree-prompt-per-region": partial(
        draw, "prompt per region", "coffee", (0.25, 0, 1), frame_crops
    ),
    "Quadtree-inpaint-4K": partial(
        draw, "inpaint 4K", "coffee", (0.25, 0, 1), partial(paint, mask=CUP)
    ),
    "Quadtree-tile-ControlNet": partial(draw, "tile ControlNet", "chelsea", (0.3, 0, 1), cover),
    "Quadtree-Wan-video-upscale": partial(draw, "Wan 2.2", "rocket", (0.2, 0.1, 0.85), film),
    "Quadtree-SeedVR2-upscale": partial(draw, "SeedVR2", "astronaut", (0.0, 0, 1), split),
}


DRAWINGS: dict[str, Draw] = {
    f"example_workflows/{name}.jpg": make_saver(drawn, quality=QUALITY)
    for name, drawn in THUMBNAILS.items()
}
