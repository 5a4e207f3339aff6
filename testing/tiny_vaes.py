"""VAEs of real architectures with random weights on the real ComfyUI, thinner than the real ones.

    vae = VAES["qwen"]()
    pixels = vae.decode(vae_latent(vae, 32, 40))

Core makes them itself, from a state dict in which it finds out what the VAE is and how wide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import comfy.ldm.cogvideo.vae
import comfy.ldm.cosmos.vae
import comfy.ldm.genmo.vae.model
import comfy.ldm.hunyuan_video.vae_refiner
import comfy.ldm.lightricks.vae.causal_video_autoencoder
import comfy.ldm.models.autoencoder
import comfy.ldm.modules.diffusionmodules.model
import comfy.ldm.modules.temporal_ae
import comfy.ldm.seedvr.vae
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine
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


def vae_of(
    model: torch.nn.Module,
    *leave_out: str,
    config: dict | None = None,
    extra: dict[str, Tensor] | None = None,
) -> Any:
    """Core's VAE with the model's parameters, but for those whose names begin so.

    `config` is what the file tells of the network, and `extra` what else it holds.
    """
    randomize(model, seed=5)
    values = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(leave_out or ("-",))
    }
    metadata = None if config is None else {"config": json.dumps({"vae": config})}
    return comfy.sd.VAE(sd={**values, **(extra or {})}, dtype=torch.float32, metadata=metadata)


@contextmanager
def resized(module: ModuleType, *names: str, **sizes: Any) -> Iterator[None]:
    """Let these classes of core have other sizes than the only ones that core makes."""

    def resize(make: Callable) -> Callable:
        return lambda *args, **config: make(*args, **{**config, **sizes})

    thin = {name: resize(getattr(module, name)) for name in names}
    with mock.patch.multiple(module, **thin):
        yield


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


def svd(width: int = WIDTH) -> Any:
    """SVD: its images are the frames of one clip, which the decoder mixes."""
    config = {**KL, "z_channels": 4, "ch": width, "num_res_blocks": 1}
    config |= {"video_kernel_size": [3, 1, 1], "alpha": 0.0}
    images, clips = comfy.ldm.modules.diffusionmodules.model, comfy.ldm.modules.temporal_ae
    with (
        resized(images, "Encoder", ch=width, num_res_blocks=1),
        resized(clips, "VideoDecoder", ch=width, num_res_blocks=1),
    ):
        parts = {
            "encoder_config": {"target": f"{images.__name__}.Encoder", "params": config},
            "decoder_config": {"target": f"{clips.__name__}.VideoDecoder", "params": config},
        }
        gauss = {"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"}
        return vae_of(AutoencodingEngine(regularizer_config=gauss, **parts))


def wan22(width: int = WIDTH) -> Any:
    """Something bypasses the last module at its lowest resolution."""
    module = comfy.ldm.wan.vae2_2
    with resized(module, "WanVAE", dim=width, dec_dim=width):
        return vae_of(module.WanVAE(z_dim=48, **WAN))


def hunyuan(width: int = WIDTH) -> Any:
    """HunyuanVideo, and Kandinsky 5: group norms over the whole clip."""
    with resized(
        comfy.ldm.modules.diffusionmodules.model, "Encoder", "Decoder", ch=width, num_res_blocks=1
    ):
        config = {**KL, "conv3d": True, "time_compress": 4, "z_channels": 16}
        return vae_of(AutoencoderKL(ddconfig=config, embed_dim=16))


def hunyuan15(width: int = WIDTH) -> Any:
    """HunyuanVideo 1.5: 32 channels at 16 px."""
    module = comfy.ldm.hunyuan_video.vae_refiner
    widths = [width, 2 * width, 4 * width, 64, 64]
    config = {"z_channels": 32, "in_channels": 3, "out_channels": 3, "num_res_blocks": 1}
    config |= {"ffactor_spatial": 16, "ffactor_temporal": 4, "block_out_channels": None}
    with resized(module, "Encoder", "Decoder", block_out_channels=widths, num_res_blocks=0):
        parts = {
            f"{name.lower()}_config": {"target": f"{module.__name__}.{name}", "params": config}
            for name in ("Encoder", "Decoder")
        }
        empty = {"target": "comfy.ldm.models.autoencoder.EmptyRegularizer"}
        return vae_of(AutoencodingEngine(regularizer_config=empty, **parts))


def ltxv(width: int = WIDTH, inject_noise: bool = False) -> Any:
    """LTXV from 0.9.1 on, which adds noise to the latent, and if told to within the decoder."""
    layers = {"num_layers": 1, "inject_noise": inject_noise}
    compress = ["compress_all", {"residual": True, "multiplier": 2}]
    config = {
        "dims": 3,
        "latent_channels": 128,
        "encoder_blocks": [["compress_all", {}]] * 3,
        "decoder_blocks": [["res_x", layers], compress] * 3 + [["res_x", {"num_layers": 1}]],
        "encoder_base_channels": width,
        "decoder_base_channels": width,
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "timestep_conditioning": True,
    }
    module = comfy.ldm.lightricks.vae.causal_video_autoencoder
    model = module.VideoVAE(config=config)
    model.per_channel_statistics.load_state_dict(
        {"std-of-means": torch.ones(128), "mean-of-means": torch.zeros(128)}
    )
    return vae_of(model, config=config)


def mochi(width: int = WIDTH) -> Any:
    """Group norms over each frame."""
    module = comfy.ldm.genmo.vae.model
    sizes = {"base_channels": width, "num_res_blocks": [1, 1, 4, 1, 1]}  # 4: core looks for them
    with resized(module, "Encoder", "Decoder", **sizes):
        return vae_of(module.VideoVAE())


def cosmos(width: int = WIDTH) -> Any:
    """Cosmos 1: norms over each frame."""
    module = comfy.ldm.cosmos.vae
    config = {"z_channels": 16, "latent_channels": 16, "z_factor": 1, "resolution": 1024}
    config |= {"in_channels": 3, "out_channels": 3, "channels_mult": [2, 4, 4], "dropout": 0.0}
    config |= {"attn_resolutions": [32], "patch_size": 4, "num_groups": 1}
    config |= {"temporal_compression": 8, "spacial_compression": 8}
    with resized(module, "CausalContinuousVideoTokenizer", channels=width, num_res_blocks=1):
        model = module.CausalContinuousVideoTokenizer(**config)
        return vae_of(model, extra={"decoder.unpatcher3d.wavelets": torch.ones(1)})


def cogvideox(width: int = WIDTH) -> Any:
    """Group norms over some frames at a time."""
    module = comfy.ldm.cogvideo.vae
    sizes = {"block_out_channels": (width,) * 4, "layers_per_block": 1}
    with resized(module, "AutoencoderKLCogVideoX", **sizes):
        return vae_of(module.AutoencoderKLCogVideoX(latent_channels=16))


def seedvr2(width: int = WIDTH) -> Any:
    """Group norms over each frame, and tiles of its own."""
    module = comfy.ldm.seedvr.vae
    with mock.patch.object(module, "BYTEDANCE_BLOCK_OUT_CHANNELS", (width,) * 4):
        return vae_of(module.VideoAutoencoderKLWrapper())


def taehv() -> Any:
    """The tiny VAE of Wan 2.1 and HunyuanVideo."""
    return vae_of(TAEHV(latent_channels=16, latent_format=None))


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
# Of clips.
VIDEO_VAES: dict[str, Callable[..., Any]] = {
    make.__name__: make
    for make in (
        *(qwen, wan22, hunyuan15, ltxv, taehv),  # their windows equal the whole
        *(hunyuan, mochi, cosmos, cogvideox, seedvr2),  # these have norms over the whole
    )
}


def vae_latent(vae: Any, height: int, width: int, seed: int = 0) -> Tensor:
    """A latent of one image, [1, C, h, w], or [1, C, 1, h, w] for a VAE of videos."""
    still = (1,) if vae.latent_dim == 3 else ()
    return clean_latent((1, vae.latent_channels, *still, height, width), seed)
