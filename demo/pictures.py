"""The demo's pictures and what is measured on them: numpy and Pillow only."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load_file

HEAT = ((0, 0, 0), (120, 20, 90), (225, 60, 40), (250, 180, 40), (255, 255, 230))  # black = equal
HEAT_FULL = 40  # in levels of 255: a larger difference is drawn like this one
PANEL_PX = (256, 170)  # width, height
PANELS_IN_A_ROW = 4
GRID_PX = 8  # where crops may begin
GAP_PX, LABEL_PX, FONT_PX = 10, 28, 15
PAPER, INK = (24, 24, 27), (228, 228, 231)


def write_pictures(files: dict[str, Path], folder: Path) -> None:
    """Copy the run's pictures under plain names; add the heat map and contact sheet."""
    pictures = {}
    for name in ("overlay", "denoise_map", "before", "after", "without_pack"):
        path = folder / f"{name}.png"
        shutil.copyfile(files[f"picture {name}"], path)
        pictures[name] = Image.open(path).convert("RGB")
    pictures["difference"] = draw_heat_map(pictures["before"], pictures["after"])
    pictures["difference"].save(folder / "difference.png")
    draw_contact_sheet(pictures).save(folder / "summary.png", optimize=True)


# --- Measures ------------------------------------------------------------------------------------


def find_kept_cells(denoise_map: Path, latent: Path) -> np.ndarray:
    """Return which cells [h, w] of the latent have denoise 0 in all of their px."""
    levels = read_levels(denoise_map)
    rows, columns = load_latent(latent).shape[-2:]
    cell_px = levels.shape[0] // rows
    whole_cells = levels[: rows * cell_px, : columns * cell_px]
    by_cell = whole_cells.reshape(rows, cell_px, columns, cell_px)
    return by_cell.max((1, 3)) == 0


def measure_latent_changes(before: Path, after: Path, kept: np.ndarray) -> tuple[float, float]:
    """Return the largest absolute difference of two latents in the kept cells and in the others.

    Both are 0 where there are no such cells.
    """
    change = np.abs(load_latent(after) - load_latent(before)).max((0, 1))
    return float(change[kept].max(initial=0)), float(change[~kept].max(initial=0))


def measure_kept_px_change(denoise_map: Path, before: Path, after: Path) -> int:
    """Return the largest difference of two pictures, in levels of 255, where the map is 0."""
    kept = read_levels(denoise_map) == 0
    change = measure_difference(Image.open(before).convert("RGB"), Image.open(after).convert("RGB"))
    return int(change[kept].max(initial=0))


def read_levels(path: Path) -> np.ndarray:
    """Return a picture as grey levels [H, W] in 0..255."""
    return np.asarray(Image.open(path).convert("L"))


def load_latent(path: Path) -> np.ndarray:
    return load_file(path)["latent_tensor"]


def measure_denoise_shares(denoise_map: Path) -> dict[float, float]:
    """Return the share of the picture that each denoise of the map has, the lowest first."""
    levels, counts = np.unique(read_levels(denoise_map), return_counts=True)
    shares = counts / counts.sum()
    return {float(level) / 255: float(share) for level, share in zip(levels, shares, strict=True)}


# --- Drawing -------------------------------------------------------------------------------------


def measure_difference(one: Image.Image, other: Image.Image) -> np.ndarray:
    """Return the largest difference of the three colours, [H, W] in levels of 255."""
    return np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).max(-1)


def draw_heat_map(before: Image.Image, after: Image.Image) -> Image.Image:
    """Return the difference of two pictures in the colours of HEAT; equal px are black."""
    position = np.clip(measure_difference(before, after) / HEAT_FULL, 0, 1) * (len(HEAT) - 1)
    stops = np.arange(len(HEAT))
    channels = [np.interp(position, stops, levels) for levels in zip(*HEAT, strict=True)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def find_window_with_most(weight: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box of PANEL_PX, on a grid of GRID_PX, with the largest sum of weight [H, W].

    The box is x0, y0, x1, y1. Sums of boxes come from four corners of the weight's running sums.
    """
    width, height = PANEL_PX
    sums = np.pad(weight.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = (
        sums[height:, width:]
        - sums[:-height, width:]
        - sums[height:, :-width]
        + sums[:-height, :-width]
    )
    on_grid = inside[::GRID_PX, ::GRID_PX]
    row, column = np.unravel_index(on_grid.argmax(), on_grid.shape)
    x, y = int(column) * GRID_PX, int(row) * GRID_PX
    return x, y, x + width, y + height


def draw_contact_sheet(pictures: dict[str, Image.Image]) -> Image.Image:
    """Draw the whole pictures above crops at full size.

    The crops show the detail that changed most, and the calm part where the pack prevented most
    of the change.
    """
    before, after, without = pictures["before"], pictures["after"], pictures["without_pack"]
    changed = measure_difference(before, after)
    detail = find_window_with_most(changed)
    prevented = np.where(changed == 0, measure_difference(before, without), 0)
    calm = find_window_with_most(prevented)
    panels = {
        "before": shrink(before),
        "quadtree": shrink(pictures["overlay"]),
        "after": shrink(after),
        "difference": shrink(pictures["difference"]),
        "detail, before": before.crop(detail),
        "detail, after": after.crop(detail),
        "calm, after: unchanged": after.crop(calm),
        "calm, without the pack": without.crop(calm),
    }
    return arrange(panels)


def shrink(picture: Image.Image) -> Image.Image:
    return picture.resize(PANEL_PX, Image.Resampling.LANCZOS)


def arrange(panels: dict[str, Image.Image]) -> Image.Image:
    """Paste panels of PANEL_PX in rows, each below its label."""
    width, height = PANEL_PX[0] + GAP_PX, PANEL_PX[1] + LABEL_PX
    rows = -(-len(panels) // PANELS_IN_A_ROW)
    size = PANELS_IN_A_ROW * width + GAP_PX, rows * height + GAP_PX
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for index, (label, panel) in enumerate(panels.items()):
        row, column = divmod(index, PANELS_IN_A_ROW)
        x, y = GAP_PX + column * width, row * height
        draw.text((x, y + LABEL_PX - 6), label, INK, font, anchor="ls")
        sheet.paste(panel, (x, y + LABEL_PX))
    return sheet
