"""Types for what the pack uses of ComfyUI's objects, which have few. Imports torch only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor

Conds = dict[str, Any]  # the keyword arguments of a model call, by the name of the entry
Options = dict[str, Any]  # ComfyUI's model_options or transformer_options
Hints = dict[Hashable, Any]  # what control networks prepared from their hints, see control.py
ResizedMasks = dict[Hashable, tuple[Tensor, Tensor]]  # a mask and its copy, see patches.py
Features = dict[str, list[Tensor | None]]  # of a control network, by where in the model they go


class ModelCall(TypedDict):
    """One model call as ComfyUI hands it to a model-function wrapper.

    `input` is the noisy latent [rows, C, ..., H, W] and `timestep` its sigma [rows]. Rows are
    cond-major: the latent batch of the first cond, then that of the next. `cond_or_uncond` has
    one number for each cond.
    """

    input: Tensor
    timestep: Tensor
    c: Conds
    cond_or_uncond: list[int]


def ids_of_conds(call: ModelCall) -> list[Hashable]:
    """Return the id that core gave each cond of a call; None where it gave none."""
    options = call["c"].get("transformer_options", {})
    return options.get("uuids") or [None] * len(call["cond_or_uncond"])


class ModelFunction(Protocol):
    """`BaseModel.apply_model`, or what another node puts in its place."""

    def __call__(self, noisy: Tensor, sigma: Tensor, /, **c: Any) -> Tensor: ...


ModelFunctionWrapper = Callable[[ModelFunction, ModelCall], Tensor]


class Executor(Protocol):
    """`comfy.patcher_extension.WrapperExecutor`: calls the next wrapper, or what is wrapped."""

    class_obj: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class BaseModel(Protocol):
    """`comfy.model_base.BaseModel`."""

    apply_model: ModelFunction

    def memory_required(self, input_shape: Sequence[int]) -> float: ...

    def process_latent_in(self, latent: Tensor) -> Tensor: ...

    def extra_conds(self, **values: Any) -> dict[str, Any]: ...


class Source(NamedTuple):
    """A cond as the sampler holds it, and the model that its entries were made by."""

    model: BaseModel
    cond: Conds


Sources = dict[Hashable, Source]  # by the id that ComfyUI gives the cond


class MultiGPUClone(Protocol):
    """A `comfy.model_patcher.ModelPatcher` that ComfyUI prepared for another device."""

    model: BaseModel

    def prepare_state(self, sigma: Tensor, model_options: Options) -> None: ...


class ThreadPool(Protocol):
    """`comfy.multigpu.MultiGPUThreadPool`: one thread and one queue of answers for each device."""

    def submit(self, device: torch.device, work: Callable[..., Any], *args: Any) -> None: ...

    def get_result(self, device: torch.device) -> tuple[Any, BaseException | None]: ...


class Control(Protocol):
    """`comfy.controlnet.ControlBase`, or the object of another pack in its place."""

    previous_controlnet: Control | None
    timestep_range: tuple[float, float] | None

    def get_control(
        self, noisy: Tensor, sigma: Tensor, cond: Conds, conds: int, options: Options, /
    ) -> Features | None: ...

    def get_instance_for_device(self, device: torch.device) -> Control: ...
