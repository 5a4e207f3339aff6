"""The guide's figures: trees, denoise maps, schedules, and what becomes of a cell in a run.

Photos: scikit-image's `astronaut` (NASA, public domain) and `rocket` (SpaceX, public domain); the
outline of its `horse` (Andreas Preuss, CC0) as a line drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from quadtree_pack import quadtree, velocity
from quadtree_pack.sampling import cost, model
from quadtree_pack.testing.photos import photo as bundled_photo
from quadtree_pack.tree import subdivision
from quadtree_pack.ui.coverage import COVERAGE
from torch import Tensor

from .drawing import (
    Draw,
    arrange,
    as_picture,
    build_automatic_tree,
    draw_tiles,
    make_saver,
    map_denoise,
)

LONG_SIDE_PX = 2048  # of the photos whose trees are shown
SHOWN: dict[str, Any] = {
    "min_tile_px": 32,
    "max_tile_px": 256,
    "min_denoise": 0.0,
    "max_denoise": 0.6,
}
COVERAGES = (0.8, COVERAGE, 0.98)
LINE_PX = 5
COLUMNS, COLUMN_PX = 3, 306

# The colours of Okabe and Ito, which people with any kind of colour vision tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7A7A7A"
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "figure.facecolor": "white",  # readable on GitHub's dark pages, too
    "lines.linewidth": 2.2,
}
DPI = 110
STEPS = 20


# --- Trees ----------------------------------------------------------------------------------------


def draw_coverage() -> Image.Image:
    """Draw the automatic trees of three pictures, a row for each."""
    images = (
        bundled_photo("astronaut", LONG_SIDE_PX),
        bundled_photo("rocket", LONG_SIDE_PX),
        make_line_drawing(),
    )
    return stack([arrange_columns(draw_coverages(image), image) for image in images])


def draw_coverages(image: Tensor) -> dict[str, Image.Image]:
    """Return the image's automatic tree at each of COVERAGES, by a label as `label_tree` makes."""
    panels = {}
    for coverage in COVERAGES:
        tree = build_automatic_tree(image, coverage=coverage)
        panels[label_tree(f"coverage {coverage}", tree)] = as_picture(
            draw_tiles(image, tree, LINE_PX)
        )
    return panels


def draw_line_art() -> Image.Image:
    image = make_line_drawing()
    by_color = draw_thresholds(image, (5, 25, 60), "color")
    by_edges = draw_thresholds(image, (5, 10, 15), "edges")
    return arrange_columns(by_color | by_edges, image)


def draw_denoise_by() -> Image.Image:
    """Draw the denoise maps of one photo; what is white may change most."""
    image = bundled_photo("rocket", LONG_SIDE_PX)
    limits = {**SHOWN, "max_denoise": 1.0, "content_threshold": 25}
    ways: dict[str, dict] = {way: {"denoise_by": way} for way in subdivision.DENOISE_BY}
    ways["area, inverted"] = {"invert": True}
    tree = quadtree.build_quadtree(image, **limits)
    panels = {"image": as_picture(image), "tiles": as_picture(draw_tiles(image, tree, LINE_PX))}
    for name, way in ways.items():
        tree = quadtree.build_quadtree(image, **limits, **way)
        panels[name] = as_picture(map_denoise(image, tree))
    return arrange_columns(panels, image)


def draw_thresholds(
    image: Tensor, thresholds: tuple[int, ...], metric: str
) -> dict[str, Image.Image]:
    """Return the image's tiles at each threshold, by a label as `label_tree` makes."""
    panels = {}
    for threshold in thresholds:
        tree = quadtree.build_quadtree(
            image, content_threshold=threshold, detail_metric=metric, **SHOWN
        )
        label = label_tree(f"{metric}, threshold {threshold}", tree)
        panels[label] = as_picture(draw_tiles(image, tree, LINE_PX))
    return panels


def label_tree(name: str, tree: quadtree.Quadtree) -> str:
    """Return a label with the number of tiles and the cost that the panel shows."""
    percent = 100 * cost.estimate_typical_cost(tree, model.TYPICAL_STEPS)
    return f"{name}\n{len(tree.leaves)} tiles, {percent:.0f}% of the full cost"


def arrange_columns(panels: dict[str, Image.Image], image: Tensor) -> Image.Image:
    """Arrange panels in COLUMNS, in the shape of the image [H, W, 3]."""
    height = round(COLUMN_PX * image.shape[0] / image.shape[1])
    return arrange(panels, COLUMNS, (COLUMN_PX, height))


def stack(sheets: list[Image.Image]) -> Image.Image:
    """Return sheets of one width below each other."""
    stacked = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)))
    top = 0
    for sheet in sheets:
        stacked.paste(sheet, (0, top))
        top += sheet.height
    return stacked


def make_line_drawing() -> Tensor:
    """Return a horse's outline on paper that is lit from the left, [H, W, 3] in 0..1."""
    from skimage import data

    shape = torch.from_numpy(np.array(data.horse())).float()[None, None]
    shape = F.interpolate(shape, size=(1344, 1632), mode="bicubic")[0, 0]
    blurred = F.avg_pool2d(F.pad(shape, [8] * 4, value=1.0)[None], 17, 1)[0]
    line = ((blurred > 0.15) & (blurred < 0.85)).float()
    ink = F.avg_pool2d(line[None, None], 5, 1, 2)[0, 0]
    paper = torch.linspace(1.0, 0.62, shape.shape[1]).expand_as(shape)
    return (paper * (1 - 0.9 * ink))[..., None].expand(-1, -1, 3).contiguous()


# --- Schedules ------------------------------------------------------------------------------------

GRADES = ((0.25, BLUE, "-"), (0.4, RED, ":"), (0.5, ORANGE, "--"), (0.75, GREEN, "-."))
FEW_STEPS = 4  # of a distilled model


def plot_schedules(figure: Figure) -> None:
    """Plot the freedom of tiles at every step: each schedule, and `hold` in a few steps."""
    panels = [(name, STEPS) for name in velocity.SCHEDULES] + [("hold", FEW_STEPS)]
    for axes, (name, steps) in zip(figure.subplots(1, 4, sharey=True), panels, strict=True):
        plot_schedule(axes, name, steps)
    figure.axes[0].set_ylabel("freedom (0 = held, 1 = free)")
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


def plot_schedule(axes: Axes, name: str, steps: int) -> None:
    schedule = velocity.SCHEDULES[name]
    shown = range(1, steps + 1)
    for denoise, colour, style in GRADES:
        freedom = [float(schedule(torch.tensor(denoise), step - 1, steps)) for step in shown]
        label = f"denoise {denoise:g}"
        axes.step(shown, freedom, style, color=colour, label=label, where="mid")
    ticks = [1, *range(steps // 4, steps + 1, steps // 4)]
    axes.set(title=f"{name}, {steps} steps", xlabel="step", xticks=ticks[-5:])
    axes.set_ylim(-0.05, 1.05)


# --- Trajectories of one cell ---------------------------------------------------------------------

MODES, SPREAD = (-1.0, 1.0), 0.08  # the plot's model has learned values near -1 and near 1
CLEAN, NOISE = 0.35, 1.5  # the cell's clean value and the noise that the run adds to it
FROM = 0.8  # noise level at which the run begins
SIGMAS = torch.linspace(FROM, 0, STEPS + 1, dtype=torch.float64).tolist()
CASES = (  # denoise (None freezes the cell), colour, line, label
    (0.0, BLUE, "-", "held (denoise 0): ends at the clean value"),
    (0.5, ORANGE, "--", "released half way (denoise 0.5): goes on as img2img"),
    (None, RED, "-.", "frozen (velocity 0): ends in its noise"),
)
RELEASE_INK = "#8A5F00"  # orange, darkened to be read on white


def predict_denoised(noisy: Tensor, sigma: float) -> Tensor:
    """Return the mean of the values that `noisy` may have come from.

    noisy = (1 - sigma) value + sigma noise, for values of the mixture of MODES and SPREAD.
    """
    share = 1 - sigma
    variance = (share * SPREAD) ** 2 + sigma**2
    modes = torch.tensor(MODES, dtype=noisy.dtype)
    weights = torch.softmax(-((noisy - share * modes) ** 2) / (2 * variance), 0)
    means = modes + share * SPREAD**2 / variance * (noisy - share * modes)
    return (weights * means).sum()


def sample_cell(sigmas: list[float], denoise: float | None) -> list[float]:
    """Return a cell's values in a run of Euler steps; None freezes it, by a velocity of 0."""
    clean = torch.tensor(CLEAN, dtype=torch.float64)
    noisy = (1 - sigmas[0]) * clean + sigmas[0] * NOISE
    values = [float(noisy)]
    for step, (here, below) in enumerate(pairwise(sigmas)):
        estimate = noisy
        if denoise is not None:
            freedom = velocity.hold(torch.tensor(denoise), step, len(sigmas) - 1)
            estimate = velocity.blend_denoised(predict_denoised(noisy, here), clean, freedom)
        noisy = noisy + (below - here) * velocity.velocity_from_denoised(noisy, estimate, here)
        values.append(float(noisy))
    return values


def plot_trajectories(figure: Figure) -> None:
    """Plot the value of a cell that is held, one that is released half way, and a frozen one."""
    axes = figure.subplots()
    plot_noise_band(axes)
    for mode in MODES:
        axes.annotate(
            "what the model knows", (STEPS, mode), (STEPS + 0.4, mode), va="center", color=GREEN
        )
        axes.plot(STEPS, mode, "<", color=GREEN, ms=9)
    for denoise, colour, style, label in CASES:
        values = sample_cell(SIGMAS, denoise)
        axes.plot(range(STEPS + 1), values, style, color=colour, label=label)
    axes.axvline(STEPS / 2, color=ORANGE, lw=1, ls="--")
    axes.annotate("release", (STEPS / 2, -1.45), (STEPS / 2 + 0.3, -1.45), color=RELEASE_INK)
    axes.set(
        xlabel=f"step (the noise level falls from {FROM:g} to 0)",
        ylabel="value of one cell",
        xlim=(0, STEPS + 5.4),
        xticks=range(0, STEPS + 1, 5),
        ylim=(-1.6, 2.1),
    )
    figure.legend(loc="outside lower center", ncols=2)


def plot_noise_band(axes: Axes) -> None:
    """Plot where the clean value plus the noise of each step lies: two standard deviations."""
    middle, half = np.array([(1 - sigma) * CLEAN for sigma in SIGMAS]), np.array(SIGMAS)
    axes.fill_between(
        range(STEPS + 1),
        middle - 2 * half,
        middle + 2 * half,
        color=GREY,
        alpha=0.16,
        lw=0,
        label="clean value + noise of the step (95%)",
    )
    axes.axhline(CLEAN, color=GREY, ls=":", label=f"clean value {CLEAN:g}")


def make_plotter(plot: Callable[[Figure], None], size_inches: tuple[float, float]) -> Draw:
    """Return a function that saves what `plot` draws into a figure.

    The file holds no version of matplotlib, so that another one need not change it.
    """

    def save(target: Path) -> None:
        with matplotlib.rc_context(STYLE):
            figure = Figure(size_inches, dpi=DPI, layout="constrained")
            plot(figure)
            figure.savefig(target, metadata={"Software": None})

    return save


FOLDER = "docs/figures"
DRAWINGS = {
    f"{FOLDER}/coverage.webp": make_saver(draw_coverage),
    f"{FOLDER}/line-art.webp": make_saver(draw_line_art),
    f"{FOLDER}/denoise-by.webp": make_saver(draw_denoise_by),
    f"{FOLDER}/schedules.png": make_plotter(plot_schedules, (10.5, 3.4)),
    f"{FOLDER}/trajectories.png": make_plotter(plot_trajectories, (9.0, 4.8)),
}
