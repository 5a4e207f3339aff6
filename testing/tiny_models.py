"""Tiny random-weight models of real architectures on the real ComfyUI (CPU, float32).

    entry = ZOO["flux"]()
    samples = sample(entry, entry.latent(), steps=4, cfg=3.0, denoise=0.6)

They are built with ComfyUI's own supported_models classes, so latent format, model sampling and conditioning are the
real ones; only the sizes are tiny. Such models are chaotic: compare runs of the same mathematics, not looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import comfy.ldm.anima.model
import comfy.ldm.hidream_o1.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models as supported
import torch
import torch.nn.functional as F
from torch import Tensor

import nodes

TOKENS = 48  # text width
POOLED = 32
CANVAS = (
    32,
    40,
)  # cells of the default latent; conditioning that belongs to the canvas has its size

# Parameters whose scale decides how much attention listens; sharper, so that text and position really matter.
QUERY_KEY_LINEAR = tuple(
    f"{name}.weight"
    for name in ["to_q", "to_k", "q_linear", "w1q", "w1k", "w2q", "w2k", "wq", "wk"]
)
QUERY_KEY_NORM = (
    "norm_q",
    "norm_k",
    "query_norm",
    "key_norm",
    "q_norm",
    "k_norm",
    "ln_q",
    "ln_k",
    "qnorm",
    "knorm",
)
SHARPNESS = 1.7
# Parameters and buffers that stand beside tokens of size 1 and not before a product, so their scale is not the width's.
TABLES = (
    "pos_embed",
    "positional_encoding",
    "register_tokens",
    "scale_shift_table",
    ".modulation",
    "pad_token",
    "text_embedding_padding",
    "y_pos_embedding",
)
TABLE_SCALE = 0.5


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


def spread(name: str, value: Tensor) -> float:
    """Standard deviation for a parameter; 0 for one that is a gain."""
    if name.endswith(TABLES):
        return TABLE_SCALE
    if name.endswith("bias"):
        return 0.02
    if value.ndim < 2 or (
        any(norm in name for norm in QUERY_KEY_NORM) and not name.endswith(QUERY_KEY_LINEAR)
    ):
        return 0.0  # AuraFlow's norms of queries and keys have a row for each head
    return (SHARPNESS if name.endswith(QUERY_KEY_LINEAR) else 1.0) / max(1, value[0].numel()) ** 0.5


def randomize(
    module: torch.nn.Module, seed: int = 0, gains: dict[str, float] | None = None
) -> None:
    """Deterministic, variance-preserving values for every parameter, and for buffers that ComfyUI leaves uninitialised.

    A gain multiplies the parameters that have its key in their names.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = [(name, value) for name, value in module.named_buffers() if name.endswith(TABLES)]
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *tables]:
            if scale := spread(name, value):
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
            else:
                value.fill_(SHARPNESS if any(norm in name for norm in QUERY_KEY_NORM) else 1.0)
            for word, gain in (gains or {}).items():
                if word in name:
                    value.mul_(gain)


def build(
    config_class: type,
    unet_config: dict[str, Any],
    *,
    after: dict[str, Any] | None = None,
    make: Callable | None = None,
    gains: dict[str, float] | None = None,
) -> Any:
    """A ModelPatcher of a real family; `after` overrides what the family's own extra config sets, `gains` scale parameters."""
    config = config_class(dict(unet_config))
    config.unet_config.update(after or {})
    config.set_inference_dtype(torch.float32, None)
    model = make(config) if make else config.get_model({}, "", device="cpu")
    randomize(model.diffusion_model, gains=gains)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(
        model.to(device).eval(), load_device=device, offload_device=torch.device("cpu")
    )


def cond(tokens: int, seed: int, pooled: int | None = None, **values: Any) -> list:
    """A conditioning list as a text encode node puts it out."""
    if pooled:
        values["pooled_output"] = gauss((1, pooled), seed + 1000)
    return [[gauss((1, tokens, TOKENS), seed), values]]


def canvas_latent(channels: int, seed: int = 77, frames: int | None = None) -> Tensor:
    """What a node makes of an image of the canvas' size: a reference, a masked image, a guide."""
    return clean_latent((1, channels, *(() if frames is None else (frames,)), *CANVAS), seed)


def references(channels: int, *depth: int) -> list[Tensor]:
    """Two references: one of the canvas' size, which is cut with it, and one of another size, which goes whole."""
    return [
        clean_latent((1, channels, *depth, *CANVAS), 90),
        clean_latent((1, channels, *depth, 20, 24), 91),
    ]


def inpainting(channels: int, px_per_cell: int = 8) -> dict[str, Tensor]:
    """As InpaintModelConditioning puts it out: the masked image in cells, the mask in pixels."""
    height, width = (side * px_per_cell for side in CANVAS)
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height * 3 // 4, width // 4 : width * 5 // 8] = 1
    return {"concat_latent_image": canvas_latent(channels), "concat_mask": mask}


def whole_text(tokens: int) -> Tensor:
    """The attention mask of a text encoder that had nothing to pad."""
    return torch.ones(1, tokens, dtype=torch.long)


def first_frame_given(frames: int) -> Tensor:
    """Mask [1, 1, T, H, W] of a video whose first frame is given, as image-to-video nodes make it."""
    mask = torch.ones(1, 1, frames, *CANVAS)
    mask[:, :, :1] = 0
    return mask


@dataclass
class Entry:
    name: str
    model: Any
    make_cond: Callable[[int], list]
    frames: int | None = None
    batch: int = 1  # images of a latent; in SVD they are the frames of one video
    size: tuple[int, int] = (
        CANVAS  # pixel-space models have patches of 16 cells, so that CANVAS would be two of them
    )
    positive: list = field(init=False)
    negative: list = field(init=False)

    def __post_init__(self) -> None:
        self.positive, self.negative = self.make_cond(11), self.make_cond(12)

    @property
    def px_per_cell(self) -> int:
        return self.model.model.latent_format.spacial_downscale_ratio

    def latent(
        self,
        height: int | None = None,
        width: int | None = None,
        batch: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        depth = () if self.frames is None else (self.frames,)
        size = height or self.size[0], width or self.size[1]
        return clean_latent(
            (batch or self.batch, self.model.model.latent_format.latent_channels, *depth, *size),
            seed,
        )


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


# ---------------------------------------------------------------------------------------------------------- UNets

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
BIGGER_UNET = {**UNET, "use_linear_in_transformer": True}
HEADS = {"num_head_channels": 32, "num_heads": -1}
SDXL = {
    **BIGGER_UNET,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 1, 2],
    "transformer_depth_middle": 2,
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "adm_in_channels": POOLED + 1536,
    "num_classes": "sequential",
}
SVD = {
    **BIGGER_UNET,
    "in_channels": 8,
    "adm_in_channels": 768,
    "num_classes": "sequential",
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
}


def sd15(in_channels: int = 4) -> Entry:
    return Entry(
        "sd15",
        build(supported.SD15, {**UNET, "in_channels": in_channels}),
        lambda seed: cond(77, seed),
    )


def sd15_inpaint() -> Entry:
    """Nine channels: the mask and the masked image go to the model as c_concat."""
    entry = sd15(in_channels=9)
    mask = torch.zeros(1, 1, 256, 320)
    mask[..., 64:192, 80:200] = 1
    values = {"concat_latent_image": clean_latent((1, 4, 32, 40), 77), "concat_mask": mask}
    return Entry("sd15_inpaint", entry.model, lambda seed: cond(77, seed, **values))


def sd15_ip2p() -> Entry:
    """Eight channels: the image to edit goes to the model as c_concat."""
    values = {"concat_latent_image": canvas_latent(4)}
    model = build(supported.SD15_instructpix2pix, {**UNET, "in_channels": 8})
    return Entry("sd15_ip2p", model, lambda seed: cond(77, seed, **values))


def sd2_v() -> Entry:
    def make(config: Any) -> Any:
        return comfy.model_base.BaseModel(
            config, model_type=comfy.model_base.ModelType.V_PREDICTION, device="cpu"
        )

    heads = {"num_head_channels": 32, "num_heads": -1}
    model = build(
        supported.SD20, {**UNET, "use_linear_in_transformer": True}, after=heads, make=make
    )
    return Entry("sd2_v", model, lambda seed: cond(77, seed))


def sd21_unclip() -> Entry:
    """An image's CLIP embedding goes in as `y`, with noise that the run's seed decides."""
    image = {
        "clip_vision_output": SimpleNamespace(image_embeds=gauss((1, 768), 8)),
        "strength": 1.0,
        "noise_augmentation": 0.1,
    }
    shape = {"adm_in_channels": 1536, "num_classes": "sequential"}
    model = build(supported.SD21UnclipL, {**BIGGER_UNET, **shape}, after=HEADS)
    return Entry("sd21_unclip", model, lambda seed: cond(77, seed, unclip_conditioning=[image]))


def sd_x4_upscaler() -> Entry:
    """The image to enlarge goes in as c_concat, a pixel of it for each cell."""
    image = clean_latent((1, 3, *CANVAS), 77).clamp(-1, 1)
    shape = {"in_channels": 7, "num_classes": 1000}
    model = build(supported.SD_X4Upscaler, {**BIGGER_UNET, **shape})
    return Entry(
        "sd_x4_upscaler",
        model,
        lambda seed: cond(77, seed, concat_image=image, noise_augmentation=0.1),
    )


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
    sizes = {
        "width": 320,
        "height": 256,
        "crop_w": 0,
        "crop_h": 0,
        "target_width": 320,
        "target_height": 256,
    }
    return Entry("sdxl", model, lambda seed: cond(77, seed, pooled=POOLED, **sizes))


def sdxl_refiner() -> Entry:
    model = build(supported.SDXLRefiner, {**SDXL, "adm_in_channels": POOLED + 1280}, after=HEADS)
    sizes = {"width": 320, "height": 256, "aesthetic_score": 6.0}
    return Entry("sdxl_refiner", model, lambda seed: cond(77, seed, pooled=POOLED, **sizes))


def svd() -> Entry:
    """The batch is the time axis, so it must stay whole; the first image goes in as c_concat."""
    values = {
        "concat_latent_image": canvas_latent(4),
        "fps": 6,
        "motion_bucket_id": 127,
        "augmentation_level": 0.0,
    }
    return Entry(
        "svd",
        build(supported.SVD_img2vid, SVD, after=HEADS),
        lambda seed: cond(1, seed, **values),
        batch=3,
    )


# --------------------------------------------------------------------------------------------------- Stable Cascade

CASCADE = {"c_cond": 64, "c_r": 16}
STAGE_B = {
    **CASCADE,
    "stable_cascade_stage": "b",
    "c_hidden": [32, 32, 64, 64],
    "nhead": [-1, -1, 4, 4],
    "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
    "block_repeat": [[1, 1, 1, 1], [1, 1, 1, 1]],
    "c_clip": POOLED,
}
STAGE_C = {
    **CASCADE,
    "stable_cascade_stage": "c",
    "c_hidden": [64, 64],
    "nhead": [2, 2],
    "blocks": [[1, 1], [1, 1]],
    "c_clip_text": TOKENS,
    "c_clip_text_pooled": POOLED,
}


def cascade_b() -> Entry:
    """The result of stage C goes in as `effnet`, at a resolution of its own."""
    prior = clean_latent((1, 16, 9, 11), 77)
    model = build(supported.Stable_Cascade_B, STAGE_B)
    return Entry(
        "cascade_b", model, lambda seed: cond(77, seed, pooled=POOLED, stable_cascade_prior=prior)
    )


def cascade_c() -> Entry:
    """Cells of 42 px: CANVAS would be more than the 1024 px it was trained at."""
    model = build(supported.Stable_Cascade_C, STAGE_C)
    return Entry("cascade_c", model, lambda seed: cond(77, seed, pooled=POOLED), size=(16, 24))


# ------------------------------------------------------------------------------------------ DiTs with a position table

SD3 = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 2,  # blocks, and 64ths of the width
    "num_blocks": 2,
    "input_size": None,
    "adm_in_channels": POOLED,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": TOKENS, "out_features": 128},
    },
    "num_patches": 192 * 192,
    "pos_embed_max_size": 192,
    "pos_embed_scaling_factor": None,
    "qk_norm": "rms",
    "x_block_self_attn_layers": [],
}
AURA = {
    "dim": 64,
    "n_layers": 2,
    "n_double_layers": 1,
    "n_heads": 4,
    "global_conddim": 64,
    "cond_seq_dim": TOKENS,
    "max_seq": 32 * 32,
}
PIXART = {
    "num_heads": 4,
    "patch_size": 2,
    "hidden_size": 96,
    "in_channels": 4,
    "depth": 2,
    "caption_channels": TOKENS,
    "model_max_length": 20,
    "pe_interpolation": 2,
}
HYDIT = {
    "image_model": "hydit",
    "depth": 4,
    "hidden_size": 64,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "text_states_dim": TOKENS,
    "text_states_dim_t5": 64,
    "text_len_t5": 16,
}


def sd3() -> Entry:
    return Entry("sd3", build(supported.SD3, SD3), lambda seed: cond(20, seed, pooled=POOLED))


def auraflow() -> Entry:
    return Entry(
        "auraflow",
        build(supported.AuraFlow, AURA, gains={"double_layers.0.attn.w1v": 12.0}),
        lambda seed: cond(20, seed),
    )


def pixart_alpha() -> Entry:
    """The canvas' size and shape go in as numbers; cells and patches must be even, and more than 32 cells a side."""
    model = build(
        supported.PixArtAlpha, {**PIXART, "image_model": "pixart_alpha", "micro_condition": True}
    )
    return Entry("pixart_alpha", model, lambda seed: cond(20, seed, width=320, height=256))


def pixart_sigma() -> Entry:
    model = build(
        supported.PixArtSigma, {**PIXART, "image_model": "pixart_sigma", "micro_condition": False}
    )
    return Entry("pixart_sigma", model, lambda seed: cond(20, seed))


def hunyuan_dit() -> Entry:
    def make_cond(seed: int) -> list:
        t5 = {
            "conditioning_mt5xl": gauss((1, 16, 64), seed + 2000),
            "attention_mask_mt5xl": whole_text(16),
        }
        return cond(77, seed, attention_mask=whole_text(77), **t5)

    return Entry("hunyuan_dit", build(supported.HunyuanDiT, HYDIT), make_cond)


# --------------------------------------------------------------------------------------------------- Flux and its kin

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
FLUX2 = {
    **FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "num_heads": 2,
    "axes_dim": [8, 8, 8, 8],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "ops_bias": False,
    "guidance_embed": True,
    "global_modulation": True,
    "mlp_silu_act": True,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "txt_ids_dims": [3],
}
CHROMA = {
    **{key: value for key, value in FLUX.items() if key != "guidance_embed"},
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "vec_in_dim": None,
    "in_dim": 64,
    "out_dim": 64,
    "hidden_dim": 64,
    "n_layers": 2,
}


def flux() -> Entry:
    return Entry("flux", build(supported.Flux, FLUX), lambda seed: cond(12, seed, pooled=POOLED))


def flux_schnell() -> Entry:
    return Entry(
        "flux_schnell",
        build(supported.FluxSchnell, FLUX),
        lambda seed: cond(12, seed, pooled=POOLED),
    )


def flux_guidance() -> Entry:
    model = build(supported.Flux, {**FLUX, "guidance_embed": True})
    return Entry("flux_guidance", model, lambda seed: cond(12, seed, pooled=POOLED, guidance=3.5))


def flux_kontext() -> Entry:
    """Two references: one of the canvas' size, which is cut with it, and one of another size, which goes whole."""
    references = [clean_latent((1, 16, 32, 40), 90), clean_latent((1, 16, 20, 24), 91)]
    values = {"pooled": POOLED, "guidance": 2.5, "reference_latents": references}
    return Entry(
        "flux_kontext",
        build(supported.Flux, {**FLUX, "guidance_embed": True}),
        lambda seed: cond(12, seed, **values),
    )


def flux_fill() -> Entry:
    """80 channels of c_concat: 16 of the masked image and 64 of the mask, which has a value for each pixel."""
    values = {"pooled": POOLED, "guidance": 30.0, **inpainting(16)}
    model = build(supported.FluxInpaint, {**FLUX, "in_channels": 96, "guidance_embed": True})
    return Entry("flux_fill", model, lambda seed: cond(12, seed, **values))


def flux_redux() -> Entry:
    """A style model at a strength of its own: the attention mask's rows and columns after the text are the canvas' tokens."""
    style = SimpleNamespace(get_cond=lambda _: gauss((1, 6, TOKENS), 8))

    def make_cond(seed: int) -> list:
        return nodes.StyleModelApply().apply_stylemodel(
            cond(12, seed, pooled=POOLED), style, None, 0.5, "attn_bias"
        )[0]

    return Entry("flux_redux", build(supported.Flux, {**FLUX, "guidance_embed": True}), make_cond)


def flux2() -> Entry:
    """128 channels at 16 px, patches of one cell; the text is padded to 512 tokens."""
    values = {"guidance": 4.0, "reference_latents": references(128)[:1]}
    return Entry("flux2", build(supported.Flux2, FLUX2), lambda seed: cond(12, seed, **values))


def longcat_image() -> Entry:
    model = build(supported.LongCatImage, {**FLUX, "vec_in_dim": None, "txt_ids_dims": [1, 2]})
    return Entry("longcat_image", model, lambda seed: cond(12, seed))


def chroma() -> Entry:
    return Entry("chroma", build(supported.Chroma, CHROMA), lambda seed: cond(12, seed))


# -------------------------------------------------------------------------------------------------- Lumina and its kin

LUMINA2 = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 64,
    "cap_feat_dim": TOKENS,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 2,
    "axes_dims": [4, 6, 6],
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 2.0,
    "multiple_of": 32,
    "qk_norm": True,
}
Z_IMAGE = {
    **LUMINA2,
    "dim": 256,  # its modulation is 256 wide, whatever the width
    "n_layers": 1,
    "n_heads": 8,
    "n_kv_heads": 8,
    "axes_dims": [8, 12, 12],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
OMNIGEN2 = {
    "image_model": "omnigen2",
    "hidden_size": 64,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "multiple_of": 32,
    "axes_dim_rope": (4, 6, 6),
    "axes_lens": (300, 512, 512),
    "text_feat_dim": TOKENS,
    "timestep_scale": 1000.0,
}


def lumina2() -> Entry:
    return Entry(
        "lumina2",
        build(supported.Lumina2, LUMINA2),
        lambda seed: cond(20, seed, attention_mask=whole_text(20)),
    )


def z_image() -> Entry:
    return Entry(
        "z_image",
        build(supported.ZImage, Z_IMAGE),
        lambda seed: cond(20, seed, attention_mask=whole_text(20)),
    )


def z_image_omni() -> Entry:
    model = build(supported.ZImage, {**Z_IMAGE, "siglip_feat_dim": 32})
    return Entry(
        "z_image_omni", model, lambda seed: cond(20, seed, reference_latents=references(16))
    )


def omnigen2() -> Entry:
    values = {"attention_mask": whole_text(20), "reference_latents": references(16)}
    return Entry(
        "omnigen2", build(supported.Omnigen2, OMNIGEN2), lambda seed: cond(20, seed, **values)
    )


def boogu() -> Entry:
    shape = {key: value for key, value in OMNIGEN2.items() if key != "text_feat_dim"}
    shape |= {"image_model": "boogu", "num_double_stream_layers": 1, "instruction_feat_dim": TOKENS}
    values = {"attention_mask": whole_text(20), "reference_latents": references(16)}
    return Entry("boogu", build(supported.Boogu, shape), lambda seed: cond(20, seed, **values))


# ------------------------------------------------------------------------------------------ Qwen-Image and its kin, 5-D

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
LOUD_TEXT = {"norm_added_k": 2.0}  # few words among many cells are barely heard otherwise
JOY = {
    "image_model": "joyimage",
    "patch_size": [1, 2, 2],
    "in_channels": 16,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_layers": 2,
    "text_dim": TOKENS,
}
KREA2 = {
    "image_model": "krea2",
    "features": 64,
    "tdim": 64,
    "heads": 4,
    "kvheads": 2,
    "layers": 2,
    "txtlayers": 3,
    "txtdim": TOKENS // 3,
    "txtheads": 2,
    "txtkvheads": 2,
}


def qwen_image() -> Entry:
    """Latents [B, C, T, H, W]; positive and negative have other token counts, so core calls the wrapper for each."""
    return Entry(
        "qwen_image",
        build(supported.QwenImage, QWEN, gains=LOUD_TEXT),
        lambda seed: cond(14 + seed % 2, seed),
        frames=1,
    )


def qwen_edit() -> Entry:
    values = {"reference_latents": references(16, 1)}
    model = build(supported.QwenImage, QWEN, gains=LOUD_TEXT)
    return Entry("qwen_edit", model, lambda seed: cond(20, seed, **values), frames=1)


def joy_image() -> Entry:
    model = build(supported.JoyImage, JOY, after={"rope_dim_list": [4, 6, 6]})
    return Entry("joy_image", model, lambda seed: cond(20, seed), frames=1)


def krea2() -> Entry:
    values = {"reference_latents": references(16, 1), "reference_latents_method": "index"}
    return Entry(
        "krea2", build(supported.Krea2, KREA2), lambda seed: cond(20, seed, **values), frames=1
    )


# ------------------------------------------------------------------------------------- DiTs on Flux.2's latents, 16 px

MAGE = {
    "image_model": "mage_flow",
    "in_channels": 128,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": TOKENS,
    "axes_dims_rope": (4, 6, 6),
}
LENS = {
    "image_model": "lens",
    "in_channels": 128,
    "out_channels": 32,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "enc_hidden_dim": TOKENS // 3,
    "axes_dims_rope": (4, 6, 6),
    "selected_layer_index": (0, 1, 2),
}
IDEOGRAM4 = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "intermediate_size": 128,
    "adaln_dim": 32,
    "llm_features_dim": TOKENS,
    "mrope_section": [4, 2, 2],
}
ERNIE = {
    "image_model": "ernie",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_layers": 2,
    "ffn_hidden_size": 128,
    "text_in_dim": TOKENS,
    "rope_axes_dim": (4, 6, 6),
}


def mage_flow() -> Entry:
    return Entry(
        "mage_flow", build(supported.MageFlow, MAGE, gains=LOUD_TEXT), lambda seed: cond(20, seed)
    )


def lens() -> Entry:
    return Entry(
        "lens",
        build(supported.Lens, LENS, gains=LOUD_TEXT),
        lambda seed: cond(20, seed, attention_mask=whole_text(20)),
    )


def ideogram4() -> Entry:
    model = build(
        supported.Ideogram4, {"image_model": "ideogram4", "num_layers": 2}, after=IDEOGRAM4
    )
    return Entry("ideogram4", model, lambda seed: cond(20, seed))


def ernie_image() -> Entry:
    return Entry("ernie_image", build(supported.ErnieImage, ERNIE), lambda seed: cond(20, seed))


# ------------------------------------------------------------------------------------------------------- other images

HIDREAM = {
    "image_model": "hidream",
    "attention_head_dim": 16,
    "axes_dims_rope": [8, 4, 4],
    "caption_channels": [TOKENS, TOKENS],
    "max_resolution": [128, 128],
    "in_channels": 16,
    "llama_layers": [0, 1],
    "num_attention_heads": 4,
    "num_routed_experts": 4,
    "num_activated_experts": 2,
    "num_layers": 1,
    "num_single_layers": 1,
    "out_channels": 16,
    "patch_size": 2,
    "text_emb_dim": POOLED,
}
KANDINSKY5 = {
    "image_model": "kandinsky5",
    "in_text_dim": TOKENS,
    "in_text_dim2": POOLED,
    "time_dim": 64,
    "model_dim": 64,
    "ff_dim": 128,
    "visual_embed_dim": 64,
    "num_text_blocks": 1,
    "num_visual_blocks": 2,
    "axes_dims": (4, 6, 6),
}
HUNYUAN = {
    "image_model": "hunyuan_video",
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
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
HUNYUAN_IMAGE = {
    **HUNYUAN,
    "in_channels": 64,
    "out_channels": 64,
    "vec_in_dim": None,
    "axes_dim": [8, 8],
    "patch_size": [1, 1],
    "guidance_embed": False,
}


def hidream_cond(seed: int, **values: Any) -> list:
    """Llama's hidden states [1, layers, tokens, width] beside T5's tokens."""
    return cond(
        12,
        seed,
        pooled=POOLED,
        conditioning_llama3=gauss((1, 2, 12, TOKENS), seed + 2000),
        **values,
    )


def hidream() -> Entry:
    return Entry("hidream", build(supported.HiDream, HIDREAM), hidream_cond)


def hidream_e1() -> Entry:
    """The image to edit goes in as `image_cond`, beside the canvas."""
    values = {"concat_latent_image": canvas_latent(16)}
    return Entry(
        "hidream_e1", build(supported.HiDream, HIDREAM), lambda seed: hidream_cond(seed, **values)
    )


def kandinsky5_image() -> Entry:
    return Entry(
        "kandinsky5_image",
        build(supported.Kandinsky5Image, KANDINSKY5),
        lambda seed: cond(20, seed, pooled=POOLED),
    )


def hunyuan_image21() -> Entry:
    """64 channels at 32 px, patches of one cell."""
    return Entry(
        "hunyuan_image21",
        build(supported.HunyuanImage21, HUNYUAN_IMAGE),
        lambda seed: cond(20, seed),
    )


# -------------------------------------------------------------------------------------------------------- pixel space

PIXELS = (128, 160)
CHROMA_RADIANCE = {
    **CHROMA,
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 16,
    "nerf_mlp_ratio": 2,
    "nerf_depth": 1,
    "nerf_max_freqs": 4,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
PIXELDIT = {
    "image_model": "pixeldit_t2i",
    "num_groups": 4,
    "hidden_size": 64,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 64,
    "pixel_num_groups": 4,
    "patch_depth": 2,
    "pixel_depth": 1,
    "txt_embed_dim": TOKENS,
    "txt_max_length": 20,
}
PID = {
    **PIXELDIT,
    "image_model": "pid",
    "lq_hidden_dim": 32,
    "lq_num_res_blocks": 1,
    "lq_interval": 1,
}
Z_IMAGE_PIXEL = {
    **Z_IMAGE,
    "image_model": "zimage_pixel",
    "patch_size": 16,
    "in_channels": 3,
    "decoder_hidden_size": 64,
    "decoder_num_res_blocks": 1,
    "decoder_max_freqs": 4,
}
HIDREAM_O1_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_dims": [4, 2, 2],
}
HIDREAM_O1_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "depth": 1,
    "num_heads": 2,
    "deepstack_visual_indexes": [],
}


def chroma_radiance() -> Entry:
    return Entry(
        "chroma_radiance",
        build(supported.ChromaRadiance, CHROMA_RADIANCE),
        lambda seed: cond(12, seed),
        size=PIXELS,
    )


def pixeldit() -> Entry:
    return Entry(
        "pixeldit", build(supported.PixelDiTT2I, PIXELDIT), lambda seed: cond(20, seed), size=PIXELS
    )


def pid() -> Entry:
    """A latent to decode goes in as `lq_latent`, a cell of it for each 32 px."""
    latent = clean_latent((1, 16, *(side // 32 for side in PIXELS)), 77)
    values = {"lq_latent": latent, "degrade_sigma": torch.tensor([0.2])}
    return Entry(
        "pid", build(supported.PiD, PID), lambda seed: cond(20, seed, **values), size=PIXELS
    )


def z_image_pixel() -> Entry:
    model = build(supported.ZImagePixelSpace, Z_IMAGE_PIXEL)
    return Entry(
        "z_image_pixel",
        model,
        lambda seed: cond(20, seed, attention_mask=whole_text(20)),
        size=PIXELS,
    )


def hidream_o1() -> Entry:
    """The text goes in as token numbers; `position_ids` and two masks have the text's tokens and then the canvas'."""

    def make_cond(seed: int) -> list:
        words = torch.randint(1000, (1, 12), generator=torch.Generator().manual_seed(seed))
        words[0, -1] = comfy.ldm.hidream_o1.model.TMS_TOKEN_ID  # the model puts the timestep there
        return [[torch.zeros(1, 1, 1), {"text_input_ids": words}]]

    shape = {"text_config_overrides": HIDREAM_O1_TEXT, "vision_config_overrides": HIDREAM_O1_VISION}
    return Entry(
        "hidream_o1",
        build(supported.HiDreamO1, {"image_model": "hidream_o1", **shape}),
        make_cond,
        size=PIXELS,
    )


# -------------------------------------------------------------------------------------------------------- video, 5-D

WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 64,
    "num_heads": 4,
    "ffn_dim": 128,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 64,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": TOKENS,
}
LTXV = {
    "image_model": "ltxv",
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "cross_attention_dim": 64,
    "caption_channels": TOKENS,
}
COSMOS_PREDICT2 = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "num_blocks": 2,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "crossattn_emb_channels": TOKENS,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_enable_fps_modulation": False,
}
COSMOS = {
    **{key: value for key, value in COSMOS_PREDICT2.items() if key != "rope_enable_fps_modulation"},
    "image_model": "cosmos",
    "block_config": "FA-CA-MLP",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "pos_emb_learnable": False,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
MOCHI = {
    "image_model": "mochi_preview",
    "depth": 2,
    "patch_size": 2,
    "num_heads": 4,
    "hidden_size_x": 64,
    "hidden_size_y": 64,
    "mlp_ratio_x": 192.0,  # the model insists on its real width there
    "mlp_ratio_y": 2.0,
    "learn_sigma": False,
    "in_channels": 12,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "posenc_preserve_area": True,
    "timestep_scale": 1000.0,
    "use_t5": True,
    "t5_feat_dim": TOKENS,
    "t5_token_length": 20,
}
COGVIDEOX = {
    "image_model": "cogvideox",
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "time_embed_dim": 64,
    "text_embed_dim": TOKENS,
    "num_layers": 2,
    "max_text_seq_length": 20,
    "use_rotary_positional_embeddings": True,
}


def wan21_t2v() -> Entry:
    return Entry(
        "wan21_t2v", build(supported.WAN21_T2V, WAN), lambda seed: cond(16, seed), frames=3
    )


def wan21_i2v() -> Entry:
    """20 channels of c_concat: 4 of the mask and 16 of the given frames."""
    values = {
        "concat_latent_image": canvas_latent(16, frames=3),
        "concat_mask": first_frame_given(3),
    }
    values["clip_vision_output"] = SimpleNamespace(penultimate_hidden_states=gauss((1, 9, 1280), 8))
    model = build(supported.WAN21_I2V, {**WAN, "model_type": "i2v", "in_dim": 36})
    return Entry("wan21_i2v", model, lambda seed: cond(16, seed, **values), frames=3)


def wan21_vace() -> Entry:
    """The control video goes in as `vace_context` [B, videos, C, T, H, W], 6-D."""
    mask = torch.ones(1, 64, 3, *CANVAS)
    mask[..., : CANVAS[1] // 2] = 0
    values = {
        "vace_frames": [canvas_latent(32, frames=3)],
        "vace_mask": [mask],
        "vace_strength": [1.0],
    }
    model = build(
        supported.WAN21_Vace, {**WAN, "model_type": "vace", "vace_layers": 1, "vace_in_dim": 96}
    )
    return Entry("wan21_vace", model, lambda seed: cond(16, seed, **values), frames=3)


def wan21_reference() -> Entry:
    """Wan with a convolution for one reference frame, which goes in as `reference_latent`, 4-D."""
    values = {"reference_latents": [canvas_latent(16, frames=1)]}
    model = build(supported.WAN21_T2V, {**WAN, "in_dim_ref_conv": 16})
    return Entry("wan21_reference", model, lambda seed: cond(16, seed, **values), frames=3)


def wan21_context() -> Entry:
    """References in the context, as Bernini has them: `context_latents`, a list of 5-D latents of any size."""
    values = {
        "context_latents": [canvas_latent(16, 90, frames=3), clean_latent((1, 16, 1, 20, 24), 91)]
    }
    return Entry(
        "wan21_context",
        build(supported.WAN21_T2V, WAN),
        lambda seed: cond(16, seed, **values),
        frames=3,
    )


def wan21_fun_control() -> Entry:
    """32 channels of c_concat: the control video and the first frame."""
    values = {"concat_latent_image": canvas_latent(32, frames=3)}
    model = build(supported.WAN21_FunControl2V, {**WAN, "model_type": "i2v", "in_dim": 48})
    return Entry("wan21_fun_control", model, lambda seed: cond(16, seed, **values), frames=3)


def wan21_camera() -> Entry:
    """The camera's rays go in as `camera_conditions`, with a value for each pixel."""
    rays = clean_latent((1, 24, 3, CANVAS[0] * 8, CANVAS[1] * 8), 78)
    values = {"camera_conditions": rays, "concat_latent_image": canvas_latent(16, frames=3)}
    model = build(supported.WAN21_Camera, {**WAN, "model_type": "camera", "in_dim": 32})
    return Entry("wan21_camera", model, lambda seed: cond(16, seed, **values), frames=3)


def wan21_scail() -> Entry:
    """Poses go in as `pose_latents` at half the canvas' resolution, the reference as `reference_latent` at all of it."""
    poses = clean_latent((1, 16, 3, CANVAS[0] // 2, CANVAS[1] // 2), 78)
    values = {"pose_video_latent": poses, "reference_latents": [canvas_latent(16, frames=1)]}
    shape = {**WAN, "model_type": "scail", "in_dim": 20}
    return Entry(
        "wan21_scail",
        build(supported.WAN21_SCAIL, shape),
        lambda seed: cond(16, seed, **values),
        frames=3,
    )


def wan22_s2v() -> Entry:
    """The reference goes in as `reference_latent` and the poses as `control_video`, both 5-D."""
    values = {
        "reference_latents": [canvas_latent(16, frames=1)],
        "control_video": canvas_latent(16, 78, frames=3),
    }
    shape = {**WAN, "model_type": "s2v", "audio_dim": 32, "audio_inject_layers": [0]}
    return Entry(
        "wan22_s2v",
        build(supported.WAN22_S2V, shape),
        lambda seed: cond(16, seed, **values),
        frames=3,
    )


def wan22_5b() -> Entry:
    """48 channels at 16 px; the noise mask goes in as `denoise_mask`, which gives each frame a timestep."""
    values = {"denoise_mask": first_frame_given(3)}
    model = build(supported.WAN22_T2V, {**WAN, "in_dim": 48, "out_dim": 48})
    return Entry("wan22_5b", model, lambda seed: cond(16, seed, **values), frames=3)


def hunyuan_video() -> Entry:
    values = {"pooled": POOLED, "guidance": 6.0}
    return Entry(
        "hunyuan_video",
        build(supported.HunyuanVideo, HUNYUAN),
        lambda seed: cond(20, seed, **values),
        frames=3,
    )


def hunyuan_video_i2v() -> Entry:
    """17 channels of c_concat: the given frame and where it stands."""
    values = {
        "pooled": POOLED,
        "concat_latent_image": canvas_latent(16, frames=3),
        "concat_mask": first_frame_given(3),
    }
    model = build(supported.HunyuanVideoI2V, {**HUNYUAN, "in_channels": 33})
    return Entry("hunyuan_video_i2v", model, lambda seed: cond(20, seed, **values), frames=3)


def hunyuan_video15() -> Entry:
    shape = {"in_channels": 65, "out_channels": 32, "vec_in_dim": None, "patch_size": [1, 1, 1]}
    shape |= {
        "num_heads": 2,
        "axes_dim": [8, 12, 12],
    }  # all cells are tokens: fewer heads, half the time
    shape |= {"guidance_embed": False, "use_cond_type_embedding": True}
    values = {
        "pooled": POOLED,
        "concat_latent_image": canvas_latent(32, frames=2),
        "concat_mask": first_frame_given(2),
    }
    model = build(supported.HunyuanVideo15, {**HUNYUAN, **shape})
    return Entry("hunyuan_video15", model, lambda seed: cond(20, seed, **values), frames=2)


def kandinsky5_video() -> Entry:
    """17 channels of c_concat: 16 empty ones and the mask."""
    values = {
        "pooled": POOLED,
        "concat_mask": first_frame_given(3),
        "time_dim_replace": canvas_latent(16, frames=1),
    }
    model = build(supported.Kandinsky5, {**KANDINSKY5, "visual_embed_dim": 132})
    return Entry("kandinsky5_video", model, lambda seed: cond(20, seed, **values), frames=3)


def ltxv() -> Entry:
    """128 channels at 32 px; the noise mask goes in as `denoise_mask`, which gives each cell a timestep."""
    values = {"attention_mask": whole_text(20), "concat_mask": first_frame_given(2)}
    return Entry(
        "ltxv", build(supported.LTXV, LTXV), lambda seed: cond(20, seed, **values), frames=2
    )


def cosmos() -> Entry:
    return Entry(
        "cosmos", build(supported.CosmosT2V, COSMOS), lambda seed: cond(20, seed), frames=2
    )


def cosmos_predict2() -> Entry:
    """The noise mask goes in as `denoise_mask`, whose mean over a frame scales that frame's timestep."""
    values = {"concat_mask": first_frame_given(2)}
    return Entry(
        "cosmos_predict2",
        build(supported.CosmosT2IPredict2, COSMOS_PREDICT2),
        lambda seed: cond(20, seed, **values),
        frames=2,
    )


def cosmos_predict2_i2v() -> Entry:
    """The mask goes in twice: as `denoise_mask` and as a channel of c_concat."""
    values = {
        "concat_mask": first_frame_given(2),
        "concat_latent_image": canvas_latent(16, frames=2),
    }
    model = build(supported.CosmosI2VPredict2, {**COSMOS_PREDICT2, "in_channels": 17})
    return Entry("cosmos_predict2_i2v", model, lambda seed: cond(20, seed, **values), frames=2)


def anima() -> Entry:
    """Cosmos Predict2 with an adapter for its text encoder; without T5's tokens the adapter rests, so it is a small one."""
    adapter = partial(
        comfy.ldm.anima.model.LLMAdapter,
        source_dim=TOKENS,
        target_dim=TOKENS,
        model_dim=16,
        num_layers=1,
        num_heads=1,
    )
    with mock.patch.object(comfy.ldm.anima.model, "LLMAdapter", adapter):
        model = build(supported.Anima, {**COSMOS_PREDICT2, "image_model": "anima"})
    return Entry("anima", model, lambda seed: cond(20, seed), frames=1)


def mochi() -> Entry:
    return Entry(
        "mochi",
        build(supported.GenmoMochi, MOCHI),
        lambda seed: cond(20, seed, attention_mask=whole_text(20)),
        frames=2,
    )


def cogvideox() -> Entry:
    return Entry(
        "cogvideox",
        build(supported.CogVideoX_T2V, COGVIDEOX),
        lambda seed: cond(20, seed),
        frames=2,
    )


FAMILIES = (
    *(sd15, sd15_inpaint, sd15_ip2p, sd2_v, sd21_unclip, sd_x4_upscaler, sdxl, sdxl_refiner, svd),
    *(cascade_b, cascade_c),
    *(sd3, auraflow, pixart_alpha, pixart_sigma, hunyuan_dit),
    *(
        flux,
        flux_schnell,
        flux_guidance,
        flux_kontext,
        flux_fill,
        flux_redux,
        flux2,
        longcat_image,
        chroma,
    ),
    *(lumina2, z_image, z_image_omni, omnigen2, boogu),
    *(qwen_image, qwen_edit, joy_image, krea2),
    *(mage_flow, lens, ideogram4, ernie_image),
    *(hidream, hidream_e1, kandinsky5_image, hunyuan_image21),
    *(chroma_radiance, pixeldit, pid, z_image_pixel, hidream_o1),
    *(
        wan21_t2v,
        wan21_i2v,
        wan21_vace,
        wan21_reference,
        wan21_context,
        wan21_fun_control,
        wan21_camera,
        wan21_scail,
    ),
    *(wan22_s2v, wan22_5b),
    *(hunyuan_video, hunyuan_video_i2v, hunyuan_video15, kandinsky5_video, ltxv, mochi, cogvideox),
    *(cosmos, cosmos_predict2, cosmos_predict2_i2v, anima),
)
ZOO: dict[str, Callable[[], Entry]] = {make.__name__: make for make in FAMILIES}


@cache
def entry_of(name: str) -> Entry:
    """One entry for all tests of a module; conftest.py frees them after it."""
    return ZOO[name]()
