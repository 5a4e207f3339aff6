"""Draws the thumbnails of the example workflows and the pictures of the help pages, with the pack's own code.

python docs/pictures.py         writes example_workflows/*.jpg and web/docs/*.webp

The photo is the demo's (CC0). It needs torch, numpy and Pillow: any ComfyUI's Python has them.
"""

from __future__ import annotations

import importlib.util
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
THUMBNAILS = ROOT / "example_workflows"
HELP = ROOT / "web" / "docs"

THUMBNAIL_PX = 512
SAVED_PX = 384  # what the browser shows of a thumbnail; the archive for the registry is to stay small
PANEL_PX = (306, 204)
GAP_PX, LABEL_PX, FONT_PX = 8, 36, 20
PAPER, INK = (24, 24, 27), (228, 228, 231)
QUALITY = 66

UPSCALED_PX = (1920, 1280)  # what the windows of the help page are planned for
STEPS = 20
SHOWN_STEPS = (8, 10, 12, 20)
HELD = 0.3  # brightness of what is held at a step


def load_pack() -> str:
    """The pack's name as a package, registered where the benchmarks do it."""
    spec = importlib.util.spec_from_file_location("quadtree_registration", ROOT / "benchmarks" / "pack.py")
    registration = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(registration)
    registration.register_pack()
    return registration.PACKAGE


PACK = load_pack()
MODULES = ("composite", "overlay", "quadtree", "regions", "run")
composite, overlay, quadtree, regions, run = (import_module(f"{PACK}.{name}") for name in MODULES)


# --- Pictures and tensors ---------------------------------------------------------------------------------------------


def photo(size: tuple[int, int]) -> Tensor:
    """The demo's photo as [H, W, 3] in 0..1."""
    picture = Image.open(ROOT / "demo" / "photo.png").convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)


def as_picture(image: Tensor) -> Image.Image:
    """[H, W] or [H, W, 3] in 0..1."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).convert("RGB")


def tiled(image: Tensor, line_px: int = 2, **limits: object) -> tuple[Tensor, Tensor]:
    """What Quadtree Visualizer shows of an image: (the picture with its tiles, the denoise map)."""
    tree = quadtree.build_quadtree(image, **limits)
    denoise = tree.denoise_map(*image.shape[:2]).float()
    return overlay.draw_overlay(image, denoise, tree, line_px), denoise


def ellipse(height: int, width: int, centre: tuple[float, float], radii: tuple[float, float]) -> Tensor:
    """A mask [height, width]: 0 inside, 1 outside; centre and radii as x, y in shares of the width and height."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return (((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 > 1).float()


def sheet(panels: dict[str, Image.Image]) -> Image.Image:
    """Panels in two columns, each below its label: ComfyUI's side panel is narrow."""
    width, height = PANEL_PX
    rows = (len(panels) + 1) // 2
    canvas = Image.new("RGB", (2 * (width + GAP_PX) + GAP_PX, rows * (height + LABEL_PX) + GAP_PX), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (label, panel) in enumerate(panels.items()):
        x = GAP_PX + index % 2 * (width + GAP_PX)
        y = index // 2 * (height + LABEL_PX)
        draw.text((x, y + LABEL_PX // 2), label, INK, ImageFont.load_default(FONT_PX), anchor="lm")
        canvas.paste(panel.resize(PANEL_PX, Image.Resampling.LANCZOS), (x, y + LABEL_PX))
    return canvas


# --- Thumbnails -------------------------------------------------------------------------------------------------------


def thumbnails() -> dict[str, Image.Image]:
    """By the name of the workflow."""
    image = photo((THUMBNAIL_PX * 3 // 2, THUMBNAIL_PX))
    image = image[:, THUMBNAIL_PX // 8 : THUMBNAIL_PX // 8 + THUMBNAIL_PX].contiguous()
    fine, _ = tiled(image, min_tile_px=16, max_tile_px=64, content_threshold=45, min_denoise=0.0, max_denoise=1.0)
    coarse, _ = tiled(image, 3, min_tile_px=32, max_tile_px=128, content_threshold=75, min_denoise=0.0, max_denoise=1.0)
    rows = torch.arange(THUMBNAIL_PX)
    right = (rows[None] + rows[:, None] // 4 > THUMBNAIL_PX * 5 // 8)[..., None]  # a slanted border through the cup
    cup = ellipse(THUMBNAIL_PX, THUMBNAIL_PX, (0.57, 0.33), (0.28, 0.31))
    kept, _ = tiled(image, 1, min_tile_px=16, max_tile_px=64, content_threshold=45, min_denoise=0.4, max_denoise=1.0, mask=cup)
    return {
        "Flux upscale": as_picture(fine.where(right, image)),
        "SDXL upscale": as_picture(coarse),
        "Keep the face with a mask": as_picture(kept),
    }


# --- Help pages -------------------------------------------------------------------------------------------------------


def visualizer_page() -> Image.Image:
    image = photo((960, 640))
    limits = {"min_tile_px": 32, "max_tile_px": 128, "content_threshold": 50, "min_denoise": 0.0, "max_denoise": 0.9}
    tiles, denoise = tiled(image, 3, **limits)
    painted, _ = tiled(image, 3, **limits, regions=(regions.Region("keep", 0.3, 0.0, 0.7, 0.5),))
    panels = {"image": image, "tiles: blue is kept": tiles, "denoise map": denoise, "cup painted as kept": painted}
    return sheet({label: as_picture(panel) for label, panel in panels.items()})


def diffusion_page() -> Image.Image:
    """The windows of four steps of a run with `hold`, over what is free at that step."""
    image = photo(UPSCALED_PX)
    tree = quadtree.build_quadtree(
        image, content_threshold=60, min_tile_px=64, max_tile_px=256, min_denoise=0.15, max_denoise=0.6
    )
    geometry = run.Geometry(px_per_cell=8, unit=2, native_px=1024, cost=run.TRANSFORMER_COST)
    settings = run.Settings(tile_px=768, feather_px=0)
    size = UPSCALED_PX[1] // 8, UPSCALED_PX[0] // 8
    steps = run.new_run(None, settings, geometry, run.denoise_maps([tree], settings, geometry, *size))
    steps.sigmas = [float(STEPS - step) for step in range(STEPS + 1)]
    return sheet({f"step {step} of {STEPS}": step_picture(image, steps, step - 1) for step in SHOWN_STEPS})


def step_picture(image: Tensor, steps: run.Run, index: int) -> Image.Image:
    """The image, dark where it is held at this step, with the windows that the model sees."""
    free = steps.freedom(index)[0].float().repeat_interleave(8, 0).repeat_interleave(8, 1)
    picture = as_picture(image * torch.lerp(torch.tensor(HELD), torch.tensor(1.0), free)[..., None])
    draw = ImageDraw.Draw(picture)
    for window in steps.windows(index):
        draw.rectangle([edge * 8 for edge in window.box], outline=(255, 255, 255), width=10)
    return picture


def composite_page() -> Image.Image:
    """A refined image that is too green everywhere, as a poor VAE leaves it, and what the node makes of it."""
    image = photo((960, 640))
    limits = {"min_tile_px": 32, "max_tile_px": 128, "content_threshold": 60, "min_denoise": 0.0, "max_denoise": 0.9}
    tree = quadtree.build_quadtree(image, **limits)
    refined = (image * torch.tensor([0.82, 1.0, 0.85]) + torch.tensor([0.0, 0.04, 0.0])).clamp(0, 1)
    panels = {
        "original": image,
        "refined, colours off": refined,
        "composed": composite.composite(image, refined, tree, 32),
        "with color_match": composite.composite(image, refined, tree, 32, match=True),
    }
    return sheet({label: as_picture(panel) for label, panel in panels.items()})


def main() -> None:
    for name, picture in thumbnails().items():
        small = picture.resize((SAVED_PX, SAVED_PX), Image.Resampling.LANCZOS)
        small.save(THUMBNAILS / f"{name}.jpg", quality=QUALITY, optimize=True, progressive=True)
    pages = {
        "QuadtreeVisualizer": visualizer_page(),
        "QuadtreeDiffusion": diffusion_page(),
        "QuadtreeComposite": composite_page(),
    }
    for node, picture in pages.items():
        picture.save(HELP / f"{node}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
