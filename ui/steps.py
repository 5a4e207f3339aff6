"""What a run does at each step, for the panel: the windows that the model sees, and the tiles that
are held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..quadtree import Leaf, Quadtree
from ..sampling.cost import measure_steps, plan_run
from ..sampling.maps import build_denoise_maps
from ..sampling.run import Run
from ..utils import Box
from .passing import Applier
from .price import list_runs


def describe_steps(
    trees: Sequence[Quadtree],
    leaves: Sequence[Leaf],
    denoise: Sequence[float],
    applier: Applier,
    visualizer: str,
) -> dict[str, Any]:
    """Return the steps of the first run with the trees of the node `visualizer`.

    `leaves` are those that are shown, of the tree or of that of a frame, and `denoise` is theirs,
    with the mask applied. `windows` has x0, y0, x1 and y1 of each window in px of the image, one
    flat list per step; `shares` are the cells that a model call of the step evaluates, in
    thousandths of all, of all prompts; `held` counts the steps that hold each leaf;
    `sampler` is the number of the sampler's node, or None where no sampler follows.
    """
    coming = list_runs(trees, applier, visualizer)[0]
    height, width = coming.size
    maps = build_denoise_maps(trees, coming.settings, coming.geometry, height, width)
    frames = coming.geometry.count_frames(coming.frames)
    run = plan_run(maps, coming.settings, coming.geometry, coming.sampling, frames)
    steps = [run.layouts.windows(step) for step in range(run.clock.steps)]
    scale = trees[0].width / width, trees[0].height / height
    return {
        "windows": [_list_px([window.box for window in windows], scale) for windows in steps],
        "shares": [round(1000 * share) for share in measure_steps(run, coming.prompts)],
        "held": _count_held_steps(run, leaves, denoise, coming.settings.keep_below_px),
        "sampler": coming.sampler,
    }


def _list_px(boxes: Sequence[Box], scale: tuple[float, float]) -> list[int]:
    """Return x0, y0, x1, y1 of all boxes in px; `scale` is px per cell, across and down."""
    across, down = scale
    numbers = [(box.x0 * across, box.y0 * down, box.x1 * across, box.y1 * down) for box in boxes]
    return [round(number) for box in numbers for number in box]


def _count_held_steps(
    run: Run, leaves: Sequence[Leaf], denoise: Sequence[float], keep_below_px: int
) -> list[int]:
    """Return how many steps hold each leaf, whose denoise is given."""
    sides = torch.tensor([leaf.side for leaf in leaves])
    values = torch.tensor(denoise, dtype=torch.float64).masked_fill(sides < keep_below_px, 0.0)
    plan = replace(run.plan, denoise=values[None, None])
    held = torch.zeros(len(denoise), dtype=torch.long)
    for step in range(run.clock.steps):
        held += plan.freedom(*run.layouts.stage.place(step))[0, 0] == 0
    return held.tolist()
