"""Checks of everything that comes into a node or a request.

Each check returns the value, in the form that the pack uses, or raises a ValueError that says what
came, what fits and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from numbers import Real
from typing import Any

import torch

from ..image.composite import Canvas, build_canvases
from ..quadtree import FrameTrees, Quadtree
from ..tree.blocks import GRID_PX
from ..tree.detail import DETAIL_METRICS, LARGEST_PX
from ..tree.regions import Painting, Region
from ..tree.subdivision import DENOISE_BY
from ..utils import format_value, info, round_down, warn
from .budget import LOWEST
from .coverage import COVERAGE

MOST_FRAMES_PER_LATENT = 8  # of all video VAEs in ComfyUI (LTXV, Cosmos 1)


def check_number(
    name: str, value: Any, low: float, high: float, unit: str = "", kind: Callable = float
) -> Any:
    """Return `value` as `kind`; raise ValueError unless it is a finite number in low..high.

    ComfyUI checks the range of a widget, but not of a linked value, and lets NaN through.
    """
    number_words = "whole number" if kind is int else "number"
    range_words = f"from {low:g} to {high:g}" + (f" {unit}" if unit else "")
    words = f"{name} is {format_value(value)}; it must be a {number_words} {range_words}."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(words)
    number: Any = value  # typing has no comparisons for Real, which numpy's numbers are, too
    if not low <= number <= high or kind(number) != number:
        raise ValueError(words)
    return kind(number)


def check_visualizer_inputs(
    *,
    content_threshold: Any,
    min_tile_size: Any,
    max_tile_size: Any,
    min_denoise: Any,
    max_denoise: Any,
    denoise_by: Any = "area",
    invert: Any = False,
    detail_metric: Any = "color",
    cost_budget: Any = 0.0,
    coverage: Any = COVERAGE,
) -> dict[str, Any]:
    """Return the arguments of `build_tree` for the inputs of Quadtree Visualizer."""
    budget = check_number("cost_budget", cost_budget, 0, 1)
    if 0 < budget < LOWEST:
        raise ValueError(
            f"cost_budget is {budget:g}; it must be 0 (off) or a number from {LOWEST:g} to 1."
        )
    return {
        "budget": budget,
        "denoise_by": check_choice("denoise_by", denoise_by, DENOISE_BY),
        "detail_metric": check_choice("detail_metric", detail_metric, DETAIL_METRICS),
        "invert": check_flag("invert", invert),
        "content_threshold": check_number("content_threshold", content_threshold, 0, 1000),
        "coverage": check_number("coverage", coverage, 0, 1),
        "min_tile_px": check_tile_size("min_tile_size", min_tile_size),
        "max_tile_px": check_tile_size("max_tile_size", max_tile_size),
        "min_denoise": check_number("min_denoise", min_denoise, 0, 1),
        "max_denoise": check_number("max_denoise", max_denoise, 0, 1),
    }


def check_tile_size(name: str, value: Any) -> int:
    """Return a side in px, or 0 for automatic; raise ValueError for anything else."""
    automatic = isinstance(value, int) and value == 0 and not isinstance(value, bool)
    return 0 if automatic else check_number(name, value, GRID_PX, LARGEST_PX, "px", kind=int)


def check_regions(text: str, image: torch.Tensor) -> tuple[Region, ...]:
    """Return the regions of a text for images [B, H, W, C].

    Logs a warning and returns none where they were painted on an image of another aspect. Raises
    ValueError for a text that holds anything else.
    """
    painting = Painting.from_json(text)
    height, width = image.shape[1:3]
    regions = painting.select_regions(width, height)
    if regions is None:
        warn(
            "the regions were painted on an image of %d x %d px and do not fit this one of "
            "%d x %d; they are ignored.",
            *(painting.size or ()),
            width,
            height,
        )
    return regions or ()


def check_image(image: Any, name: str = "image") -> torch.Tensor:
    """Return images [B, H, W, C], C = 1, 3 or 4; raise ValueError for anything else."""
    check_tensor(name, image)
    if image.ndim != 4 or image.numel() == 0 or image.shape[3] not in (1, 3, 4):
        raise ValueError(
            f"The {name} has shape {tuple(image.shape)}; it must be "
            "[batch, height, width, 1, 3 or 4] and not empty."
        )
    return image


def check_tensor(name: str, value: Any) -> torch.Tensor:
    """Return `value`; raise ValueError unless it is a tensor of floating point numbers."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.is_nested:
        what = str(value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(
            f"The {name} is {what}, not a tensor of floating point numbers; connect another "
            "node's output."
        )
    return value


def check_colours(name: str, image: Any) -> torch.Tensor:
    """Return images as [B, H, W, 3]; raise ValueError for other tensors, and for NaN.

    Logs that an alpha channel is left out.
    """
    image = check_finite(name, check_image(image, name))
    tell_alpha(name, image)
    return image[..., :3].expand(-1, -1, -1, 3)


def tell_alpha(name: str, image: torch.Tensor) -> None:
    """Log that the alpha channel of an image [..., C] is left out, where it has one."""
    if image.shape[-1] == 4:
        info(
            "the alpha channel of the %s is left out; to keep it, connect Join Image with Alpha "
            "behind this node.",
            name,
        )


def check_canvases(
    original: torch.Tensor,
    trees: Sequence[Quadtree],
    size: tuple[int, int],
    cell_px: int,
    count: int,
    which: str,
    *,
    frames: int = 1,
    frames_per_latent: int = 1,
) -> list[Canvas]:
    """Return the canvases for `count` images or frames of `size`, height and width in px.

    `original` is [B, H, W, 3]; it may be larger by less than a cell of `cell_px` per axis, which
    VAE Encode crops. Clips have `frames` frames, and the original may be longer by less than
    `frames_per_latent`, which VAE Encode drops. `which` names the images in messages. Raises
    ValueError where the sizes or the numbers of images and trees do not fit.
    """
    (height, width), (high, wide) = size, original.shape[1:3]
    if (round_down(high, cell_px), round_down(wide, cell_px)) != size:
        raise ValueError(
            f"The original has {wide} x {high} px and the {which} image {width} x {height}; both "
            f"must have one size. Put Upscale Image ({width} x {height}) between the original and "
            "this node."
        )
    if (high, wide) != size:
        info(
            "the original has %d x %d px; its middle, %d x %d px, is used, as VAE Encode crops it.",
            wide,
            high,
            width,
            height,
        )
    if frames < len(original) < frames + frames_per_latent:
        info(
            "the original has %d frames and the %s clip %d: a video VAE drops the last ones, which "
            "fill no latent frame, and so does this node.",
            len(original),
            which,
            frames,
        )
        original = original[:frames]
    images = max(count, len(original))
    length = frames if frames > 1 else images  # a batch of images may be a clip, too
    is_fit = (
        _fit_frames(trees, length)
        if isinstance(trees, FrameTrees)
        else images // frames % len(trees) == 0
    )
    if images % count or images % len(original) or not is_fit:
        raise ValueError(_explain_counts(len(original), trees, count, which))
    lengths = {"frames": frames, "frames_per_latent": frames_per_latent}
    return build_canvases(original, trees, size, images, **lengths)


def _fit_frames(trees: Sequence[Quadtree], images: int) -> bool:
    """Tell whether a clip's trees fit: one per frame, but for the last, which VAEs drop."""
    return images == 1 or images <= len(trees) < images + MOST_FRAMES_PER_LATENT


def _explain_counts(originals: int, trees: Sequence[Quadtree], count: int, which: str) -> str:
    """Return the message about numbers of images that do not fit."""
    words = (
        f"There are {originals} original images, {count} {which} ones and {len(trees)} trees; give "
        "one of each, or as many as there are images."
    )
    if count > 1 and count < max(originals, len(trees)) < count + MOST_FRAMES_PER_LATENT:
        words += (
            " If they are the frames of a clip, a video VAE has dropped the last ones, which fill "
            f"no latent frame: give the original's first {count} frames (Get Image from Batch)."
        )
    return words


def check_finite(name: str, value: torch.Tensor) -> torch.Tensor:
    """Return a tensor of any shape; raise ValueError for NaN or infinite values."""
    if not bool(torch.stack(value.aminmax()).isfinite().all()):
        raise ValueError(
            f"The {name} holds NaN or infinite values; make it again, with a VAE or model in "
            "higher precision."
        )
    return value


def check_masks(mask: torch.Tensor | None, images: int) -> list[torch.Tensor | None]:
    """Return one mask [h, w] or None per image, from masks [h, w] or [B, h, w]; one serves all.

    Raises ValueError for another shape, or another number of masks.
    """
    if mask is None:
        return [None] * images
    check_tensor("mask", mask)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.numel() == 0 or len(mask) not in (1, images):
        raise ValueError(
            f"The mask has shape {tuple(mask.shape)} for {images} images; connect one mask, or "
            "one per image."
        )
    return list(mask.expand(images, -1, -1))


def check_trees(quadtree: Any) -> tuple[Quadtree, ...]:
    """Return the trees that a QUADTREE input holds; raise ValueError for anything else."""
    trees = quadtree if isinstance(quadtree, tuple) else ()
    if not trees or not all(isinstance(tree, Quadtree) for tree in trees):
        raise ValueError(
            f"quadtree is {type(quadtree).__name__}, not a quadtree; connect the output of "
            "Quadtree Visualizer."
        )
    return trees


def check_model(model: Any) -> Any:
    """Return a model of ComfyUI; raise ValueError for anything else."""
    if not hasattr(model, "get_model_object"):
        raise ValueError(f"model is {type(model).__name__}, not a model; connect a MODEL output.")
    return model


def check_samples(name: str, latent: Any) -> torch.Tensor:
    """Return the samples [B, C, ..., h, w] of a latent of ComfyUI.

    Raises ValueError for anything else, for several latents in one, and for NaN.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else latent
    if getattr(samples, "is_nested", False):
        raise ValueError(
            f"{name} holds several latents in one (audio and video); connect an image latent."
        )
    if not isinstance(latent, dict):
        raise ValueError(
            f"{name} is {type(latent).__name__}, not a latent; connect a LATENT output."
        )
    samples = check_tensor(name, samples)
    if samples.ndim < 4 or samples.numel() == 0:
        raise ValueError(
            f"{name} has shape {tuple(samples.shape)}, which is not the shape of an image latent; "
            "connect an image latent."
        )
    return check_finite(name, samples)


def check_sigmas(name: str, sigmas: Any) -> torch.Tensor:
    """Return sigmas [steps + 1]; ValueError for anything else, and for fewer than two."""
    sigmas = check_tensor(name, sigmas)
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(
            f"{name} has shape {tuple(sigmas.shape)}; it must hold two or more sigmas in a row. "
            "Connect the SIGMAS output of BasicScheduler or of another scheduler."
        )
    return sigmas


def check_flag(name: str, value: Any) -> bool:
    """Return True or False; raise ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {format_value(value)}; it must be true or false.")
    return value


def check_image_latent(latent: torch.Tensor, vae: Any) -> torch.Tensor:
    """Return the latent as its VAE takes it: [B, C, h, w], or [B, C, T, h, w] for one of videos.

    Raises ValueError for anything but a VAE, for latents of sound, and for several frames in a
    latent whose VAE is one of images.
    """
    if vae is None:
        raise ValueError("The VAE is missing; the checkpoint may hold none. Connect Load VAE.")
    if not hasattr(vae, "spacial_compression_decode") or not hasattr(vae, "decode"):
        raise ValueError(f"vae is {type(vae).__name__}, not a VAE; connect Load VAE.")
    if hasattr(vae, "throw_exception_if_invalid"):
        vae.throw_exception_if_invalid()
    # Another pack's VAE need not have every attribute of core's.
    dimensions = getattr(vae, "latent_dim", 2)
    of_sound = dimensions == 1 or getattr(vae, "extra_1d_channel", None) is not None
    if of_sound or latent.ndim not in (4, 5):
        raise ValueError(
            f"The latent has shape {tuple(latent.shape)}, which is not the shape of an image "
            "latent, or its VAE is made for sound; use the VAE Decode that is made for it."
        )
    if latent.ndim == 5 and latent.shape[2] != 1 and dimensions != 3:
        raise ValueError(
            f"The latent is a video with {latent.shape[2]} frames, and this VAE is one of images; "
            "connect the VAE of the video model."
        )
    if dimensions == 2 and latent.ndim == 5:
        return latent[:, :, 0]
    return latent[:, :, None] if dimensions == 3 and latent.ndim == 4 else latent


def check_choice(name: str, value: Any, table: Collection[str]) -> str:
    """Return the name of an entry of `table`; raise ValueError for anything else."""
    if not isinstance(value, str) or value not in table:
        raise ValueError(f"{name} is {format_value(value)}; it must be one of {', '.join(table)}.")
    return value


def check_one(name: str, values: Any) -> Any:
    """Return the value of an input that takes lists; raise ValueError unless there is one."""
    if not isinstance(values, list) or len(values) != 1:
        count = len(values) if isinstance(values, list) else 0
        raise ValueError(f"{name} is a list of {count} values; connect one.")
    return values[0]


def check_conditioning(name: str, value: Any) -> list[list[Any]]:
    """Return a conditioning of ComfyUI; raise ValueError for anything else."""
    is_pairs = isinstance(value, list) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], dict)
        for pair in value
    )
    if not is_pairs or not value:
        raise ValueError(
            f"{name} is {format_value(value)}, not a conditioning; connect CLIP Text Encode."
        )
    return value


def check_prompt_regions(prompts: int, regions: Any) -> list[torch.Tensor]:
    """Return a mask [B or 1, h, w] for each of so many prompts, from an input that takes lists.

    A single batch of as many masks as there are prompts is one region for each. Raises ValueError
    for other numbers, for masks of other shapes, and for NaN.
    """
    masks = [
        check_finite("mask in regions", check_tensor("mask in regions", mask)) for mask in regions
    ]
    masks = [mask[None] if mask.ndim == 2 else mask for mask in masks]
    for mask in masks:
        if mask.ndim != 3 or mask.numel() == 0:
            raise ValueError(
                f"A mask in regions has shape {tuple(mask.shape)}; it must be [batch, height, "
                "width] and not empty."
            )
    if len(masks) == 1 and prompts > 1:
        masks = list(masks[0].split(1))
    if len(masks) != prompts:
        raise ValueError(
            f"{prompts} prompts came for {len(masks)} regions; give one prompt for each region, in "
            "the same order. A captioner gives a text for each crop of Quadtree Crops, and Create "
            "List makes a list of single prompts."
        )
    counts = {len(mask) for mask in masks} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"The regions are batches of {' and '.join(map(str, sorted(counts)))} masks; give each "
            "one mask, or one for each image of the latent batch."
        )
    return masks
