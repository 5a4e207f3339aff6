"""Tiny ControlNets and a T2I-Adapter for the tiny models, with random weights; what would be zero
in them is not.

    entry = with_control(ZOO["sd15"](), sd15_controlnet(), hint_image(256, 320))
    samples = sample(entry, entry.latent(), steps=4, cfg=3.0, denoise=0.6)

Each is of the class that ComfyUI's loader makes for such a file, over a network of the real
architecture. Last come stand-ins without weights, for networks that work cell by cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import comfy.cldm.cldm
import comfy.cldm.mmdit
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.model_management
import comfy.ops
import comfy.t2i_adapter.adapter
import comfy.utils
import torch
import torch.nn.functional as F
from quadtree_pack.sampling.model import Geometry
from torch import Tensor

import nodes

from .tiny_models.building import Entry, gauss, randomize
from .tiny_models.transformers import FLUX, QWEN, SD3
from .tiny_models.unets import SDXL, UNET

SEED = 7
# The layers through which a control speaks: heard well, but not louder than the model.
SPEAKING = dict.fromkeys(
    ("zero_convs", "middle_block_out", "controlnet_blocks", "controlnet_single_blocks"), 0.5
)
# Eight layers of SiLU would let next to nothing of the hint through.
LISTENING = {"input_hint_block": 1.9}


def hint_image(height_px: int, width_px: int, seed: int = 5) -> Tensor:
    """Image [1, H, W, 3] in 0..1 of flat blocks with edges, so that a control differs over the
    canvas."""
    blocks = gauss((1, 3, max(2, height_px // 48), max(2, width_px // 48)), seed)
    return (
        F.interpolate(blocks, size=(height_px, width_px), mode="nearest")
        .sigmoid()
        .movedim(1, -1)
        .contiguous()
    )


class FakeVAE:
    """Encodes each patch of pixels on its own, by a fixed projection: what ControlNets on latents
    ask of a VAE."""

    def __init__(self, channels: int = 16, px_per_cell: int = 8, video: bool = False) -> None:
        self.px_per_cell, self.video = px_per_cell, video
        values = 3 * px_per_cell**2
        self.projection = gauss((values, channels), 3) * 2 / values**0.5

    def spacial_compression_encode(self) -> int:
        return self.px_per_cell

    def encode(self, pixels: Tensor) -> Tensor:
        """Image [B, H, W, 3] in 0..1 to a latent [B, C, h, w], or [B, C, 1, h, w] as a video's VAE
        does."""
        patches = F.pixel_unshuffle(pixels[..., :3].movedim(-1, 1) * 2 - 1, self.px_per_cell)
        latent = (patches.movedim(1, -1) @ self.projection).movedim(-1, 1)
        return latent.unsqueeze(2) if self.video else latent


def with_control(
    entry: Entry,
    control: Any,
    image: Tensor,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    vae: FakeVAE | None = None,
) -> Entry:
    """A copy of the entry under this control, after the controls that it has; core's own node puts
    it there."""
    controlled, node = copy(entry), nodes.ControlNetApplyAdvanced()
    conds = entry.positive, entry.negative
    controlled.positive, controlled.negative = node.apply_controlnet(
        *conds, control, image, strength, start, end, vae=vae
    )
    return controlled


def speaking(network: torch.nn.Module) -> torch.nn.Module:
    """The network with random weights."""
    randomize(network, SEED, {**SPEAKING, **LISTENING})
    return network.requires_grad_(False).eval()


def controlnet(network: torch.nn.Module, **options: Any) -> comfy.controlnet.ControlNet:
    device = comfy.model_management.get_torch_device()
    return comfy.controlnet.ControlNet(
        speaking(network), load_device=device, manual_cast_dtype=None, **options
    )


def on_latents(latent_format: Any) -> dict[str, Any]:
    """Options of a ControlNet whose hint is a latent."""
    return {"compression_ratio": 1, "latent_format": latent_format}


def unet_controlnet(unet: dict[str, Any], **heads: int) -> comfy.controlnet.ControlNet:
    other = ("out_channels", "transformer_depth_output", "use_temporal_attention")
    shape = {key: value for key, value in unet.items() if key not in other}
    operations = comfy.ops.disable_weight_init
    return controlnet(
        comfy.cldm.cldm.ControlNet(
            hint_channels=3, operations=operations, device="cpu", **shape, **heads
        )
    )


def sd15_controlnet() -> comfy.controlnet.ControlNet:
    return unet_controlnet(UNET, num_heads=8)


def sd15_control_lora() -> comfy.controlnet.ControlLora:
    """A Control-LoRA: what the UNet has comes from the model, changed in its time embedding."""
    weights = sd15_controlnet().control_model.state_dict()
    own = ("input_hint_block", "zero_convs", "middle_block_out")
    kept = {key: value for key, value in weights.items() if key.startswith(own)}
    rows, columns = weights["time_embed.0.weight"].shape
    kept["time_embed.0.up"] = gauss((rows, 2), 8)
    kept["time_embed.0.down"] = 0.1 * gauss((2, columns), 9)
    return comfy.controlnet.ControlLora(kept)


def sdxl_controlnet() -> comfy.controlnet.ControlNet:
    return unet_controlnet(SDXL, num_head_channels=32)


def dit_controlnet(
    network_class: type, shape: dict[str, Any], options: dict[str, Any], **more: Any
) -> comfy.controlnet.ControlNet:
    settings = {
        "operations": comfy.ops.disable_weight_init,
        "device": "cpu",
        "dtype": torch.float32,
    }
    return controlnet(network_class(**shape, **more, **settings), **options)


def flux_controlnet(latent_input: bool = False) -> comfy.controlnet.ControlNet:
    """XLabs' kind, whose hint is an image, or InstantX's, whose hint is a latent."""
    options = {
        "extra_conds": ["y", "guidance"],
        **(on_latents(comfy.latent_formats.Flux()) if latent_input else {}),
    }
    return dit_controlnet(
        comfy.ldm.flux.controlnet.ControlNetFlux, FLUX, options, latent_input=latent_input
    )


def sd3_controlnet() -> comfy.controlnet.ControlNet:
    latent_format = comfy.latent_formats.SD3()
    latent_format.shift_factor = 0  # as the loader does
    shape = {**SD3, "num_blocks": 1}  # it speaks to one block less than the model has
    return dit_controlnet(
        comfy.cldm.mmdit.ControlNet, shape, on_latents(latent_format), control_latent_channels=16
    )


def qwen_controlnet() -> comfy.controlnet.ControlNet:
    """InstantX's kind; it needs a video's VAE."""
    options = {"extra_conds": [], **on_latents(comfy.latent_formats.Wan21())}
    return dit_controlnet(comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel, QWEN, options)


class ShallowAdapter(comfy.t2i_adapter.adapter.Adapter):
    """For a UNet with one residual block a level: a feature for every second block and not for
    every third."""

    def forward(self, image: Tensor) -> dict[str, list[Tensor | None]]:
        features = [feature for feature in super().forward(image)["input"] if feature is not None]
        return {"input": [slot for feature in features for slot in (feature, None)]}


def sd15_t2i_adapter() -> comfy.controlnet.T2IAdapter:
    shape = {
        "cin": 192,
        "channels": [32, 64, 64, 64],
        "nums_rb": 2,
        "ksize": 1,
        "sk": True,
        "use_conv": False,
        "xl": False,
    }
    adapter = speaking(ShallowAdapter(**shape))
    return comfy.controlnet.T2IAdapter(adapter, adapter.input_channels, 8, "nearest-exact")


def takes_cross_attention(entry: Entry) -> bool:
    """Core's own ControlNet asks for it; Stable Cascade names its text otherwise."""
    return not type(entry.model.model).__name__.startswith("StableCascade")


class StandInNetwork:
    """A control network whose feature of a place is its hint there: a token per patch, or maps at
    these reductions."""

    dtype = torch.float32

    def __init__(self, patch: int = 0, reductions: Sequence[int] = ()) -> None:
        self.patch, self.reductions = patch, reductions

    @classmethod
    def like(cls, entry: Entry) -> StandInNetwork:
        network = entry.model.model.diffusion_model
        if hasattr(network, "channel_mult"):
            return cls(reductions=(2, 1))
        return (
            cls(reductions=(1,))
            if not takes_cross_attention(entry)
            else cls(patch=Geometry.of(entry.model).unit)
        )

    def __call__(self, x: Tensor, hint: Tensor, **_: Any) -> dict[str, list[Tensor | None]]:
        cells = F.adaptive_avg_pool2d(
            hint.expand(len(x), *hint.shape[1:]).flatten(1, -3), x.shape[-2:]
        )
        if self.patch:
            return {
                "input": [F.avg_pool2d(cells, self.patch, ceil_mode=True).flatten(2).movedim(1, 2)],
                "output": [],
            }
        maps = [F.avg_pool2d(cells, reduction, ceil_mode=True) for reduction in self.reductions]
        return {"input": [], "middle": [None], "output": [*maps, None]}


class StandInControl(comfy.controlnet.ControlNet):
    """Core's ControlNet without weights to load."""

    def __init__(self, network: StandInNetwork) -> None:
        super().__init__()
        self.control_model = network

    def get_models(self) -> list:
        return []


class ForeignControl(comfy.controlnet.ControlBase):
    """A control object of another pack, with a `get_control` of its own."""

    def __init__(self, network: StandInNetwork) -> None:
        super().__init__()
        self.network = network

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> Any:
        earlier = self.previous_controlnet
        before = earlier and earlier.get_control(
            x_noisy, t, cond, batched_number, transformer_options
        )
        height, width = (8 * length for length in x_noisy.shape[-2:])
        hint = comfy.utils.common_upscale(
            self.cond_hint_original, width, height, "bilinear", "center"
        )
        return self.control_merge(self.network(x_noisy, hint), before, None)
