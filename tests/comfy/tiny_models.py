"""Tiny random-weight models of real architectures on the real ComfyUI (CPU, float32).

    entry = ZOO["flux"]()
    samples = sample(entry, entry.latent(), steps=4, cfg=3.0, denoise=0.6)

They are built with ComfyUI's own supported_models classes, so latent format, model sampling and conditioning are the
real ones; only the sizes are tiny. Such models are chaotic: compare runs of the same mathematics, not looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models as supported
import torch
import torch.nn.functional as F
from torch import Tensor

TOKENS = 48  # text width
POOLED = 32

# Parameters whose scale decides how much attention listens; sharper, so that text and position really matter.
QUERY_KEY_LINEAR = ("to_q.weight", "to_k.weight", "q_linear.weight")
QUERY_KEY_NORM = ("norm_q", "norm_k", "query_norm", "key_norm")
SHARPNESS = 1.7


def gauss(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clean_latent(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A latent like an image's: smooth structure and a little detail, standard deviation 0.8."""
    height, width = shape[-2:]
    flat = (1, max(1, int(torch.tensor(shape[:-2]).prod())), height, width)
    coarse = gauss((1, flat[1], max(2, height // 8), max(2, width // 8)), seed)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    latent = smooth + 0.15 * gauss(flat, seed + 1)
    return (latent / latent.std().clamp_min(1e-3) * 0.8).reshape(shape)


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Deterministic, variance-preserving values for every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.ndim > 1:
                scale = SHARPNESS if name.endswith(QUERY_KEY_LINEAR) else 1.0
                value.copy_(torch.randn(value.shape, generator=generator) * scale / max(1, value[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.02)
            else:
                value.fill_(SHARPNESS if any(norm in name for norm in QUERY_KEY_NORM) else 1.0)


def build(
    config_class: type,
    unet_config: dict[str, Any],
    *,
    after: dict[str, Any] | None = None,
    make: Callable | None = None,
) -> Any:
    """A ModelPatcher of a real family; `after` overrides what the family's own extra config sets."""
    config = config_class(dict(unet_config))
    config.unet_config.update(after or {})
    config.set_inference_dtype(torch.float32, None)
    model = make(config) if make else config.get_model({}, "", device="cpu")
    randomize(model.diffusion_model)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model.to(device).eval(), load_device=device, offload_device=torch.device("cpu"))


def cond(tokens: int, seed: int, pooled: int | None = None, **values: Any) -> list:
    """A conditioning list as a text encode node puts it out."""
    if pooled:
        values["pooled_output"] = gauss((1, pooled), seed + 1000)
    return [[gauss((1, tokens, TOKENS), seed), values]]


@dataclass
class Entry:
    name: str
    model: Any
    make_cond: Callable[[int], list]
    frames: int | None = None
    positive: list = field(init=False)
    negative: list = field(init=False)

    def __post_init__(self) -> None:
        self.positive, self.negative = self.make_cond(11), self.make_cond(12)

    @property
    def px_per_cell(self) -> int:
        return self.model.model.latent_format.spacial_downscale_ratio

    def latent(self, height: int = 32, width: int = 40, batch: int = 1, seed: int = 0) -> Tensor:
        depth = () if self.frames is None else (self.frames,)
        return clean_latent((batch, self.model.model.latent_format.latent_channels, *depth, height, width), seed)


def sample(
    entry: Entry,
    latent: Tensor,
    *,
    model: Any = None,
    steps: int = 6,
    cfg: float = 1.0,
    sampler: str = "euler",
    scheduler: str = "simple",
    denoise: float = 1.0,
    seed: int = 42,
    noise: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """What core's KSampler node does with the entry's conditioning, on `model` (the entry's own by default)."""
    noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
    model = entry.model if model is None else model
    run = (model, noise, steps, cfg, sampler, scheduler, entry.positive, entry.negative, latent)
    return comfy.sample.sample(*run, denoise=denoise, seed=seed, disable_pbar=True, **options)


UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1, 1],
    "channel_mult": [1, 2, 2, 2],
    "transformer_depth": [0, 1, 1, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 1, 1, 0, 0],
    "context_dim": TOKENS,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": POOLED,
    "context_in_dim": TOKENS,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 4,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}
QWEN = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": TOKENS,
    "axes_dims_rope": (4, 6, 6),
    "pooled_projection_dim": 32,
}


def sd15(in_channels: int = 4) -> Entry:
    return Entry("sd15", build(supported.SD15, {**UNET, "in_channels": in_channels}), lambda seed: cond(77, seed))


def sd2_v() -> Entry:
    def make(config: Any) -> Any:
        return comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.V_PREDICTION, device="cpu")

    heads = {"num_head_channels": 32, "num_heads": -1}
    model = build(supported.SD20, {**UNET, "use_linear_in_transformer": True}, after=heads, make=make)
    return Entry("sd2_v", model, lambda seed: cond(77, seed))


def sdxl() -> Entry:
    shape = {
        "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 1, 2],
        "transformer_depth_middle": 2,
        "transformer_depth_output": [0, 0, 1, 1, 2, 2],
        "use_linear_in_transformer": True,
        "adm_in_channels": POOLED + 1536,
        "num_classes": "sequential",
    }
    model = build(supported.SDXL, {**UNET, **shape}, after={"num_head_channels": 32})
    sizes = {"width": 320, "height": 256, "crop_w": 0, "crop_h": 0, "target_width": 320, "target_height": 256}
    return Entry("sdxl", model, lambda seed: cond(77, seed, pooled=POOLED, **sizes))


def sd15_inpaint() -> Entry:
    """Nine channels: the mask and the masked image go to the model as c_concat."""
    entry = sd15(in_channels=9)
    mask = torch.zeros(1, 1, 256, 320)
    mask[..., 64:192, 80:200] = 1
    values = {"concat_latent_image": clean_latent((1, 4, 32, 40), 77), "concat_mask": mask}
    return Entry("sd15_inpaint", entry.model, lambda seed: cond(77, seed, **values))


def flux() -> Entry:
    return Entry("flux", build(supported.Flux, FLUX), lambda seed: cond(12, seed, pooled=POOLED))


def flux_kontext() -> Entry:
    """Two references: one of the canvas' size, which is cut with it, and one of another size, which goes whole."""
    references = [clean_latent((1, 16, 32, 40), 90), clean_latent((1, 16, 20, 24), 91)]
    values = {"pooled": POOLED, "guidance": 2.5, "reference_latents": references}
    return Entry("flux_kontext", build(supported.Flux, {**FLUX, "guidance_embed": True}), lambda seed: cond(12, seed, **values))


def qwen_image() -> Entry:
    """Latents [B, C, T, H, W]; positive and negative have other token counts, so core calls the wrapper for each."""
    return Entry("qwen_image", build(supported.QwenImage, QWEN), lambda seed: cond(14 + seed % 2, seed), frames=1)


ZOO: dict[str, Callable[[], Entry]] = {
    make.__name__: make for make in (sd15, sd2_v, sdxl, sd15_inpaint, flux, flux_kontext, qwen_image)
}
