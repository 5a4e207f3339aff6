"""VAEs of real architectures with random weights on the real ComfyUI, thinner than the real ones.

    vae = VAES["qwen"]()
    pixels = vae.decode(vae_latent(vae, 32, 40))

Core makes them itself, from a state dict in which it finds out what the VAE is and how wide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.pixel_space_convert import PixelspaceConversionVAE
from comfy.taesd.taehv import TAEHV
from comfy.taesd.taesd import TAESD
from torch import Tensor

from .tiny_models.building import clean_latent, randomize

WIDTH = 32  # channels at the full resolution; the real ones have 128 (KL) and 96 (Wan)
KL = {
    "double_z": True,
    "in_channels": 3,
    "out_ch": 3,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "resolution": 256,
}
KL |= {"attn_resolutions": [], "dropout": 0.0}
WAN = {
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
}


def vae_of(model: torch.nn.Module, *leave_out: str) -> Any:
    """Core's VAE with the model's parameters, but for those whose names begin so."""
    randomize(model, seed=5)
    values = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(leave_out or ("-",))
    }
    return comfy.sd.VAE(sd=values, dtype=torch.float32)


def kl(channels: int, width: int = WIDTH, quantized: bool = False) -> Any:
    """Core gives the encoder its full width, so it stays without parameters."""
    model = AutoencoderKL(ddconfig={**KL, "z_channels": channels, "ch": width}, embed_dim=channels)
    return vae_of(model, "encoder.", "quant_conv.", *(() if quantized else ("post_quant_conv.",)))


def sd(width: int = WIDTH) -> Any:
    """SD1.5 and SDXL."""
    return kl(4, width, quantized=True)


def flux(width: int = WIDTH) -> Any:
    """Flux, SD3, Z-Image."""
    return kl(16, width)


def qwen(width: int = WIDTH) -> Any:
    """Qwen-Image and Wan 2.1."""
    return vae_of(comfy.ldm.wan.vae.WanVAE(dim=width, z_dim=16, **WAN))


def wan22(width: int = WIDTH) -> Any:
    """Something bypasses the last module at its lowest resolution."""
    thin = partial(comfy.ldm.wan.vae2_2.WanVAE, dec_dim=width)
    model = thin(dim=width, z_dim=48, **WAN)
    with mock.patch.object(
        comfy.ldm.wan.vae2_2, "WanVAE", lambda **config: thin(**{**config, "dim": width})
    ):
        return vae_of(model)


def taesd(channels: int = 4) -> Any:
    return vae_of(TAESD(latent_channels=channels))


def ltx2() -> Any:
    """Core says 16 px per cell, but its decode makes 32."""
    return vae_of(TAEHV(latent_channels=128, latent_format=None))


def pixels() -> Any:
    """What pixel-space models get: nothing to decode, so nothing to hook."""
    return vae_of(PixelspaceConversionVAE())


VAES: dict[str, Callable[[], Any]] = {
    make.__name__: make for make in (sd, flux, qwen, wan22, taesd)
}


def vae_latent(vae: Any, height: int, width: int, seed: int = 0) -> Tensor:
    """A latent of one image, [1, C, h, w], or [1, C, 1, h, w] for a VAE of videos."""
    still = (1,) if vae.latent_dim == 3 else ()
    return clean_latent((1, vae.latent_channels, *still, height, width), seed)
