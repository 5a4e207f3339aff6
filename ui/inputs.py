"""Every check of what comes into a node or a request: it passes what fits, or says what came, what fits and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch

from ..image.composite import Canvas, build_canvases
from ..quadtree import Quadtree
from ..tree.detail import DETAIL_METRICS, LARGEST_PX
from ..tree.regions import Painting, Region
from ..tree.subdivision import DENOISE_BY
from ..utils import info, shown, warn
from .budget import LOWEST


def checked(
    name: str, value: Any, low: float, high: float, unit: str = "", kind: Callable = float
) -> Any:
    """`value` as `kind` if it is a finite number in low..high; else a ValueError that says what fits.

    ComfyUI checks the range of a widget, but not of a linked value, and lets NaN through.
    """
    words = f"{name} is {shown(value)}; it must be a {'whole ' if kind is int else ''}number from {low:g} to {high:g}"
    words += f" {unit}." if unit else "."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(words)
    number: Any = value  # typing has no comparisons for Real, which numpy's numbers are, too
    if not low <= number <= high or kind(number) != number:
        raise ValueError(words)
    return kind(number)


def visualizer_limits(
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
) -> dict[str, Any]:
    """The arguments of `build_for_cost`, checked."""
    budget = checked("cost_budget", cost_budget, 0, 1)
    if 0 < budget < LOWEST:
        raise ValueError(
            f"cost_budget is {budget:g}; it must be 0 (off) or a number from {LOWEST:g} to 1."
        )
    return {
        "budget": budget,
        "denoise_by": checked_choice("denoise_by", denoise_by, DENOISE_BY),
        "detail_metric": checked_choice("detail_metric", detail_metric, DETAIL_METRICS),
        "invert": checked_flag("invert", invert),
        "content_threshold": checked("content_threshold", content_threshold, 0, 1000),
        "min_tile_px": checked("min_tile_size", min_tile_size, 8, LARGEST_PX, "px", kind=int),
        "max_tile_px": checked("max_tile_size", max_tile_size, 8, LARGEST_PX, "px", kind=int),
        "min_denoise": checked("min_denoise", min_denoise, 0, 1),
        "max_denoise": checked("max_denoise", max_denoise, 0, 1),
    }


def checked_regions(text: str, image: torch.Tensor) -> tuple[Region, ...]:
    painting = Painting.from_json(text)
    height, width = image.shape[1:3]
    regions = painting.on(width, height)
    if regions is None:
        warn(
            "the regions were painted on an image of %d x %d px and do not fit this one of %d x %d; they are ignored.",
            *(painting.size or ()),
            width,
            height,
        )
    return regions or ()


def checked_image(image: Any, name: str = "image") -> torch.Tensor:
    check_tensor(name, image)
    if image.ndim != 4 or image.numel() == 0 or image.shape[3] not in (1, 3, 4):
        raise ValueError(
            f"The {name} has shape {tuple(image.shape)}; it must be [batch, height, width, 1, 3 or 4] and not empty."
        )
    return image


def check_tensor(name: str, value: Any) -> torch.Tensor:
    """Return `value`; raise ValueError unless it is a tensor of floating point numbers."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.is_nested:
        what = str(value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(
            f"The {name} is {what}, not a tensor of floating point numbers; connect another node's output."
        )
    return value


def checked_colours(name: str, image: Any) -> torch.Tensor:
    """The image as [B, H, W, 3]."""
    return checked_finite(name, checked_image(image, name))[..., :3].expand(-1, -1, -1, 3)


def checked_canvases(
    original: torch.Tensor,
    trees: Sequence[Quadtree],
    size: tuple[int, int],
    cell_px: int,
    count: int,
    which: str,
) -> list[Canvas]:
    """What the `count` refined images of `size` (height, width) are composed into, whose VAE has cells of `cell_px`.

    The original may have what VAE Encode crops: less than a cell per axis.
    """
    (height, width), (high, wide) = size, original.shape[1:3]
    if any(had // cell_px * cell_px != has for had, has in ((high, height), (wide, width))):
        raise ValueError(
            f"The original has {wide} x {high} px and the {which} image {width} x {height}; both must have one size. Put "
            f"Upscale Image ({width} x {height}) between the original and this node."
        )
    if (high, wide) != size:
        info(
            "of the original's %d x %d px the middle is used, as VAE Encode crops it: %d x %d.",
            wide,
            high,
            width,
            height,
        )
    images = max(count, len(original))
    if images % count or images % len(original) or images % len(trees):
        raise ValueError(
            f"There are {len(original)} original images, {count} {which} ones and {len(trees)} trees; give one of each, or as "
            "many as there are images."
        )
    return build_canvases(original, trees, size, images)


def checked_finite(name: str, value: torch.Tensor) -> torch.Tensor:
    if not bool(torch.stack(value.aminmax()).isfinite().all()):
        raise ValueError(
            f"The {name} holds NaN or infinite values; make it again, with a VAE or model in higher precision."
        )
    return value


def checked_masks(mask: torch.Tensor | None, images: int) -> list[torch.Tensor | None]:
    """One mask [h, w] per image; a single mask serves them all."""
    if mask is None:
        return [None] * images
    check_tensor("mask", mask)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.numel() == 0 or len(mask) not in (1, images):
        raise ValueError(
            f"The mask has shape {tuple(mask.shape)} for {images} images; connect one mask, or one per image."
        )
    return list(mask.expand(images, -1, -1))


def checked_trees(quadtree: Any) -> tuple[Quadtree, ...]:
    if (
        not isinstance(quadtree, tuple)
        or not quadtree
        or not all(isinstance(tree, Quadtree) for tree in quadtree)
    ):
        raise ValueError(
            f"quadtree is {type(quadtree).__name__}, not a quadtree; connect the output of Quadtree Visualizer."
        )
    return quadtree


def checked_model(model: Any) -> Any:
    if not hasattr(model, "get_model_object"):
        raise ValueError(f"model is {type(model).__name__}, not a model; connect a MODEL output.")
    return model


def checked_samples(name: str, latent: Any) -> torch.Tensor:
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
            f"{name} has shape {tuple(samples.shape)}, of no image, or is empty; connect an image latent."
        )
    return checked_finite(name, samples)


def checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}; it must be true or false.")
    return value


def checked_image_latent(latent: torch.Tensor, vae: Any) -> torch.Tensor:
    """The latent [B, C, h, w], or [B, C, 1, h, w] for a VAE of videos; ValueError where it is none of an image."""
    if vae is None:
        raise ValueError("The VAE is missing; the checkpoint may hold none. Connect Load VAE.")
    if not hasattr(vae, "spacial_compression_decode") or not hasattr(vae, "decode"):
        raise ValueError(f"vae is {type(vae).__name__}, not a VAE; connect Load VAE.")
    if hasattr(vae, "throw_exception_if_invalid"):
        vae.throw_exception_if_invalid()
    dimensions = getattr(
        vae, "latent_dim", 2
    )  # another pack's VAE need not have all that core's has
    if (
        dimensions == 1
        or getattr(vae, "extra_1d_channel", None) is not None
        or latent.ndim not in (4, 5)
    ):
        shape = tuple(latent.shape)
        raise ValueError(
            f"The latent is {shape}, of sound or of no image; use the VAE Decode that is made for it."
        )
    if latent.ndim == 5 and latent.shape[2] != 1:
        raise ValueError(
            f"The latent is a video with {latent.shape[2]} frames; this node decodes single images. Use core's VAE Decode."
        )
    if dimensions == 2 and latent.ndim == 5:
        return latent[:, :, 0]
    return latent[:, :, None] if dimensions == 3 and latent.ndim == 4 else latent


def checked_choice(name: str, value: str, table: dict) -> str:
    if not isinstance(value, str) or value not in table:
        raise ValueError(f"{name} is {shown(value)}; it must be one of {', '.join(table)}.")
    return value
