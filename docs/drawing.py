"""What all pictures of the project share: the photo, labelled sheets and saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from quadtree_pack import quadtree
from quadtree_pack.tree.detail import BlockSums
from quadtree_pack.ui import building, overlay
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent

PANEL_PX = (306, 204)  # width, height: two beside each other fill ComfyUI's side panel
GAP_PX, FONT_PX = 8, 20
PAPER, INK = (24, 24, 27), (228, 228, 231)
QUALITY = 66
SAVED_AS = {
    ".jpg": {"quality": QUALITY, "optimize": True, "progressive": True},
    ".webp": {"quality": QUALITY, "method": 6},
    ".png": {"optimize": True},
}

Draw = Callable[[Path], None]


def make_saver(draw: Callable[[], Image.Image], **options: Any) -> Draw:
    """Return a function that saves what `draw` returns, in the format of the path's ending.

    `options` are Pillow's, such as the quality.
    """
    return lambda target: draw().save(target, **{**SAVED_AS[target.suffix], **options})


def photo(size: tuple[int, int]) -> Tensor:
    """Return the demo's photo (CC0), scaled to (width, height), as [H, W, 3] in 0..1."""
    picture = Image.open(ROOT / "demo" / "photo.png").convert("RGB")
    scaled = picture.resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(scaled).astype(np.float32) / 255)


def build_automatic_tree(image: Tensor, **inputs: Any) -> quadtree.Quadtree:
    """Return the tree of a new Quadtree Visualizer, with the inputs that are given changed."""
    sums = BlockSums.of_image(image, octaves=True)
    return building.build_tree(sums, **inputs)[0]


def as_picture(image: Tensor) -> Image.Image:
    """Convert [H, W] or [H, W, 3] in 0..1 to an RGB picture."""
    levels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.numpy()).convert("RGB")


def draw_tiles(image: Tensor, tree: quadtree.Quadtree, line_px: int = 2) -> Tensor:
    """Return the overlay that Quadtree Visualizer shows of an image and its tree, [H, W, 3]."""
    return overlay.draw_overlay(image, map_denoise(image, tree), tree, line_px)


def map_denoise(image: Tensor, tree: quadtree.Quadtree) -> Tensor:
    """Return the denoise map that Quadtree Visualizer outputs, [H, W] in 0..1."""
    return tree.denoise_map(*image.shape[:2]).float()


def arrange(
    panels: dict[str, Image.Image], columns: int = 2, panel_px: tuple[int, int] = PANEL_PX
) -> Image.Image:
    """Arrange panels in columns, each below its label of one or more lines."""
    width, height = panel_px
    lines = max(label.count("\n") + 1 for label in panels)
    label_px = 2 * GAP_PX + FONT_PX * lines
    rows = -(-len(panels) // columns)
    size = columns * (width + GAP_PX) + GAP_PX, rows * (height + label_px) + GAP_PX
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for index, (label, panel) in enumerate(panels.items()):
        row, column = divmod(index, columns)
        x, y = GAP_PX + column * (width + GAP_PX), row * (height + label_px)
        for line, words in enumerate(label.splitlines()):
            middle = y + GAP_PX + FONT_PX * (line + 0.5)
            draw.text((x, middle), words, INK, font, anchor="lm")
        sheet.paste(panel.resize(panel_px, Image.Resampling.LANCZOS), (x, y + label_px))
    return sheet
