"""The windows of one step on several GPUs.

Uses core's clones of the model and core's threads; batches are dealt out by predicted cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import comfy.model_management
import torch
from comfy.patcher_extension import merge_nested_dicts
from comfy.samplers import cast_transformer_options
from torch import Tensor

from .control import DeferredControl
from .protocols import Conds, ModelCall, ModelFunction, MultiGPUClone, Options, ThreadPool

Result = TypeVar("Result")


class Devices(NamedTuple):
    """What core prepares for a run on several devices, by device: clones of the model, their
    relative speeds, and a pool of threads."""

    clones: dict[torch.device, MultiGPUClone]
    speeds: dict[torch.device, float]
    pool: ThreadPool

    @classmethod
    def of(cls, model_options: Options) -> Devices | None:
        """Return the devices in the model options; None where core samples on one."""
        clones = model_options.get("multigpu_clones", {})
        pool = model_options.get("multigpu_thread_pool")
        if len(clones) < 2 or pool is None:
            return None
        known = model_options.get("multigpu_options", {})
        speeds = {device: known.get(device, {}).get("relative_speed", 1.0) for device in clones}
        return cls(clones, speeds, pool)

    def prepare(self, sigma: Tensor, model_options: Options) -> Options:
        """Prepare the clones for a model call; return the options of a call on one device."""
        for clone in self.clones.values():
            clone.prepare_state(sigma, {**model_options, "ignore_multigpu": True})
        return {key: value for key, value in model_options.items() if key != "multigpu_clones"}

    def owns(self, apply_model: ModelFunction) -> bool:
        """Tell whether this is the model function of one of the devices."""
        return any(apply_model == clone.model.apply_model for clone in self.clones.values())

    def distribute(
        self, work: Callable[[torch.device, int], Result], costs: Sequence[float]
    ) -> list[Result]:
        """Return `work(device, number)` for the number of each cost, in the order of the costs."""
        dealt = deal(costs, list(self.speeds.values()))
        busy = [pair for pair in zip(self.clones, dealt, strict=True) if pair[1]]

        def work_through(device: torch.device, numbers: list[int]) -> list[Result]:
            comfy.model_management.set_torch_device(device)
            with torch.no_grad():
                return [work(device, number) for number in numbers]

        for device, numbers in busy:
            self.pool.submit(device, work_through, device, numbers)
        # Of all devices before any error is raised: each has a queue of its own.
        answers = [self.pool.get_result(device) for device, _ in busy]
        errors = [error for _, error in answers if error is not None]
        if errors:
            try:
                raise errors[0]
            finally:
                # The error would hold this frame, and so what the devices had: memory that a
                # retry needs.
                del errors, answers
        found: dict[int, Result] = {}
        for (_, numbers), (results, _) in zip(busy, answers, strict=True):
            found.update(zip(numbers, results, strict=True))
        return [found[number] for number in range(len(costs))]


def deal(costs: Sequence[float], speeds: Sequence[float]) -> list[list[int]]:
    """Return the numbers of the costs for each speed.

    The dearest comes first, and each goes to whoever would be done with it first.
    """
    dealt: list[list[int]] = [[] for _ in speeds]
    done = [0.0] * len(speeds)
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        due = min(range(len(speeds)), key=lambda one: done[one] + costs[number] / speeds[one])
        dealt[due].append(number)
        done[due] += costs[number] / speeds[due]
    return dealt


def move_call(call: ModelCall, device: torch.device) -> ModelCall:
    """Return a model call for another device, as core's own multi-GPU sampling makes it."""
    entries = {key: value for key, value in call["c"].items() if key != "transformer_options"}
    options = merge_nested_dicts({}, call["c"]["transformer_options"], copy_dict1=False)
    for key in ("sigmas", "sample_sigmas"):
        if key in options:
            options[key] = options[key].to(device)
    options["multigpu_thread_device"] = device
    cast_transformer_options(options, device=device)
    c: Conds = {**_move(entries, device), "transformer_options": options}
    moved: ModelCall = _move({key: value for key, value in call.items() if key != "c"}, device)
    return {**moved, "c": c}


def _move(value: Any, device: torch.device) -> Any:
    """Return a value with the tensors in it on another device."""
    if isinstance(value, DeferredControl):
        return value.move(device, lambda entry: _move(entry, device))
    if isinstance(value, (list, tuple)):
        return type(value)(_move(entry, device) for entry in value)
    if isinstance(value, dict):
        moved = {}
        for key, entry in value.items():
            moved[key] = entry if key == "transformer_options" else _move(entry, device)
        return moved
    return value.to(device) if isinstance(value, Tensor) else value
