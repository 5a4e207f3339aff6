"""The windows of one step on several devices: of this process, and of workers elsewhere.

There is one way to share a step out, a `Board`, and several kinds of `Team` that take part: core's
clones of the model on the GPUs of this machine (`Devices`), and the workers of a cluster
(cluster/crew.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import comfy.model_management
import torch
from comfy.patcher_extension import merge_nested_dicts
from comfy.samplers import cast_transformer_options
from torch import Tensor

from ..utils import Box
from ..windows.tiling import Images
from .board import Board, Hand
from .control import DeferredControl
from .cropping import RunMemory
from .patch_controls import is_spread
from .protocols import Conds, ModelCall, ModelFunction, MultiGPUClone, Options, ThreadPool

if TYPE_CHECKING:
    from .run import Run

HERE = "this machine"
TEAM = "quadtree_cluster"  # names the cluster in a model's options
INTERRUPT_POLL_S = 0.1


@dataclass(eq=False)
class Task:
    """The batches of windows of one model call: what hands evaluate.

    `boxes` are the windows of each batch, and `images` those that each is for, None for all of the
    latent batch; `unit` is the model's patch in cells. `evaluate` evaluates the batch of a number
    in this process, by a model function and the call on its device; `report` counts the result of a
    batch, which a hand evaluated.
    """

    call: ModelCall
    boxes: Sequence[Sequence[Box]]
    images: Sequence[Sequence[Images] | None]
    costs: Sequence[float]
    unit: int
    memory: RunMemory
    evaluate: Callable[[ModelFunction, ModelCall, int], Tensor]
    report: Callable[[Hand, int, Tensor], None]

    def make_board(self) -> Board[Tensor]:
        return Board(self.costs, [len(boxes) for boxes in self.boxes], self.report)

    @cached_property
    def device(self) -> torch.device:
        return self.call["input"].device


class Team(Protocol):
    """Hands that take part in a run's steps."""

    @property
    def has_this_device(self) -> bool:
        """Tell whether it evaluates on the device of the call, too."""
        ...

    def prepare(self, sigma: Tensor, model_options: Options) -> Options:
        """Prepare for a model call; return the options of a call on one device."""
        ...

    def owns(self, apply_model: ModelFunction) -> bool:
        """Tell whether this is the model function that the team evaluates."""
        ...

    def start(self, board: Board[Tensor], task: Task) -> None:
        """Let the hands take batches, each in a thread of its own."""
        ...

    def finish(self) -> None:
        """Wait until no hand uses the model of this process; the board is over."""
        ...


class Cluster(Protocol):
    """What a node sets on a model under TEAM, to let a cluster take part in its runs."""

    def join_run(self, run: Run, patcher: Any) -> AbstractContextManager[Team | None]:
        """Take part in a run of a model until the context ends; None where that cannot be."""
        ...


def share_out(teams: Sequence[Team], task: Task, apply_model: ModelFunction, here: Hand) -> Any:
    """Return what the model makes of each batch of a task, on the device of its call.

    The calling thread evaluates as `here`, unless a team has its device.
    """
    board = task.make_board()
    try:
        for team in teams:
            team.start(board, task)
        if not any(team.has_this_device for team in teams):
            work_through(board, task, here, apply_model, task.call)
        while not board.wait(INTERRUPT_POLL_S):
            throw_if_interrupted()
    except BaseException as error:
        board.fail(error)
    finally:
        board.close()
        for team in teams:
            team.finish()
    return board.collect()


def work_through(
    board: Board[Tensor], task: Task, hand: Hand, apply_model: ModelFunction, call: ModelCall
) -> None:
    """Evaluate in this process, by a model function, what the board hands out.

    An error ends the board: `collect` raises it.
    """
    try:
        while (number := board.take(hand, look=throw_if_interrupted)) is not None:
            result = task.evaluate(apply_model, call, number).to(task.device)
            _await_device(call["input"].device)
            board.deliver(hand, number, result)
    except BaseException as error:
        board.fail(error)


def throw_if_interrupted() -> None:
    """Raise ComfyUI's exception where the user has cancelled the prompt."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def _await_device(device: torch.device) -> None:
    """Wait for a GPU: who only launches kernels would seem to be done with all batches at once."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


class Devices(NamedTuple):
    """What core prepares for a run on several devices, by device: clones of the model, their
    hands, and a pool of threads."""

    clones: dict[torch.device, MultiGPUClone]
    hands: dict[torch.device, Hand]
    pool: ThreadPool
    has_this_device: bool = True

    @classmethod
    def of(cls, model_options: Options, get_hand: Callable[[str], Hand]) -> Devices | None:
        """Return the devices in the model options; None where core samples on one."""
        clones = model_options.get("multigpu_clones", {})
        pool = model_options.get("multigpu_thread_pool")
        if len(clones) < 2 or pool is None:
            return None
        return cls(clones, {device: get_hand(str(device)) for device in clones}, pool)

    def prepare(self, sigma: Tensor, model_options: Options) -> Options:
        """Prepare the clones for a model call; return the options of a call on one device."""
        for clone in self.clones.values():
            clone.prepare_state(sigma, {**model_options, "ignore_multigpu": True})
        return {key: value for key, value in model_options.items() if key != "multigpu_clones"}

    def owns(self, apply_model: ModelFunction) -> bool:
        """Tell whether this is the model function of one of the devices."""
        return any(apply_model == clone.model.apply_model for clone in self.clones.values())

    def start(self, board: Board[Tensor], task: Task) -> None:
        """Let each device take batches, in core's thread for it."""
        for device, clone in self.clones.items():
            self.pool.submit(device, self._work_on, device, clone.model.apply_model, board, task)

    def _work_on(
        self, device: torch.device, apply_model: ModelFunction, board: Board[Tensor], task: Task
    ) -> None:
        comfy.model_management.set_torch_device(device)
        with torch.no_grad():
            work_through(board, task, self.hands[device], apply_model, move_call(task.call, device))

    def finish(self) -> None:
        """Wait for all devices: each has a queue of its own."""
        for device in self.clones:
            self.pool.get_result(device)


def move_call(call: ModelCall, device: torch.device) -> ModelCall:
    """Return a model call for another device, as core's own multi-GPU sampling makes it."""
    entries = {key: value for key, value in call["c"].items() if key != "transformer_options"}
    options = merge_nested_dicts({}, call["c"]["transformer_options"], copy_dict1=False)
    for key in ("sigmas", "sample_sigmas"):
        if key in options:
            options[key] = options[key].to(device)
    options["multigpu_thread_device"] = device
    # ComfyUI would move the user's own patches; each device has stand-ins of its own.
    movable, unmoved = {}, {}
    for name, listed in options.get("patches", {}).items():
        unmoved[name] = [patch if is_spread(patch) else None for patch in listed]
        movable[name] = [None if is_spread(patch) else patch for patch in listed]
    options["patches"] = movable
    cast_transformer_options(options, device=device)
    options["patches"] = {
        name: [
            patch if kept is None else kept
            for kept, patch in zip(unmoved[name], listed, strict=True)
        ]
        for name, listed in movable.items()
    }
    c: Conds = {**move_value(entries, device), "transformer_options": options}
    moved: ModelCall = move_value({key: value for key, value in call.items() if key != "c"}, device)
    return {**moved, "c": c}


def move_value(value: Any, device: torch.device) -> Any:
    """Return a value with the tensors in it on another device."""
    if isinstance(value, DeferredControl):
        return value.move(device, lambda entry: move_value(entry, device))
    if isinstance(value, (list, tuple)):
        return type(value)(move_value(entry, device) for entry in value)
    if isinstance(value, dict):
        moved = {}
        for key, entry in value.items():
            moved[key] = entry if key == "transformer_options" else move_value(entry, device)
        return moved
    return value.to(device) if isinstance(value, Tensor) else value
