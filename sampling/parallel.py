"""The windows of one step on several GPUs: core's clones of the model, core's threads, batches dealt out by predicted cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import comfy.model_management
import torch
from comfy.patcher_extension import merge_nested_dicts
from comfy.samplers import cast_transformer_options
from torch import Tensor

from .control import Deferred


class Devices(NamedTuple):
    """What core prepares for a run on several devices: a clone of the model for each, their relative speeds, and threads."""

    clones: dict[torch.device, Any]
    speeds: dict[torch.device, float]
    pool: Any

    @classmethod
    def of(cls, model_options: dict[str, Any]) -> Devices | None:
        clones, pool = (
            model_options.get("multigpu_clones", {}),
            model_options.get("multigpu_thread_pool"),
        )
        if len(clones) < 2 or pool is None:
            return None
        known = model_options.get("multigpu_options", {})
        return cls(
            clones,
            {device: known.get(device, {}).get("relative_speed", 1.0) for device in clones},
            pool,
        )

    def know(self, apply_model: Callable) -> bool:
        """Whether this is the model function of one of the devices."""
        return any(apply_model == clone.model.apply_model for clone in self.clones.values())

    def run(self, work: Callable[[torch.device, int], Any], costs: Sequence[float]) -> list[Any]:
        """`work(device, number)` for every number, each on the device that is due; results by number."""
        dealt = deal(costs, list(self.speeds.values()))
        busy = [
            (device, numbers) for device, numbers in zip(self.clones, dealt, strict=True) if numbers
        ]

        def of_device(device: torch.device, numbers: list[int]) -> list[Any]:
            comfy.model_management.set_torch_device(device)
            with torch.no_grad():
                return [work(device, number) for number in numbers]

        for device, numbers in busy:
            self.pool.submit(device, of_device, device, numbers)
        answers = [
            self.pool.get_result(device) for device, _ in busy
        ]  # of all, before any error: each has its own queue
        errors = [error for _, error in answers if error is not None]
        if errors:
            try:
                raise errors[0]
            finally:  # else the error would hold this frame, and with it what the devices had: memory that a retry needs
                del errors, answers
        found = {}
        for (_, numbers), (results, _) in zip(busy, answers, strict=True):
            found.update(zip(numbers, results, strict=True))
        return [found[number] for number in range(len(costs))]


def deal(costs: Sequence[float], speeds: Sequence[float]) -> list[list[int]]:
    """Numbers of the costs for each speed: the dearest first, each to whoever would be done with it first."""
    dealt: list[list[int]] = [[] for _ in speeds]
    done = [0.0] * len(speeds)
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        due = min(range(len(speeds)), key=lambda one: done[one] + costs[number] / speeds[one])
        dealt[due].append(number)
        done[due] += costs[number] / speeds[due]
    return dealt


def on_device(args: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The arguments of a model-function wrapper for another device, as core's own multi-GPU sampling makes them."""
    moved = {key: _moved(value, device) for key, value in args.items() if key != "c"}
    c = {
        key: _moved(value, device)
        for key, value in args["c"].items()
        if key != "transformer_options"
    }
    options = merge_nested_dicts({}, args["c"]["transformer_options"], copy_dict1=False)
    for key in ("sigmas", "sample_sigmas"):
        if key in options:
            options[key] = options[key].to(device)
    options["multigpu_thread_device"] = device
    cast_transformer_options(options, device=device)
    return {**moved, "c": c | {"transformer_options": options}}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Deferred):
        return value.on_device(device, _moved(value.call, device))
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(entry, device) for entry in value)
    if isinstance(value, dict):
        return {
            key: entry if key == "transformer_options" else _moved(entry, device)
            for key, entry in value.items()
        }
    return value.to(device) if isinstance(value, Tensor) else value
