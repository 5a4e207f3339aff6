"""The icon and the banner that the Comfy Registry shows: a quadtree around a disc, built and coloured by the pack."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from quadtree_pack import quadtree
from quadtree_pack.ui import overlay

from .drawing import saved

ICON_PX = 400  # the registry's largest: square
BANNER_PX = (1260, 540)  # 21:9, as the registry asks

SHARPER = 4  # drawn this much larger, then scaled down: smooth corners
GAP, CORNER = 0.11, 0.2  # of a tile: half of them on each side; the radius of its corners
GAP_PX = 9  # at most
PAPER = (13, 15, 24)
INK, SOFT_INK = (240, 242, 250), (176, 184, 208)
FAINT = 0.2  # how much of the tiles shows behind the banner's words
SHEEN = 0.22  # how much lighter a tile is at its top


def disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> torch.Tensor:
    """A white disc on black, as [H, W, 3]; all in px."""
    y, x = torch.meshgrid(*(torch.arange(length) + 0.5 for length in reversed(size)), indexing="ij")
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    return inside[..., None].expand(-1, -1, 3).float()


def colour(denoise: float) -> torch.Tensor:
    """The overlay's blue at 0 to its red at 1, mixed as light is, so that the violet between them stays bright."""
    keep, regenerate = (torch.tensor(end) ** 2.2 for end in (overlay.KEEP, overlay.REGENERATE))
    return torch.lerp(keep, regenerate, denoise) ** (1 / 2.2)


def tile(side: int, denoise: float) -> Image.Image:
    """A tile with round corners, transparent around them, a little lighter at its top."""
    down = torch.linspace(SHEEN, 0, side)[:, None, None]
    shaded = torch.lerp(colour(denoise).expand(side, side, 3), torch.ones(3), down)
    picture = Image.fromarray((shaded * 255).round().to(torch.uint8).numpy())
    shape = Image.new("L", (side, side))
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, side - 1, side - 1), CORNER * side, 255)
    picture.putalpha(shape)
    return picture


def tiles(size: tuple[int, int], tree: quadtree.Quadtree) -> Image.Image:
    """All leaves of the tree as tiles, SHARPER times as large as `size`."""
    scale = SHARPER * size[0] / tree.width
    canvas = Image.new("RGB", [length * SHARPER for length in size], PAPER)
    for leaf in tree.leaves:
        gap = min(GAP * leaf.side, GAP_PX)
        picture = tile(round((leaf.side - gap) * scale), leaf.denoise)
        canvas.paste(
            picture, [round((edge + gap / 2) * scale) for edge in (leaf.x0, leaf.y0)], picture
        )
    return canvas


def tree_of(image: torch.Tensor, sides: tuple[int, int]) -> quadtree.Quadtree:
    least, most = sides
    limits = {"min_tile_px": least, "max_tile_px": most, "min_denoise": 0.0, "max_denoise": 1.0}
    return quadtree.build_quadtree(image, content_threshold=20, denoise_by="depth", **limits)


def icon() -> Image.Image:
    tree = tree_of(disc((512, 512), (330, 330), 116), (32, 256))
    size = (ICON_PX, ICON_PX)
    return tiles(size, tree).resize(size, Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    tree = tree_of(disc((1792, 768), (1352, 392), 170), (32, 256))
    picture = tiles(BANNER_PX, tree).resize(BANNER_PX, Image.Resampling.LANCZOS)
    width, height = BANNER_PX
    shown = (
        torch.linspace(-0.5, 1.6, width)
        .clamp(FAINT, 1)
        .mul(255)
        .round()
        .to(torch.uint8)
        .expand(height, width)
    )
    picture = Image.composite(
        picture, Image.new("RGB", BANNER_PX, PAPER), Image.fromarray(shown.numpy())
    )
    draw = ImageDraw.Draw(picture)
    draw.text((64, height // 2), "Quadtree Diffusion", INK, ImageFont.load_default(72), anchor="ls")
    draw.text(
        (68, height // 2 + 52),
        "New detail where there is detail.",
        SOFT_INK,
        ImageFont.load_default(30),
        anchor="ls",
    )
    draw.text(
        (68, height // 2 + 92),
        "Calm regions stay as they are.",
        SOFT_INK,
        ImageFont.load_default(30),
        anchor="ls",
    )
    return picture


DRAWINGS = {"docs/icon.png": saved(icon), "docs/banner.png": saved(banner)}
