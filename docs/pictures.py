"""The thumbnails of the example workflows and the pictures of the help pages. The photo is the demo's (CC0)."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from quadtree_pack import quadtree
from quadtree_pack.image import composite
from quadtree_pack.sampling import model, run
from quadtree_pack.tree import regions
from torch import Tensor

from .drawing import as_picture, denoise_of, overlaid, photo, saved, sheet

THUMBNAIL_PX = 512
SAVED_PX = (
    384  # what the browser shows of a thumbnail; the archive for the registry is to stay small
)

UPSCALED_PX = (1920, 1280)  # what the windows of the help page are planned for
STEPS = 20
SHOWN_STEPS = (8, 10, 12, 20)
HELD = 0.3  # brightness of what is held at a step


def ellipse(
    height: int, width: int, centre: tuple[float, float], radii: tuple[float, float]
) -> Tensor:
    """A mask [height, width]: 0 inside, 1 outside; centre and radii as x, y in shares of the width and height."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return (((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 > 1).float()


# --- Thumbnails -------------------------------------------------------------------------------------------------------


def square_photo() -> Tensor:
    image = photo((THUMBNAIL_PX * 3 // 2, THUMBNAIL_PX))
    return image[:, THUMBNAIL_PX // 8 : THUMBNAIL_PX // 8 + THUMBNAIL_PX].contiguous()


def thumbnail(image: Tensor) -> Image.Image:
    return as_picture(image).resize((SAVED_PX, SAVED_PX), Image.Resampling.LANCZOS)


FINE = {"min_tile_px": 16, "max_tile_px": 64, "content_threshold": 45}
COARSE = {"min_tile_px": 32, "max_tile_px": 128, "content_threshold": 75}


def flux_thumbnail() -> Image.Image:
    image = square_photo()
    tiles = overlaid(
        image, quadtree.build_quadtree(image, **FINE, min_denoise=0.0, max_denoise=1.0)
    )
    rows = torch.arange(THUMBNAIL_PX)
    right = (rows[None] + rows[:, None] // 4 > THUMBNAIL_PX * 5 // 8)[
        ..., None
    ]  # a slanted border through the cup
    return thumbnail(tiles.where(right, image))


def sdxl_thumbnail() -> Image.Image:
    image = square_photo()
    return thumbnail(
        overlaid(
            image, quadtree.build_quadtree(image, **COARSE, min_denoise=0.0, max_denoise=1.0), 3
        )
    )


def mask_thumbnail() -> Image.Image:
    image = square_photo()
    cup = ellipse(THUMBNAIL_PX, THUMBNAIL_PX, (0.57, 0.33), (0.28, 0.31))
    tree = quadtree.build_quadtree(image, **FINE, min_denoise=0.4, max_denoise=1.0, mask=cup)
    return thumbnail(overlaid(image, tree, 1))


# --- Help pages -------------------------------------------------------------------------------------------------------


def visualizer_page() -> Image.Image:
    image = photo((960, 640))
    limits = {
        "min_tile_px": 32,
        "max_tile_px": 128,
        "content_threshold": 50,
        "min_denoise": 0.0,
        "max_denoise": 0.9,
    }
    tree = quadtree.build_quadtree(image, **limits)
    painted = quadtree.build_quadtree(
        image, **limits, regions=(regions.Region("keep", 0.3, 0.0, 0.7, 0.5),)
    )
    panels = {
        "image": image,
        "tiles: blue is kept": overlaid(image, tree, 3),
        "denoise map": denoise_of(image, tree),
        "cup painted as kept": overlaid(image, painted, 3),
    }
    return sheet({label: as_picture(panel) for label, panel in panels.items()})


def diffusion_page() -> Image.Image:
    """The windows of four steps of a run with `hold`, over what is free at that step."""
    image = photo(UPSCALED_PX)
    tree = quadtree.build_quadtree(
        image,
        content_threshold=60,
        min_tile_px=64,
        max_tile_px=256,
        min_denoise=0.15,
        max_denoise=0.6,
    )
    geometry = model.Geometry(px_per_cell=8, unit=2, native_px=1024, cost=model.TRANSFORMER_COST)
    settings = model.Settings(tile_px=768, feather_px=0)
    size = UPSCALED_PX[1] // 8, UPSCALED_PX[0] // 8
    steps = run.create_run(
        None, settings, geometry, run.build_denoise_maps([tree], settings, geometry, *size)
    )
    steps.start([float(STEPS - step) for step in range(STEPS + 1)])
    return sheet(
        {f"step {step} of {STEPS}": step_picture(image, steps, step - 1) for step in SHOWN_STEPS}
    )


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
    limits = {
        "min_tile_px": 32,
        "max_tile_px": 128,
        "content_threshold": 60,
        "min_denoise": 0.0,
        "max_denoise": 0.9,
    }
    tree = quadtree.build_quadtree(image, **limits)
    refined = (image * torch.tensor([0.82, 1.0, 0.85]) + torch.tensor([0.0, 0.04, 0.0])).clamp(0, 1)
    canvas = composite.canvases(image[None], [tree], image.shape[:2], 1)[0]
    panels = {
        "original": image,
        "refined, colours off": refined,
        "composed": composite.composite(canvas, refined, 32),
        "with color_match": composite.composite(canvas, refined, 32, match=True),
    }
    return sheet({label: as_picture(panel) for label, panel in panels.items()})


DRAWINGS = {
    "example_workflows/Flux upscale.jpg": saved(flux_thumbnail),
    "example_workflows/SDXL upscale.jpg": saved(sdxl_thumbnail),
    "example_workflows/Keep the face with a mask.jpg": saved(mask_thumbnail),
    "web/docs/QuadtreeVisualizer.webp": saved(visualizer_page),
    "web/docs/QuadtreeDiffusion.webp": saved(diffusion_page),
    "web/docs/QuadtreeComposite.webp": saved(composite_page),
}
