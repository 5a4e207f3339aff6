"""What all pictures of the project share: photos, pictures of tensors, labelled sheets, and how a picture is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from quadtree_pack import quadtree
from quadtree_pack.ui import overlay
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent

PANEL_PX = (306, 204)
GAP_PX, FONT_PX = 8, 20
PAPER, INK = (24, 24, 27), (228, 228, 231)
QUALITY = 66
SAVED_AS = {
    ".jpg": {"quality": QUALITY, "optimize": True, "progressive": True},
    ".webp": {"quality": QUALITY, "method": 6},
    ".png": {"optimize": True},
}

Draw = Callable[[Path], None]


def saved(draw: Callable[[], Image.Image]) -> Draw:
    """A function that saves what `draw` gives under a path, in the way of the path's ending."""
    return lambda target: draw().save(target, **SAVED_AS[target.suffix])


def photo(size: tuple[int, int]) -> Tensor:
    """The demo's photo (CC0) as [H, W, 3] in 0..1."""
    picture = (
        Image.open(ROOT / "demo" / "photo.png")
        .convert("RGB")
        .resize(size, Image.Resampling.LANCZOS)
    )
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)


def as_picture(image: Tensor) -> Image.Image:
    """[H, W] or [H, W, 3] in 0..1."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).convert("RGB")


def overlaid(image: Tensor, tree: quadtree.Quadtree, line_px: int = 2) -> Tensor:
    """What Quadtree Visualizer shows of an image and its tree."""
    return overlay.draw_overlay(image, denoise_of(image, tree), tree, line_px)


def denoise_of(image: Tensor, tree: quadtree.Quadtree) -> Tensor:
    """The denoise map that Quadtree Visualizer gives, [H, W]."""
    return tree.denoise_map(*image.shape[:2]).float()


def sheet(
    panels: dict[str, Image.Image], columns: int = 2, panel_px: tuple[int, int] = PANEL_PX
) -> Image.Image:
    """Panels in columns, each below its label of one or more lines; two, since ComfyUI's side panel is narrow."""
    width, height = panel_px
    label_px = 2 * GAP_PX + FONT_PX * (1 + max(label.count("\n") for label in panels))
    rows = -(-len(panels) // columns)
    canvas = Image.new(
        "RGB", (columns * (width + GAP_PX) + GAP_PX, rows * (height + label_px) + GAP_PX), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    for index, (label, panel) in enumerate(panels.items()):
        x = GAP_PX + index % columns * (width + GAP_PX)
        y = index // columns * (height + label_px)
        for line, words in enumerate(label.splitlines()):
            middle = y + GAP_PX + FONT_PX * (line + 0.5)
            draw.text((x, middle), words, INK, ImageFont.load_default(FONT_PX), anchor="lm")
        canvas.paste(panel.resize(panel_px, Image.Resampling.LANCZOS), (x, y + label_px))
    return canvas
