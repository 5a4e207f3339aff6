"""What a run will cost, before it: the share of the cells that its windows evaluate.

It is found with the run's own plan, so that the price that is shown and the one that is paid are
one. Imports no ComfyUI: the cost is predicted where no model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..quadtree import FrameTrees, Quadtree
from ..utils import ceil_div
from .maps import are_apart, build_denoise_maps
from .model import ROUGH, ROUGH_SETTINGS, TYPICAL, Geometry, Settings
from .plan import Mode
from .run import Run, create_run

# The masks of a run's prompts, [B or 1, h, w] of any size; None for one that counts everywhere.
Masks = Sequence[Tensor | None]
ONE_PROMPT: Masks = (None,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What a sampler will do: `steps` steps, which call the model `calls_per_step` times each.

    The run is a stage of `all_steps` steps that begins at `first_step`; None: it is the whole. A
    step calls the model at most as often as there are steps left, as ComfyUI's samplers do.
    """

    steps: int
    calls_per_step: int = 1
    first_step: int = 0
    all_steps: int | None = None
    mode: Mode = Mode.PRESERVE

    @property
    def calls(self) -> list[int]:
        """The model calls of each step."""
        return [min(self.calls_per_step, self.steps - step) for step in range(self.steps)]


def estimate_cost(
    trees: Sequence[Quadtree],
    settings: Settings,
    geometry: Geometry,
    *,
    sampling: Sampling,
    height: int,
    width: int,
    frames: int = 1,
    prompts: Masks = ONE_PROMPT,
) -> float:
    """Return the share of the full model cost that a run on height x width cells takes.

    `trees` are those of the images of a batch, or of the frames of a clip. It is counted in
    evaluated cells, of so many frames and of all prompts. The run plans as it would when sampling,
    so for samplers whose calls per step are known the share is exact.
    """
    denoise = build_denoise_maps(trees, settings, geometry, height, width)
    run = plan_run(
        denoise,
        settings,
        geometry,
        sampling,
        frames,
        apart=frames == 1 and are_apart(trees, geometry),
    )
    return _measure(run, sampling, prompts)


def _measure(run: Run, sampling: Sampling, prompts: Masks = ONE_PROMPT) -> float:
    """Return the share of the cells that a run evaluates.

    Windows are cut in space and hold all frames, so that is their share of all frames, too.
    """
    shares = measure_steps(run, prompts)
    cost = sum(calls * share for calls, share in zip(sampling.calls, shares, strict=True))
    return cost / sum(sampling.calls)


def measure_steps(run: Run, prompts: Masks = ONE_PROMPT) -> list[float]:
    """Return the share of all cells, times prompts, that a model call of each step evaluates."""
    canvas, is_masked = run.plan.canvas, False
    for number, mask in enumerate(prompts):
        if mask is not None:
            is_masked = True
            resized = _resize(mask, canvas.height, canvas.width)
            run.masks.note({"uuid": number, "mask": resized})
    count = _count_masked if is_masked else _count_everywhere
    whole = canvas.extent * run.images * len(prompts)
    return [count(run, step, len(prompts)) / whole for step in range(run.clock.steps)]


def _resize(mask: Tensor, height: int, width: int) -> Tensor:
    """Return a mask [B, h, w] at the size of the canvas, as ComfyUI makes it."""
    return F.interpolate(mask[:, None].float(), (height, width), mode="bilinear")[:, 0]


def _count_everywhere(run: Run, step: int, prompts: int) -> int:
    return prompts * run.count_step(step)


def _count_masked(run: Run, step: int, prompts: int) -> int:
    layout = run.layouts.lay_out(step)
    images = layout.images or [None] * len(layout.windows)
    return sum(
        len(counting) * run.count_cells(layout.windows[number], images[number])
        for counting, numbers in run.group_windows(range(prompts), layout).items()
        for number in numbers
    )


def plan_run(
    denoise: Tensor,
    settings: Settings,
    geometry: Geometry,
    sampling: Sampling,
    frames: int = 1,
    *,
    apart: bool = False,
) -> Run:
    """Return a run with this denoise [B, H, W], started so that it can tell its windows.

    `apart` tells that each image of a batch has windows of its own.
    """
    run = create_run(
        None, settings, geometry, denoise, frames=frames, mode=sampling.mode, apart=apart
    )
    last = sampling.first_step + sampling.steps
    all_steps = sampling.all_steps or last
    sigmas = [float(all_steps - step) for step in range(all_steps + 1)]
    run.start(sigmas[sampling.first_step : last + 1], all_sigmas=sigmas)
    return run


def estimate_typical_cost(tree: Quadtree | FrameTrees, steps: int) -> float:
    """Return `estimate_cost` for an image or clip of the tree's own size and default settings.

    It is shown where the model is not known, and takes a TYPICAL one.
    """
    trees = (tree,) if isinstance(tree, Quadtree) else tree
    frames = max(len(trees), trees[0].frames)
    size = trees[0].height, trees[0].width
    height, width = (ceil_div(side, TYPICAL.px_per_cell) for side in size)
    return estimate_cost(
        trees,
        Settings(),
        TYPICAL,
        sampling=Sampling(steps=steps),
        height=height,
        width=width,
        frames=TYPICAL.count_frames(frames),
    )


def estimate_rough_cost(denoise: Tensor, steps: int, frames: int = 1) -> float:
    """Return `estimate_typical_cost` within some points, in a tenth of its time.

    `denoise` [H, W] has one value per ROUGH_PX px, for a clip of `frames` frames in px. The
    windows' borders stay from step to step.
    """
    latent_frames = TYPICAL.count_frames(frames)
    sampling = Sampling(steps=steps)
    run = plan_run(denoise[None], ROUGH_SETTINGS, ROUGH, sampling, latent_frames)
    return _measure(run, sampling)
