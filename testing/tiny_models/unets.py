"""UNets: Stable Diffusion 1, 2 and XL, SVD, and Stable Cascade."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.ldm.anima.model
import comfy.ldm.hidream_o1.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models as supported
import torch

from .building import CANVAS, POOLED, TOKENS, Entry, build, canvas_latent, clean_latent, cond, gauss

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
