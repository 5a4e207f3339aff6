"""Predicted time of a refine, against uniform tiling, the whole image at once, and the floor that no plan can beat.

Deterministic: the plans are the ones a run would make, and their windows are priced by the measured times of Flux-dev on an
H200 (h200_cost.json). Six photos of scikit-image, scaled to 4096 px on the long side; 20 steps, threshold 25, tiles 64-1024 px.
The floor is the active cells of all steps times the cheapest cost per cell that was measured; `floor / ours` is 1 at best.
The bound is what a fixed lattice of equal windows, of any fractional size, reaches on a canvas that is active everywhere; still
is what the same planner reaches where its borders need not move from step to step.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from quadtree_pack.testing.photos import photo

PHOTOS = ("astronaut", "coffee", "rocket", "hubble_deep_field", "chelsea", "motorcycle_left")
DENOISE = ((0.2, 0.8), (0.0, 0.6))
STEPS = 20
CELL_PX = 8
LONG_SIDE_PX = 4096
UNIFORM_PX = (1024, 128)  # tile and overlap of what is compared with
BATCH = 4
# method, overlap in px, the share of the floor that it is meant to reach
CASES = (
    ("SpotDiffusion", 0, 0.95),
    ("Shifted Feather", 64, 0.88),
    ("Mixture of Diffusers", 64, 0.82),
    ("Mixture of Diffusers", 128, 0.72),
    ("MultiDiffusion", 64, 0.82),
)
PLANNING_LIMIT_MS = {4096: 50, 8192: 200}


@cache
def measured(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """(cells of a square window, seconds per cell) as measured for Flux in batches of this size."""
    rows = json.loads((Path(__file__).parent / "h200_cost.json").read_text())
    rows = sorted(
        (row for row in rows if row["model"] == "flux" and row["batch"] == batch),
        key=lambda row: row["px"],
    )
    cells = np.array([(row["px"] / CELL_PX) ** 2 for row in rows])
    return cells, np.array([row["ms"] / 1000 / batch for row in rows]) / cells


def per_cell(cells: float, batch: int) -> float:
    """Seconds per cell, interpolated over log(cells); beyond the largest window measured it grows with attention."""
    sizes, seconds = measured(batch)
    if cells > sizes[-1] and batch == 1:
        slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
        return float(seconds[-1] + slope * (cells - sizes[-1]))
    if (
        cells > sizes[-1]
    ):  # larger windows were measured one at a time only: the gain of a batch stays
        return per_cell(cells, 1) * float(seconds[-1] / per_cell(sizes[-1], 1))
    return float(np.interp(np.log(cells), np.log(sizes), seconds))


def seconds_of(shapes: Iterable[tuple[int, int]]) -> float:
    """Predicted seconds of windows of these shapes in cells, those of one shape in batches of up to BATCH."""
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
    tile, overlap = (px // CELL_PX for px in UNIFORM_PX)
    count = [max(1, -(-(side - overlap) // (tile - overlap))) for side in (height, width)]
    return STEPS * seconds_of([(min(tile, height), min(tile, width))] * (count[0] * count[1]))


def planned(tree, method: str, overlap_px: int, height: int, width: int) -> dict:
    """Predicted seconds of a run's windows, and what planning them took."""
    from quadtree_pack.sampling.model import TRANSFORMER_COST, Geometry, Settings
    from quadtree_pack.sampling.run import build_denoise_maps, create_run

    geometry = Geometry(px_per_cell=CELL_PX, unit=2, native_px=1024, cost=TRANSFORMER_COST)
    settings = Settings(method=method, overlap_px=overlap_px, batch=BATCH)
    run = create_run(
        None, settings, geometry, build_denoise_maps([tree], settings, geometry, height, width)
    )
    run.start([float(STEPS - step) for step in range(STEPS + 1)])
    total, evaluated, planning_ms, shapes = 0.0, 0, [], set()
    for step in range(STEPS):
        known = len(run.plans)
        start = time.perf_counter()
        windows = [window.box for window in run.windows(step)]
        if len(run.plans) > known and windows:
            planning_ms.append(1000 * (time.perf_counter() - start))
        step_shapes = [(box.height, box.width) for box in windows]
        total += seconds_of(step_shapes)
        evaluated += sum(box.height * box.width for box in windows)
        shapes |= set(step_shapes)
    active = sum(int((run.freedom(step) > 0).sum()) for step in range(STEPS))
    return {
        "seconds": total,
        "floor_seconds": active * CHEAPEST,
        "evaluated_share": evaluated / (STEPS * height * width),
        "planning_ms_max": max(planning_ms),
        "planning_ms_mean": mean(planning_ms),
        "shapes": len(shapes),
    }


def still_seconds(tree, method: str, overlap_px: int, height: int, width: int) -> float:
    """Predicted seconds of the same run where standing still costs nothing."""
    from quadtree_pack.windows import cutting

    price, cutting.PRICE_OF_STAYING = cutting.PRICE_OF_STAYING, 0.0
    try:
        return planned(tree, method, overlap_px, height, width)["seconds"]
    finally:
        cutting.PRICE_OF_STAYING = price


def bound(height: int, width: int, overlap_px: int) -> float:
    """Floor / cost of the best lattice of equal windows on a canvas that is active everywhere; sizes need not be whole."""
    overlap = overlap_px / CELL_PX
    best = min(
        rows * columns * h * w * per_cell(h * w, BATCH)
        for rows in range(1, 12)
        for columns in range(1, 12)
        for h, w in [((height - overlap) / rows + overlap, (width - overlap) / columns + overlap)]
    )
    return height * width * CHEAPEST / best


def run() -> list[dict]:
    from quadtree_pack.quadtree import build_quadtree

    flat = build_quadtree(torch.zeros(2048, 2048, 3))
    planned(
        flat, "Shifted Feather", 64, 256, 256
    )  # warm-up: the first plan of a process pays for what it loads
    rows = []
    labels = [
        f"{''.join(word[0] for word in method.split())}{overlap or ''}"
        for method, overlap, _ in CASES
    ]
    print(
        " ".join(
            [
                f"{'photo':>18} denoise  whole s  uniform  floor",
                *(f"{label:>7}" for label in labels),
            ]
        )
    )
    for name in PHOTOS:
        image = photo(name, LONG_SIDE_PX)
        height, width = (side // CELL_PX for side in image.shape[:2])
        for low, high in DENOISE:
            tree = build_quadtree(image, min_denoise=low, max_denoise=high)
            cases = [planned(tree, method, overlap, height, width) for method, overlap, _ in CASES]
            whole, uniform = STEPS * seconds_of([(height, width)]), uniform_seconds(height, width)
            rows += [
                {
                    "photo": name,
                    "denoise": [low, high],
                    "method": method,
                    "overlap_px": overlap,
                    "whole_seconds": whole,
                    "uniform_seconds": uniform,
                    "bound": bound(height, width, overlap),
                    "still_seconds": still_seconds(tree, method, overlap, height, width),
                    **case,
                }
                for (method, overlap, _), case in zip(CASES, cases, strict=True)
            ]
            figures = f"{whole:>8.1f} {uniform:>8.1f} {cases[0]['floor_seconds']:>6.1f} "
            print(
                f"{name:>18} {low}-{high} {figures}"
                + " ".join(f"{case['seconds']:>7.1f}" for case in cases),
                flush=True,
            )
    print_means(rows)
    rows += print_large()
    return rows


def print_means(rows: list[dict]) -> None:
    print(
        f"\n{'method':>28} floor/ours  target   still   bound  x uniform  worst  x whole      plan ms  shapes"
    )
    for method, overlap, target in CASES:
        mine = [row for row in rows if (row["method"], row["overlap_px"]) == (method, overlap)]
        share = mean(row["floor_seconds"] / row["seconds"] for row in mine)
        gains = [row["uniform_seconds"] / row["seconds"] for row in mine]
        whole = mean(row["whole_seconds"] / row["seconds"] for row in mine)
        still = mean(row["floor_seconds"] / row["still_seconds"] for row in mine)
        slowest_ms = max(row["planning_ms_max"] for row in mine)
        planning = f"{mean(row['planning_ms_mean'] for row in mine):.0f} (max {slowest_ms:.0f})"
        print(
            f"{f'{method} {overlap} px':>28} {share:>10.3f} {target:>7.2f} {still:>7.3f} "
            f"{mean(row['bound'] for row in mine):>7.3f} {mean(gains):>10.2f} {min(gains):>6.2f} {whole:>8.2f} "
            f"{planning:>12} {mean(row['shapes'] for row in mine):>7.1f}"
        )


def print_large() -> list[dict]:
    """Planning time on 8192 px, where it grows fastest."""
    from quadtree_pack.quadtree import build_quadtree

    rows = []
    image = photo("rocket", 8192)
    tree = build_quadtree(image)
    print("\n8192 px, rocket, planning per distinct set of active cells:")
    for method, overlap, _ in CASES:
        case = planned(tree, method, overlap, *(side // CELL_PX for side in image.shape[:2]))
        rows.append(
            {
                "photo": "rocket",
                "long_side_px": 8192,
                "method": method,
                "overlap_px": overlap,
                **case,
            }
        )
        figures = (
            f"{case['planning_ms_mean']:>6.0f} ms, max {case['planning_ms_max']:.0f} ms (limit 200)"
        )
        print(f"{f'{method} {overlap} px':>28} {figures}")
    return rows
