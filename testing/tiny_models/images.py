"""Image models of other kinds: HiDream, Kandinsky, HunyuanImage, and those that work on px."""

from __future__ import annotations

from typing import Any

import comfy.ldm.anima.model
import comfy.ldm.hidream_o1.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models as supported
import torch

from .building import (
    POOLED,
    TOKENS,
    Entry,
    build,
    canvas_latent,
    clean_latent,
    cond,
    gauss,
    whole_text,
)
from .transformers import CHROMA, Z_IMAGE

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
