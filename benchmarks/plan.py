"""Predicted time of a refine, against uniform tiling, the whole image, and a lower bound.

Nothing is sampled: the plans are the ones a run would make, and their windows are priced by the
measured times of Flux-dev on an H200 (h200_cost.json). Six photos of scikit-image, scaled to
4096 px on the long side; 20 steps, threshold 25, tiles of 64 to 1024 px. All but the planning
times is the same on every run.

The first table has predicted seconds of each photo: of the whole image at once, of uniform tiling,
the floor, and of each method with its overlap. The floor, which no plan can beat, is the active
cells of all steps times the cheapest cost per cell that was measured.

The second table has means over the photos, by method:
- floor/ours: 1 would be the best possible; "target" is what it is meant to reach
- still: floor/ours where borders of windows need not move from step to step
- bound: what a fixed lattice of equal windows of any size reaches where every cell is active
- x uniform, worst, x whole: how many times faster than uniform tiling, on the mean and on the
  worst photo, and than the whole image at once
- plan ms, shapes: milliseconds of planning a step, and distinct shapes of windows

The last table shows what fewer shapes would cost: means over the photos with the default tree, for
prices of a new shape from the planner's own on. `loss` is the time that is added to that without
any sharing of shapes across steps.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from quadtree_pack.testing.photos import photo

PHOTOS = ("astronaut", "coffee", "rocket", "hubble_deep_field", "chelsea", "motorcycle_left")
DENOISE = ((0.2, 0.8), (0.0, 0.6))  # of the tree: least, most
STEPS = 20
CELL_PX = 8
LONG_SIDE_PX = 4096
LARGE_PHOTO, LARGE_PX = "rocket", 8192
UNIFORM_PX = (1024, 128)  # tile and overlap of uniform tiling
BATCH = 4
CASES = (  # method, overlap in px, the share of the floor that it is meant to reach
    ("SpotDiffusion", 0, 0.95),
    ("Shifted Feather", 64, 0.88),
    ("Mixture of Diffusers", 64, 0.82),
    ("Mixture of Diffusers", 128, 0.72),
    ("MultiDiffusion", 64, 0.82),
)
LARGE_PLANNING_LIMIT_MS = 200
MOST_WINDOWS = 11  # of the bound's lattice, along each side
SHAPE_PRICES = (0, None, 10_000, 30_000, 100_000, 300_000)  # cells; None: the planner's own


# --- Prices ---------------------------------------------------------------------------------------


@cache
def measured(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of square windows, and the seconds per cell of Flux in such batches."""
    rows = json.loads((Path(__file__).parent / "h200_cost.json").read_text())
    chosen = [row for row in rows if row["model"] == "flux" and row["batch"] == batch]
    chosen.sort(key=lambda row: row["px"])
    cells = np.array([(row["px"] / CELL_PX) ** 2 for row in chosen])
    seconds = np.array([row["ms"] / 1000 / batch for row in chosen])
    return cells, seconds / cells


def per_cell(cells: float, batch: int) -> float:
    """Return the seconds per cell of a window, interpolated over log(cells).

    Beyond the largest window that was measured the price grows with attention, linearly in the
    cells. The largest ones were measured one at a time only: there the gain of a batch stays.
    """
    sizes, seconds = measured(batch)
    if cells <= sizes[-1]:
        return float(np.interp(np.log(cells), np.log(sizes), seconds))
    if batch == 1:
        slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
        return float(seconds[-1] + slope * (cells - sizes[-1]))
    return per_cell(cells, 1) * float(seconds[-1] / per_cell(sizes[-1], 1))


def seconds_of(shapes: Iterable[tuple[int, int]]) -> float:
    """Return the predicted seconds of windows of these shapes (height, width) in cells.

    Windows of one shape are evaluated in batches of up to BATCH.
    """
    total = 0.0
    for (height, width), count in Counter(shapes).items():
        cells = height * width
        alone, together = per_cell(cells, 1), min(per_cell(cells, 1), per_cell(cells, BATCH))
        for start in range(0, count, BATCH):
            batch = min(BATCH, count - start)
            total += batch * cells * (alone + (together - alone) * (batch - 1) / (BATCH - 1))
    return total


CHEAPEST = min(float(measured(batch)[1].min()) for batch in (1, BATCH))


def uniform_seconds(height: int, width: int) -> float:
    """Return the predicted seconds of uniform tiling, with every cell active at every step."""
    tile, overlap = (px // CELL_PX for px in UNIFORM_PX)
    rows, columns = (max(1, -(-(side - overlap) // (tile - overlap))) for side in (height, width))
    return STEPS * seconds_of([(min(tile, height), min(tile, width))] * (rows * columns))


def bound(height: int, width: int, overlap_px: int) -> float:
    """Return floor / cost of the best lattice of equal windows where every cell is active.

    The sizes of its windows need not be whole.
    """
    overlap = overlap_px / CELL_PX
    costs = []
    for rows in range(1, MOST_WINDOWS + 1):
        for columns in range(1, MOST_WINDOWS + 1):
            window_height = (height - overlap) / rows + overlap
            window_width = (width - overlap) / columns + overlap
            cells = window_height * window_width
            costs.append(rows * columns * window_height * window_width * per_cell(cells, BATCH))
    return height * width * CHEAPEST / min(costs)


# --- Plans ----------------------------------------------------------------------------------------


def make_plans(
    tree: Any,
    method: str,
    overlap_px: int,
    height: int,
    width: int,
    per_shape: float | None = None,
) -> dict:
    """Plan every step of a run; return the predicted seconds, and what planning took.

    Height and width are in cells, and so is the price of a new shape; None: the planner's own.
    """
    from quadtree_pack.sampling.maps import build_denoise_maps
    from quadtree_pack.sampling.model import TRANSFORMER_COST, Geometry, Settings
    from quadtree_pack.sampling.run import create_run

    cost = TRANSFORMER_COST
    if per_shape is not None:
        cost = replace(cost, per_shape=per_shape)
    geometry = Geometry(px_per_cell=CELL_PX, unit=2, native_px=1024, cost=cost)
    settings = Settings(method=method, overlap_px=overlap_px, batch=BATCH)
    run = create_run(
        None, settings, geometry, build_denoise_maps([tree], settings, geometry, height, width)
    )
    run.start([float(STEPS - step) for step in range(STEPS + 1)])
    total, evaluated, shapes = 0.0, 0, set()
    start = time.perf_counter()
    run.layouts.windows(0)  # plans all steps
    planned = [run.layouts.windows(step) for step in range(STEPS)]
    planning_ms = 1000 * (time.perf_counter() - start) / max(1, len(set(planned) - {()}))
    for plan in planned:
        windows = [window.box for window in plan]
        step_shapes = [(box.height, box.width) for box in windows]
        total += seconds_of(step_shapes)
        evaluated += sum(box.height * box.width for box in windows)
        shapes |= set(step_shapes)
    active = sum(int((run.freedom(step) > 0).sum()) for step in range(STEPS))
    return {
        "seconds": total,
        "floor_seconds": active * CHEAPEST,
        "evaluated_share": evaluated / (STEPS * height * width),
        "planning_ms": planning_ms,
        "shapes": len(shapes),
    }


def still_seconds(tree: Any, method: str, overlap_px: int, height: int, width: int) -> float:
    """Return the predicted seconds of the same run where borders need not move."""
    from quadtree_pack.windows import cutting

    price, cutting.PRICE_OF_STAYING = cutting.PRICE_OF_STAYING, 0.0
    try:
        return make_plans(tree, method, overlap_px, height, width)["seconds"]
    finally:
        cutting.PRICE_OF_STAYING = price


# --- Tables ---------------------------------------------------------------------------------------


def run() -> list[dict]:
    from quadtree_pack.quadtree import build_quadtree

    # A warm-up: the first plan of a process pays for what it imports.
    make_plans(build_quadtree(torch.zeros(2048, 2048, 3)), "Shifted Feather", 64, 256, 256)
    print_head()
    rows = []
    for name in PHOTOS:
        image = photo(name, LONG_SIDE_PX)
        for low, high in DENOISE:
            tree = build_quadtree(image, min_denoise=low, max_denoise=high)
            height, width = (side // CELL_PX for side in image.shape[:2])
            cases = plan_cases(tree, height, width)
            for row in cases:
                rows.append({"photo": name, "denoise": [low, high], **row})
            print_photo(f"{name:>18} {low}-{high}", cases)
    print_means(rows)
    return rows + plan_large() + plan_few_shapes()


def plan_cases(tree: Any, height: int, width: int) -> list[dict]:
    """Return a row for each of CASES, with what it is compared with."""
    whole, uniform = STEPS * seconds_of([(height, width)]), uniform_seconds(height, width)
    rows = []
    for method, overlap, _ in CASES:
        rows.append(
            {
                "method": method,
                "overlap_px": overlap,
                "whole_seconds": whole,
                "uniform_seconds": uniform,
                "bound": bound(height, width, overlap),
                "still_seconds": still_seconds(tree, method, overlap, height, width),
                **make_plans(tree, method, overlap, height, width),
            }
        )
    return rows


def print_head() -> None:
    labels = []
    for method, overlap, _ in CASES:
        initials = "".join(word[0] for word in method.split())
        labels.append(f"{initials}{overlap or ''}")
    columns = " ".join(f"{label:>7}" for label in labels)
    print(f"{'photo':>18} denoise  whole s  uniform  floor {columns}")


def print_photo(label: str, cases: list[dict]) -> None:
    first = cases[0]
    seconds = " ".join(f"{case['seconds']:>7.1f}" for case in cases)
    print(
        f"{label} {first['whole_seconds']:>8.1f} {first['uniform_seconds']:>8.1f} "
        f"{first['floor_seconds']:>6.1f} {seconds}",
        flush=True,
    )


def print_means(rows: list[dict]) -> None:
    print(
        f"\n{'method':>28} floor/ours  target   still   bound  x uniform  worst  x whole"
        "      plan ms  shapes"
    )
    for method, overlap, target in CASES:
        mine = [row for row in rows if (row["method"], row["overlap_px"]) == (method, overlap)]
        share = mean(row["floor_seconds"] / row["seconds"] for row in mine)
        still = mean(row["floor_seconds"] / row["still_seconds"] for row in mine)
        gains = [row["uniform_seconds"] / row["seconds"] for row in mine]
        whole = mean(row["whole_seconds"] / row["seconds"] for row in mine)
        times_ms = [row["planning_ms"] for row in mine]
        planning = f"{mean(times_ms):.0f} (max {max(times_ms):.0f})"
        print(
            f"{f'{method} {overlap} px':>28} {share:>10.3f} {target:>7.2f} {still:>7.3f} "
            f"{mean(row['bound'] for row in mine):>7.3f} {mean(gains):>10.2f} "
            f"{min(gains):>6.2f} {whole:>8.2f} "
            f"{planning:>12} {mean(row['shapes'] for row in mine):>7.1f}"
        )


def plan_large() -> list[dict]:
    """Measure planning on 8192 px, where it takes longest, and print it."""
    from quadtree_pack.quadtree import build_quadtree

    image = photo(LARGE_PHOTO, LARGE_PX)
    tree = build_quadtree(image)
    height, width = (side // CELL_PX for side in image.shape[:2])
    rows = []
    print(f"\n{LARGE_PX} px, {LARGE_PHOTO}, planning per distinct set of active cells:")
    for method, overlap, _ in CASES:
        case = make_plans(tree, method, overlap, height, width)
        described = {
            "photo": LARGE_PHOTO,
            "long_side_px": LARGE_PX,
            "method": method,
            "overlap_px": overlap,
        }
        rows.append({**described, **case})
        print(
            f"{f'{method} {overlap} px':>28} {case['planning_ms']:>6.0f} ms a step "
            f"(limit {LARGE_PLANNING_LIMIT_MS})"
        )
    return rows


def plan_few_shapes() -> list[dict]:
    """Plan the default trees at each of SHAPE_PRICES, and print what fewer shapes cost."""
    from quadtree_pack.testing.trees import build_default_tree

    images = [photo(name, LONG_SIDE_PX) for name in PHOTOS]
    cases = [
        (build_default_tree(image), *(side // CELL_PX for side in image.shape[:2]))
        for image in images
    ]
    rows = []
    print(f"\n{'method':>28} price of a shape  shapes (most)    loss")
    for method, overlap, _ in CASES[:2]:
        alone = None
        for price in SHAPE_PRICES:
            plans = [
                make_plans(tree, method, overlap, height, width, price)
                for tree, height, width in cases
            ]
            seconds = [plan["seconds"] for plan in plans]
            alone = alone or seconds
            loss = mean(mine / its for mine, its in zip(seconds, alone, strict=True)) - 1
            shapes = [plan["shapes"] for plan in plans]
            row = {"method": method, "overlap_px": overlap, "per_shape": price, "loss": loss}
            rows.append({**row, "shapes": mean(shapes), "most_shapes": max(shapes)})
            print(
                f"{f'{method} {overlap} px':>28} {'own' if price is None else price:>16} "
                f"{mean(shapes):>7.1f} ({max(shapes):>3}) {loss:>9.1%}"
            )
    return rows
