"""Draws what `bench quality` measured, and saves the charts of all benchmarks.

The charts are on white, so that they can be read on dark pages, too, and in colours that the
colour-blind can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from quadtree_pack.testing.registration import ROOT

from .rows import USUAL, select

OUTPUT, FIGURES = ROOT / "benchmarks" / "output", ROOT / "docs" / "figures"
IN_DOCS = ("seams", "texture")  # the charts that docs/benchmarks.md shows
SIZE_INCHES, DPI = (7.5, 3.6), 110
COLOURS = {  # of Okabe and Ito
    "Shifted Feather": "#0072B2",
    "Mixture of Diffusers": "#E69F00",
    "MultiDiffusion": "#009E73",
    "SpotDiffusion": "#CC79A7",
    "uniform, equal evaluations": "#999999",
    "uniform, full strength": "#444444",
}
PICTURE_COLOURS = ("#0072B2", "#E69F00")
GROUPS: dict[str, dict[str, Any]] = {  # of bars: what is compared
    "photos\n8 steps, 64 px": {"photos": True, "steps": 8, "overlap_px": 64},
    "photos\n20 steps, 64 px": {"photos": True, "steps": 20, "overlap_px": 64},
    "gradient\n8 steps, 32 px": {"photos": False, "steps": 8, "overlap_px": 32},
    "gradient\n8 steps, 64 px": {"photos": False, "steps": 8, "overlap_px": 64},
    "gradient\n8 steps, 128 px": {"photos": False, "steps": 8, "overlap_px": 128},
    "gradient\n20 steps, 64 px": {"photos": False, "steps": 20, "overlap_px": 64},
}
BARS_WIDTH = 0.8  # of all bars of a group
BAR_SHARE = 0.92  # of its place that a bar fills
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def draw(rows: Sequence[dict], compared: Sequence[dict]) -> list[Path]:
    """Write the charts and return their paths in the project.

    `rows` are those of `bench quality`, `compared` its comparison with one uniform denoise.
    """
    OUTPUT.mkdir(exist_ok=True)
    FIGURES.mkdir(exist_ok=True)
    charts: dict[str, Callable[[Axes], None]] = {
        "seams": partial(draw_seams, rows=rows),
        "psnr": partial(draw_psnr, rows=rows),
        "sharpness": partial(draw_sharpness, rows=rows),
        "texture": partial(draw_texture, compared=compared),
    }
    drawn = []
    for name, draw_chart in charts.items():
        folders = (OUTPUT, FIGURES) if name in IN_DOCS else (OUTPUT,)
        drawn += save(f"quality-{name}", draw_chart, folders)
    return drawn


def save(name: str, draw_chart: Callable[[Axes], None], folders: Sequence[Path]) -> list[Path]:
    """Draw a chart, write it into each folder, and return the paths in the project."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE_INCHES, layout="constrained", facecolor="white")
        draw_chart(axes)
        paths = [folder / f"{name}.png" for folder in folders]
        for path in paths:
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
        plt.close(figure)
    return [path.relative_to(ROOT) for path in paths]


def draw_bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    colours: Mapping[str, str] = COLOURS,
) -> None:
    """Draw groups of bars, one of each series that has a value there."""
    width = BARS_WIDTH / len(series)
    for number, (name, values) in enumerate(series.items()):
        places, heights = [], []
        for group, value in enumerate(values):
            if value is not None:
                places.append(group + (number - (len(series) - 1) / 2) * width)
                heights.append(value)
        axes.bar(places, heights, width * BAR_SHARE, label=name, color=colours[name])
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.grid(axis="y", alpha=0.3)


def means_by_method(rows: Sequence[dict], column: str) -> dict[str, Sequence[float | None]]:
    """Return the mean of a column in each group, by the methods that were measured."""
    measured = {row.get("method") for row in rows}
    series: dict[str, Sequence[float | None]] = {}
    for method in COLOURS:
        if method not in measured:
            continue
        means: list[float | None] = []
        for wanted in GROUPS.values():
            values = select(rows, column, method=method, **USUAL, **wanted)
            means.append(mean(values) if values else None)
        series[method] = means
    return series


def draw_seams(axes: Axes, rows: Sequence[dict]) -> None:
    draw_bars(axes, list(GROUPS), means_by_method(rows, "seam"))
    axes.axhline(1, color="black", linewidth=1)
    axes.set(
        ylabel="seam index (1 = invisible)",
        ylim=(0.6, None),
        title="Seams at window borders, by steps and overlap",
    )
    axes.legend(fontsize=8, frameon=False)


def draw_psnr(axes: Axes, rows: Sequence[dict]) -> None:
    series = means_by_method(rows, "psnr")
    draw_bars(axes, list(GROUPS), series)
    lowest = min(value for values in series.values() for value in values if value is not None)
    axes.set(
        ylabel="PSNR, dB",
        ylim=(lowest - 2, None),
        title="Closeness to the untiled result (higher is closer)",
    )
    axes.legend(fontsize=8, frameon=False, ncols=2)


def draw_sharpness(axes: Axes, rows: Sequence[dict]) -> None:
    """Draw a line per held-out photo for one uniform denoise of growing strength, and ours."""
    pictures = {
        row["picture"] for row in rows if row["only_last"] is not None and row["only_last"] < 8
    }
    for picture, colour in zip(sorted(pictures), PICTURE_COLOURS, strict=False):
        of_picture = [row for row in rows if row["picture"] == picture and row["steps"] == 20]
        draw_uniform_curve(axes, of_picture, f"{picture}: one uniform denoise", colour)
        ours = next(row for row in of_picture if is_default(row))
        axes.plot(
            ours["evaluations"],
            100 * ours["sharpness"],
            "*",
            color=colour,
            markersize=14,
            label=f"{picture}: the pack",
        )
    axes.axhline(0, color="black", linewidth=1)
    axes.grid(alpha=0.3)
    axes.set(
        xlabel="model evaluations, in canvases",
        ylabel="sharpness gained in detail, %",
        title="Sharpness against cost",
    )
    axes.legend(fontsize=8, frameon=False)


def draw_uniform_curve(axes: Axes, rows: Sequence[dict], label: str, colour: str) -> None:
    """Draw sharpness against evaluations of the runs without the pack, from no run at all."""
    plain = [row for row in rows if row["method"] == "no pack"]
    plain.sort(key=lambda row: row["evaluations"])
    evaluations = [0, *(row["evaluations"] for row in plain)]
    sharpness = [0, *(100 * row["sharpness"] for row in plain)]
    axes.plot(evaluations, sharpness, "-o", color=colour, markersize=4, label=label)


def is_default(row: dict) -> bool:
    fine = row["leaves"] == "fine" and row["tiled"]
    return row["method"] == "Shifted Feather" and row["steps"] == 20 and fine


def draw_texture(axes: Axes, compared: Sequence[dict]) -> None:
    names = {
        "ours": "Shifted Feather",
        "equal": "uniform, equal evaluations",
        "full": "uniform, full strength",
    }
    pictures = [pair["picture"].removesuffix("_left") for pair in compared]
    series: dict[str, Any] = {}
    for key, name in names.items():
        series[name] = [pair[key]["texture"] for pair in compared]
    draw_bars(axes, pictures, series)
    axes.set(
        ylabel="levels of 255 a px", title="Texture invented in calm regions (lower is better)"
    )
    axes.margins(y=0.2)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center")
