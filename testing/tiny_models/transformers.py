"""Transformers for images: SD3, PixArt, Flux, Lumina, Qwen-Image and what descends from them."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.supported_models as supported

import nodes

from .building import (
    POOLED,
    TOKENS,
    Entry,
    build,
    clean_latent,
    cond,
    gauss,
    inpainting,
    references,
    whole_text,
)

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
