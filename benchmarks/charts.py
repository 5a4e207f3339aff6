"""Draws what `bench quality` measured: on white, so that it reads in dark pages too; the colour-blind can tell it apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from quadtree_pack.testing.registration import ROOT

from .rows import USUAL, of

OUTPUT, FIGURES = ROOT / "benchmarks" / "output", ROOT / "docs" / "figures"
IN_DOCS = ("seams", "texture")  # those that the README shows
COLOURS = {  # Okabe and Ito's
    "Shifted Feather": "#0072B2",
    "Mixture of Diffusers": "#E69F00",
    "MultiDiffusion": "#009E73",
    "SpotDiffusion": "#CC79A7",
    "uniform, equal evaluations": "#999999",
    "uniform, full strength": "#444444",
}
GROUPS = {  # of bars: what is compared
    "photos\n8 steps, 64 px": {"photos": True, "steps": 8, "overlap_px": 64},
    "photos\n20 steps, 64 px": {"photos": True, "steps": 20, "overlap_px": 64},
    "gradient\n8 steps, 32 px": {"photos": False, "steps": 8, "overlap_px": 32},
    "gradient\n8 steps, 64 px": {"photos": False, "steps": 8, "overlap_px": 64},
    "gradient\n8 steps, 128 px": {"photos": False, "steps": 8, "overlap_px": 128},
    "gradient\n20 steps, 64 px": {"photos": False, "steps": 20, "overlap_px": 64},
}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def draw(rows: Sequence[dict], compared: Sequence[dict]) -> list[Path]:
    """Writes the charts of the rows of `bench quality`, and of its comparison with one uniform denoise."""
    OUTPUT.mkdir(exist_ok=True)
    FIGURES.mkdir(exist_ok=True)
    drawn = []
    charts: dict[str, Callable[[Any], None]] = {
        "seams": lambda axes: seams(axes, rows),
        "psnr": lambda axes: untiled(axes, rows),
        "sharpness": lambda axes: sharpness(axes, rows),
        "texture": lambda axes: texture(axes, compared),
    }
    with plt.rc_context(STYLE):
        for name, chart in charts.items():
            figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained", facecolor="white")
            chart(axes)
            for folder in (OUTPUT, FIGURES)[: 1 + (name in IN_DOCS)]:
                drawn.append(folder / f"quality-{name}.png")
                figure.savefig(drawn[-1], dpi=110, metadata={"Software": None})
            plt.close(figure)
    return [path.relative_to(ROOT) for path in drawn]


def bars(axes: Any, groups: Sequence[str], series: dict[str, Sequence[float | None]]) -> None:
    """Groups of bars, one of each series that has a value there."""
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        at = [
            place + (number - (len(series) - 1) / 2) * width
            for place, value in enumerate(values)
            if value is not None
        ]
        axes.bar(
            at,
            [value for value in values if value is not None],
            width * 0.92,
            label=name,
            color=COLOURS[name],
        )
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.grid(axis="y", alpha=0.3)


def by_method(rows: Sequence[dict], column: str) -> dict[str, list[float | None]]:
    methods = [name for name in COLOURS if any(row.get("method") == name for row in rows)]
    found = {
        method: [of(rows, column, method=method, **USUAL, **wanted) for wanted in GROUPS.values()]
        for method in methods
    }
    return {
        method: [mean(values) if values else None for values in lists]
        for method, lists in found.items()
    }


def seams(axes: Any, rows: Sequence[dict]) -> None:
    bars(axes, list(GROUPS), by_method(rows, "seam"))
    axes.axhline(1, color="black", linewidth=1)
    axes.set(
        ylabel="seam index (1 = invisible)",
        ylim=(0.6, None),
        title="Seams at window borders, by steps and overlap",
    )
    axes.legend(fontsize=8, frameon=False)


def untiled(axes: Any, rows: Sequence[dict]) -> None:
    series = by_method(rows, "psnr")
    bars(axes, list(GROUPS), series)
    low = min(value for values in series.values() for value in values if value is not None)
    axes.set(
        ylabel="PSNR, dB",
        ylim=(low - 2, None),
        title="Closeness to the untiled result (higher is closer)",
    )
    axes.legend(fontsize=8, frameon=False, ncols=2)


def sharpness(axes: Any, rows: Sequence[dict]) -> None:
    """One line per held-out photo for a uniform denoise of growing strength; a marker for ours."""
    curves = {
        row["picture"] for row in rows if row["only_last"] is not None and row["only_last"] < 8
    }
    for picture, colour in zip(sorted(curves), ("#0072B2", "#E69F00"), strict=False):
        plain = [
            row
            for row in rows
            if row["picture"] == picture and row["method"] == "no pack" and row["steps"] == 20
        ]
        plain.sort(key=lambda row: row["evaluations"])
        xs, ys = (
            [0, *(row["evaluations"] for row in plain)],
            [0, *(100 * row["sharpness"] for row in plain)],
        )
        axes.plot(xs, ys, "-o", color=colour, markersize=4, label=f"{picture}: one uniform denoise")
        ours = next(
            row
            for row in rows
            if row["picture"] == picture and row["method"] == "Shifted Feather" and is_default(row)
        )
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


def is_default(row: dict) -> bool:
    return row["steps"] == 20 and row["leaves"] == "fine" and row["tiled"]


def texture(axes: Any, compared: Sequence[dict]) -> None:
    series = {
        "ours": "Shifted Feather",
        "equal": "uniform, equal evaluations",
        "full": "uniform, full strength",
    }
    bars(
        axes,
        [pair["picture"].removesuffix("_left") for pair in compared],
        {name: [pair[key]["texture"] for pair in compared] for key, name in series.items()},
    )
    axes.set(
        ylabel="levels of 255 a px", title="Texture invented in calm regions (lower is better)"
    )
    axes.margins(y=0.2)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center")
