"""The Comfy Registry's icon and banner: a disc in a quadtree that the pack builds and colours."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from quadtree_pack import quadtree
from quadtree_pack.ui import overlay

from .drawing import make_saver

ICON_PX = 400  # each side; the registry takes no larger icon
BANNER_PX = (1260, 540)  # width, height: the registry asks for 21:9

SHARPER = 4  # pictures are drawn this much larger and scaled down, for smooth corners
GAP, CORNER = 0.11, 0.2  # the gap between tiles and the radius of their corners, of a tile's side
GAP_PX = 9  # the widest gap
PAPER = (13, 15, 24)
INK, SOFT_INK = (240, 242, 250), (176, 184, 208)
FAINT = 0.2  # how much of the tiles shows behind the banner's words
SHEEN = 0.22  # how much lighter a tile is at its top
GAMMA = 2.2  # of the screen, to mix colours as light
TITLE_PX, LINE_PX = 72, 30  # heights of the banner's letters


def make_disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> torch.Tensor:
    """Return a white disc on black, [H, W, 3]; size and centre as (x, y), all in px."""
    y, x = torch.meshgrid(*(torch.arange(length) + 0.5 for length in reversed(size)), indexing="ij")
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    return inside[..., None].expand(-1, -1, 3).float()


def mix_colour(denoise: float) -> torch.Tensor:
    """Mix the overlay's blue at denoise 0 and its red at 1, [3] in 0..1.

    They are mixed as light, so that the violet between them stays bright.
    """
    keep, regenerate = (torch.tensor(end) ** GAMMA for end in (overlay.KEEP, overlay.REGENERATE))
    return torch.lerp(keep, regenerate, denoise) ** (1 / GAMMA)


def draw_tile(side_px: int, denoise: float) -> Image.Image:
    """Draw a tile with round corners, transparent around them and a little lighter at its top."""
    down = torch.linspace(SHEEN, 0, side_px)[:, None, None]
    colour = mix_colour(denoise).expand(side_px, side_px, 3)
    shaded = torch.lerp(colour, torch.ones(3), down)
    picture = Image.fromarray((shaded * 255).round().to(torch.uint8).numpy())
    shape = Image.new("L", (side_px, side_px))
    area = (0, 0, side_px - 1, side_px - 1)
    ImageDraw.Draw(shape).rounded_rectangle(area, CORNER * side_px, 255)
    picture.putalpha(shape)
    return picture


def draw_tiles(size: tuple[int, int], tree: quadtree.Quadtree) -> Image.Image:
    """Draw all leaves of the tree as tiles, in a picture of this (width, height)."""
    scale = SHARPER * size[0] / tree.width
    canvas = Image.new("RGB", [length * SHARPER for length in size], PAPER)
    for leaf in tree.leaves:
        gap = min(GAP * leaf.side, GAP_PX)
        picture = draw_tile(round((leaf.side - gap) * scale), leaf.denoise)
        corner = [round((edge + gap / 2) * scale) for edge in (leaf.x0, leaf.y0)]
        canvas.paste(picture, corner, picture)
    return canvas.resize(size, Image.Resampling.LANCZOS)


def build_tree(image: torch.Tensor) -> quadtree.Quadtree:
    """Build the tree of a disc, in tiles of 32 to 256 px."""
    return quadtree.build_quadtree(
        image,
        content_threshold=20,
        min_tile_px=32,
        max_tile_px=256,
        min_denoise=0.0,
        max_denoise=1.0,
        denoise_by="depth",
    )


def draw_icon() -> Image.Image:
    tree = build_tree(make_disc((512, 512), (330, 330), 116))
    return draw_tiles((ICON_PX, ICON_PX), tree)


def draw_banner() -> Image.Image:
    """Draw the disc at the right, fading to the left, where the words are."""
    tree = build_tree(make_disc((1792, 768), (1352, 392), 170))
    tiles = draw_tiles(BANNER_PX, tree)
    width, height = BANNER_PX
    shown = (torch.linspace(-0.5, 1.6, width).clamp(FAINT, 1) * 255).round().to(torch.uint8)
    opacity = Image.fromarray(shown.expand(height, width).numpy())
    picture = Image.composite(tiles, Image.new("RGB", BANNER_PX, PAPER), opacity)
    draw, middle = ImageDraw.Draw(picture), height // 2
    title, small = ImageFont.load_default(TITLE_PX), ImageFont.load_default(LINE_PX)
    draw.text((64, middle), "Quadtree Diffusion", INK, title, anchor="ls")
    lines = ("New detail where there is detail.", "Calm regions stay as they are.")
    for number, line in enumerate(lines):
        draw.text((68, middle + 52 + 40 * number), line, SOFT_INK, small, anchor="ls")
    return picture


DRAWINGS = {"docs/icon.png": make_saver(draw_icon), "docs/banner.png": make_saver(draw_banner)}
