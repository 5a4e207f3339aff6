"""Opens a run: by what the node was given, and what a sampler is about to sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..quadtree import Quadtree
from ..utils import info, warn
from .audio import Audio, Packing, check_cache, split_audio
from .caches import find_cache
from .frames import add_guide_frames, count_frames, free_empty_frames
from .guides import Guides
from .maps import are_apart, build_latent_maps, locate_images
from .model import Geometry, Settings, is_compiled
from .patches import list_attached
from .placing import Part
from .plan import Mode
from .protocols import ModelFunctionWrapper, Options
from .rules import OBJECT_PATCHES, refuse_options
from .run import Run, create_run
from .steps import describe_rise

CLEARLY_SMALLER = 0.6  # than the quadtree's image: a latent that may be a crop of it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """What the node was given, and the geometry of its model.

    `clean_latent` [B or 1, C, ..., H, W], as a LATENT holds it, is what is preserved; None: the
    latent that is sampled. `all_sigmas` [steps + 1] are those of a whole schedule.
    """

    trees: Sequence[Quadtree]
    settings: Settings
    geometry: Geometry
    clean_latent: Tensor | None = None
    all_sigmas: Sequence[float] | None = None

    def clean_for(self, latent: Tensor) -> Tensor:
        """Return what is preserved, as the caller gave it: `clean_latent`, or the latent itself.

        ValueError where the two do not fit each other.
        """
        clean = self.clean_latent
        if clean is None:
            return latent
        if clean.ndim == 4 and latent.ndim == 5:  # a still for a video model, as core takes it
            clean = clean.unsqueeze(2)
        if clean.shape[1:] != latent.shape[1:] or len(clean) not in (1, len(latent)):
            raise ValueError(
                f"clean_latent has shape {tuple(clean.shape)}, but the latent that is sampled has "
                f"{tuple(latent.shape)}; both must be of one size, with one clean latent, or one "
                "for each of the batch."
            )
        return clean

    def schedule_of(self, sigmas: Sequence[float]) -> Sequence[float] | None:
        """Return all_sigmas; None for a run whose sigmas rise, which is no part of them."""
        return None if describe_rise(sigmas) else self.all_sigmas


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplerCall:
    """What core's OUTER_SAMPLE is called with.

    `noise`, `latent` and `noise_mask` are [B, C, ..., H, W]; a packed latent is [B, 1, values], and
    `shapes` are those of what it packs.
    """

    guider: Any
    noise: Tensor
    latent: Tensor
    noise_mask: Tensor | None
    evaluates_closed: bool  # the sampler needs estimates also of what the mask closes
    shapes: Sequence[Sequence[int]] | None
    sigmas: Sequence[float]


def open_run(
    owner: object, inputs: Inputs, call: SamplerCall, inner: ModelFunctionWrapper | None
) -> Run:
    """Return the run of a sampler's call; ValueError where it cannot be cut into windows.

    `inner` is another node's wrapper, which is called for every window; see `RunPlan` for `owner`.
    """
    model, options = call.guider.model_patcher, call.guider.model_options
    audio = _find_audio(inputs, call)
    video, _ = split_audio(audio, call.latent)
    _check_latent(call.latent, video)
    guides = Guides.of(getattr(call.guider, "conds", {}), video)
    refuse_options(
        {**options, "model_function_wrapper": inner, OBJECT_PATCHES: model.object_patches},
        video,
        guides=guides.frames,
        packed=audio is not None,
    )
    rise = describe_rise(call.sigmas)
    geometry = _fit_geometry(inputs.geometry, model, options, guides.block)
    clean = inputs.clean_for(video)
    empty = video.eq(0).all(1).flatten(-2).all(-1).cpu()  # per image, and per frame
    mode = Mode.FREE if rise else _choose_mode(inputs, split_audio(audio, call.noise)[0], empty)
    shows = mode is Mode.PRESERVE  # an empty or a noisy latent shows nothing
    parts = locate_images(inputs.trees, clean, geometry.px_per_cell) if shows else []
    open_cells = _find_open(call, options, audio)
    maps = _map_clip(inputs, geometry, video, parts, guides.frames, empty if shows else None)
    # AnimateDiff injects what mixes the images of a batch.
    is_mixed = bool(audio or guides.frames or getattr(model, "injections", None))
    run = create_run(
        owner,
        inputs.settings,
        geometry,
        maps,
        frames=count_frames(video),
        open_cells=None if call.evaluates_closed else open_cells,
        mode=mode,
        inner=inner,
        apart=not is_mixed and are_apart(inputs.trees, geometry),
    )
    run.audio, run.attached = audio, list_attached(model)
    run.closed = None if open_cells is None else ~open_cells
    if rise:
        run.note(f"the sigmas of this run {rise}; so nothing is preserved, windows only")
    if not parts:
        _note_crop(run, inputs.trees[0], geometry.px_per_cell)
    return run


def open_run_without_hooks(
    owner: object, inputs: Inputs, noisy: Tensor, inner: ModelFunctionWrapper | None
) -> Run:
    """Return a started run for a sampler that bypasses core's hooks: nothing is preserved."""
    if noisy.ndim < 4:
        raise _refuse_packed(noisy.shape)
    warn(
        "the model is called outside of core's sampling hooks, so nothing can be preserved; "
        "windows only."
    )
    run = create_run(
        owner,
        inputs.settings,
        inputs.geometry,
        torch.ones(1, *noisy.shape[-2:], dtype=torch.float64),
        frames=count_frames(noisy),
        mode=Mode.FREE,
        inner=inner,
    )
    run.start([math.inf, 0.0])
    return run


def _find_audio(inputs: Inputs, call: SamplerCall) -> Audio | None:
    """Return the audio that is packed in a latent behind a video; None of other latents."""
    model = call.guider.model_patcher
    packing = Packing.of(model.model, call.shapes)
    if packing is None:
        check_cache(model.model, find_cache(model.model_options.get("transformer_options", {})))
        return None
    info(
        "every window gets the whole audio, and the result is the average of all windows'; to "
        "keep it, give it a noise mask of 0."
    )
    is_noisy = inputs.clean_latent is not None
    return Audio(packing, call.latent, call.noise_mask, noisy=is_noisy)


def _fit_geometry(
    geometry: Geometry, model: ModelPatcher, options: Options, block: int
) -> Geometry:
    """Return the geometry for a run, whose windows begin on blocks of so many cells a side."""
    return replace(
        geometry,
        unit=math.lcm(geometry.unit, block),
        compiled=is_compiled(model),
        cached=find_cache(options.get("transformer_options", {})) is not None,
    )


def _choose_mode(inputs: Inputs, noise: Tensor, empty: Tensor) -> Mode:
    """Return what the quadtree means for a run, and say so if nothing is preserved.

    `empty`, bool [B] or [B, T], tells which images or frames are all zero.
    """
    if inputs.clean_latent is not None:
        return Mode.PRESERVE
    if bool(empty.all()):
        info(
            "the latent is empty (text to image): nothing to preserve; denoise only slows the "
            "velocity of calm regions."
        )
        return Mode.SCALE
    if not bool(noise.count_nonzero()):
        info(
            "no noise is added to this latent, so it is taken as noisy: nothing is preserved. "
            "Connect clean_latent to preserve."
        )
        return Mode.FREE
    return Mode.PRESERVE


def _map_clip(
    inputs: Inputs,
    geometry: Geometry,
    latent: Tensor,
    parts: Sequence[Part],
    guides: int,
    empty: Tensor | None,
) -> Tensor:
    """Return the denoise of every cell, with so many guide frames at the end.

    They are no frames of the clip; see `build_latent_maps`. `empty`, bool [B] or [B, T], tells
    which images or frames hold nothing to preserve; None where nothing is preserved.
    """
    clip = latent[:, :, : latent.shape[2] - guides] if guides else latent
    maps = build_latent_maps(inputs.trees, inputs.settings, geometry, clip, parts)
    if empty is not None and inputs.clean_latent is None and bool(empty.any()):
        info("some images or frames are empty: nothing to preserve there, so they are free.")
        maps = free_empty_frames(maps, empty[:, : count_frames(clip)] if guides else empty)
    return add_guide_frames(maps, guides)


def _find_open(call: SamplerCall, options: Options, audio: Audio | None) -> Tensor | None:
    """Return the cells that core's noise mask lets change, bool [B or 1, (T,) H, W]; None: all.

    A mask that a function redraws at every step (Differential Diffusion) says nothing about the
    whole run.
    """
    if call.noise_mask is None or "denoise_mask_function" in options:
        return None
    mask, _ = split_audio(audio, call.noise_mask)
    return (mask > 0).any(1).cpu()


def _note_crop(run: Run, tree: Quadtree, px_per_cell: int) -> None:
    """Warn where the latent may be a crop of the image that the tree was built from."""
    canvas = run.plan.canvas
    width_px, height_px = px_per_cell * canvas.width, px_per_cell * canvas.height
    if width_px < CLEARLY_SMALLER * tree.width:
        run.note(
            f"the latent is {width_px} x {height_px} px and the quadtree's image {tree.width} "
            f"x {tree.height} px, so the tiles are made smaller; if another node samples crops "
            "of the image (UltimateSDUpscale, a detailer, a list of tiles), each crop needs a "
            "quadtree of its own"
        )


def _refuse_packed(shape: Sequence[int]) -> ValueError:
    """Return the error for a latent without a picture, or whose picture nobody tells."""
    return ValueError(
        f"The latent that is sampled has shape {tuple(shape)} (audio, a 3D model, or several "
        "latents packed in one), where no cell has a place in a picture, so Quadtree Diffusion "
        "cannot cut it into windows. Sample it without this node. Of packed latents it takes "
        "LTX-2's video with audio, with ComfyUI's own samplers."
    )


def _check_latent(latent: Tensor, video: Tensor) -> None:
    """Raise ValueError unless a latent, and the video or image in it, can be cut into windows."""
    if video.ndim < 4:
        raise _refuse_packed(latent.shape)
    if latent.numel() == 0:
        raise ValueError(
            f"The latent that is sampled has shape {tuple(latent.shape)}; it must not be empty."
        )
    if not bool(torch.stack(latent.aminmax()).isfinite().all()):
        raise ValueError(
            "The latent that is sampled holds NaN or infinite values; encode it again, with a VAE "
            "in higher precision."
        )
