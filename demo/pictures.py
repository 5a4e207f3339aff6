"""The demo's pictures and what is measured on them: numpy and Pillow only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load_file

HEAT = ((0, 0, 0), (120, 20, 90), (225, 60, 40), (250, 180, 40), (255, 255, 230))  # black = equal
HEAT_FULL = 40  # of 255 levels: a larger difference is drawn like this one
PANEL_PX = (256, 170)
GAP_PX, LABEL_PX = 10, 28
PAPER, INK = (24, 24, 27), (228, 228, 231)


def write_pictures(files: dict[str, Path], folder: Path) -> None:
    """Copies the run's pictures under their plain names and adds the heat map and the contact sheet."""
    for name in ("overlay", "denoise_map", "before", "after", "without_pack"):
        shutil.copyfile(files[f"picture {name}"], folder / f"{name}.png")
    pictures = {
        name: Image.open(folder / f"{name}.png").convert("RGB")
        for name in ("before", "after", "without_pack")
    }
    pictures["overlay"] = Image.open(folder / "overlay.png").convert("RGB")
    pictures["difference"] = heat_map(pictures["before"], pictures["after"])
    pictures["difference"].save(folder / "difference.png")
    contact_sheet(pictures).save(folder / "summary.png", optimize=True)


# --- Measures ---------------------------------------------------------------------------------------------------------


def kept_cells(denoise_map: Path, latent: Path) -> np.ndarray:
    """Cells [h, w] of the latent whose px all have denoise 0."""
    levels = np.asarray(Image.open(denoise_map).convert("L"))
    rows, columns = load_latent(latent).shape[-2:]
    cell_px = levels.shape[0] // rows
    return (
        levels[: rows * cell_px, : columns * cell_px]
        .reshape(rows, cell_px, columns, cell_px)
        .max((1, 3))
        == 0
    )


def largest_changes(before: Path, after: Path, kept: np.ndarray) -> tuple[float, float]:
    """Largest absolute difference of two latents in the kept cells and in the others; 0 where there are none."""
    change = np.abs(load_latent(after) - load_latent(before)).max((0, 1))
    return float(change[kept].max(initial=0)), float(change[~kept].max(initial=0))


def largest_kept_px_change(denoise_map: Path, before: Path, after: Path) -> int:
    """Largest difference of two pictures, in 0..255 levels, where the map is 0."""
    kept = np.asarray(Image.open(denoise_map).convert("L")) == 0
    levels = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (before, after)]
    return int(np.abs(levels[1] - levels[0])[kept].max(initial=0))


def load_latent(path: Path) -> np.ndarray:
    return load_file(path)["latent_tensor"]


def leaves_by_side(denoise_map: Path, settings: dict[str, Any]) -> dict[int, int]:
    """Side in px -> number of leaves, largest first, read back from the map: leaves of one side have one denoise.

    Leaves lie on a grid of their own side, so a leaf is a grid point whose px has its side's denoise.
    """
    levels = np.asarray(Image.open(denoise_map).convert("L")).astype(float)
    low, high, largest = settings["min_denoise"], settings["max_denoise"], settings["max_tile_size"]
    sides = [
        largest >> halvings
        for halvings in range(16)
        if largest >> halvings >= settings["min_tile_size"]
    ]
    expected = np.array(
        [255 * (low + (high - low) * (1 - (side / largest) ** 2)) for side in sides]
    )
    nearest = np.abs(levels[..., None] - expected).argmin(-1)
    counts = {side: int((nearest[::side, ::side] == i).sum()) for i, side in enumerate(sides)}
    return {side: count for side, count in counts.items() if count}


# --- Drawing ----------------------------------------------------------------------------------------------------------


def difference(one: Image.Image, other: Image.Image) -> np.ndarray:
    """Largest difference of the three colours, [H, W] in levels of 255."""
    return np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).max(-1)


def heat_map(before: Image.Image, after: Image.Image) -> Image.Image:
    """Equal px are exactly black."""
    position = np.clip(difference(before, after) / HEAT_FULL, 0, 1) * (len(HEAT) - 1)
    stops = np.arange(len(HEAT))
    colours = [
        np.interp(position, stops, [colour[channel] for colour in HEAT]) for channel in range(3)
    ]
    return Image.fromarray(np.stack(colours, -1).round().astype(np.uint8))


def window_with_most(weight: np.ndarray) -> tuple[int, int, int, int]:
    """The PANEL_PX box, on a grid of 8 px, that holds the largest sum of weight [H, W]."""
    width, height = PANEL_PX
    sums = np.pad(weight.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = (
        sums[height:, width:]
        - sums[:-height, width:]
        - sums[height:, :-width]
        + sums[:-height, :-width]
    )
    y, x = np.unravel_index(inside[::8, ::8].argmax(), inside[::8, ::8].shape)
    return int(x) * 8, int(y) * 8, int(x) * 8 + width, int(y) * 8 + height


def contact_sheet(pictures: dict[str, Image.Image]) -> Image.Image:
    """Above the whole pictures, below crops at full size: the detail that changed most, and what the pack kept away."""
    before, after, without = pictures["before"], pictures["after"], pictures["without_pack"]
    changed = difference(before, after)
    detail = window_with_most(changed)
    calm = window_with_most(np.where(changed == 0, difference(before, without), 0))
    whole = {
        "before": before,
        "quadtree": pictures["overlay"],
        "after": after,
        "difference": pictures["difference"],
    }
    cells = [
        (label, picture.resize(PANEL_PX, Image.Resampling.LANCZOS))
        for label, picture in whole.items()
    ]
    cells += [("detail, before", before.crop(detail)), ("detail, after", after.crop(detail))]
    cells += [
        ("calm, after: kept to the bit", after.crop(calm)),
        ("calm, without the pack", without.crop(calm)),
    ]
    width, height = PANEL_PX[0] + GAP_PX, PANEL_PX[1] + LABEL_PX
    sheet = Image.new("RGB", (4 * width + GAP_PX, 2 * height + GAP_PX), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (label, picture) in enumerate(cells):
        x, y = GAP_PX + i % 4 * width, i // 4 * height
        draw.text((x, y + LABEL_PX - 6), label, INK, font, anchor="ls")
        sheet.paste(picture, (x, y + LABEL_PX))
    return sheet
