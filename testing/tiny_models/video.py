"""Video models: Wan, LTXV, Cosmos, HunyuanVideo, Kandinsky, Mochi, CogVideoX."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from unittest import mock

import comfy.ldm.anima.model
import comfy.ldm.hidream_o1.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models as supported
import torch

from .building import (
    CANVAS,
    POOLED,
    TOKENS,
    Entry,
    build,
    canvas_latent,
    clean_latent,
    cond,
    first_frame_given,
    gauss,
    whole_text,
)
from .images import HUNYUAN, KANDINSKY5

# -------- video, 5-D

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
LTXAV = {
    **LTXV,
    "image_model": "ltxav",
    "use_middle_indices_grid": True,
    "causal_temporal_positioning": True,
    "audio_cross_attention_dim": 64,
    "audio_attention_head_dim": 32,
    "audio_num_attention_heads": 2,
    "connector_attention_head_dim": TOKENS // 2,
    "connector_num_attention_heads": 2,
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
SEEDVR2 = {
    "image_model": "seedvr2",
    "vid_dim": 48,
    "txt_in_dim": TOKENS,
    "heads": 2,
    "head_dim": 24,
    "rope_dim": 24,
    "num_layers": 2,
    "mm_layers": 1,
    "expand_ratio": 2,
    "norm_eps": 1e-5,
    "mlp_type": "swiglu",
    "vid_out_norm": True,
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
    """References in the context, as Bernini has them: `context_latents`, a list of 5-D latents of
    any size."""
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
    """Poses go in as `pose_latents` at half the canvas' resolution, the reference as
    `reference_latent` at all of it."""
    poses = clean_latent((1, 16, 3, CANVAS[0] // 2, CANVAS[1] // 2), 78)
    values = {"pose_video_latent": poses, "reference_latents": [canvas_latent(16, frames=1)]}
    shape = {**WAN, "model_type": "scail", "in_dim": 20}
    return Entry(
        "wan21_scail",
        build(supported.WAN21_SCAIL, shape),
        lambda seed: cond(16, seed, **values),
        frames=3,
    )


def wan21_humo() -> Entry:
    """The reference goes in as `reference_latent` with the channels of c_concat, 5-D."""
    values = {
        "reference_latents": [canvas_latent(16, frames=1)],
        "concat_latent_image": canvas_latent(16, frames=3),
        "concat_mask": first_frame_given(3),
    }
    model = build(supported.WAN21_HuMo, {**WAN, "model_type": "humo", "in_dim": 36})
    return Entry("wan21_humo", model, lambda seed: cond(16, seed, **values), frames=3)


def wan22_animate() -> Entry:
    """Poses go in as `pose_latents`, with a frame less than the video; 20 channels of c_concat."""
    values = {
        "concat_latent_image": canvas_latent(16, frames=3),
        "concat_mask": first_frame_given(3),
        "pose_video_latent": canvas_latent(16, 78, frames=2),
    }
    model = build(supported.WAN22_Animate, {**WAN, "model_type": "animate", "in_dim": 36})
    return Entry("wan22_animate", model, lambda seed: cond(16, seed, **values), frames=3)


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
    """48 channels at 16 px; the noise mask goes in as `denoise_mask`, which gives each frame a
    timestep."""
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


def hunyuan_video15_sr() -> Entry:
    """An upscaler: the enlarged clip is 32 of 66 channels of c_concat, beside a given frame's."""
    enlarged = canvas_latent(66, frames=2)
    values = {"pooled": POOLED, "concat_latent_image": enlarged, "noise_augmentation": 0.7}
    shape = {"in_channels": 98, "out_channels": 32, "vec_in_dim": None, "patch_size": [1, 1, 1]}
    shape |= {"num_heads": 2, "axes_dim": [8, 12, 12]}
    shape |= {"guidance_embed": False, "use_cond_type_embedding": True}
    model = build(supported.HunyuanVideo15_SR_Distilled, {**HUNYUAN, **shape})
    return Entry("hunyuan_video15_sr", model, lambda seed: cond(20, seed, **values), frames=2)


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
    """128 channels at 32 px; the noise mask goes in as `denoise_mask`, which gives each cell a
    timestep."""
    values = {"attention_mask": whole_text(20), "concat_mask": first_frame_given(2)}
    return Entry(
        "ltxv", build(supported.LTXV, LTXV), lambda seed: cond(20, seed, **values), frames=2
    )


def ltx2() -> Entry:
    """LTX-2 on a video alone. Its text is as its connectors put it out, for video and audio."""

    def make_cond(seed: int) -> list:
        return [[gauss((1, 20, 2 * TOKENS), seed), {}]]

    return Entry("ltx2", build(supported.LTXAV, LTXAV), make_cond, frames=2)


def cosmos() -> Entry:
    return Entry(
        "cosmos", build(supported.CosmosT2V, COSMOS), lambda seed: cond(20, seed), frames=2
    )


def cosmos_predict2() -> Entry:
    """The noise mask goes in as `denoise_mask`, whose mean over a frame scales that frame's
    timestep."""
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
    """Cosmos Predict2 with an adapter for its text encoder; without T5's tokens the adapter rests,
    so it is a small one."""
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


def seedvr2() -> Entry:
    """An upscaler: what it refines goes in as `condition`, with a mask; its texts are fixed, the
    negative one longer."""
    condition = torch.cat([canvas_latent(16, frames=3), torch.ones(1, 1, 3, *CANVAS)], 1)
    entry = Entry(
        "seedvr2",
        build(supported.SeedVR2, SEEDVR2),
        lambda seed: cond(20, seed, condition=condition),
        frames=3,
    )
    entry.negative = cond(24, 12, condition=condition)
    return entry


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
