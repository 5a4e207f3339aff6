"""How good the pictures are: seams, kept regions, sharpness, invented texture and cost.

The demo's Tiny Refiner on the real ComfyUI refines five photos of scikit-image and a gradient.
The photos are at their own sharpness, reflected at their edges to 1024 x 512 px, shrunk to a third
and enlarged again. The plain gradient of 768 x 512 px, where seams show most, has leaves of two
denoise values in a chequered pattern. The refiner has not seen `chelsea` and `coffee` in training;
it may have seen the other three photos.

Every run: KSampler's denoise 0.5, euler, windows of 256 px, planned as for a model that was
trained at 256 px. One thing at a time is varied from Shifted Feather, 64 px overlap, hold. All
numbers but the seconds are the same on every run of one machine.

The tables have a legend below them; quality_report.py prints them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from quadtree_pack.testing import measures
from quadtree_pack.testing.photos import sample_photo
from quadtree_pack.testing.refiner import Refined, plain_gradient, refine
from quadtree_pack.testing.registration import register_comfyui

from .quality_cases import (
    AVERAGED,
    METHODS,
    TREES,
    WITHOUT,
    Case,
    list_at_equal_evaluations,
    list_cases,
)
from .quality_report import report
from .rows import GRADIENT

PHOTO_PX, GRADIENT_PX = (512, 1024), (512, 768)  # height, width
BLUR = 3  # times that photos are shrunk
DENOISE = 0.5  # KSampler's
TILE_PX = 256
GRADIENT_DENOISE = [[0.2, 0.5], [0.5, 0.2]]


def run() -> list[dict]:
    register_comfyui("--cpu")
    torch.set_num_threads(1)  # many small windows: threads would wait for each other
    logging.disable(logging.INFO)  # of ComfyUI and the pack: one line per run
    rows = list(measure_all(list_cases()))
    equal_cases = list(list_at_equal_evaluations(rows))
    rows += measure_all(equal_cases)
    return report(rows)


def measure_all(cases: Iterable[Case]) -> Iterable[dict]:
    """Yield the row of each distinct case, and print a line for it: all of them take minutes."""
    for number, case in enumerate(dict.fromkeys(cases), start=1):
        row = measure(case)
        what = f"{case.picture:>16} {case.label:>38} {case.steps:>3} {case.schedule:>8}"
        print(f"{number:>4} {what} {row['seconds']:>6.1f} s", flush=True)
        yield row


# --- Pictures and runs ----------------------------------------------------------------------------


@cache
def load_sharp(picture: str) -> torch.Tensor:
    """Return the original, [H, W, 3] in 0..1."""
    if picture == GRADIENT:
        return plain_gradient(*GRADIENT_PX)
    pixels = sample_photo(picture).numpy()
    missing = [max(0, goal - side) for goal, side in zip(PHOTO_PX, pixels.shape[:2], strict=True)]
    pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    return torch.from_numpy(pixels[: PHOTO_PX[0], : PHOTO_PX[1]].copy())


@cache
def load_blurred(picture: str) -> torch.Tensor:
    """Return what is refined, [H, W, 3] in 0..1: the gradient as it is, a photo blurred."""
    original = load_sharp(picture)
    if picture == GRADIENT:
        return original
    height, width = original.shape[:2]
    image = original.permute(2, 0, 1)[None]
    small = F.interpolate(image, size=(height // BLUR, width // BLUR), mode="area")
    enlarged = F.interpolate(small, size=(height, width), mode="bilinear")[0]
    return enlarged.permute(1, 2, 0).contiguous()


@cache
def build_tree(picture: str, leaves: str, uniform: bool = False) -> Any:
    """Return the tree of a picture, one of TREES; the gradient has one of its own."""
    from quadtree_pack.quadtree import build_quadtree
    from quadtree_pack.testing.support import tree_of
    from quadtree_pack.testing.trees import build_default_tree

    if not uniform and picture != GRADIENT:
        image, options = load_blurred(picture), TREES[leaves]
        return build_default_tree(image) if options is None else build_quadtree(image, **options)
    cells = [side // measures.CELL_PX for side in load_sharp(picture).shape[:2]]
    return tree_of([[1.0]] if uniform else GRADIENT_DENOISE, *cells)


@cache
def refine_case(case: Case) -> Refined:
    from quadtree_pack.sampling.model import Settings
    from quadtree_pack.windows import blending

    picture = load_blurred(case.picture)
    if case.method == WITHOUT:
        return refine(picture, case.steps, DENOISE, only_last=case.only_last)
    blending.METHODS.setdefault(
        AVERAGED, blending.METHODS[METHODS[0]]._replace(weigh=blending.weigh_evenly)
    )
    settings = Settings(
        method=case.method,
        tile_px=TILE_PX if case.tiled else max(picture.shape),
        overlap_px=case.overlap_px,
        schedule=case.schedule,
        feather_px=case.feather_px,
    )
    tree = build_tree(case.picture, case.leaves, case.uniform)
    return refine(picture, case.steps, DENOISE, [tree], settings, small_model=True)


# --- Rows -----------------------------------------------------------------------------------------


def measure(case: Case) -> dict:
    """Return a row: the case, what its run cost, and each measure that applies.

    A measure that is NaN stays out: there is no border, or nothing changed.
    """
    row = {"label": case.label, **asdict(case)}
    for name, value in measure_run(case).items():
        if math.isfinite(value):
            row[name] = value
    return row


def measure_run(case: Case) -> dict[str, float]:
    run, original = refine_case(case), load_sharp(case.picture)
    row = {"evaluations": run.evaluations, "seconds": run.seconds}
    if case.picture != GRADIENT:
        row["sharpness"] = measures.sharpness_gained(run.before, run.after, original)
        row["texture"] = measures.invented_texture(run.change, original)
    if case.method == WITHOUT:
        return row
    row["kept_error"] = measures.kept_error(run.latent_before, run.latent_after, run.free == 0)
    if not case.uniform:
        denoise = build_tree(case.picture, case.leaves).denoise_map(*run.free.shape)
        row["leaf_seam"] = measures.leaf_seam_index(run.change, measures.leaf_borders(denoise))
    if case.tiled:
        untiled = refine_case(case.untiled)
        row |= measure_window_seams(run, untiled)
        row["psnr"] = measures.psnr(run.after, untiled.after)
    if case == Case(case.picture, case.steps) and case.picture != GRADIENT:
        row |= compare_at_the_same_lines(case, replace(case, method=METHODS[1]))
    return row


def measure_window_seams(run: Refined, untiled: Refined) -> dict[str, float]:
    """Return the seam index of the last step's borders, and that of the borders of all steps.

    No later step can cover the borders of the last one.
    """
    all_windows = [window for step in run.windows for window in step]
    found = {}
    for name, windows in (("seam", run.windows[-1]), ("seam_all", all_windows)):
        borders = measures.window_borders(windows, *run.free.shape)
        found[name] = measures.window_seam_index(run.change, untiled.change, borders, run.free > 0)
    return found


def compare_at_the_same_lines(case: Case, other: Case) -> dict[str, float]:
    """Return the seam index of a run where another run has no border, and the other run's there.

    What both have there is not the borders' doing, but that of windows, which see less than the
    whole picture. Only borders of the last step count.
    """
    run, apart = refine_case(case), refine_case(other)
    untiled = refine_case(case.untiled)
    free = run.free > 0
    borders = measures.window_borders(run.windows[-1], *free.shape)
    lines = measures.without(borders, measures.window_borders(apart.windows[-1], *free.shape))
    return {
        "borders": measures.count_free_lines(borders, free),
        "lines": measures.count_free_lines(lines, free),
        "seam_here": measures.window_seam_index(run.change, untiled.change, lines, free),
        "seam_elsewhere": measures.window_seam_index(apart.change, untiled.change, lines, free),
    }
