"""The pictures of the help pages. The photo is the demo's (CC0)."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from quadtree_pack import quadtree
from quadtree_pack.image import composite
from quadtree_pack.sampling import maps, model, run
from quadtree_pack.tree import regions
from torch import Tensor

from .drawing import (
    arrange,
    as_picture,
    build_automatic_tree,
    draw_tiles,
    make_saver,
    map_denoise,
    photo,
)

UPSCALED_PX = (1920, 1280)  # width, height of the image that windows are planned for
CELL_PX = 8
QUALITY = 24  # keeps the registry's archive small
STEPS = 20
SHOWN_STEPS = (8, 10, 12, 20)
HELD_BRIGHTNESS = 0.3
HELP_PX = (960, 640)  # width, height of the other images of the help pages


def draw_visualizer_page() -> Image.Image:
    image = photo(HELP_PX)
    cup = regions.Region("keep", 0.3, 0.0, 0.7, 0.5)
    tree = build_automatic_tree(image)
    painted = build_automatic_tree(image, regions=(cup,))
    panels = {
        "image": image,
        "tiles: blue is kept": draw_tiles(image, tree, 3),
        "denoise map": map_denoise(image, tree),
        "cup painted as kept": draw_tiles(image, painted, 3),
    }
    return arrange({label: as_picture(panel) for label, panel in panels.items()})


def draw_diffusion_page() -> Image.Image:
    """Draw the windows of four steps of a run with `hold`, over what is free at that step."""
    image = photo(UPSCALED_PX)
    tree = quadtree.build_quadtree(
        image,
        content_threshold=60,
        min_tile_px=64,
        max_tile_px=256,
        min_denoise=0.15,
        max_denoise=0.6,
    )
    geometry = model.Geometry(
        px_per_cell=CELL_PX, unit=2, native_px=1024, cost=model.TRANSFORMER_COST
    )
    settings = model.Settings(tile_px=768, feather_px=0)
    size = UPSCALED_PX[1] // CELL_PX, UPSCALED_PX[0] // CELL_PX
    steps = run.create_run(
        None, settings, geometry, maps.build_denoise_maps([tree], settings, geometry, *size)
    )
    steps.start([float(STEPS - step) for step in range(STEPS + 1)])
    panels = {}
    for step in SHOWN_STEPS:
        panels[f"step {step} of {STEPS}"] = draw_step(image, steps, step - 1)
    return arrange(panels)


def draw_step(image: Tensor, steps: run.Run, index: int) -> Image.Image:
    """Draw the image, dark where it is held at this step, with the windows of the model."""
    cells = steps.freedom(index)[0].float()
    freedom = cells.repeat_interleave(CELL_PX, 0).repeat_interleave(CELL_PX, 1)
    brightness = torch.lerp(torch.tensor(HELD_BRIGHTNESS), torch.tensor(1.0), freedom)
    picture = as_picture(image * brightness[..., None])
    draw = ImageDraw.Draw(picture)
    for window in steps.layouts.windows(index):
        box_px = [edge * CELL_PX for edge in window.box]
        draw.rectangle(box_px, outline=(255, 255, 255), width=10)
    return picture


def draw_composite_page() -> Image.Image:
    """Draw an image with a green cast, as a poor VAE leaves it, and what the node returns."""
    image = photo(HELP_PX)
    tree = quadtree.build_quadtree(
        image,
        content_threshold=60,
        min_tile_px=32,
        max_tile_px=128,
        min_denoise=0.0,
        max_denoise=0.9,
    )
    refined = (image * torch.tensor([0.82, 1.0, 0.85]) + torch.tensor([0.0, 0.04, 0.0])).clamp(0, 1)
    canvas = composite.build_canvases(image[None], [tree], image.shape[:2], 1)[0]
    panels = {
        "original": image,
        "refined, colours off": refined,
        "composed": composite.composite(canvas, refined, 32),
        "with color_match": composite.composite(canvas, refined, 32, match=True),
    }
    return arrange({label: as_picture(panel) for label, panel in panels.items()})


DRAWINGS = {
    "web/docs/QuadtreeVisualizer.webp": make_saver(draw_visualizer_page, quality=QUALITY),
    "web/docs/QuadtreeDiffusion.webp": make_saver(draw_diffusion_page, quality=QUALITY),
    "web/docs/QuadtreeComposite.webp": make_saver(draw_composite_page, quality=QUALITY),
}
