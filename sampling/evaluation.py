"""Evaluate the model calls of a run window by window, and blend the windows.

From the outside in: `denoise` takes a whole call and goes on smaller after running out of memory;
`_denoise_areas` takes it apart where its conds lie in different areas of the canvas;
`_denoise_area` evaluates one area, in one window or in batches of windows; `_evaluate` is one call
of the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import comfy.model_management
import torch
from torch import Tensor

from ..utils import Box, format_seconds, info, warn
from ..windows.memory import is_oom
from ..windows.shapes import batch_windows
from .attention_guidance import AreaScores, find_variable
from .audio import SHAPES, Audio, Packing
from .board import Hand
from .caches import find_cache, has_kept, is_skipping
from .conditioning import crop_call, crop_to_area, cutter_of, select_call
from .control import DeferredControl, crop_control
from .cropping import unstack_windows
from .layouts import Step
from .parallel import HERE, Task, share_out
from .patch_controls import stays_on_its_device
from .protocols import (
    Conds,
    ModelCall,
    ModelFunction,
    ModelFunctionWrapper,
    ids_of_conds,
)
from .rules import (
    fit_to_windows,
    has_foreign,
    has_frames,
    has_kv_cache,
    list_foreign,
    needs_one_row,
    reads_first_row,
    refusal,
    refuse_blocks,
)
from .run import Run
from .sums import WindowSum

# In `RunMemory.warned`: what patches hold was looked at, and what they keep of windows was found.
PATCHES, KEPT = "patches", "kept"


class Evaluator:
    """Evaluates one model call of a run, which `apply_model` or another model function answers.

    `tell` is told in words how far the step is.
    """

    def __init__(self, run: Run, apply_model: ModelFunction, tell: Callable[[str], None]) -> None:
        self.run = run
        self.apply_model = apply_model
        self.inner = run.plan.inner
        self.tell = tell
        self.heard: dict[Box, Tensor] = {}  # the audio beside each window of the call
        self.has_masks = True  # whether patches of the call hold masks that are cut

    def denoise_packed(self, call: ModelCall, audio: Audio) -> Tensor:
        """Return the denoised latent [rows, 1, values] of a call on a video with its audio."""
        unpacked = audio.unpack(call)
        video = self.denoise(unpacked)
        return audio.packing.join(video, audio.blend(self.run, unpacked, self.heard))

    def denoise(self, call: ModelCall) -> Tensor:
        """Return the denoised latent [rows, C, ..., H, W] for `call["input"]` of the same shape.

        Goes on with fewer or smaller windows after running out of memory, and raises that error
        only where there are none.
        """
        refuse_blocks(call["c"].get("transformer_options", {}))
        self.run.tally.count_canvas(call["input"])
        areas = _find_areas(self.run, call)
        _check_images(self.run, call)
        if self.run.plan.apart and self._mixes_images(call):
            self.run.join_images()
        while True:
            self.heard.clear()
            try:
                return self._denoise_areas(call, areas)
            except Exception as error:
                if is_oom(error):
                    if not self._shrink():
                        raise
                elif not isinstance(error, RuntimeError) or not self._evaluate_singly(error):
                    raise
            comfy.model_management.soft_empty_cache()

    def _mixes_images(self, call: ModelCall) -> bool:
        """Tell whether the rows of a call may depend on each other, or on their places in it.

        Frames of a clip do. What another pack does with rows is not known.
        """
        options, control = call["c"].get("transformer_options", {}), call["c"].get("control")
        return (
            len(call["input"]) != len(call["cond_or_uncond"]) * self.run.images
            or has_frames(call["c"])
            or has_foreign(options, self.inner)
            or (isinstance(control, DeferredControl) and control.is_foreign())
        )

    def _evaluate_singly(self, error: RuntimeError) -> bool:
        """Evaluate one window per call from here on; return False if that is so already.

        Some networks take one row of a text mask, or of a control, for all rows of a call.
        """
        if not self.run.evaluate_singly():
            return False
        warn(
            "the model does not take several windows at once (%s); it gets one per call.",
            str(error),
        )
        return True

    def _shrink(self) -> bool:
        """Make the run's windows fewer or smaller; return False if they cannot be."""
        if not self.run.shrink():
            warn(
                "out of memory even with the smallest windows. Use a smaller tile_overlap or "
                "image, or free memory."
            )
            return False
        if self.run.times_shrunk == 1:
            warn(
                "out of memory: the run goes on with fewer windows at a time, then with smaller "
                "ones, as with a smaller tile_size."
            )
        return True

    # ---- one call: its conds by the area of the canvas that they apply to

    def _denoise_areas(self, call: ModelCall, areas: Sequence[Box]) -> Tensor:
        """Denoise a call whose conds lie in these areas, which core evaluates together."""
        noisy, canvas = call["input"], self.run.plan.canvas
        steps = [self.run.step(call["timestep"], noisy, area) for area in areas]
        cropped: dict[Box, Conds] = {}
        for area in dict.fromkeys(areas):
            cropped[area] = call["c"]
            if area != canvas:
                unit = self.run.tiling.unit
                cropped[area] = crop_to_area(call["c"], canvas=canvas, area=area, unit=unit)
        if len(cropped) == 1:
            return self._denoise_area({**call, "c": cropped[areas[0]]}, steps[0])
        is_same = all(c is call["c"] for c in cropped.values())
        if is_same and all(step.is_one_window for step in steps):
            return self._denoise_areas_at_once(call, steps)
        return self._denoise_areas_in_turn(call, cropped, areas, steps)

    def _denoise_areas_at_once(self, call: ModelCall, steps: Sequence[Step]) -> Tensor:
        """Denoise areas of one window each in one model call, as core would."""
        noisy = call["input"].chunk(len(steps))
        denoised = self._evaluate_whole(call, steps[0]).chunk(len(steps))
        parts = map(self.run.blend, noisy, denoised, steps)
        return torch.cat(list(parts))

    def _denoise_areas_in_turn(
        self,
        call: ModelCall,
        cropped: dict[Box, Conds],
        areas: Sequence[Box],
        steps: Sequence[Step],
    ) -> Tensor:
        """Denoise the conds of one area after those of another; `cropped` has each area's."""
        parts = list(call["input"].chunk(len(areas)))
        for area, c in cropped.items():
            numbers = [number for number, other in enumerate(areas) if other == area]
            selected = select_call({**call, "c": c}, numbers)
            denoised = self._denoise_area(selected, steps[numbers[0]])
            for number, part in zip(numbers, denoised.chunk(len(numbers)), strict=True):
                parts[number] = part
        return torch.cat(parts)

    # ---- one area: its windows, blended

    def _denoise_area(self, call: ModelCall, step: Step) -> Tensor:
        """Return the windows of an area, blended with each other and with what holds the cells.

        The result is [conds * B, C, ..., h, w] as the call's input.
        """
        noisy, conds = call["input"], len(call["cond_or_uncond"])
        groups = self.run.group_windows(ids_of_conds(call), step)
        everyone = tuple(range(conds))
        if step.is_one_window and everyone in groups:
            return self.run.blend(noisy, self._evaluate_whole(call, step), step)
        total = self.run.begin_blend(noisy, step, conds)
        single = self._needs_single(call)
        self._note_kept(call, step)
        options = fit_to_windows(call["c"].get("transformer_options", {}))
        call = {**call, "c": {**call["c"], "transformer_options": options}}
        scores = AreaScores(call)
        done: list[int] = []  # the cells of each window of the area that was evaluated so far
        for counting, numbers in groups.items():
            windows = [step.windows[number] for number in numbers]
            most = 1 if single else self.run.choose_batch(windows)
            todo = batch_windows(step.windows, most, numbers)
            selected = call if counting == everyone else select_call(call, counting)
            results = iter(self._evaluate_batches(selected, step, todo, done))
            for batch in todo:  # no name keeps a result: two at once may not fit in memory
                _add_windows(total, next(results), step, batch, counting)
                scores.add([step.windows[number].box for number in batch], step.images_of(batch))
        scores.hand_on()
        return total.finish()

    def _needs_single(self, call: ModelCall) -> bool:
        """Tell whether this call takes one window at a time; report what its patches cannot cut.

        Masks in patches have rows for conds or for images, and what another pack wraps or patches
        may take the rows of a call for positive and negative: both are right with one window only.
        So are masks of which the model reads the first row only. Raises ValueError for a mask that
        is inside the network, where it cannot be cut.
        """
        options = call["c"].get("transformer_options", {})
        cutter = cutter_of(call, self.run.memory)
        if PATCHES not in self.run.memory.warned:
            self.run.memory.warned.add(PATCHES)
            if has_kv_cache(options):
                self.run.note(
                    "windows are evaluated without Flux KV Cache, which keeps what one window saw; "
                    "the reference is evaluated with each of them"
                )
            for found in cutter.find_motion_masks(self.run.attached):
                raise refusal(f"the mask in {found.name} ({found.owner})", "Use a number there")
            for owner in {found.owner for found in cutter.note_maps([options, self.inner])}:
                info("the feature map in %s is cut with the windows.", owner or "a patch")
            for owner in {found.owner for found in cutter.find_unknown([options, self.inner])}:
                self.run.note(
                    f"{owner or 'a patch'} holds a picture that is not cut into windows, so each "
                    "window sees all of it; if the result looks wrong, remove that node"
                )
        self.has_masks = bool(cutter.find_masks([options, self.inner]))
        return (
            self.has_masks
            or has_foreign(options, self.inner)
            or needs_one_row(options)
            or reads_first_row(call["c"])
        )

    def _note_kept(self, call: ModelCall, step: Step) -> None:
        """Report what another pack keeps of the windows of earlier steps, once."""
        options = call["c"].get("transformer_options", {})
        if KEPT in self.run.memory.warned or not has_foreign(options, self.inner):
            return
        sizes = [(window.box.height, window.box.width) for window in step.windows]
        found = self.run.keep_watch.find(list_foreign(options, self.inner), sizes)
        for owner in {one.owner for one in found}:
            self.run.memory.warned.add(KEPT)
            self.run.note(
                f"{owner or 'a patch'} keeps what it saw of one window, and another may get it; if "
                "the result looks wrong, remove that node"
            )

    def _evaluate_whole(self, call: ModelCall, step: Step) -> Tensor:
        """Return what the model makes of a whole area in one window."""
        control = call["c"].get("control")
        if isinstance(control, DeferredControl):
            whole = Box(0, 0, step.area.width, step.area.height)
            features = control.evaluate_windows([whole], self.run.tiling.unit, call)
            call = {**call, "c": {**call["c"], "control": features}}
        self.run.expect_batches([1])
        boxes = [step.windows[0].box]
        if step.area == self.run.plan.canvas:
            denoised = self._call(self.inner, self.apply_model, call, boxes)
        else:
            denoised = self._call_with_cache(self.inner, self.apply_model, call, step, [0])
        self._report(denoised, step, windows=1, done=self._list_cells(step, [0]))
        return denoised

    def _evaluate_batches(
        self, call: ModelCall, step: Step, todo: Sequence[Sequence[int]], done: list[int]
    ) -> Iterable[Tensor]:
        """Return what the model makes of each batch: [conds * windows * B, C, ..., h, w].

        Batches are evaluated one after the other as they are asked for, or shared out at once.
        """
        self.run.expect_batches([len(batch) for batch in todo])
        # Another node's wrapper may pass a model function of its own: it is called, on this device.
        teams = [team for team in self.run.teams if team.owns(self.apply_model)]
        if stays_on_its_device(call["c"].get("transformer_options", {})):
            teams = [team for team in teams if not team.has_this_device]
        if not teams or len(todo) < 2 or keeps_windows(call):
            return self._evaluate_in_turn(call, step, todo, done)
        start_s = time.monotonic()
        try:
            task = self._make_task(call, step, todo, done)
            return share_out(teams, task, self.apply_model, self.run.get_hand(HERE))
        finally:
            self.run.shared_s += time.monotonic() - start_s

    def _evaluate_in_turn(
        self, call: ModelCall, step: Step, todo: Sequence[Sequence[int]], done: list[int]
    ) -> Iterator[Tensor]:
        return (self._evaluate_here(call, step, batch, done) for batch in todo)

    def _evaluate_here(
        self, call: ModelCall, step: Step, batch: Sequence[int], done: list[int]
    ) -> Tensor:
        """Evaluate one batch on this device, and tell how far the step is."""
        denoised = self._evaluate(self.apply_model, call, step, batch)
        done += self._list_cells(step, batch)
        self._report(denoised, step, windows=len(batch), done=done)
        return denoised

    def _list_cells(self, step: Step, batch: Sequence[int]) -> list[int]:
        """Return the cells of each of these windows of a step, in all images that it is for."""
        images = step.images_of(batch)
        return [
            self.run.count_cells(step.windows[number], None if images is None else images[place])
            for place, number in enumerate(batch)
        ]

    def _make_task(
        self, call: ModelCall, step: Step, todo: Sequence[Sequence[int]], done: list[int]
    ) -> Task:
        """Return the batches of a call for those who share them."""
        cost = self.run.tiling.cost
        boxes = [[step.windows[number].box for number in batch] for batch in todo]

        def evaluate(apply_model: ModelFunction, moved: ModelCall, number: int) -> Tensor:
            return self._evaluate(apply_model, moved, step, todo[number])

        def report(hand: Hand, number: int, denoised: Tensor) -> None:
            self.run.note_shares(step, boxes[number], hand)
            done.extend(self._list_cells(step, todo[number]))
            self._report(denoised, step, windows=len(todo[number]), done=done)

        costs = []
        for batch in boxes:
            cells = batch[0].extent
            costs.append(cost.predict_shape(cells, count=len(batch), batch=len(batch)))
        return Task(
            call=call,
            boxes=boxes,
            images=[step.images_of(batch) for batch in todo],
            costs=costs,
            unit=self.run.tiling.unit,
            memory=self.run.memory,
            evaluate=evaluate,
            report=report,
        )

    def _evaluate(
        self,
        apply_model: ModelFunction,
        call: ModelCall,
        step: Step,
        batch: Sequence[int],
    ) -> Tensor:
        """Evaluate one batch of windows in one model call."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        boxes, images = [step.windows[number].box for number in batch], step.images_of(batch)
        unit, control = self.run.tiling.unit, call["c"].get("control")
        if isinstance(control, DeferredControl):
            control.evaluate_foreign()
        window_call = crop_call(
            call,
            boxes,
            unit=unit,
            memory=self.run.memory,
            images=images,
            has_masks=self.has_masks,
        )
        if control is not None:
            features = crop_control(control, call, boxes, unit, window_call, images)
            window_call["c"]["control"] = features
        inner = self.inner
        if self.has_masks and inner is not None and len(boxes) == 1:
            inner = cutter_of(call, self.run.memory).cut(inner, boxes[0])
        return self._call_with_cache(inner, apply_model, window_call, step, batch)

    def _call_with_cache(
        self,
        inner: ModelFunctionWrapper | None,
        apply_model: ModelFunction,
        call: ModelCall,
        step: Step,
        batch: Sequence[int],
    ) -> Tensor:
        """Answer a model call; where there is EasyCache, with the state of its one window."""
        boxes = [step.windows[number].box for number in batch]
        if find_cache(call["c"]["transformer_options"]) is None:
            return self._answer(inner, apply_model, call, boxes)
        images = step.images_of(batch)
        place = step.area, boxes[0], self.run.frames, images and images[0]
        call = self.run.caches.give_own(call, place, step.index)
        return self._call(inner, apply_model, call, boxes)

    def _call(
        self,
        inner: ModelFunctionWrapper | None,
        apply_model: ModelFunction,
        call: ModelCall,
        boxes: Sequence[Box],
    ) -> Tensor:
        """Answer a model call, and note it where EasyCache did so in the network's place."""
        had_kept = has_kept(call)  # before the call, which keeps what it evaluates
        denoised = self._answer(inner, apply_model, call, boxes)
        if had_kept and is_skipping(call):
            self.run.tally.count_skipped(denoised)
        return denoised

    def _answer(
        self,
        inner: ModelFunctionWrapper | None,
        apply_model: ModelFunction,
        call: ModelCall,
        boxes: Sequence[Box],
    ) -> Tensor:
        """Answer a model call; with audio, note what it makes of that."""
        audio = self.run.audio
        if audio is None:
            return call_model(inner, apply_model, call)
        packed = audio.pack(call)
        return self._note_heard(call_model(inner, apply_model, packed), packed, boxes)

    def _note_heard(self, denoised: Tensor, packed: ModelCall, boxes: Sequence[Box]) -> Tensor:
        """Return the video of a packed call's result, and note the audio beside each window."""
        video, heard = Packing(*packed["c"][SHAPES]).split(denoised)
        conds = len(packed["cond_or_uncond"])
        parts = unstack_windows(heard, windows=len(boxes), conds=conds)
        self.heard.update(zip(boxes, parts, strict=True))
        return video

    def _report(self, denoised: Tensor, step: Step, *, windows: int, done: Sequence[int]) -> None:
        """Count the model call that gave [rows, C, ..., h, w], and tell how far the step is."""
        tally = self.run.tally
        tally.count_call(denoised, windows)
        left_s = self.run.estimate_left(step, done)
        left = "" if left_s is None else f", about {format_seconds(left_s)} left"
        self.tell(
            f"step {step.index + 1}/{self.run.clock.steps}, "
            f"{len(done)} of {len(step.windows)} windows, "
            f"{100 * tally.share:.0f}% of full cost so far{left}"
        )


def _add_windows(
    total: WindowSum,
    denoised: Tensor,
    step: Step,
    batch: Sequence[int],
    conds: Sequence[int],
) -> None:
    """Add what the model made of a batch of windows for some conds of the area."""
    images = step.images_of(batch)
    parts = unstack_windows(denoised, windows=len(batch), conds=len(conds), images=images)
    for place, (number, part) in enumerate(zip(batch, parts, strict=True)):
        box, weight = step.windows[number].box, step.window_weights[number]
        of_window = None if images is None else images[place]
        total.add(part, weight, box, conds=conds, images=of_window)


def keeps_windows(call: ModelCall) -> bool:
    """Tell whether a node keeps, on this device, what it saw of each window."""
    options = call["c"].get("transformer_options", {})
    return find_cache(options) is not None or find_variable(options) is not None


def call_model(
    inner: ModelFunctionWrapper | None, apply_model: ModelFunction, call: ModelCall
) -> Tensor:
    """Answer a model call by another node's wrapper, or where there is none by the model."""
    if inner is not None:
        return inner(apply_model, call)
    return apply_model(call["input"], call["timestep"], **call["c"])


def _find_areas(run: Run, call: ModelCall) -> list[Box]:
    """Return the area of each cond of a call; ValueError if it is not on the run's canvas."""
    height, width = call["input"].shape[-2:]
    conds = len(call["cond_or_uncond"])
    canvas = run.plan.canvas
    areas = [run.areas.get(cond_id, canvas) for cond_id in ids_of_conds(call)]
    sizes = {(area.height, area.width) for area in areas}
    if len(areas) != conds or sizes != {(height, width)}:
        raise ValueError(
            f"A model call on {width} x {height} cells reached Quadtree Diffusion, but this run's "
            f"latent has {canvas.width} x {canvas.height} cells. Use a sampler, and nodes, that do "
            "not change or cut the latent."
        )
    return areas


def _check_images(run: Run, call: ModelCall) -> None:
    """Raise ValueError if a call does not hold every image of the run's latent, for each cond."""
    conds = len(call["cond_or_uncond"])
    if len(call["input"]) % (conds * run.images):
        raise ValueError(
            f"A model call on {len(call['input']) // conds} images reached Quadtree Diffusion, but "
            f"this run's latent has {run.images}. Remove what samples a part of the batch at a "
            "time, such as AnimateDiff's context options, or sample no more images at once than "
            "it takes."
        )
