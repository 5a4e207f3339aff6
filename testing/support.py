"""What the tests on the real ComfyUI share: trees of a wanted denoise map, spies on a model, short
attach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.sampling.model import Settings
from quadtree_pack.tiled_diffusion import attach
from quadtree_pack.tree.leaves import Leaf
from torch import Tensor

from .tiny_models.building import Entry

SIDE = 8  # cells per leaf of the trees below


def tree_of(denoise: list[list[float]], height: int, width: int, px_per_cell: int = 8) -> Quadtree:
    """A tree whose leaves of SIDE cells have these denoise values, row by row; values repeat to
    fill the latent."""
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
    return Quadtree.from_leaves(*size, side, leaves)


def half_kept(height: int, width: int, px_per_cell: int = 8, free: float = 1.0) -> Quadtree:
    """A checkerboard of kept and free leaves."""
    return tree_of([[0.0, free], [free, 0.0]], height, width, px_per_cell)


def patched(
    entry: Entry,
    *trees: Quadtree,
    model: Any = None,
    clean_latent: Tensor | None = None,
    **settings: Any,
) -> Any:
    """The entry's model with these trees; no feather and small tiles unless told otherwise."""
    chosen = Settings(**{"feather_px": 0, "tile_px": 128, "overlap_px": 0, **settings})
    return attach(entry.model if model is None else model, trees, chosen, clean_latent)


class Spy:
    """Counts what reaches the model and what leaves the sampler, on a clone."""

    def __init__(self, model: Any) -> None:
        self.sigmas: list[float] = []
        self.shapes: list[tuple[int, ...]] = []
        self.samples: Tensor | None = (
            None  # as the sampler returned them, in the model's space, before our copy
        )
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", self._apply_model)
        self.model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "spy", self._sampler_sample)

    def __deepcopy__(self, memo: dict[int, Any]) -> Spy:
        """Return the spy itself: copies of the model's options go on counting with it."""
        return self

    @property
    def calls(self) -> int:
        return len(self.shapes)

    @property
    def cells(self) -> int:
        return sum(shape[0] * shape[-1] * shape[-2] for shape in self.shapes)

    def _apply_model(
        self, executor: Callable, noisy: Tensor, sigma: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        self.sigmas.append(float(sigma[0]))
        self.shapes.append(tuple(noisy.shape))
        return executor(noisy, sigma, *args, **kwargs)

    def _sampler_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> Tensor:
        self.samples = executor(*args, **kwargs)
        return self.samples


def out_of_memory_above(model: Any, cells: int, seen: list[tuple[int, ...]]) -> Any:
    """A clone that has memory for so many latent cells (times rows) in one call."""

    def limited(apply_model: Callable, args: dict) -> Tensor:
        seen.append(tuple(args["input"].shape))
        if args["input"][:, 0].numel() > cells:
            raise torch.OutOfMemoryError("simulated")
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(limited)
    return model


def on_devices(model: Any, count: int, make: Callable[[], Entry]) -> Any:
    """The model as core's MultiGPU node prepares it; the devices are all this CPU."""
    model, clones = model.clone(), []
    for number in range(1, count):
        clone = comfy.model_patcher.ModelPatcher(
            make().model.model,
            load_device=torch.device("cpu", number),
            offload_device=torch.device("cpu"),
        )
        clone.is_multigpu_base_clone = True
        clones.append(clone)
    model.set_additional_models("multigpu", clones)
    return model


def pointwise(model: Any) -> Any:
    """A clone whose denoised at a cell depends on what the model gets at that very cell, so tiling
    must not show."""

    def apply_model(
        executor: Callable, noisy: Tensor, sigma: Tensor, *args: Any, **entries: Any
    ) -> Tensor:
        names = ("c_concat", "c_crossattn", "control", "transformer_options")
        entries |= dict(zip(names, args, strict=False))
        one_per_row = (-1, *[1] * (noisy.ndim - 1))
        denoised = torch.sin(1.5 * noisy / (1 + sigma.view(one_per_row)))
        for number, (key, value) in enumerate(sorted(entries.items())):
            for plane in planes_of(key, value, noisy):
                denoised = denoised + plane / (number + 2)
        return denoised

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "pointwise", apply_model)
    return model


def with_extra_conds(model: Any, conds: dict[str, Any]) -> Any:
    """A clone whose calls hold these entries too, as if the family's own `extra_conds` made
    them."""
    base = model.model
    model = model.clone()
    # By its class: on the object itself may still lie what an earlier clone put there.
    model.add_object_patch(
        "extra_conds", lambda **kwargs: {**type(base).extra_conds(base, **kwargs), **conds}
    )
    return model


def planes_of(key: str, value: Any, noisy: Tensor) -> Iterator[Tensor]:
    """What an entry of a model call says about each cell of `noisy` [rows, C, ..., H, W], ready to
    be added to it."""
    shape, size = [-1, *[1] * (noisy.ndim - 3), *noisy.shape[-2:]], noisy.shape[-2:]
    if key == "control":
        for features in (value or {}).values():
            yield from planes_of(
                "features", [feature for feature in features if feature is not None], noisy
            )
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from planes_of(key, entry, noisy)
    elif (
        not isinstance(value, Tensor)
        or not value.is_floating_point()
        or value.ndim < 2
        or len(value) != len(noisy)
    ):
        return
    elif key == "features" and value.ndim == 3:  # tokens of patches
        yield cells_of(
            value.mean(-1), round((size[0] * size[1] / value.shape[1]) ** 0.5), size
        ).reshape(shape)
    elif (
        key == "attention_mask" and value.ndim == 3
    ):  # how each patch of 2 x 2 cells looks at itself, and at all text
        patches = -(-size[0] // 2) * -(-size[1] // 2)
        looks = value.diagonal(dim1=1, dim2=2)[:, -patches:] + value[:, -patches:, :4].mean(-1)
        yield cells_of(looks, 2, size).reshape(shape)
    elif key == "effnet":  # spread over patches of 2 x 2 cells, as Stable Cascade does
        half = F.interpolate(
            value, size=[length // 2 for length in size], mode="bilinear", align_corners=True
        )
        yield F.interpolate(half.mean(1, keepdim=True), size=size).reshape(shape)
    elif (
        value.ndim < 4 or key in WHOLE_PICTURES or (key in REFERENCES and value.shape[-2:] != size)
    ):
        yield value.flatten(1).mean(1).view(-1, *[1] * (noisy.ndim - 1))
    else:  # on the canvas, at whatever resolution
        plane = value.flatten(1, -3).mean(1, keepdim=True)
        finer = value.shape[-2] >= size[0]
        yield (
            F.adaptive_avg_pool2d(plane, size) if finer else F.interpolate(plane, size=size)
        ).reshape(shape)


def cells_of(tokens: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """[rows, tokens] as [rows, H, W]."""
    grid = [-(-length // patch) for length in size]
    cells = tokens.view(-1, *grid).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    return cells[:, : size[0], : size[1]]


REFERENCES = {"ref_latents", "ref_latent", "reference_latent", "context_latents"}
WHOLE_PICTURES = {"clip_img", "siglip_feats", "face_pixel_values", "encoder_hidden_states_llama3"}


def free_cells(tree: Quadtree, latent: Tensor) -> Tensor:
    """Cells [H, W] that the tree lets change."""
    return tree.denoise_map(*latent.shape[-2:]) > 0


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def families(names: list[str]) -> pytest.MarkDecorator:
    """Return the mark that runs a test on each of these tiny models, as its argument `entry`."""
    return pytest.mark.parametrize("entry", names, indirect=True)


def forget_lost_models() -> None:
    """Take clones that are gone from ComfyUI's list of loaded models.

    Patches that hold a network ask for all models of that list, and fail at one that is gone.
    """
    loaded = comfy.model_management.current_loaded_models
    loaded[:] = [each for each in loaded if each.model is not None]
