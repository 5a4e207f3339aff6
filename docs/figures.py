"""The guide's figures: trees at three thresholds, what a denoise may follow, and how a cell comes back or does not.

Photos: scikit-image's `astronaut` (NASA, public domain) and `rocket` (SpaceX, public domain); the outline of its `horse`
(Andreas Preuss, CC0) as a line drawing.
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
from matplotlib.figure import Figure
from PIL import Image
from quadtree_pack import quadtree, velocity
from quadtree_pack.sampling import model, run
from quadtree_pack.testing.photos import photo as bundled_photo
from torch import Tensor

from .drawing import Draw, as_picture, denoise_of, overlaid, saved, sheet

LONG_SIDE_PX = 2048  # of the photos whose trees are shown
SHOWN = {"min_tile_px": 32, "max_tile_px": 256, "min_denoise": 0.0, "max_denoise": 0.6}
LINE_PX = 5

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
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
STEPS = 20


# --- Trees ------------------------------------------------------------------------------------------------------------


def labelled(image: Tensor, name: str, **limits: Any) -> tuple[str, Image.Image]:
    """(what it is, its tiles and its price as the panel tells them; the picture)."""
    tree = quadtree.build_quadtree(image, **limits)
    cost = 100 * run.typical_cost(tree, model.TYPICAL_STEPS)
    return f"{name}\n{len(tree.leaves)} tiles, {cost:.0f}% of the full cost", as_picture(
        overlaid(image, tree, LINE_PX)
    )


def thresholds(image: Tensor, values: tuple[int, ...], metric: str = "") -> dict[str, Image.Image]:
    limits = SHOWN | ({"detail_metric": metric} if metric else {})
    name = f"{metric}, threshold" if metric else "threshold"
    return dict(
        labelled(image, f"{name} {value}", content_threshold=value, **limits) for value in values
    )


def panel_px(image: Tensor, width: int = 306) -> tuple[int, int]:
    return width, round(width * image.shape[0] / image.shape[1])


def portrait() -> Image.Image:
    image = bundled_photo("astronaut", LONG_SIDE_PX)
    return sheet(thresholds(image, (25, 60, 110)), 3, panel_px(image))


def landscape() -> Image.Image:
    image = bundled_photo("rocket", LONG_SIDE_PX)
    return sheet(thresholds(image, (10, 25, 60)), 3, panel_px(image))


def line_drawing() -> Tensor:
    """A horse's outline on paper that is lit from the left, [H, W, 3] in 0..1."""
    from skimage import data

    shape = torch.from_numpy(np.array(data.horse())).float()[None, None]
    shape = F.interpolate(shape, size=(1344, 1632), mode="bicubic")[0, 0]
    blurred = F.avg_pool2d(F.pad(shape, [8] * 4, value=1.0)[None], 17, 1)[0]
    line = ((blurred > 0.15) & (blurred < 0.85)).float()
    ink = F.avg_pool2d(line[None, None], 5, 1, 2)[0, 0]
    paper = torch.linspace(1.0, 0.62, shape.shape[1]).expand_as(shape)
    return (paper * (1 - 0.9 * ink))[..., None].expand(-1, -1, 3).contiguous()


def line_art() -> Image.Image:
    image = line_drawing()
    panels = thresholds(image, (5, 25, 60), "color") | thresholds(image, (5, 10, 15), "edges")
    return sheet(panels, 3, panel_px(image))


def denoise_by() -> Image.Image:
    """Maps of one photo: white may change most."""
    image = bundled_photo("rocket", LONG_SIDE_PX)
    limits = {**SHOWN, "max_denoise": 1.0, "content_threshold": 25}
    ways = {way: {"denoise_by": way} for way in quadtree.DENOISE_BY} | {
        "area, inverted": {"invert": True}
    }
    maps = {
        name: denoise_of(image, quadtree.build_quadtree(image, **limits, **way))
        for name, way in ways.items()
    }
    panels = {
        "image": image,
        "tiles": overlaid(image, quadtree.build_quadtree(image, **limits), LINE_PX),
        **maps,
    }
    return sheet({name: as_picture(panel) for name, panel in panels.items()}, 3, panel_px(image))


# --- Plots ------------------------------------------------------------------------------------------------------------


def plotted(draw: Callable[[Figure], None], size_inches: tuple[float, float]) -> Draw:
    """A function that saves what `draw` plots; without the versions that matplotlib would write into it."""

    def save(target: Path) -> None:
        with matplotlib.rc_context(STYLE):
            figure = Figure(size_inches, dpi=110, layout="constrained")
            draw(figure)
            figure.savefig(target, metadata={"Software": None})

    return save


GRADES = ((0.25, BLUE, "-"), (0.4, RED, ":"), (0.5, ORANGE, "--"), (0.75, GREEN, "-."))


def schedules(figure: Figure) -> None:
    """Freedom of a tile at every step."""
    panels = [(name, STEPS) for name in velocity.SCHEDULES] + [("hold", 4)]
    for axes, (name, steps) in zip(figure.subplots(1, 4, sharey=True), panels, strict=True):
        shown = range(1, steps + 1)
        for denoise, colour, style in GRADES:
            freedom = [
                float(velocity.SCHEDULES[name](torch.tensor(denoise), step - 1, steps))
                for step in shown
            ]
            axes.step(
                shown, freedom, style, color=colour, label=f"denoise {denoise:g}", where="mid"
            )
        axes.set(
            title=f"{name}, {steps} steps",
            xlabel="step",
            xticks=[1, *range(steps // 4, steps + 1, steps // 4)][-5:],
        )
        axes.set_ylim(-0.05, 1.05)
    figure.axes[0].set_ylabel("freedom (0 = held, 1 = free)")
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)


MODES, SPREAD = (
    (-1.0, 1.0),
    0.08,
)  # what the model of the plot has learned: values near -1 and near 1
CLEAN, NOISE = 0.35, 1.5  # the cell's clean value and the noise that the run adds to it
FROM = 0.8  # noise level at which the run begins
SIGMAS = torch.linspace(FROM, 0, STEPS + 1, dtype=torch.float64).tolist()


def denoised(noisy: Tensor, sigma: float) -> Tensor:
    """The mean of what `noisy` = (1 - sigma) value + sigma noise may have been, for values of the mixture above."""
    share = 1 - sigma
    variance = (share * SPREAD) ** 2 + sigma**2
    modes = torch.tensor(MODES, dtype=noisy.dtype)
    weights = torch.softmax(-((noisy - share * modes) ** 2) / (2 * variance), 0)
    means = modes + share * SPREAD**2 / variance * (noisy - share * modes)
    return (weights * means).sum()


def trajectory(sigmas: list[float], denoise: float | None) -> list[float]:
    """Values of a cell in a run of Euler steps; None freezes it, by a velocity of 0."""
    clean = torch.tensor(CLEAN, dtype=torch.float64)
    noisy = (1 - sigmas[0]) * clean + sigmas[0] * NOISE
    values = [float(noisy)]
    for step, (here, below) in enumerate(pairwise(sigmas)):
        estimate = noisy
        if denoise is not None:
            freedom = velocity.hold(torch.tensor(denoise), step, len(sigmas) - 1)
            estimate = velocity.blend_denoised(denoised(noisy, here), clean, freedom)
        noisy = noisy + (below - here) * velocity.velocity_from_denoised(noisy, estimate, here)
        values.append(float(noisy))
    return values


def trajectories(figure: Figure) -> None:
    taken = range(STEPS + 1)
    axes = figure.subplots()
    middle, half = np.array([(1 - s) * CLEAN for s in SIGMAS]), np.array(SIGMAS)
    band = "clean value + noise of the step (95%)"
    axes.fill_between(
        taken, middle - 2 * half, middle + 2 * half, color=GREY, alpha=0.16, lw=0, label=band
    )
    axes.axhline(CLEAN, color=GREY, ls=":", label=f"clean value {CLEAN:g}")
    for mode in MODES:
        axes.annotate(
            "what the model knows", (STEPS, mode), (STEPS + 0.4, mode), va="center", color=GREEN
        )
        axes.plot(STEPS, mode, "<", color=GREEN, ms=9)
    for denoise, colour, style, label in (
        (0.0, BLUE, "-", "held (denoise 0): ends at the clean value"),
        (0.5, ORANGE, "--", "released half way (denoise 0.5): goes on as img2img"),
        (None, RED, "-.", "frozen (velocity 0): ends in its noise"),
    ):
        axes.plot(taken, trajectory(SIGMAS, denoise), style, color=colour, label=label)
    axes.axvline(STEPS / 2, color=ORANGE, lw=1, ls="--")
    axes.annotate("release", (STEPS / 2, -1.45), (STEPS / 2 + 0.3, -1.45), color="#8A5F00")
    axes.set(
        xlabel=f"step (the noise level falls from {FROM:g} to 0)",
        ylabel="value of one cell",
        xlim=(0, STEPS + 5.4),
        xticks=range(0, STEPS + 1, 5),
        ylim=(-1.6, 2.1),
    )
    figure.legend(loc="outside lower center", ncols=2)


FOLDER = "docs/figures"
DRAWINGS = {
    f"{FOLDER}/portrait.webp": saved(portrait),
    f"{FOLDER}/landscape.webp": saved(landscape),
    f"{FOLDER}/line-art.webp": saved(line_art),
    f"{FOLDER}/denoise-by.webp": saved(denoise_by),
    f"{FOLDER}/schedules.png": plotted(schedules, (10.5, 3.4)),
    f"{FOLDER}/trajectories.png": plotted(trajectories, (9.0, 4.8)),
}
