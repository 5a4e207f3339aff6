"""One sampling run: what the user chose, what the model is, and which cells are free and which windows are due at a step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ..quadtree import Quadtree
from ..utils import Box, ceil_div, cells_from_px
from ..velocity import SCHEDULES, blend_denoised, step_of, txt2img_scale
from ..windows.blending import METHODS, Method, compute_shares
from ..windows.planning import Planner, mark_active_units
from ..windows.tiling import Tiling, Window
from .model import PLANNED_BATCH, ROUGH, TYPICAL, Geometry, Settings


@dataclass(slots=True)
class Tally:
    """What a run has cost so far; cells are latent cells times conds times batch."""

    calls: int = 0
    windows: int = 0
    cells: int = 0
    canvas_cells: int = 0

    @property
    def share(self) -> float:
        """Of what is evaluated without this node."""
        return self.cells / max(1, self.canvas_cells)


@dataclass(frozen=True, slots=True)
class Step:
    """One step in one place of the canvas: freedom (or velocity scale) [B or 1, 1, ..., h, w], windows, and how each counts.

    `windows` are relative to the place; `weights` holds freedom times the window's normalised share for every window.
    """

    index: int
    place: Box
    freedom: Tensor
    windows: tuple[Window, ...]
    weights: tuple[Tensor, ...]


class Mode(Enum):
    """What the quadtree means for a run."""

    PRESERVE = "hold every cell to the clean latent as its denoise says"
    SCALE = "text to image: there is nothing to hold to, so slow the velocity"
    FREE = "a noisy latent whose clean one is not known: windows only"


@dataclass(slots=True)
class Run:
    """One sampling run, with `batch` windows at a time. `denoise` is [B or 1, H, W] float64; `open` are the cells [H, W] that
    core's noise mask lets change."""

    owner: object  # the node's patch that opened it: of two in one chain only the later one acts
    method: Method
    schedule: str
    tiling: Tiling
    batch: int
    denoise: Tensor
    open: Tensor
    mode: Mode
    sigmas: list[float] = field(default_factory=list)
    clean: Tensor | None = None
    tally: Tally = field(default_factory=Tally)
    plans: dict[tuple, tuple[Window, ...]] = field(default_factory=dict)
    latest: dict[tuple[torch.device, Box], Step] = field(default_factory=dict)
    planners: dict[Box, Planner] = field(default_factory=dict)
    together: int = 1  # windows in the largest model call of the latest step
    shrunk: bool = False
    announced: int | None = (
        None  # the step that is due, where the sampler says so before it calls the model
    )
    places: dict[Any, Box] = field(
        default_factory=dict
    )  # of conditioning areas, by the id that core gives each cond
    hints: dict = field(default_factory=dict)  # what ControlNets prepared for this run
    stand_ins: dict = field(default_factory=dict)  # for control objects, see control.py
    devices: Any = None  # where core spreads this run over several GPUs, see parallel.py
    warned: set[str] = field(default_factory=set)  # conditioning entries that were reported
    lock: threading.Lock = field(
        default_factory=threading.Lock
    )  # core's multi-GPU sampling calls from threads

    def lay(self, tiling: Tiling) -> None:
        """Plan with this tiling from here on."""
        with self.lock:
            self.tiling = tiling
            self.planners.clear()
            self.plans.clear()
            self.latest.clear()

    def shrink(self) -> bool:
        """After running out of memory: half as many windows together, then half the window; False at the smallest."""
        tiling = self.tiling
        if min(self.batch, self.together) > 1:
            self.batch = min(self.batch, self.together) // 2
        elif tiling.tile // 2 >= max(tiling.fewest, 2 * tiling.overlap):
            self.lay(
                replace(
                    tiling, tile=tiling.tile // 2, smallest=min(tiling.smallest, tiling.tile // 2)
                )
            )
        else:
            return False
        return True

    def __deepcopy__(self, memo: dict) -> Run:
        """A run is one; a node that copies the model's options copies the reference."""
        return self

    @property
    def canvas(self) -> Box:
        return Box(0, 0, self.open.shape[1], self.open.shape[0])

    @property
    def steps(self) -> int:
        return max(1, len(self.sigmas) - 1)

    def freedom(self, index: int) -> Tensor:
        """Freedom [B or 1, H, W] in 0..1 of every cell at a step."""
        if self.mode is not Mode.PRESERVE:
            return torch.ones_like(self.denoise)
        return SCHEDULES[self.schedule](self.denoise, index, self.steps)

    def kept(self) -> Tensor:
        """Cells [B or 1, H, W] that no step frees. Freedom never falls, so the last step tells."""
        return self.freedom(self.steps - 1) == 0

    def summary(self) -> str:
        """What the run cost and kept, in words."""
        kept = 100 * float(self.kept().double().mean())
        return f"{self.steps} steps, {100 * self.tally.share:.1f}% of the full model cost, {kept:.1f}% of the latent kept"

    def by_image(self, latent: Tensor) -> Tensor:
        """[conds * B, C, ..., H, W] as [conds, B, C, ..., H, W], so that what is said per image fits."""
        rows = max(len(self.denoise), 1 if self.clean is None else len(self.clean))
        return latent.unflatten(0, (-1, rows))

    def base(self, noisy: Tensor, place: Box) -> Tensor:
        """What a cell without freedom follows, to fit `noisy` [conds, B, C, ..., h, w] of a place."""
        return self.clean[(..., *place.slices)].to(noisy) if self.mode is Mode.PRESERVE else noisy

    def blended(self, noisy: Tensor, denoised: Tensor, step: Step) -> Tensor:
        """What the sampler gets for `denoised` of a whole place [conds * B, C, ..., h, w]."""
        if self.mode is Mode.FREE:
            return denoised
        noisy = self.by_image(noisy)
        return blend_denoised(
            self.by_image(denoised), self.base(noisy, step.place), step.freedom
        ).flatten(0, 1)

    def bound(self, noisy: Tensor, step: Step) -> Tensor:
        """The part of the blend that no window gives, (1 - a) times the base, as a new [conds, B, C, ..., h, w]."""
        noisy = self.by_image(noisy)
        return self.base(noisy, step.place).expand_as(noisy) * (1 - step.freedom)

    def step(
        self, sigma: Tensor, device: torch.device, rank: int, place: Box | None = None
    ) -> Step:
        """What is due at a model call at `sigma` [rows] in a place (None: everywhere), for latents of `rank` on `device`."""
        place = self.canvas if place is None else place
        index = step_of(float(sigma[0]), self.sigmas) if self.announced is None else self.announced
        with self.lock:
            latest = self.latest.get((device, place))
            if latest is None or latest.index != index:
                latest = self.latest[device, place] = self._step(index, device, rank, place)
        return latest

    def _step(self, index: int, device: torch.device, rank: int, place: Box) -> Step:
        windows = self.windows(index, place)
        if self.mode is Mode.SCALE:
            freedom = txt2img_scale(self.denoise, index, self.steps)
        else:
            freedom = self.freedom(index).where(
                self.open, 0.0
            )  # what core's mask closes is held, too
        freedom = per_image(freedom[(..., *place.slices)].to(device, torch.float32), rank)
        margin = self.tiling.overlap * self.tiling.unit // 2
        size = place.height, place.width
        weights = tuple(
            share.to(device, torch.float32) * freedom[(..., *window.box.slices)]
            for share, window in zip(
                compute_shares(windows, size, self.method, margin), windows, strict=True
            )
        )
        return Step(index, place, freedom, windows, weights)

    def windows(self, index: int, place: Box | None = None) -> tuple[Window, ...]:
        """The windows of a step, planned once per set of active cells (and per position of a moving lattice)."""
        place = self.canvas if place is None else place
        active = mark_active_units(
            ((self.freedom(index) > 0).any(0) & self.open)[place.slices], self.tiling.unit
        )
        key = place, index if self.tiling.moving else 0, active.tobytes()
        if key not in self.plans:
            planner = self.planners.setdefault(
                place, Planner((place.height, place.width), self.tiling)
            )
            self.plans[key] = planner.plan(active)
        return self.plans[key]


def per_image(cells: Tensor, rank: int) -> Tensor:
    """[B or 1, H, W] as [B or 1, 1, ..., H, W], to fit latents of `rank` dimensions."""
    return cells.view(len(cells), *[1] * (rank - 3), *cells.shape[-2:])


def new_run(
    owner: object,
    settings: Settings,
    geometry: Geometry,
    denoise: Tensor,
    *,
    open_cells: Tensor | None = None,
    mode: Mode = Mode.PRESERVE,
) -> Run:
    """A run on latents of `denoise`'s [B or 1, H, W]; all cells are open unless told otherwise."""
    return Run(
        owner,
        METHODS[settings.method],
        settings.schedule,
        geometry.tiling(settings, *denoise.shape[-2:]),
        settings.batch or PLANNED_BATCH,
        denoise,
        torch.ones(denoise.shape[-2:], dtype=torch.bool) if open_cells is None else open_cells,
        mode,
    )


def denoise_maps(
    trees: Sequence[Quadtree], settings: Settings, geometry: Geometry, height: int, width: int
) -> Tensor:
    """Denoise per cell of each tree, float64 [trees, height, width] in 0..1, with what the settings change about it."""
    feather = cells_from_px(settings.feather_px, geometry.px_per_cell)
    return torch.stack(
        [
            tree.keep_below(settings.keep_below_px).denoise_map(height, width, feather)
            for tree in trees
        ]
    )


def estimate(
    trees: Sequence[Quadtree],
    settings: Settings,
    geometry: Geometry,
    steps: int,
    height: int,
    width: int,
) -> float:
    """Share of the full model cost, in evaluated cells, that a run of `steps` steps on height x width cells takes.

    The run plans as it would when sampling, so for samplers that call the model once a step the share is exact.
    """
    return _evaluated(
        denoise_maps(trees, settings, geometry, height, width), settings, geometry, steps
    )


def _evaluated(denoise: Tensor, settings: Settings, geometry: Geometry, steps: int) -> float:
    """Share of the cells that a run with this denoise [B, H, W] evaluates."""
    run = new_run(None, settings, geometry, denoise)
    run.sigmas = [float(steps - step) for step in range(steps + 1)]
    cells = sum(
        window.box.width * window.box.height
        for step in range(steps)
        for window in run.windows(step)
    )
    return cells / (steps * denoise[0].numel())


def typical_cost(tree: Quadtree, steps: int) -> float:
    """`estimate` for an image of the tree's own size with default settings, where the model is not known."""
    size = (ceil_div(side, TYPICAL.px_per_cell) for side in (tree.height, tree.width))
    return estimate([tree], Settings(), TYPICAL, steps, *size)


def rough_cost(denoise: Tensor, steps: int) -> float:
    """`typical_cost` within some points, in a tenth of its time, of denoise per ROUGH_PX cell [H, W]: borders that stay."""
    return _evaluated(denoise[None], Settings(method="Mixture of Diffusers"), ROUGH, steps)
