"""Tiny Refiner: a real, very small flow-matching model as a ComfyUI loader node.

The demo, tests and benchmarks use it; MODEL_CARD.md describes it. `load_tiny_refiner()` returns
model, VAE and conditioning without a server; ComfyUI must be importable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from comfy_api.latest import ComfyExtension, io
from torch.nn import functional

WEIGHTS = Path(__file__).parent / "tiny_refiner.safetensors"
CELL_PX = 8


class TinyLatent(comfy.latent_formats.LatentFormat):
    latent_channels = 32
    spacial_downscale_ratio = CELL_PX  # core's spelling


class TinyConfig(comfy.supported_models_base.BASE):
    unet_extra_config: ClassVar[
        dict
    ] = {}  # core's defaults would overwrite the head count in the file
    sampling_settings: ClassVar = {"shift": 1.0}
    latent_format = TinyLatent
    memory_usage_factor = 0.6


class PatchVAE:
    """Linear autoencoder of 8x8 px patches, with the methods that core's VAE nodes call.

    It has no network, so there is nothing to load or to tile.
    """

    latent_channels = TinyLatent.latent_channels
    latent_dim = 2
    downscale_ratio = CELL_PX
    upscale_ratio = CELL_PX

    def __init__(self, mean: torch.Tensor, basis: torch.Tensor, scale: torch.Tensor) -> None:
        """Take mean [192], basis [192, 32] with orthonormal columns and scale [32].

        A patch is one column of pixel_unshuffle, with values in -1..1.
        """
        self.mean, self.basis, self.scale = mean, basis, scale

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the latent [B, 32, H // 8, W // 8] of an image [B, H, W, C >= 3] in 0..1.

        Px that do not fill a cell are cropped on both sides, as core's own autoencoders do.
        """
        rgb = pixels[..., :3].to(self.mean).movedim(-1, 1) * 2 - 1
        for axis in (2, 3):
            spare_px = rgb.shape[axis] % CELL_PX
            rgb = rgb.narrow(axis, spare_px // 2, rgb.shape[axis] - spare_px)
        patches = functional.pixel_unshuffle(rgb, CELL_PX).movedim(1, -1)
        return ((patches - self.mean) @ self.basis * self.scale).movedim(-1, 1).contiguous()

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the image [B, H * 8, W * 8, 3] in 0..1 of a latent [B, 32, H, W]."""
        patches = latent.to(self.mean).movedim(1, -1) / self.scale @ self.basis.T + self.mean
        rgb = functional.pixel_shuffle(patches.movedim(-1, 1), CELL_PX)
        return ((rgb + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous()

    def encode_tiled(self, pixels: torch.Tensor, **_tiling: int | None) -> torch.Tensor:
        """Encode as a whole: patches are independent of their neighbours."""
        return self.encode(pixels)

    def decode_tiled(self, latent: torch.Tensor, **_tiling: int | None) -> torch.Tensor:
        """Decode as a whole: patches are independent of their neighbours."""
        return self.decode(latent)

    def spacial_compression_encode(self) -> int:
        return CELL_PX

    def spacial_compression_decode(self) -> int:
        return CELL_PX

    def temporal_compression_decode(self) -> None:
        return None

    def throw_exception_if_invalid(self) -> None:
        """Do nothing: core asks before use, and this VAE is always complete."""

    def preview_colours(self) -> tuple[list[list[float]], list[float]]:
        """Return RGB factors [32][3] and bias [3] of previews, in -1..1.

        They give the mean colour of a decoded cell.
        """
        by_channel = (self.basis / self.scale).reshape(3, CELL_PX**2, -1).mean(dim=1)
        return by_channel.T.tolist(), self.mean.reshape(3, -1).mean(dim=1).tolist()


def load_tiny_refiner() -> tuple[comfy.model_patcher.ModelPatcher, PatchVAE, list]:
    """Return model, VAE and one conditioning that serves as positive and negative.

    The model is unconditional, so cfg must be 1.
    """
    weights, metadata = comfy.utils.load_torch_file(
        str(WEIGHTS), safe_load=True, return_metadata=True
    )
    vae = PatchVAE(*(weights.pop(f"vae.{name}").float() for name in ("mean", "basis", "scale")))

    # float32 on a GPU, too: launching kernels takes most of the time there, so nothing is lost,
    # and a run is comparable with one on the CPU.
    config = TinyConfig({**json.loads(metadata["unet_config"]), "dtype": torch.float32})
    config.set_inference_dtype(torch.float32, None)
    preview = config.latent_format
    preview.latent_rgb_factors, preview.latent_rgb_factors_bias = vae.preview_colours()
    offload_device = comfy.model_management.unet_offload_device()
    model = comfy.model_base.BaseModel(
        config, comfy.model_base.ModelType.FLOW, device=offload_device
    )
    model.load_model_weights({name: value.float() for name, value in weights.items()}, "unet.")
    patcher = comfy.model_patcher.ModelPatcher(
        model, comfy.model_management.get_torch_device(), offload_device
    )
    return patcher, vae, [[torch.zeros(1, 1, 1), {}]]


class TinyRefinerLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TinyRefinerLoader",
            display_name="Tiny Refiner (demo)",
            category="loaders",
            description=(
                "A very small diffusion model for trials on a CPU. "
                "Sharpens photos at denoise 0.2 to 0.5 and cfg 1."
            ),
            inputs=[],
            outputs=[
                io.Model.Output(
                    "model", tooltip="Unconditional flow model, 32 latent channels, 8 px per cell."
                ),
                io.Vae.Output("vae", tooltip="Linear autoencoder of 8x8 px patches."),
                io.Conditioning.Output(
                    "conditioning",
                    tooltip="Empty; connect it to positive and negative, and set cfg to 1.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_tiny_refiner())


class TinyRefiner(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TinyRefinerLoader]


async def comfy_entrypoint() -> TinyRefiner:
    return TinyRefiner()
