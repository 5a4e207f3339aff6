"""Half the bytes on the way, where a model works in half precision; no bit of a result changes.

ComfyUI rounds a noisy latent x to the network's dtype, and makes the estimate of what the network
returns, v, in float32 (`comfy.model_base.BaseModel._apply_model`). With a flow model both are
simple: the network gets x itself, and the estimate is x - sigma * v (`comfy.model_sampling.CONST`).
So a worker needs no more than the rounded x, and this machine, which has x, no more than v.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP, get_all_wrappers
from torch import Tensor

from ..sampling.protocols import ModelCall, ModelFunctionWrapper

HALVES = (torch.float16, torch.bfloat16)
# What else may read x, or make the estimate. Where a family has its own, x travels as it is.
OF_MODEL = ("apply_model", "_apply_model", "process_timestep")
OF_SAMPLING = ("calculate_input", "calculate_denoised")


def find_dtype(
    model: Any, call: ModelCall, wrapper: ModelFunctionWrapper | None
) -> torch.dtype | None:
    """Return the dtype in which the windows of a call may travel; None: only as they are.

    `model` is a BaseModel, and `wrapper` another node's model-function wrapper.
    """
    c = call["c"]
    if wrapper is not None or get_all_wrappers(WrappersMP.APPLY_MODEL, c["transformer_options"]):
        return None
    if c.get("control") is not None or "latent_shapes" in c:
        return None
    plain = _keeps(model, BaseModel, OF_MODEL) and _keeps(model.model_sampling, CONST, OF_SAMPLING)
    if not plain:
        return None
    dtype = model.manual_cast_dtype or model.get_dtype()
    return dtype if dtype in HALVES and call["input"].dtype is torch.float32 else None


def evaluate_network(model: Any, call: ModelCall) -> Tensor:
    """Return what a BaseModel's network makes of a call with rounded windows, in its own dtype."""
    made: list[Tensor] = []
    hook = model.diffusion_model.register_forward_hook(lambda *called: made.append(called[-1]))
    try:
        model.apply_model(call["input"].float(), call["timestep"], **call["c"])
    finally:
        hook.remove()
    return made[0]


def make_estimate(model: Any, made: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Return the estimate [rows, C, ..., h, w] in float32 of what the network made of windows."""
    return model.model_sampling.calculate_denoised(sigma, made.float(), noisy)


def _keeps(owner: Any, kind: type, names: tuple[str, ...]) -> bool:
    """Tell whether an object has the methods of a class, and none in their place."""
    return all(
        getattr(type(owner), name, None) is getattr(kind, name) and name not in vars(owner)
        for name in names
    )
