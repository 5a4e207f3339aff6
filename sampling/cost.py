"""What a run will cost, before it: the share of the cells that its windows evaluate.

It is found with the run's own plan, so that the price that is shown and the one that is paid are
one. Imports no ComfyUI: the cost is predicted where no model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..quadtree import FrameTrees, Quadtree
from ..utils import ceil_div
from .model import ROUGH, ROUGH_SETTINGS, TYPICAL, Geometry, Settings
from .run import Mode, Run, build_denoise_maps, create_run


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
) -> float:
    """Return the share of the full model cost that a run on height x width cells takes.

    It is counted in evaluated cells, of so many frames. The run plans as it would when sampling, so
    for samplers whose calls per step are known the share is exact.
    """
    denoise = build_denoise_maps(trees, settings, geometry, height, width)
    return _estimate_from_maps(denoise, settings, geometry, sampling, frames)


def _estimate_from_maps(
    denoise: Tensor,
    settings: Settings,
    geometry: Geometry,
    sampling: Sampling,
    frames: int = 1,
) -> float:
    """Return the share of the cells that a run with this denoise [B, H, W] evaluates.

    Windows are cut in space and hold all frames, so that is their share of all frames, too.
    """
    run = plan_run(denoise, settings, geometry, sampling, frames)
    cells = 0
    for step, calls in enumerate(sampling.calls):
        windows = run.windows(step)
        cells += calls * sum(window.box.extent for window in windows)
    return cells / (sum(sampling.calls) * denoise[0].numel())


def plan_run(
    denoise: Tensor,
    settings: Settings,
    geometry: Geometry,
    sampling: Sampling,
    frames: int = 1,
) -> Run:
    """Return a run with this denoise [B, H, W], started so that it can tell its windows."""
    run = create_run(None, settings, geometry, denoise, mode=sampling.mode, frames=frames)
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
    return _estimate_from_maps(denoise[None], ROUGH_SETTINGS, ROUGH, sampling, latent_frames)
