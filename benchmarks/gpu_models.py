"""Models of real sizes with small random weights, for `bench gpu`; and tiny ones, to check it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

WEIGHTS_STD = 0.02  # of the random weights
FLUX_DEV: dict[str, Any] = {  # flux-dev in black-forest-labs/flux, src/flux/util.py
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
}
SHALLOW = {"depth": 2, "depth_single_blocks": 4}  # compiles in seconds rather than minutes
SDXL_BASE = {  # SDXL in ComfyUI's model_detection.py
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
SDXL_TINY = {
    "model_channels": 32,
    "transformer_depth": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
}
Z_IMAGE: dict[str, Any] = {  # "Z image" in ComfyUI's model_detection.py
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
}
QWEN_IMAGE: dict[str, Any] = {  # the defaults of ComfyUI's QwenImageTransformer2DModel
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": (16, 56, 56),
    "pooled_projection_dim": 768,
}
TEXT_TOKENS = {"flux": 512, "z-image": 256, "qwen-image": 256}


@dataclass(frozen=True)
class GpuModel:
    """A ModelPatcher, the conditioning and CFG of its runs, and the size of its latents."""

    name: str
    patcher: Any
    cond: list
    cfg: float
    frames: int = 0  # the length of a time axis; 0: latents have none

    def latent(self, rows: int, height: int, width: int) -> torch.Tensor:
        """Return a random clean latent [rows, C, (T,) height, width]."""
        channels = self.patcher.model.latent_format.latent_channels
        middle = (self.frames,) if self.frames else ()
        return torch.randn(rows, channels, *middle, height, width)


def make_flux(tiny: bool, **changes: Any) -> GpuModel:
    """Return a model of Flux-dev's size."""
    import comfy.supported_models
    from quadtree_pack.testing.tiny_models.transformers import FLUX

    unet = {**FLUX, **({} if tiny else FLUX_DEV), **changes}
    patcher = _make_random_model(comfy.supported_models.Flux, unet, tiny)
    cond = _make_text(
        TEXT_TOKENS["flux"],
        unet["context_in_dim"],
        pooled_output=torch.randn(1, unet["vec_in_dim"]),
    )
    return GpuModel("flux", patcher, cond, cfg=1.0)


def make_sdxl(tiny: bool) -> GpuModel:
    """Return a model of SDXL's size; as a UNet with CFG it evaluates two conds per step."""
    import comfy.supported_models
    from quadtree_pack.testing.tiny_models.unets import UNET

    unet = {**UNET, **SDXL_BASE, **(SDXL_TINY if tiny else {})}
    heads = {"num_head_channels": 32 if tiny else 64}
    patcher = _make_random_model(
        comfy.supported_models.SDXL, unet, tiny, dtype=torch.float16, late_config=heads
    )
    cond = _make_text(77, 2048, pooled_output=torch.randn(1, 1280))
    return GpuModel("sdxl", patcher, cond, cfg=7.0)


def make_z_image(tiny: bool) -> GpuModel:
    """Return a model of Z-Image's size."""
    import comfy.supported_models
    from quadtree_pack.testing.tiny_models import transformers

    unet = {**transformers.Z_IMAGE, **({} if tiny else Z_IMAGE)}
    patcher = _make_random_model(comfy.supported_models.ZImage, unet, tiny)
    tokens = TEXT_TOKENS["z-image"]
    mask = torch.ones(1, tokens)
    cond = _make_text(tokens, unet["cap_feat_dim"], attention_mask=mask)
    return GpuModel("z-image", patcher, cond, cfg=1.0)


def make_qwen_image(tiny: bool) -> GpuModel:
    """Return a model of Qwen-Image's size, whose latents have a time axis."""
    import comfy.supported_models
    from quadtree_pack.testing.tiny_models.transformers import QWEN

    unet = {**QWEN, **({} if tiny else QWEN_IMAGE)}
    patcher = _make_random_model(comfy.supported_models.QwenImage, unet, tiny)
    cond = _make_text(TEXT_TOKENS["qwen-image"], unet["joint_attention_dim"])
    return GpuModel("qwen-image", patcher, cond, cfg=1.0, frames=1)


MODELS: dict[str, Callable[[bool], GpuModel]] = {
    "flux": make_flux,
    "sdxl": make_sdxl,
    "z-image": make_z_image,
    "qwen-image": make_qwen_image,
}


def _make_text(tokens: int, width: int, **values: torch.Tensor) -> list:
    return [[torch.randn(1, tokens, width), values]]


def _make_random_model(
    config_class: type,
    unet_config: dict,
    tiny: bool,
    *,
    dtype: torch.dtype = torch.bfloat16,
    late_config: dict | None = None,
) -> Any:
    """Return a ModelPatcher of this size with small random weights, made on the device itself.

    `late_config` is set after the configuration's class has applied its own defaults.
    """
    import comfy.model_management
    import comfy.model_patcher

    dtype = torch.float32 if tiny else dtype
    device = comfy.model_management.get_torch_device()
    config = config_class({**unet_config, "dtype": dtype})
    config.unet_config.update(late_config or {})
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device=device)
    for value in model.diffusion_model.parameters():
        value.data.normal_(0, WEIGHTS_STD)
    return comfy.model_patcher.ModelPatcher(
        model.to(device).eval(), load_device=device, offload_device=torch.device("cpu")
    )
