"""Decodes only what changed in a latent, equal to a full decode there.

A decoder is split in two (see `splitting`). The first part runs once over the whole latent, which
is a few percent of the work. Its features go through the second part in windows, each with as much
context as the second part looks at.

A decoder with group norms in the second part (SD, SDXL, SD3, Flux) takes mean and variance of the
whole image at every resolution, so no window can be right. Statistics of a half of the image or of
a latent of half the size put a small trained decoder of that family off by 20 to 40 levels of 255,
and repeating with what the windows then measure did not converge. So such a VAE decodes the whole
image, unless the user allows windows that are decoded independently, as ComfyUI's VAE Decode
(Tiled) does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import inf
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ..utils import Box, ceil_div, info, warn
from ..windows.blending import METHODS, compute_shares
from ..windows.memory import is_oom
from ..windows.planning import Planner, mark_active_units
from ..windows.shapes import batch_windows
from ..windows.tiling import Cost, Tiling, Window
from .composite import Canvas, composite
from .decoder import Decoder, FeaturesDifferError, count_latent_frames_of, count_px_frames
from .splitting import SplitPoint, find_split_point

# Of each side of windows that are decoded independently: half of it fades in, half is context
# beyond.
OVERLAP_PX = 96
UNIT_CELLS = 2  # windows begin and end on multiples of it, so that there are few shapes
# What a call of the decoder costs by itself, in cells. Decoders have no attention behind the split,
# so the cost of a window grows with its cells alone.
COST = Cost(per_call=256, per_window=0, quadratic=inf)
FEW_CELLS = 1024  # to look for a split takes longer than what could be saved

# Makes the refined frames [F, H, W, 3] of one image (F = 1) or clip: from its latent
# [1, C, ..., h, w], a copy of the original frames [F, H, W, 3] that it may write into, and the px
# [H, W] that may change in any of them.
Decode = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def decode_changed(
    vae: Any,
    latent: Tensor,
    canvases: Sequence[Canvas],
    feather_px: int,
    *,
    approximate: bool = False,
    match: bool = False,
) -> Tensor:
    """Decode `latent` [B, C, ..., h, w] into what may change of the canvases, [canvases, H, W, 3].

    There is a canvas for each frame of a clip. Latents repeat where there are more canvases. They
    are decoded one by one, but for a decoder that takes a batch for the frames of one clip.
    `approximate` allows windows where the decoder cannot be split. `feather_px` and `match` are
    those of `composite`.
    """
    pictures = torch.stack([canvas.original for canvas in canvases])
    if not any(canvas.free.any() for canvas in canvases):
        return pictures
    decoder = Decoder(vae)
    frames = count_px_frames(vae, latent)
    together = len(latent) if decoder.mixes_images else 1
    with _use_device(decoder):
        decode = choose_decode(decoder, latent, approximate=approximate)
        clips = itertools.cycle(latent.split(together))
        for start in range(0, len(canvases), frames * together):
            cells, clip = next(clips), canvases[start : start + frames * together]
            changed = join_free(clip)
            if not changed.any():
                continue
            refined = decode(cells, pictures[start : start + len(clip)], changed)
            check_frames(refined, len(clip))
            for place, canvas in enumerate(clip, start):
                one = refined[place - start]
                pictures[place] = composite(canvas, one, feather_px, match=match)
    return pictures


def join_free(clip: Sequence[Canvas]) -> Tensor:
    """Return the px, bool [H, W], that may change in any frame of a clip."""
    distinct = {id(canvas.free): canvas.free for canvas in clip}
    changed, *others = distinct.values()
    for free in others:
        changed = changed | free
    return changed


def check_frames(refined: Tensor, frames: int) -> None:
    """Raise ValueError where there are not so many decoded frames as the VAE declares."""
    if len(refined) != frames:
        raise ValueError(
            f"The VAE makes {len(refined)} frames of this latent, but declares {frames}. Use "
            "ComfyUI's VAE Decode and Quadtree Composite."
        )


def _use_device(decoder: Decoder) -> AbstractContextManager:
    if not decoder.is_of_comfyui:
        return nullcontext()
    return comfy.model_management.cuda_device_context(decoder.vae.device)


def choose_decode(decoder: Decoder, latent: Tensor, *, approximate: bool) -> Decode:
    """Return the cheapest way to decode what changed that this VAE allows."""

    def decode_whole(cells: Tensor, _original: Tensor, _changed: Tensor) -> Tensor:
        return decoder.decode_whole(cells)

    if not decoder.is_of_comfyui:
        info("this VAE is not one of ComfyUI's own, so the whole image is decoded.")
        return decode_whole
    if latent[0, 0].numel() <= FEW_CELLS and decoder.fits(latent):
        return decode_whole
    decoder.load(latent)
    split = find_split_point(decoder, latent)
    if split is not None:
        return partial(decode_in_parts, decoder, split)
    if approximate:
        info("this VAE cannot be decoded in parts, so windows are decoded independently.")
        return partial(decode_independently, decoder)
    info("this VAE cannot be decoded in parts, so the whole image is decoded.")
    return decode_whole


def shrink_until_fits(
    decode: Callable[[int], Tensor], tile: int, *, least: int, px_per_unit: int
) -> Tensor:
    """Call `decode` with a tile in units, halved when it runs out of memory, down to `least`."""
    while True:
        try:
            return decode(tile)
        except Exception as error:
            if not is_oom(error) or tile <= least:
                raise
        # Here, and not above, since an error that is being handled holds what the decoder had at
        # hand.
        tile = max(least, tile // 2)
        warn("out of memory; the VAE goes on with windows of %d px.", tile * px_per_unit)
        comfy.model_management.soft_empty_cache()


# --- Windows of a decoder that is split


def decode_in_parts(
    decoder: Decoder, split: SplitPoint, latent: Tensor, refined: Tensor, changed: Tensor
) -> Tensor:
    """Return `refined` [F, H, W, 3] with the latent decoded, at least where px are `changed`.

    Where windows would take no less work than the whole latent, or there is no memory for its
    features, the whole is decoded.
    """
    size = _size_of(latent)
    todo = mark_active_units(changed, split.px * UNIT_CELLS)
    largest_tile = decoder.window_cells // UNIT_CELLS
    windows = plan_windows(todo, size, split, largest_tile)
    cells = sum(box.width * box.height for box, _ in windows)
    if cells >= size[0] * size[1] and decoder.fits(latent):
        return decoder.decode_whole(latent)
    features = compute_features(decoder, split, latent)
    if features is None:
        return decoder.decode_whole(latent)
    progress = comfy.utils.ProgressBar(int(todo.sum()))
    # One window of a clip has as many frames as it takes.
    is_clip = count_latent_frames_of(latent) > 1

    def decode_todo(tile: int) -> Tensor:
        """Decode what is still to do, and mark what is done, in case memory runs out."""
        planned = windows if tile == largest_tile else plan_windows(todo, size, split, tile)
        together = 1 if is_clip else _count_together(planned, tile)
        for batch in batch_windows(planned, together):
            chosen = [planned[number] for number in batch]
            for core, pixels in decode_cores(decoder, split, features, latent, chosen):
                rows, columns = scale_box(core, split.px).slices
                refined[:, rows, columns] = pixels.to(refined)
                progress.update(_mark_done(todo, core))
        return refined

    least = find_least_tile(split)
    try:
        shrink_until_fits(decode_todo, largest_tile, least=least, px_per_unit=split.px * UNIT_CELLS)
    except FeaturesDifferError:
        info("this VAE takes long clips in parts of its own, so the whole clip is decoded.")
        return decoder.decode_whole(latent)
    comfy.model_management.soft_empty_cache()
    return refined


def plan_windows(
    active: np.ndarray, size: tuple[int, int], split: SplitPoint, tile: int
) -> Sequence[Window]:
    """Return the cheapest windows, in cells, over the active units of a latent of `size`.

    The longest have `tile` units, but fewer than the latent: a planner does not cut what one window
    can hold, for the sake of its context, and a decoder needs no more context than its reach.
    """
    tile = max(find_least_tile(split), min(tile, max(active.shape) - 1))
    margin = ceil_div(split.reach, UNIT_CELLS)
    tiling = Tiling(
        unit=UNIT_CELLS, tile=tile, smallest=1, overlap=2 * margin, moving=False, cost=COST
    )
    return Planner(size, tiling).plan(active)


def find_least_tile(split: SplitPoint) -> int:
    """Return the side of the smallest window, in units: half of it is context on both sides."""
    return 4 * ceil_div(max(1, split.reach), UNIT_CELLS)


def compute_features(decoder: Decoder, split: SplitPoint, latent: Tensor) -> list[Tensor] | None:
    """Return the features of the whole latent; of a clip, those of each part of time.

    None where memory is short, or where the decoder goes over the latent in tiles of its own.
    """
    try:
        features = decoder.run_first_part(latent, split.module)
    except Exception as error:
        if not is_oom(error):
            raise
    else:
        height, width = _size_of(latent)
        size = height * split.scale, width * split.scale
        if features and all(_size_of(part) == size for part in features):
            return features
        info("this VAE decodes in tiles of its own, so the whole image is decoded.")
        return None
    # Here, and not above, since an error that is being handled holds what the decoder had at hand.
    warn(
        "out of memory for the first part of the decoder, which needs the whole latent; "
        "ComfyUI decodes the whole image, in tiles if it must."
    )
    comfy.model_management.soft_empty_cache()
    return None


def decode_cores(
    decoder: Decoder,
    split: SplitPoint,
    features: Sequence[Tensor],
    latent: Tensor,
    windows: Sequence[Window],
) -> Iterator[tuple[Box, Tensor]]:
    """Yield the core of each window, in cells, and its px [F, h, w, 3].

    The windows have one shape and go through the second part of the decoder together.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()
    places = [scale_box(window.box, split.scale).slices for window in windows]
    crops = [torch.cat([part[..., y, x] for y, x in places]) for part in features]
    frames = decoder.to_images(decoder.run_second_part(crops, split.module, latent))
    by_window = frames.unflatten(0, (len(windows), -1))
    for (box, core), pixels in zip(windows, by_window, strict=True):
        inner = Box(core.x0 - box.x0, core.y0 - box.y0, core.x1 - box.x0, core.y1 - box.y0)
        rows, columns = scale_box(inner, split.px).slices
        yield core, pixels[:, rows, columns]


def _count_together(windows: Sequence[Window], tile: int) -> int:
    """Return how many of the windows have no more cells than one of `tile` units a side."""
    largest = max(box.width * box.height for box, _ in windows)
    return max(1, (tile * UNIT_CELLS) ** 2 // largest)


def _mark_done(todo: np.ndarray, core: Box) -> int:
    """Clear the units of a core, in cells, in `todo`; return how many were still to do."""
    rows, columns = core.slices
    units = (
        slice(rows.start // UNIT_CELLS, ceil_div(rows.stop, UNIT_CELLS)),
        slice(columns.start // UNIT_CELLS, ceil_div(columns.stop, UNIT_CELLS)),
    )
    done = int(todo[units].sum())
    todo[units] = False
    return done


# --- Windows that are decoded independently


def decode_independently(
    decoder: Decoder, latent: Tensor, original: Tensor, changed: Tensor
) -> Tensor:
    """Return `original` [F, H, W, 3] with windows over what is `changed`, each decoded by itself.

    They are blended where they overlap.
    """
    px_per_unit = decoder.px_per_cell * UNIT_CELLS
    half = max(1, ceil_div(OVERLAP_PX, px_per_unit))  # half the overlap, in units
    active = mark_active_units(changed, px_per_unit)

    def decode(tile: int) -> Tensor:
        tiling = Tiling(
            unit=UNIT_CELLS,
            tile=tile,
            smallest=tile // 2,
            overlap=2 * half,
            moving=False,
            cost=COST,
        )
        windows = Planner(_size_of(latent), tiling).plan(active)
        return blend_windows(decoder, latent, original, windows, half * UNIT_CELLS // 2)

    return shrink_until_fits(
        decode, decoder.window_cells // UNIT_CELLS, least=4 * half, px_per_unit=px_per_unit
    )


def blend_windows(
    decoder: Decoder, latent: Tensor, original: Tensor, windows: Sequence[Window], margin: int
) -> Tensor:
    """Decode each window and blend them over `original` [F, H, W, 3], which shows where none does.

    Neighbours fade over `margin` cells on either side of their border.
    """
    px, progress = decoder.px_per_cell, comfy.utils.ProgressBar(len(windows))
    result = torch.zeros_like(original)
    uncovered = torch.ones(*original.shape[1:3], 1, device=original.device)
    shares = compute_shares(windows, _size_of(latent), METHODS["Shifted Feather"], margin)
    for (box, _), share in zip(windows, shares, strict=True):
        comfy.model_management.throw_exception_if_processing_interrupted()
        rows, columns = box.slices
        pixels = decoder.decode_alone(latent[..., rows, columns]).to(result)
        by_px = share.to(result).repeat_interleave(px, 0).repeat_interleave(px, 1)[..., None]
        down, along = scale_box(box, px).slices
        result[:, down, along] += pixels * by_px
        uncovered[down, along] -= by_px
        progress.update(1)
    return result.addcmul_(original, uncovered.clamp_min_(0).to(result))


def scale_box(box: Box, factor: int) -> Box:
    """Return the box in cells of which `factor` fit along a side of the box's own."""
    return Box(*(edge * factor for edge in box))


def _size_of(latent: Tensor) -> tuple[int, int]:
    """Return (height, width) of a latent or features [..., height, width]."""
    return latent.shape[-2], latent.shape[-1]
