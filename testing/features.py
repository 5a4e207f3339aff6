"""What ComfyUI offers for some model families only, as properties on the real ComfyUI with a tiny
model of the family's real architecture.

`python dev.py bench families` writes them to the second table of docs/families.md. But for the
references, they use the family's network: windows that do not overlap equal ComfyUI's own runs on
the crops that they lie on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any
from unittest import mock

import comfy.gligen
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_flux, nodes_sag
from comfy_extras.nodes_edit_model import ReferenceLatent
from quadtree_pack.utils import Box
from torch import Tensor

from .crops import crops_of, sample_crops, tiled_run
from .matrix import (
    TOLERANCE,
    Case,
    NotOfferedError,
    equal_on_a_pointwise_network,
    names_of_entries,
)
from .support import error, forget_lost_models
from .tiny_models.building import (
    CANVAS,
    TOKENS,
    Entry,
    clean_latent,
    gauss,
    randomize,
    with_frames,
)

Change = Callable[[Entry, Box], Entry]


@contextmanager
def comfyui_alone() -> Iterator[None]:
    """Where ComfyUI is asked without this pack: what fails there is not offered."""
    try:
        yield
    except Exception as failure:
        raise NotOfferedError from failure


def with_model(entry: Entry, model: Any) -> Entry:
    entry = copy(entry)
    entry.model = model
    return entry


def equal_on_crops(
    case: Case, change: Change, expected: Change | None = None, **options: Any
) -> None:
    """Windows of a changed entry, one at a time, equal ComfyUI's own runs on the crops; `expected`
    is the change on the crops where it is another one.

    NotOfferedError where ComfyUI fails on the crops, or the change changes nothing there.
    """
    side = case.tile_px // case.px

    def entry_on(box: Box) -> Entry:
        size, corner = (box.height, box.width), (box.y0, box.x0)
        entry = with_frames(case.entry, case.entry.frames, size, corner)
        for _, values in entry.positive + entry.negative:
            values.pop("noise_augmentation", None)  # ComfyUI adds another noise to a crop
        return entry

    def changed(box: Box) -> Entry:
        return (expected or change)(entry_on(box), box)

    canvas, boxes = Box(0, 0, 2 * side, side), crops_of(2 * side, side)
    latent = entry_on(canvas).latent()
    forget_lost_models()
    with comfyui_alone():
        plain = sample_crops(changed, latent, boxes, **options)
    if expected is None and error(sample_crops(entry_on, latent, boxes, **options), plain) < 0.005:
        raise NotOfferedError
    entry = change(entry_on(canvas), canvas)
    tiled, spy = tiled_run(entry, latent, case.tile_px, 1, case.px, **options)
    assert error(tiled, plain) < TOLERANCE
    assert {shape[-2:] for shape in spy.shapes} == {(side, side)}


# ---- Self-Attention Guidance


def guided(model: Any, scale: float = 2.0) -> Any:
    return nodes_sag.SelfAttentionGuidance.execute(model, scale, 2.0).args[0]


def blur_in_its_cell(picture: Tensor, **_options: Any) -> Tensor:
    """Stands in for ComfyUI's blur, which reaches over the border of a crop, where nothing is."""
    return 0.5 * picture


def self_attention_guidance(case: Case) -> None:
    """Self-Attention Guidance with a blur that stays in its cell."""
    with mock.patch.object(nodes_sag, "gaussian_blur_2d", blur_in_its_cell):
        equal_on_crops(case, lambda entry, _: with_model(entry, guided(entry.model)))


# ---- GLIGEN


def gligen_for(model: Any) -> Any:
    """A GLIGEN of random weights with a module for each transformer of a UNet."""
    transformers = [
        module.transformer_blocks[0]
        for module in model.model.diffusion_model.modules()
        if isinstance(module, comfy.ldm.modules.attention.SpatialTransformer)
    ]
    if not transformers:
        raise NotOfferedError
    widths = [transformer.attn1.to_q.in_features for transformer in transformers]
    modules = [
        comfy.gligen.GatedSelfAttentionDense(width, TOKENS, 8, width // 8) for width in widths
    ]
    network = comfy.gligen.Gligen(modules, comfy.gligen.PositionNet(TOKENS, TOKENS), TOKENS)
    randomize(network, 5, {"alpha": 1.0})
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(
        network.requires_grad_(False).eval().to(device),
        load_device=device,
        offload_device=torch.device("cpu"),
    )


def with_gligen(entry: Entry, patcher: Any, positions: list) -> Entry:
    entry = copy(entry)
    gligen = "position", patcher, positions
    entry.positive = [[text, {**values, "gligen": gligen}] for text, values in entry.positive]
    return entry


def gligen(case: Case) -> None:
    """A GLIGEN box in the left window, and one that the right one has a part of."""
    patcher = gligen_for(case.entry.model)
    words = [gauss((1, TOKENS), seed) for seed in (1, 2)]
    # Height, width, y and x in cells.
    boxes = {
        (0, 32): [(words[0], 9, 8, 2, 4), (words[1], 6, 12, 10, 10)],
        (0, 16): [(words[0], 9, 8, 2, 4), (words[1], 6, 6, 10, 10)],
        (16, 32): [(words[1], 6, 6, 10, 0)],
    }
    equal_on_crops(case, lambda entry, box: with_gligen(entry, patcher, boxes[box.x0, box.x1]))


# ---- references


def refer(conditioning: list, picture: Tensor) -> list:
    return ReferenceLatent.execute(conditioning, {"samples": picture}).args[0]


def with_reference(entry: Entry, picture: Tensor) -> Entry:
    """The entry with this reference and no other, in both of its prompts."""

    def make_cond(seed: int) -> list:
        plain = [
            [text, {key: value for key, value in values.items() if key != "reference_latents"}]
            for text, values in entry.make_cond(seed)
        ]
        return refer(plain, picture)

    return replace(entry, make_cond=make_cond)


def resize_picture(latent: Tensor, factor: float) -> Tensor:
    """The picture of a latent at so many times its resolution."""
    size = [round(side * factor) for side in latent.shape[-2:]]
    planes = F.interpolate(latent.flatten(1, -3), size, mode="bilinear", antialias=True)
    return planes.view(*latent.shape[:-2], *size)


def look_at_references(model: Any, *, whole: bool = False) -> Any:
    """A clone whose cells look at the cells of references there; `whole`: at all of them."""

    def apply_model(
        executor: Callable,
        noisy: Tensor,
        sigma: Tensor,
        *args: Any,
        ref_latents: Any = (),
        **entries: Any,
    ) -> Tensor:
        seen = torch.sin(1.5 * noisy / (1 + sigma.view(-1, *[1] * (noisy.ndim - 1))))
        for number, picture in enumerate(ref_latents):
            planes = picture.flatten(2, -3)[:, :, 0] if picture.ndim > 4 else picture
            if whole:
                planes = planes.mean((-2, -1), keepdim=True)
            size = noisy.shape[-2:]
            plane = F.interpolate(planes, size=size, mode="nearest-exact")
            seen = seen + plane.view(len(noisy), noisy.shape[1], *[1] * (noisy.ndim - 4), *size) / (
                number + 2
            )
        return seen

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "look", apply_model)
    return model


def resized_references(case: Case) -> None:
    """A reference that shows the canvas at twice its resolution, and at half of it."""
    for factor in (2, 0.5):
        referring = copy(case)
        referring.entry = with_reference(case.entry, resize_picture(case.latent, factor))
        with comfyui_alone():
            offered = "ref_latents" in names_of_entries(referring)
        if not offered:
            raise NotOfferedError
        equal_on_a_pointwise_network(referring, network=look_at_references)


# ---- Flux KV Cache


def cached(model: Any) -> Any:
    return nodes_flux.FluxKVCache.execute(model).args[0]


def without_kv_patches(model: Any) -> Any:
    """Flux KV Cache without its cache: references are evaluated as it asks for."""
    model = cached(model)
    model.model_options["transformer_options"]["patches"] = {}
    return model


def flux_kv_cache(case: Case) -> None:
    """Windows are evaluated without Flux KV Cache, as the crops are with a reference there."""
    picture = clean_latent((1, *case.latent.shape[1:-2], *CANVAS), 90)
    referring = copy(case)
    referring.entry = with_reference(case.entry, picture)
    require_cache_in_use(referring)
    equal_on_crops(
        referring,
        lambda entry, _: with_model(entry, cached(entry.model)),
        lambda entry, _: with_model(entry, without_kv_patches(entry.model)),
        cfg=1.0,  # with a guidance, ComfyUI's Flux.2 takes one row at a time
    )


def require_cache_in_use(case: Case) -> None:
    """NotOfferedError where the node fails without windows, or its cache is never looked in."""
    with comfyui_alone():
        model = cached(case.entry.model)
        (cache,) = model.model_options["transformer_options"]["patches"]["attn1_patch"]
        case.sample(model, steps=2)
    if getattr(cache, "set_cache", True):
        raise NotOfferedError


FEATURES: dict[str, Callable[[Case], None]] = {
    "resized references": resized_references,
    "Self-Attention Guidance": self_attention_guidance,
    "GLIGEN": gligen,
    "Flux KV Cache": flux_kv_cache,
}
