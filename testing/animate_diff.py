"""Graphs with AnimateDiff, which ComfyUI-AnimateDiff-Evolved brings: a batch is a clip's frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .local_models import localize
from .neighbours import Graph, left_mask
from .packs import call, module_beside
from .tiny_models.building import randomize
from .tiny_models.unets import UNET

NODE = "ADE_UseEvolvedSampling"
FRAMES = 8
LONGEST = 32  # frames that the motion module has positions for


def animated(multivals: Callable[[], dict[str, Any]] = dict, **context: Any) -> Callable[[], Graph]:
    """Return what makes the graph of a motion module, in context windows if they are given.

    `multivals` returns more inputs of the node that applies it.
    """

    def patch(model: Any) -> Any:
        module = make_motion_model()
        motion = call("ADE_ApplyAnimateDiffModelSimple", motion_model=module, **multivals())
        options = {}
        if context:
            options["context_options"] = call("ADE_StandardUniformContextOptions", **context)
        return call(NODE, model=model, m_models=motion, **options)

    return lambda: Graph(patch, family="sd15_deep", steps=4)


def animated_by_mask(multival: str) -> Callable[[], Graph]:
    """Return the same with a mask in one of its multivals: less motion on the left."""

    def make_multival() -> dict[str, Any]:
        return {multival: call("ADE_MultivalDynamic", float_val=0.7, mask_optional=left_mask())}

    return animated(make_multival)


def make_motion_model() -> Any:
    """Return the pack's own motion module with random weights, as wide as the tiny SD1.5.

    Its loader makes blocks of 320 to 1280 channels only, so they are made here. It is local: what
    leaves it at a cell depends on that cell in every frame.
    """
    modules, injection = (
        module_beside(NODE, "motion_module_ad"),
        module_beside(NODE, "model_injection"),
    )
    info = modules.AnimateDiffInfo("SD1.5", "AnimateDiff", modules.AnimateDiffVersion.V3, "tiny")
    sizes = {"blocks.attention_blocks.1.pos_encoder.pe": torch.zeros(1, LONGEST, 1)}
    motion = modules.AnimateDiffModel(sizes, info)
    widths = [UNET["model_channels"] * factor for factor in UNET["channel_mult"]]
    for kind, channels in ("down", widths), ("up", widths[::-1]):
        blocks = [
            modules.MotionModule(
                width,
                temporal_pe_max_len=LONGEST,
                block_type=kind,
                block_idx=number,
                ops=motion.ops,
            )
            for number, width in enumerate(channels)
        ]
        setattr(motion, f"{kind}_blocks", torch.nn.ModuleList(blocks))
    randomize(motion)
    localize(motion)
    device = torch.device("cpu")
    return injection.create_MotionModelPatcher(motion, load_device=device, offload_device=device)
