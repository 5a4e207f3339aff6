"""Prints and draws what `bench decide` measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes
from PIL import Image, ImageOps
from quadtree_pack.docs.drawing import arrange
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.ui.overlay import draw_overlay

from . import charts
from .decide_pictures import as_picture, as_tensor
from .quality_report import check_at_least, check_at_most, print_targets

DEFAULT = "defaults, x2"
BLOCKS = "blocks, as good"
HALVES = {True: "pictures that no constant was found on", False: "the other half"}
TREE_TARGETS = {  # of the default tree after x2: column -> the limit, and whether it is the most
    "kept": (0.55, False),
    "lost": (0.08, True),
    "delivered": (0.80, False),
    "cost 2048": (0.62, True),
    "cost 4096": (0.47, True),
}
LARGEST_OVER_BLOCKS = 0.85  # of the default tree's cost at 4096 px over that of the blocks
RANKING_TARGETS = {"x2": 0.95, "x4": 0.92}  # of the area that the lost detail itself keeps
LARGEST_DRIFT = 0.05
PANEL_PX, COLUMNS, PER_SHEET = (200, 200), 8, 48
SHEET_QUALITY = 88
COLOURS = {"x2": "#0072B2", "x4": "#E69F00"}


# --- Tables ---------------------------------------------------------------------------------------


def print_tables(rows: Sequence[dict]) -> None:
    for held_out, title in HALVES.items():
        half = [row for row in rows if row["held_out"] == held_out]
        if half:
            sampled = sum("drift" in row for row in half)
            print(f"\n{title}: {len(half)}; costs and disturbances: {sampled}")
            print_trees(half)
            print_rankings(half)
            print_drift(half)


def mean_tree(rows: Sequence[dict], name: str, column: str) -> float | None:
    """Return the mean of a column of the trees of this name; None where it was not measured."""
    trees = [row["trees"].get(name, {}) for row in rows]
    values = [tree[column] for tree in trees if column in tree]
    return mean(values) if values else None


def print_trees(rows: Sequence[dict]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row["trees"][DEFAULT]))
    print_line("trees", columns)
    for name in dict.fromkeys(name for row in rows for name in row["trees"]):
        print_line(name, [mean_tree(rows, name, column) for column in columns])
    limits = {
        column: f"{'<=' if most else '>='} {limit:.2f}"
        for column, (limit, most) in TREE_TARGETS.items()
    }
    print_line("targets", [limits.get(column) for column in columns])


def print_line(label: str, values: Sequence[float | str | None]) -> None:
    cells = []
    for value in values:
        text = f"{value:.3f}" if isinstance(value, float) else value or ""
        cells.append(f"{text:>12}")
    print(f"{label:>18} " + " ".join(cells), flush=True)


def mean_ranking(rows: Sequence[dict], factor: str, score: str, column: str) -> float:
    return mean(row["rankings"][factor][score][column] for row in rows)


def print_rankings(rows: Sequence[dict]) -> None:
    for factor, scores in sorted(rows[0]["rankings"].items()):
        columns = list(scores["lost detail"])
        print_line(f"rankings, {factor}", columns)
        for score in scores:
            print_line(score, [mean_ranking(rows, factor, score, column) for column in columns])
        print_line("fine over lost", [compare(rows, factor, column) for column in columns[:-1]])


def compare(rows: Sequence[dict], factor: str, column: str) -> float:
    """Return the area that fine detail keeps over that which the lost detail itself keeps."""
    ours, best = (
        mean_ranking(rows, factor, score, column) for score in ("fine detail", "lost detail")
    )
    return ours / best


def print_drift(rows: Sequence[dict]) -> None:
    drifts = [row["drift"] for row in rows if "drift" in row]
    if not drifts:
        return
    print_line("disturbances", list(drifts[0]))
    for name, summarise in (("mean, absolute", mean_absolute), ("mean", mean), ("worst", max_abs)):
        print_line(name, [summarise([drift[key] for drift in drifts]) for key in drifts[0]])


def mean_absolute(values: Sequence[float]) -> float:
    return mean(abs(value) for value in values)


def max_abs(values: Sequence[float]) -> float:
    return max(values, key=abs)


# --- Targets --------------------------------------------------------------------------------------


def check_targets(rows: Sequence[dict]) -> list[dict]:
    """Print the targets and return a row for each, for pictures that no constant was found on."""
    rows = [row for row in rows if row["held_out"]]
    if not rows:
        return []
    targets = []
    for column, (limit, most) in TREE_TARGETS.items():
        value = mean_tree(rows, DEFAULT, column)
        if value is not None:
            check = check_at_most if most else check_at_least
            targets.append(check(f"{column} of the default tree, x2", value, limit))
    costs = [mean_tree(rows, name, "cost 4096") for name in (DEFAULT, BLOCKS)]
    if None not in costs:
        name = "cost 4096 of the default tree over that of blocks that deliver as much"
        targets.append(check_at_most(name, costs[0] / costs[1], LARGEST_OVER_BLOCKS))
    for factor, limit in RANKING_TARGETS.items():
        for column in ("5%", "10%"):
            name = f"area kept by fine detail over the best possible, {factor}, {column}"
            targets.append(check_at_least(name, compare(rows, factor, column), limit))
    drifts = [row["drift"] for row in rows if "drift" in row]
    for name in drifts[0] if drifts else ():
        value = mean_absolute([drift[name] for drift in drifts])
        targets.append(check_at_most(f"change of the kept area, {name}", value, LARGEST_DRIFT))
    print_targets(targets)
    return targets


# --- Pictures -------------------------------------------------------------------------------------


def draw_tree(picture: Image.Image, tree: Quadtree) -> Image.Image:
    """Return a picture with its tree, as small as in a contact sheet."""
    scale = min(1.0, 2 * PANEL_PX[0] / max(picture.size))  # or lines would be lost
    image = as_tensor(picture)
    drawn = draw_overlay(
        image, tree.denoise_map(*image.shape[:2]).float(), tree, max(1, round(1 / scale))
    )
    return ImageOps.pad(as_picture(drawn), PANEL_PX)


def draw(rows: Sequence[dict], drawn: Sequence[Image.Image], *, in_docs: bool) -> list[Path]:
    """Write the chart, for the documents as well if wanted, and the contact sheets."""
    charts.OUTPUT.mkdir(exist_ok=True)
    held_out = [row for row in rows if row["held_out"]] or rows
    folders = (charts.OUTPUT, charts.FIGURES) if in_docs else (charts.OUTPUT,)
    paths = charts.save("decide-ranking", partial(draw_rankings, rows=held_out), folders)
    for start in range(0, len(rows), PER_SHEET):
        panels = {}
        numbered = enumerate(zip(rows, drawn, strict=True))
        for number, (row, panel) in list(numbered)[start : start + PER_SHEET]:
            kept = row["trees"][DEFAULT]["kept"]
            panels[f"{number} {kept:.0%} {row['picture'][:10]}"] = panel
        path = charts.OUTPUT / f"decide-trees-{start // PER_SHEET + 1}.jpg"
        arrange(panels, COLUMNS, PANEL_PX).save(path, quality=SHEET_QUALITY)
        paths.append(path.relative_to(charts.ROOT))
    return paths


def draw_rankings(axes: Axes, rows: Sequence[dict]) -> None:
    scores = list(rows[0]["rankings"]["x2"])
    series = {}
    for factor in COLOURS:
        series[factor] = [mean_ranking(rows, factor, score, "5%") for score in scores]
    charts.draw_bars(axes, scores, series, COLOURS)
    axes.set(
        ylabel="share of the area",
        title="Area that can be kept if 5% of the lost detail is given up",
    )
    axes.legend(fontsize=8, frameon=False)
