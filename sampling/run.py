"""One sampling run: its fixed plan, and the state that changes as it goes.

Imports no ComfyUI: a run is also planned to predict its cost, where no model is loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..utils import Box, warn
from ..velocity import blend_denoised
from ..windows.blending import METHODS
from ..windows.sharing import choose_batch
from ..windows.tiling import Images, Tiling, Window
from .board import Hand
from .caches import WindowCaches
from .cond_masks import CondMasks
from .cropping import RunMemory, crop
from .frames import take_frames
from .keeping import KeepWatch
from .layouts import Layout, Layouts, Step, make_step
from .model import PLANNED_BATCH, Geometry, Settings, count_together
from .pace import Pace
from .plan import Mode, RunPlan, Stage
from .protocols import Conds, Control, Hints, ModelFunctionWrapper
from .references import References
from .steps import StepClock, place_stage
from .sums import WindowSum
from .tally import Tally

if TYPE_CHECKING:
    from .audio import Audio
    from .parallel import Team


LITTLE = 1.06  # times the cost: what windows in calls of their own may cost more


class Share(NamedTuple):
    """A window of a step, relative to its area, and who evaluated it."""

    step: int
    area: Box
    box: Box
    name: str


class Weighed(NamedTuple):
    """The cells evaluated before a call of the model, and in the whole run.

    `call` is how many calls ended before it, and its step.
    """

    call: tuple[int, int]
    earlier: int
    all: int


class Run:
    """The state of one sampling run; it is changed by its own methods only."""

    def __init__(
        self, plan: RunPlan, tiling: Tiling, batch: int, memory: RunMemory | None = None
    ) -> None:
        self.tally = Tally()
        self.clock = StepClock()
        self.layouts = Layouts(plan, tiling, Stage(first=0, steps=1, all_steps=1))
        self.batch = batch  # windows in one model call, at most
        self.clean: Tensor | None = None  # [B or 1, C, ..., H, W] in the model's space
        self.audio: Audio | None = None  # that is packed behind a video
        self.estimate: Tensor | None = None  # that the sampler's callback was given last
        self.areas: dict[Hashable, Box] = {}  # by the id that core gives the cond
        self.masks = CondMasks()
        self.memory = RunMemory() if memory is None else memory
        self.caches = WindowCaches()
        self.keep_watch = KeepWatch()
        self.attached: Sequence[object] = ()  # see `patches.list_attached`
        self.pace = Pace()
        self.started_s = 0.0  # when sampling started, of time.monotonic
        self.single = False  # one window in each call, so that they are shared out evenly
        self.teams: Sequence[Team] = ()  # who shares the windows of the next model call
        self.shared_s = 0.0  # spent in steps that several shared
        self.shares: list[Share] = []  # who evaluated which windows, of those steps
        self._hands: dict[str, Hand] = {}
        self.notes: list[str] = []  # warnings that the node shows when the run has ended
        self._step_cells: list[int] = []  # of the windows of each step of the canvas, once counted
        self._weighed: Weighed | None = None  # of the latest call
        self.closed: Tensor | None = None  # what core's noise mask closes, bool like `plan.open`
        self.times_shrunk = 0
        self._control_proxies: dict[Control, Control] = {}
        self.frames: tuple[int, ...] | None = None  # of the clip, that the model is called on
        self._latest: dict[Hashable, Step] = {}
        self._largest_batch = 1  # windows in the largest model call of the latest step
        self._lock = threading.Lock()  # ComfyUI's multi-GPU sampling calls from threads

    @property
    def plan(self) -> RunPlan:
        return self.layouts.plan

    @property
    def tiling(self) -> Tiling:
        return self.layouts.tiling

    def __deepcopy__(self, memo: dict[int, object]) -> Run:
        """Return the run itself: deep-copying model options must share the run."""
        return self

    def start(
        self,
        sigmas: Sequence[float],
        clean: Tensor | None = None,
        batch: int | None = None,
        all_sigmas: Sequence[float] | None = None,
    ) -> None:
        """Start sampling with these sigmas [steps + 1].

        `clean` [B or 1, C, ..., H, W] is what is preserved, in the model's space; `batch` None
        leaves the number of windows per call as it is. `all_sigmas` are those of the whole
        schedule, where this run is a stage of it; denoise counts their steps. ValueError if not.
        """
        self.clock.start(sigmas)
        self.started_s = time.monotonic()
        first, all_steps = place_stage(sigmas, all_sigmas)
        self._lay_out_anew(stage=Stage(first, self.clock.steps, all_steps))
        self.clean = clean
        self.batch = self.batch if batch is None else batch

    def watch(self, callback: Callable[..., None] | None) -> Callable[..., None]:
        """Return the sampler's callback, which also notes the estimate that it is given."""

        def note_estimate(step: int, estimate: Tensor, *args: object) -> None:
            self.estimate = estimate
            if callback is not None:
                callback(step, estimate, *args)

        return note_estimate

    def note(self, words: str) -> None:
        """Warn now, and on the node when the run has ended."""
        warn("%s.", words)
        self.notes.append(words)

    def place_area(self, cond_id: Hashable, area: Box) -> None:
        """Note where on the canvas a cond applies."""
        self.areas[cond_id] = area

    def note_references(self, cond: Conds) -> None:
        """Note which reference pictures of a cond, whose area is known, lie on the image."""
        clean = self.clean
        if clean is not None and (area := self.areas.get(cond.get("uuid"))) is not None:
            clean = crop(clean, area)
        self.memory.references.note(cond, clean)

    def get_proxy(self, control: Control, make: Callable[[Control, Hints], Control]) -> Control:
        """Return the control's proxy; it is made once per run."""
        if control not in self._control_proxies:
            self._control_proxies[control] = make(control, self.memory.hints)
        return self._control_proxies[control]

    def share_with(self, teams: Sequence[Team]) -> None:
        """Share windows with these from here on; without any, the device of a call has them all."""
        self.teams = teams

    def note_shares(self, step: Step, boxes: Sequence[Box], hand: Hand) -> None:
        """Note who evaluated windows of a step; they are relative to its area."""
        self.shares += [Share(step.index, step.area, box, hand.name) for box in boxes]

    @property
    def hands(self) -> list[Hand]:
        """Return all that took part in the run so far, or might have."""
        return list(self._hands.values())

    def expect_helpers(self, shares: int = 1) -> None:
        """Cut windows for so many to evaluate, and hold one in each call where that costs little.

        Single windows are shared out more evenly. Nothing depends on how many there are, or they
        would change the result: `shares` is what the user chose; 1 leaves windows as they are.
        """
        tiling, cells = self.tiling, (self.tiling.tile * self.tiling.unit) ** 2
        together = tiling.cost.predict_window(cells, max(1, tiling.batch))
        self.single = tiling.cost.predict_window(cells, 1) < LITTLE * together
        most = 1 if self.single else min(self.batch, tiling.batch)
        self._lay_out_anew(tiling=replace(tiling, shares=shares, together=most))

    def choose_batch(self, windows: Sequence[Window]) -> int:
        """Return how many of a step's windows a model call holds at most."""
        return 1 if self.single else choose_batch(windows, self.tiling, self.batch)

    def get_hand(self, name: str) -> Hand:
        """Return the hand of this name; it is known for the length of the run."""
        with self._lock:
            return self._hands.setdefault(name, Hand(name))

    @contextmanager
    def taking(self, frames: tuple[int, ...] | None) -> Iterator[None]:
        """Take model calls to be on these frames of the clip until the context ends; None: all."""
        self.frames = frames
        try:
            yield
        finally:
            self.frames = None

    def expect_batches(self, sizes: Sequence[int]) -> None:
        """Note how many windows each model call of the coming step holds."""
        self._largest_batch = max(sizes, default=1)

    def shrink(self) -> bool:
        """After running out of memory: halve the batch, then the window; False at the smallest."""
        tiling = self.tiling
        together = min(self.batch, self._largest_batch)
        if together > 1:
            self.batch = together // 2
        elif tiling.tile // 2 >= max(tiling.fewest, 2 * tiling.overlap):
            half = tiling.tile // 2
            halved = replace(tiling, tile=half, smallest=min(tiling.smallest, half))
            self._lay_out_anew(tiling=halved)
        else:
            return False
        self.times_shrunk += 1
        return True

    def evaluate_singly(self) -> bool:
        """Hold one window in each model call; False if no call of this step held more."""
        several = min(self.batch, self._largest_batch) > 1
        self.batch = 1
        return several

    def join_images(self) -> None:
        """Give all images the same windows from here on: the rows of a call depend on each other,
        or nobody knows which of them belongs to which image."""
        self._lay_out_anew(plan=replace(self.plan, apart=False))

    def _lay_out_anew(
        self,
        plan: RunPlan | None = None,
        tiling: Tiling | None = None,
        stage: Stage | None = None,
    ) -> None:
        """Lay windows out by another plan, tiling or stage; None: by the same."""
        old = self.layouts
        with self._lock:
            self.layouts = Layouts(plan or old.plan, tiling or old.tiling, stage or old.stage)
            self._step_cells, self._weighed = [], None
            self._latest.clear()

    # ---- which windows are due, and how much they count

    def freedom(self, index: int) -> Tensor:
        """Return the freedom in 0..1 of every cell at a step, in the shape of `plan.denoise`."""
        return self.plan.freedom(*self.layouts.stage.place(index))

    def find_release(self, sigmas: Sequence[float], all_sigmas: Sequence[float] | None) -> Tensor:
        """Return the step of these sigmas that releases each cell, int64 in the shape of denoise,
        or [B or 1, 1, values] of a packed latent.

        It is 0 for cells that are free from the start, and the number of steps for those that are
        held to the end. See `start` for the arguments; the run need not have started.
        """
        first, steps = place_stage(sigmas, all_sigmas)
        release = torch.zeros_like(self.plan.denoise, dtype=torch.long)
        for index in range(first, first + len(sigmas) - 1):
            release += self.plan.freedom(index, steps) == 0
        return release if self.audio is None else self.audio.release(release)

    def kept(self) -> Tensor:
        """Return the cells that no step frees, bool in the shape of the plan's denoise."""
        return self.freedom(self.clock.steps - 1) == 0  # freedom never falls

    def summarize(self) -> str:
        """Say in words what the run cost and kept."""
        kept = 100 * float(self.kept().double().mean())
        summary = (
            f"{self.clock.steps} steps, {100 * self.tally.share:.1f}% of the full model cost, "
            f"{kept:.1f}% of the latent kept"
        )
        if self.tally.skipped:
            share = 100 * self.tally.skipped / self.tally.windows
            summary += f", {share:.1f}% of the windows skipped by EasyCache"
        return ". ".join([summary, *(f"Warning: {note}" for note in self.notes)])

    def step(self, sigma: Tensor, like: Tensor, area: Box | None = None) -> Step:
        """Return the step of a model call at `sigma` [rows] in an area (None: the whole canvas).

        Its tensors are on the device of the latent `like`, and of its rank.
        """
        area = self.plan.canvas if area is None else area
        index = self.clock.index_at(sigma)
        key = like.device, area, self.frames
        with self._lock:
            latest = self._latest.get(key)
            if latest is None or latest.index != index:
                weight = self.plan.model_weight(*self.layouts.stage.place(index))
                layout = self.layouts.lay_out(index, area)
                latest = self._latest[key] = make_step(layout, weight, like, self.frames)
        return latest

    def group_windows(
        self, cond_ids: Sequence[Hashable], layout: Layout
    ) -> dict[tuple[int, ...], list[int]]:
        """Return the numbers of a layout's windows by the conds of a call that count in them."""
        masks = [self.masks.find(cond_id, self.plan.canvas) for cond_id in cond_ids]
        return self.layouts.group(layout, masks)

    def estimate_left(self, step: Step, done: Sequence[int]) -> float | None:
        """Return the seconds left when `done` cells, by window, of a step are; None if unknown."""
        if step.area != self.plan.canvas or not step.windows:
            return None  # conds with areas of their own: how much is left is not known
        call = self.clock.all_calls, step.index
        weighed = self._weighed  # another thread may forget it meanwhile
        if weighed is None or weighed.call != call:
            weighed = self._weighed = self._weigh(call)
        share = (weighed.earlier + sum(done)) / weighed.all
        return self.pace.estimate_left(share, time.monotonic())

    def _weigh(self, call: tuple[int, int]) -> Weighed:
        (now, index), calls = call, self.clock.list_calls()
        if now >= len(calls) or calls[now] != index:  # the sampler calls in its own way
            calls, now = list(range(self.clock.steps)), index
        cells = self._step_cells = self._step_cells or [
            self.count_step(each) for each in range(self.clock.steps)
        ]
        work = [cells[each] for each in calls]
        return Weighed(call, sum(work[:now]), sum(work))

    def count_step(self, index: int) -> int:
        """Return the cells of the windows of a step of the canvas, in all images."""
        return sum(
            self.count_cells(window, images)
            for windows, images in self.layouts.list_by_image(index)
            for window in windows
        )

    def count_cells(self, window: Window, images: Images | None) -> int:
        """Return the cells of a window in the images that it is for; None: in all of them."""
        return window.box.extent * (self.images if images is None else len(images))

    # ---- the blend of the model's estimate with the base

    @property
    def preserves(self) -> bool:
        return self.plan.mode is Mode.PRESERVE

    def hold(self, denoised: Tensor, sigma: Tensor) -> Tensor:
        """Return an estimate [B, C, ..., H, W] with the clean latent where `sigma` holds it."""
        if not self.preserves or self.clean is None:
            return denoised
        held = self.step(sigma, denoised).model_weight == 0
        return torch.where(held, self.clean.to(denoised), denoised)

    @property
    def images(self) -> int:
        """The images of the latent; 1 where none of them has anything of its own."""
        clean_rows = 1 if self.clean is None else self.clean.shape[0]
        return max(self.plan.denoise.shape[0], self.plan.open.shape[0], clean_rows)

    def split_images(self, latent: Tensor) -> Tensor:
        """Return [conds * B, ...] as [conds, B, ...], so that what is given per image fits."""
        return latent.unflatten(0, (-1, self.images))

    def blend(self, noisy: Tensor, denoised: Tensor, step: Step) -> Tensor:
        """Blend the model's estimate of a whole area [conds * B, C, ..., h, w] with the base.

        The base is what a cell without any weight follows: the clean latent, or where there is
        none the noisy latent itself, whose velocity is 0.
        """
        if self.plan.mode is Mode.FREE:
            return denoised
        base = self._base(self.split_images(noisy), step.area)
        return blend_denoised(self.split_images(denoised), base, step.model_weight).flatten(0, 1)

    def begin_blend(self, noisy: Tensor, step: Step, conds: int) -> WindowSum:
        """Return the blend of an area [conds * B, C, ..., h, w], to which windows are added."""
        noisy = noisy.unflatten(0, (conds, -1))
        return WindowSum(self._base(noisy, step.area).expand_as(noisy), step.model_weight)

    def _base(self, noisy: Tensor, area: Box) -> Tensor:
        if not self.preserves or self.clean is None:
            return noisy
        return take_frames(crop(self.clean, area), self.frames).to(noisy)


def create_run(
    owner: object,
    settings: Settings,
    geometry: Geometry,
    denoise: Tensor,
    *,
    frames: int = 1,
    open_cells: Tensor | None = None,
    mode: Mode = Mode.PRESERVE,
    inner: ModelFunctionWrapper | None = None,
    apart: bool = False,
) -> Run:
    """Create a run on latents of `denoise`'s [B or 1, H, W], or [B or 1, T or 1, H, W] for videos.

    `frames` counts the latent's frames. `open_cells`, bool like `denoise`, are the cells that may
    change; None: all of them. See `RunPlan` for `owner`, `inner` and `apart`.
    """
    height, width = denoise.shape[-2:]
    if open_cells is None:
        open_cells = torch.ones_like(denoise[:1], dtype=torch.bool)
    plan = RunPlan(
        owner=owner,
        mode=mode,
        method=METHODS[settings.method],
        schedule=settings.schedule,
        denoise=denoise,
        open=open_cells,
        inner=inner,
        apart=apart and max(len(denoise), len(open_cells)) > 1,
    )
    batch = 1 if geometry.is_single else count_together(settings.batch or PLANNED_BATCH, frames)
    tiling = geometry.choose_tiling(settings, height, width, frames)
    memory = RunMemory(
        unit=geometry.unit,
        image_first=geometry.image_first,
        references=References(settings.references),
    )
    return Run(plan, tiling, batch, memory)
