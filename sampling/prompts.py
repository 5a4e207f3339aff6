"""Prompts for regions, as conditioning with masks that together weigh 1 everywhere.

A conditioning is ComfyUI's: a list of [text, options]. Its masks are what Conditioning (Set Mask)
sets, so that every sampler and model takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tree.raster import window_mean

Conditioning = list[list[Any]]

LONGEST = 2048  # of a mask's sides: beyond that it is finer than the cells of an image of 16384 px
NOTHING = 1e-3  # a weight below this is 0, so that rounding noise costs no evaluation


def set_prompts(
    base: Conditioning,
    prompts: Sequence[Conditioning],
    regions: Sequence[Tensor],
    *,
    feather_px: int,
    strength: float,
) -> Conditioning:
    """Return the conditioning of `base` with a prompt of its own in each region.

    `regions` are masks [B or 1, h, w] in 0..1. The transition between a prompt and the others is
    `feather_px` wide, in px of the largest mask; `strength` in 0..1 is the prompt's share inside of
    its region, and `base` has the rest. Where regions overlap, their prompts share.
    """
    first, *others = weigh_regions(regions, feather_px, strength)
    weighed = weigh_conds(base, first)
    for prompt, weight in zip(prompts, others, strict=True):
        weighed += weigh_conds(prompt, weight)
    return weighed


def weigh_regions(regions: Sequence[Tensor], feather_px: int, strength: float) -> list[Tensor]:
    """Return the weight of what lies outside of all regions, and then that of each region.

    They are [B or 1, h, w] of one size, and sum to 1 at every px. See `set_prompts`.
    """
    regions = [mask.to(regions[0].device) for mask in regions]  # with --gpu-only, of either device
    height = max(mask.shape[-2] for mask in regions)
    width = max(mask.shape[-1] for mask in regions)
    scale = min(1.0, LONGEST / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    radius = round(feather_px * scale / 2)
    inside = [_soften(_resize(mask, size), radius) * strength for mask in regions]
    inside = [_drop_little(weight) for weight in inside]
    total = torch.stack(torch.broadcast_tensors(*inside)).sum(0)
    outside = _drop_little(1 - total.clamp(max=1))
    everything = total + outside
    return [outside / everything, *(weight / everything for weight in inside)]


def weigh_conds(conds: Conditioning, weight: Tensor) -> Conditioning:
    """Return a conditioning whose masks are multiplied by `weight` [B or 1, h, w].

    Entries that would count nowhere are left out. Those that apply where no other does (Cond Set
    Default Combine) stay as they are, and so do all where the weight is 1 everywhere.
    """
    if bool((weight == 1).all()):
        return list(conds)
    weighed: Conditioning = []
    for text, options in conds:
        if "default" in options:
            weighed.append([text, options])
            continue
        mask = weight
        if options.get("mask") is not None:
            known = options["mask"].to(weight)
            mask = weight * _resize(known if known.ndim > 2 else known[None], weight.shape[-2:])
        if bool(mask.any()):
            unset = {"set_area_to_bounds": False, "mask_strength": 1.0}
            weighed.append([text, {**unset, **options, "mask": mask}])
    return weighed


def _resize(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Return a mask [B, h, w] at another size: means of the px below, or between them."""
    mask = mask.float().clamp(0, 1)
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    shrinks = mask.shape[-2] >= size[0] and mask.shape[-1] >= size[1]
    if shrinks:
        return F.interpolate(mask[:, None], tuple(size), mode="area")[:, 0]
    return F.interpolate(mask[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _soften(mask: Tensor, radius: int) -> Tensor:
    """Return the mask with its edges as ramps of 2 * radius px, half of them inside."""
    return window_mean(window_mean(mask, radius, -1), radius, -2) if radius else mask


def _drop_little(weight: Tensor) -> Tensor:
    return weight.where(weight >= NOTHING, 0.0)
