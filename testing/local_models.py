"""Tiny real networks made local: what leaves them at a unit depends on what goes in at that unit
only.

A unit is a patch, or what a UNet reduces to one cell. Tiling must not show on them, whatever
another node does to attention, blocks or weights.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import comfy.supported_models as supported
import torch
import torch.nn.functional as F
from quadtree_pack.testing.tiny_models import ZOO
from quadtree_pack.testing.tiny_models.building import (
    Entry,
    build,
    clean_latent,
    cond,
)
from quadtree_pack.testing.tiny_models.transformers import FLUX
from quadtree_pack.testing.tiny_models.unets import UNET
from torch import Tensor

HEIGHT, WIDTH = 16, 32


def own_token(
    attention: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *args: Any,
    skip_reshape: bool = False,
    **options: Any,
):
    """Self-attention in which each token sees itself; cross-attention is left as it is.

    Rotary positions cancel in q * k.
    """
    if q.shape != k.shape:
        return attention(q, k, v, *args, skip_reshape=skip_reshape, **options)
    found = v * torch.sigmoid((q * k).mean(-1, keepdim=True))
    return found.transpose(1, 2).flatten(2) if skip_reshape else found


class CellNorm(torch.nn.Module):
    """A GroupNorm's parameters over the channels of every cell."""

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(
            x.movedim(1, -1), x.shape[1:2], self.norm.weight, self.norm.bias
        ).movedim(-1, 1)


def localize(network: torch.nn.Module) -> None:
    """Make the norms and convolutions local; attention is not."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, CellNorm(child))
            elif isinstance(child, torch.nn.Conv2d) and child.kernel_size == (3, 3):
                child.weight.data *= F.pad(torch.full((1, 1), 3.0), (1, 1, 1, 1))


def made_local(entry: Entry) -> Entry:
    localize(entry.model.model.diffusion_model)
    entry.model.model_options["transformer_options"]["optimized_attention_override"] = own_token
    return entry


def sd15_fine() -> Entry:
    """SD1.5 with attention at full resolution, too, where HyperTile and token merging act."""
    depths = {
        "transformer_depth": [1, 1, 1, 0],
        "transformer_depth_output": [0, 0, 1, 1, 1, 1, 1, 1],
    }
    return Entry(
        "sd15_fine", build(supported.SD15, {**UNET, **depths}), lambda seed: cond(77, seed)
    )


def sd15_deep() -> Entry:
    """SD1.5 with all of its blocks, for nodes that name them by their numbers."""
    blocks = {
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    }
    model = build(supported.SD15, {**UNET, **blocks})
    return Entry("sd15_deep", model, lambda seed: cond(77, seed))


def unclip() -> Entry:
    shape = {
        "adm_in_channels": 1536,
        "num_classes": "sequential",
        "use_linear_in_transformer": True,
    }
    model = build(
        supported.SD21UnclipL, {**UNET, **shape}, after={"num_head_channels": 32, "num_heads": -1}
    )
    return Entry("unclip", model, lambda seed: cond(77, seed))


def flux2() -> Entry:
    """With a reference of the canvas' size, whose windows go with the canvas'."""
    shape = {
        "image_model": "flux2",
        "in_channels": 128,
        "out_channels": 128,
        "axes_dim": [4, 4, 4, 4],
        "patch_size": 1,
    }
    kind = {
        "global_modulation": True,
        "mlp_silu_act": True,
        "qkv_bias": False,
        "ops_bias": False,
        "vec_in_dim": None,
    }
    references = {"default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3]}
    values = {"reference_latents": [clean_latent((1, 128, HEIGHT, WIDTH), 90)]}
    model = build(supported.Flux2, {**FLUX, **shape, **kind, **references})
    return Entry("flux2", model, lambda seed: cond(12, seed, **values))


FAMILIES = {**ZOO, "sd15_fine": sd15_fine, "sd15_deep": sd15_deep, "unclip": unclip, "flux2": flux2}


@cache
def entry_of(name: str) -> Entry:
    return FAMILIES[name]()


@cache
def local(name: str) -> Entry:
    return made_local(FAMILIES[name]())
