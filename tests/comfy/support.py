"""What the tests on the real ComfyUI share: trees of a wanted denoise map, spies on a model, short attach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from quadtree_pack.quadtree import Leaf, Quadtree
from quadtree_pack.run import Settings
from quadtree_pack.tiled_diffusion import attach
from torch import Tensor

from .tiny_models import Entry

SIDE = 8  # cells per leaf of the trees below


def tree_of(denoise: list[list[float]], height: int, width: int, px_per_cell: int = 8) -> Quadtree:
    """A tree whose leaves of SIDE cells have these denoise values, row by row; values repeat to fill the latent."""
    side = SIDE * px_per_cell
    size = width * px_per_cell, height * px_per_cell
    leaves = tuple(
        Leaf(
            x,
            y,
            min(x + side, size[0]),
            min(y + side, size[1]),
            side,
            0.0,
            denoise[y // side % len(denoise)][x // side % len(denoise[0])],
        )
        for y in range(0, size[1], side)
        for x in range(0, size[0], side)
    )
    return Quadtree(*size, side, leaves)


def half_kept(height: int, width: int, px_per_cell: int = 8, free: float = 1.0) -> Quadtree:
    """A checkerboard of kept and free leaves."""
    return tree_of([[0.0, free], [free, 0.0]], height, width, px_per_cell)


def patched(entry: Entry, *trees: Quadtree, model: Any = None, clean_latent: Tensor | None = None, **settings: Any) -> Any:
    """The entry's model with these trees; no feather and small tiles unless told otherwise."""
    chosen = Settings(**{"feather_px": 0, "tile_px": 128, "overlap_px": 0, **settings})
    return attach(entry.model if model is None else model, trees, chosen, clean_latent)


class Spy:
    """Counts what reaches the model and what leaves the sampler, on a clone."""

    def __init__(self, model: Any) -> None:
        self.sigmas: list[float] = []
        self.shapes: list[tuple[int, ...]] = []
        self.samples: Tensor | None = None  # as the sampler returned them, in the model's space, before our copy
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", self._apply_model)
        self.model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "spy", self._sampler_sample)

    @property
    def calls(self) -> int:
        return len(self.shapes)

    @property
    def cells(self) -> int:
        return sum(shape[0] * shape[-1] * shape[-2] for shape in self.shapes)

    def _apply_model(self, executor: Callable, noisy: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.sigmas.append(float(sigma[0]))
        self.shapes.append(tuple(noisy.shape))
        return executor(noisy, sigma, *args, **kwargs)

    def _sampler_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> Tensor:
        self.samples = executor(*args, **kwargs)
        return self.samples


def pointwise(model: Any) -> Any:
    """A clone whose denoised at a cell depends on what the model gets at that very cell, so tiling must not show."""

    def apply_model(
        executor: Callable,
        noisy: Tensor,
        sigma: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        one_per_row = (-1, *[1] * (noisy.ndim - 1))
        denoised = torch.sin(3 * noisy / (1 + sigma.view(one_per_row))) + c_crossattn.mean((1, 2)).view(one_per_row)
        if c_concat is not None:
            denoised = denoised + c_concat.mean(1, keepdim=True)
        for reference in kwargs.get("ref_latents") or ():
            if reference.shape[-2:] == noisy.shape[-2:]:
                denoised = denoised + 0.1 * reference
        return denoised

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "pointwise", apply_model)
    return model


def free_cells(tree: Quadtree, latent: Tensor) -> Tensor:
    """Cells [H, W] that the tree lets change."""
    return tree.denoise_map(*latent.shape[-2:]) > 0


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())
