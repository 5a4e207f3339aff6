"""Fits the denoise maps of trees to a latent: to its images, or to the frames of its clip.

A video's VAE makes its first latent frame from the first frame in px, and each other from so many
of the next: 4 with Wan and HunyuanVideo, 8 with LTXV. A latent frame may change as far as the
frame with the largest denoise that it holds.

Imports no ComfyUI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..quadtree import FrameTrees, Quadtree
from ..tree.raster import feather_along
from ..utils import count_latent_frames
from .protocols import Options

# A tile's denoise fades in and out over so many frames in px, at least one latent frame, so that
# nothing begins or ends with a jump.
FADE_FRAMES = 4


def count_frames(latent: Tensor) -> int:
    """Return the frames of a latent [B, C, ..., H, W]: 1 of images."""
    return latent.shape[2] if latent.ndim == 5 else 1


def find_context(model_options: Options, noisy: Tensor) -> tuple[int, ...] | None:
    """Return the frames of the clip that `noisy` [rows, C, T, H, W] holds; None if it holds all.

    ComfyUI's context windows sample a part of the frames at a time, and may repeat one or put one
    in front (`comfy.context_windows.IndexListContextWindow`).
    """
    handler: Any = model_options.get("context_handler")
    window: Any = model_options.get("transformer_options", {}).get("context_window")
    if handler is None or window is None or noisy.ndim != 5:
        return None
    every = torch.arange(window.total_frames)
    repeated = getattr(handler, "latent_retain_index_list", [])
    frames = window.get_tensor(every, dim=0, retain_index_list=repeated).tolist()
    return tuple(frames) if len(frames) == noisy.shape[2] else None


def take_frames(cells: Tensor, frames: tuple[int, ...] | None) -> Tensor:
    """Return these frames of [B, C, T, H, W]; all where there is no choice."""
    if frames is None or cells.ndim < 5 or cells.shape[2] == 1:
        return cells
    return cells[:, :, list(frames)]


def fit_maps(
    maps: Tensor, trees: Sequence[Quadtree], latent: Tensor, frames_per_latent: int, *, fade: bool
) -> Tensor:
    """Return the maps [trees, H, W] of trees for a latent [B, C, (T,) H, W].

    They are [B or 1, H, W] for images and [B or 1, T or 1, H, W] for videos. `fade` lets the maps
    of frames fade in and out in time. Raises ValueError where the numbers do not fit.
    """
    is_video, frames = latent.ndim == 5, count_frames(latent)
    if not isinstance(trees, FrameTrees):
        maps = _fit_images(maps, len(latent), frames)
        return maps.unsqueeze(1) if is_video else maps
    if frames == 1 and len(latent) == 1:  # a still may change where any frame of the clip may
        maps = maps.amax(0, keepdim=True)
        return maps.unsqueeze(1) if is_video else maps
    is_batch = frames == 1  # of images or stills, which SVD and AnimateDiff take for a clip
    if is_batch:
        frames, frames_per_latent = len(latent), 1
    maps = _fit_frames(maps, frames, frames_per_latent)
    if fade:
        maps = feather_along(maps, max(1, FADE_FRAMES // frames_per_latent), (0,))
    if not is_video:
        return maps
    return maps.unsqueeze(1) if is_batch else maps.unsqueeze(0)


def _fit_images(maps: Tensor, images: int, frames: int) -> Tensor:
    """Return one map [1, H, W] for all images, or one for each."""
    trees = len(maps)
    if images % trees:
        message = (
            f"The quadtree holds {trees} trees, one per image, but the latent batch has {images}. "
            "Build the quadtree from one image, or from the same batch."
        )
        if frames > 1:
            message += (
                f" The latent is a video with {frames} latent frames: for its frames, choose clip "
                "in the input batch of Quadtree Visualizer."
            )
        raise ValueError(message)
    return maps if trees == 1 else maps.repeat(images // trees, 1, 1)


def _fit_frames(maps: Tensor, frames: int, frames_per_latent: int) -> Tensor:
    """Return the largest denoise of each latent frame, [frames, H, W], from [N, H, W] of px."""
    given = len(maps)
    needed = count_latent_frames(given, frames_per_latent)
    right = 1 + frames_per_latent * (frames - 1)
    if needed != frames:
        raise ValueError(
            f"The quadtree holds trees for the {given} frames of a clip, which make {needed} "
            f"latent frames with this model, but the latent has {frames}. Build the quadtree from "
            f"the {right} frames that the latent was made of, or choose one tree for the clip in "
            "the input batch of Quadtree Visualizer."
        )
    if frames_per_latent == 1:
        return maps
    groups = [maps[:1], *maps[1:right].split(frames_per_latent)]
    return torch.stack([group.amax(0) for group in groups])


def add_guide_frames(maps: Tensor, guides: int) -> Tensor:
    """Return the maps of a clip, as `fit_maps` makes them, with so many guide frames at its end.

    A guide may change where any frame of the clip may.
    """
    if not guides or maps.shape[1] == 1:
        return maps  # frames that share a map share it with guides
    return torch.cat([maps, maps.amax(1, keepdim=True).expand(-1, guides, -1, -1)], dim=1)


def free_empty_frames(maps: Tensor, empty: Tensor) -> Tensor:
    """Return the maps with denoise 1 in empty images or frames: there is nothing to preserve.

    `maps` are those of `fit_maps`, and `empty` is bool [B] or [B, T].
    """
    return torch.where(empty[..., None, None], 1.0, maps) if bool(empty.any()) else maps


def send(cells: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on the device, without waiting for what the device still does.

    A copy from ordinary memory would wait; one from pinned memory takes its turn on the device.
    """
    if device.type != "cuda":
        return cells.to(device)
    return cells.pin_memory().to(device, non_blocking=True)


def expand_to_rank(cells: Tensor, rank: int) -> Tensor:
    """Return [B or 1, (T or 1,) H, W] as [B or 1, 1, ..., H, W], to fit latents of `rank`."""
    middle = cells.shape[1:-2]
    return cells.reshape(len(cells), *[1] * (rank - 3 - len(middle)), *middle, *cells.shape[-2:])
