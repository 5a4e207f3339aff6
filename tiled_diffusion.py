"""Tiled diffusion on a patched model: evaluate the windows of a step, blend, and hold back what the quadtree keeps.

`attach` is the entry. It sets hooks on a clone of the model only; what a run needs lives in a `Run`, which core's own
copy of the model options carries for the length of that run and no longer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .conditioning import unstack_windows, window_args
from .planning import Cost, Planner, Tiling, Window, units_with
from .quadtree import Box, Quadtree
from .utils import ceil_div, cells_from_px, info, round_down, warn
from .velocity import SCHEDULES, blend_denoised, scale_velocity, step_of, txt2img_scale

KEY = "quadtree_diffusion"  # names our wrappers on a model, and the Run in its transformer_options

# Native image side of a model family in px, by the class of its config or a base of it; 1024 for all others.
NATIVE_PX = {"SD15": 512, "SD20": 768, "Stable_Zero123": 256, "PixArtAlpha": 1024}
DEFAULT_NATIVE_PX = 1024
AUTOMATIC_REACH = 1.5  # automatic windows may be this much longer than the native side

# Fitted to the times of Flux-dev and SDXL on one H200 (10% off at most from 512 to 2048 px): a transformer pays for its text in
# every window and for attention in large ones; a UNet is so light that starting a call costs as much as many cells.
TRANSFORMER_COST = Cost(per_call=600, per_window=1700, quadratic=65_000)
UNET_COST = Cost(per_call=112_000, per_window=0, quadratic=35_000)


def flat(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """MultiDiffusion (Bar-Tal et al. 2023): every window counts alike."""
    return torch.ones_like(cells)


def gaussian(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """Mixture of Diffusers (Jimenez 2023): gaussian with variance 0.01, relative to the window's own length."""
    distance = (cells - (window.start + window.stop) / 2) / (window.stop - window.start)
    return torch.exp(-distance.square() / (2 * 0.01))


def core_only(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """SpotDiffusion (Frolov et al. 2024): no overlap; the moving lattice evens the borders out over the steps."""
    return ((cells > core.start) & (cells < core.stop)).to(cells.dtype)


def feathered(cells: Tensor, window: slice, core: slice, length: int, margin: int) -> Tensor:
    """Shifted Feather: a linear ramp over `margin` cells on both sides of each inner border of the core."""
    if margin == 0:
        return core_only(cells, window, core, length, margin)
    rise = (cells - (core.start - margin)) / (2 * margin) if core.start > 0 else torch.ones_like(cells)
    fall = ((core.stop + margin) - cells) / (2 * margin) if core.stop < length else torch.ones_like(cells)
    return rise.clamp(0, 1) * fall.clamp(0, 1)


class Method(NamedTuple):
    weight: Callable[[Tensor, slice, slice, int, int], Tensor]
    moving: bool
    overlaps: bool


METHODS = {
    "Shifted Feather": Method(feathered, moving=True, overlaps=True),
    "Mixture of Diffusers": Method(gaussian, moving=False, overlaps=True),
    "MultiDiffusion": Method(flat, moving=False, overlaps=True),
    "SpotDiffusion": Method(core_only, moving=True, overlaps=False),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose; lengths in image px, `tile_px` 0 = automatic."""

    method: str = "Shifted Feather"
    tile_px: int = 0
    overlap_px: int = 64
    batch: int = 4
    schedule: str = "hold"
    feather_px: int = 32
    keep_below_px: int = 0


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the model is: px per latent cell, cells per unit at which it may be cut, native image side in px, cost."""

    px_per_cell: int
    unit: int
    native_px: int
    cost: Cost

    @classmethod
    def of(cls, model: ModelPatcher) -> Geometry:
        latent_format = model.get_model_object("latent_format")
        if latent_format.latent_dimensions == 1:
            raise ValueError(
                f"{type(model.model).__name__} has one-dimensional latents (audio or 3D), which cannot be cut into windows. "
                "Connect an image model."
            )
        bases = [base.__name__ for base in type(model.model.model_config).__mro__]
        native_px = next((NATIVE_PX[base] for base in bases if base in NATIVE_PX), DEFAULT_NATIVE_PX)
        network = model.get_model_object("diffusion_model")
        cost = UNET_COST if hasattr(network, "channel_mult") else TRANSFORMER_COST
        return cls(latent_format.spacial_downscale_ratio, unit_cells(network), native_px, cost)

    @property
    def px_per_unit(self) -> int:
        return self.px_per_cell * self.unit

    def tiling(self, settings: Settings, height: int, width: int) -> Tiling:
        """Window sizes for a latent of height x width cells; ValueError where the settings do not fit the model."""
        px = self.px_per_unit
        if settings.tile_px % px:
            low = max(px, round_down(settings.tile_px, px))
            raise ValueError(
                f"tile_size {settings.tile_px} px does not fill whole units of this model, which are {px} px; "
                f"use {low} or {low + px}."
            )
        whole = ceil_div(max(height, width), self.unit)
        tile = settings.tile_px // px or max(1, int(AUTOMATIC_REACH * self.native_px) // px)
        method = METHODS[settings.method]
        overlap = ceil_div(settings.overlap_px, px) if method.overlaps else 0
        overlap += overlap * self.unit % 2  # its middle, where the border lies, is a whole cell
        if whole > tile and tile < 2 * overlap:
            raise ValueError(
                f"tile_overlap {settings.overlap_px} px takes {overlap * px} px on this model, more than half of tile_size "
                f"{tile * px} px; use at most {tile // 2 * px} px, or larger tiles."
            )
        smallest = min(tile, max(1, self.native_px // 2 // px))
        return Tiling(self.unit, tile, smallest, overlap, method.moving, self.cost, settings.batch)


def unit_cells(diffusion_model: torch.nn.Module) -> int:
    """Cells at which the model may be cut: its patch, or the reduction of its UNet; 8 where it tells neither."""
    patch = getattr(diffusion_model, "patch_size", None)
    if isinstance(patch, (tuple, list)):
        patch = patch[-1]
    if isinstance(patch, int):
        return patch
    levels = getattr(diffusion_model, "channel_mult", None)
    return 1 << (len(levels) - 1) if levels else 8


@dataclass(slots=True)
class Tally:
    """What a run has cost so far; cells are latent cells times conds times batch."""

    calls: int = 0
    windows: int = 0
    cells: int = 0
    canvas_cells: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step on one device: freedom (or velocity scale) [B or 1, 1, ..., H, W], windows, and their normalised weights."""

    index: int
    device: torch.device
    freedom: Tensor
    windows: tuple[Window, ...]
    weights: tuple[Tensor, ...]


@dataclass(slots=True)
class Run:
    """One sampling run. `denoise` is [B or 1, H, W] float64, `open` the cells [H, W] that core's noise mask lets change."""

    method: Method
    schedule: str
    tiling: Tiling
    denoise: Tensor
    open: Tensor
    preserves: bool
    scales: bool
    sigmas: list[float] = field(default_factory=list)
    clean: Tensor | None = None
    tally: Tally = field(default_factory=Tally)
    plans: dict[tuple, tuple[Window, ...]] = field(default_factory=dict)
    latest: Step | None = None
    planner: Planner = field(init=False)

    def __post_init__(self) -> None:
        self.planner = Planner(tuple(self.open.shape), self.tiling)

    @property
    def steps(self) -> int:
        return max(1, len(self.sigmas) - 1)

    def freedom(self, index: int) -> Tensor:
        """Freedom [B or 1, H, W] in 0..1 of every cell at a step."""
        if not self.preserves:
            return torch.ones_like(self.denoise)
        return SCHEDULES[self.schedule](self.denoise, index, self.steps)

    def kept(self) -> Tensor:
        """Cells [B or 1, H, W] that no step frees. Freedom never falls, so the last step tells."""
        return self.freedom(self.steps - 1) == 0

    def step(self, sigma: float, device: torch.device, rank: int) -> Step:
        index = step_of(sigma, self.sigmas)
        latest = self.latest
        if latest is not None and latest.index == index and latest.device == device:
            return latest
        freedom = self.freedom(index)
        windows = self.plan((freedom > 0).any(0) & self.open, index)
        if self.scales:
            freedom = txt2img_scale(self.denoise, index, self.steps)
        freedom = freedom.to(device, torch.float32)
        freedom = freedom.view(len(freedom), *[1] * (rank - 3), *freedom.shape[-2:])
        margin = self.tiling.overlap * self.tiling.unit // 2
        weights = shares(windows, self.open.shape, self.method, margin) if len(windows) > 1 else ()
        weights = tuple(weight.to(device, torch.float32) for weight in weights)
        self.latest = Step(index, device, freedom, windows, weights)
        return self.latest

    def plan(self, active: Tensor, index: int) -> tuple[Window, ...]:
        """The step's windows, planned once per set of active cells (and position of a moving lattice)."""
        active_units = units_with(active, self.tiling.unit)
        key = index if self.tiling.moving else 0, active_units.tobytes()
        if key not in self.plans:
            self.plans[key] = self.planner.plan(active_units)
        return self.plans[key]


def shares(windows: Sequence[Window], size: tuple[int, int], method: Method, margin: int) -> tuple[Tensor, ...]:
    """A weight [h, w] per window; at every cell they add up to 1, to the bit where one window covers it alone.

    `size` is (height, width) of the latent and `margin` half the overlap, in cells. A cell that windows hold as mere
    context, outside of all cores, may get 0 from all.
    """
    raw = []
    total = torch.zeros(size, dtype=torch.float64)
    for window in windows:
        rows, columns = (
            method.weight(torch.arange(along.start, along.stop, dtype=torch.float64) + 0.5, along, core, length, margin)
            for along, core, length in zip(window.box.slices, window.core.slices, size, strict=True)
        )
        raw.append(rows[:, None] * columns[None, :])
        total[window.box.slices] += raw[-1]
    total[total == 0] = 1
    return tuple(weight / total[window.box.slices] for weight, window in zip(raw, windows, strict=True))


class TiledDiffusion:
    """The hooks of one patched model. Nothing of a run is kept here, so samplers and threads can share it."""

    def __init__(
        self,
        trees: Sequence[Quadtree],
        settings: Settings,
        geometry: Geometry,
        clean_latent: Tensor | None,
        previous: Callable | None,
    ) -> None:
        self.trees = tuple(tree.keep_below(settings.keep_below_px) for tree in trees)
        self.settings = settings
        self.geometry = geometry
        self.clean_latent = clean_latent
        self.previous = previous
        self.warned = False

    def open_run(self, noise: Tensor, latent: Tensor, noise_mask: Tensor | None, mask_is_final: bool) -> Run:
        """The plan of a run on `latent` [B, C, ..., H, W]; ValueError where tree, latent and model do not fit."""
        batch, height, width = len(latent), *latent.shape[-2:]
        self._check_latent(latent)
        feather = cells_from_px(self.settings.feather_px, self.geometry.px_per_cell)
        maps = torch.stack([tree.denoise_map(height, width, feather) for tree in self.trees])
        has_noise = bool(noise.count_nonzero())
        has_image = bool(latent.count_nonzero())
        preserves = self.clean_latent is not None or (has_noise and has_image)
        if not preserves and has_image:
            info(
                "no noise is added to this latent, so it is taken as noisy: nothing is preserved. "
                "Connect clean_latent to preserve."
            )
        elif not preserves:
            info("the latent is empty (text to image): nothing to preserve; denoise only slows the velocity of calm regions.")
        return Run(
            method=METHODS[self.settings.method],
            schedule=self.settings.schedule,
            tiling=self.geometry.tiling(self.settings, height, width),
            denoise=maps.repeat(batch // len(maps), 1, 1) if len(maps) > 1 else maps,
            open=torch.ones(height, width, dtype=torch.bool)
            if noise_mask is None or not mask_is_final
            else (noise_mask > 0).flatten(0, -3).any(0).cpu(),
            preserves=preserves,
            scales=not preserves and not has_image,
        )

    def _check_latent(self, latent: Tensor) -> None:
        if latent.ndim < 4:
            raise ValueError(
                f"This run samples a packed latent of shape {tuple(latent.shape)} (several latents in one), which cannot "
                "be cut into windows. Sample without Quadtree Diffusion."
            )
        if len(latent) % len(self.trees):
            raise ValueError(
                f"The quadtree holds {len(self.trees)} trees, one per image, but the latent batch has {len(latent)}. "
                "Build the quadtree from one image, or from the same batch."
            )
        for tree in self.trees:
            tree.check_fits(*latent.shape[-2:])
        if self.clean_latent is not None and self.clean_latent.shape[1:] != latent.shape[1:]:
            raise ValueError(
                f"clean_latent has shape {tuple(self.clean_latent.shape)}, but the latent that is sampled has "
                f"{tuple(latent.shape)}; both must be of one size."
            )

    def outer_sample(
        self,
        executor: Callable,
        noise: Tensor,
        latent: Tensor,
        sampler: Any,
        sigmas: Tensor,
        noise_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Core's OUTER_SAMPLE: opens the Run, and copies what no step freed from the caller's own latent."""
        options = executor.class_obj.model_options
        carrier = options.setdefault("transformer_options", {})
        run = self.open_run(noise, latent, noise_mask, "denoise_mask_function" not in options)
        carrier[KEY] = run
        try:
            samples = executor(noise, latent, sampler, sigmas, noise_mask, *args, **kwargs)
        finally:
            del carrier[KEY]
        if not run.sigmas:
            return samples
        if run.preserves and run.sigmas[-1] == 0:
            samples = self._restored(samples, latent if self.clean_latent is None else self.clean_latent, run.kept())
        _report(run)
        return samples

    def _restored(self, samples: Tensor, clean: Tensor, kept: Tensor) -> Tensor:
        """Samplers end with rounding noise, and leaving the model's space rounds: kept cells are copied, not computed."""
        kept = kept.view(len(kept), *[1] * (samples.ndim - 3), *kept.shape[-2:]).to(samples.device)
        return torch.where(kept, clean.to(samples), samples)

    def sampler_sample(
        self,
        executor: Callable,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable | None,
        noise: Tensor,
        latent: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Core's SAMPLER_SAMPLE: captures the sigmas (uni_pc writes into its copy) and the clean latent in model space."""
        run = extra_args["model_options"]["transformer_options"].get(KEY)
        if run is not None:
            run.sigmas = _checked_sigmas(sigmas)
            run.clean = latent
            if self.clean_latent is not None:
                run.clean = guider.inner_model.process_latent_in(self.clean_latent.to(latent))
        return executor(guider, sigmas, extra_args, callback, noise, latent, *args, **kwargs)

    def prepare_sampling(
        self,
        executor: Callable,
        model: ModelPatcher,
        shape: Sequence[int],
        conds: Any,
        model_options: dict | None = None,
        **kwargs: Any,
    ) -> Any:
        """Core's PREPARE_SAMPLING: asks for the memory of the largest batch of windows instead of the whole latent."""
        run = (model_options or {}).get("transformer_options", {}).get(KEY)
        if run is not None:
            tile = run.tiling.tile * run.tiling.unit
            batched = [shape[0] * run.tiling.batch, *shape[1:-2], min(tile, shape[-2]), min(tile, shape[-1])]
            shape = min(batched, list(shape), key=math.prod)
        return executor(model, shape, conds, model_options=model_options, **kwargs)

    def __call__(self, apply_model: Callable, args: dict[str, Any]) -> Tensor:
        """The model-function wrapper: `denoised` [rows, C, ..., H, W] for `args["input"]` of the same shape."""
        noisy, conds = args["input"], len(args["cond_or_uncond"])
        run = args["c"].get("transformer_options", {}).get(KEY)
        if run is None or not run.sigmas:
            run = self._run_without_hooks(noisy)
        if noisy.shape[-2:] != run.open.shape:
            raise ValueError(
                f"A conditioning area of {noisy.shape[-1]} x {noisy.shape[-2]} cells reached Quadtree Diffusion, which cannot "
                "place areas yet. Use Conditioning (Set Mask) instead of Conditioning (Set Area)."
            )
        step = run.step(float(args["timestep"][0]), noisy.device, noisy.ndim)
        run.tally.canvas_cells += noisy.shape[0] * noisy[0, 0].numel()
        denoised = self.evaluate_windows(apply_model, args, run, step)
        if run.scales:
            by_cond = noisy.unflatten(0, (conds, -1)), denoised.unflatten(0, (conds, -1))
            return scale_velocity(*by_cond, step.freedom).flatten(0, 1)
        if not run.preserves:
            return denoised
        return blend_denoised(denoised.unflatten(0, (conds, -1)), run.clean.to(noisy)[None], step.freedom).flatten(0, 1)

    def _run_without_hooks(self, noisy: Tensor) -> Run:
        """For a sampler that bypasses core's hooks: windows, but nothing is preserved."""
        if not self.warned:
            warn("the model is called outside of core's sampling hooks, so nothing can be preserved; windows only.")
            self.warned = True
        height, width = noisy.shape[-2:]
        everything = torch.ones(height, width, dtype=torch.bool)
        return Run(
            method=METHODS[self.settings.method],
            schedule=self.settings.schedule,
            tiling=self.geometry.tiling(self.settings, height, width),
            denoise=everything[None].double(),
            open=everything,
            preserves=False,
            scales=False,
            sigmas=[math.inf, 0.0],
        )

    def evaluate(self, apply_model: Callable, args: dict[str, Any]) -> Tensor:
        if self.previous is not None:
            return self.previous(apply_model, args)
        return apply_model(args["input"], args["timestep"], **args["c"])

    def evaluate_windows(self, apply_model: Callable, args: dict[str, Any], run: Run, step: Step) -> Tensor:
        """Denoised of the step's windows, blended; 0 where no window reaches."""
        noisy, conds = args["input"], len(args["cond_or_uncond"])
        height, width = run.open.shape
        if len(step.windows) == 1 and step.windows[0].box == Box(0, 0, width, height):
            _count(run, noisy, 1)
            return self.evaluate(apply_model, args)  # as without this node, to the bit
        total = torch.zeros_like(noisy)
        for batch in _batches(step.windows, run.tiling.batch):
            comfy.model_management.throw_exception_if_processing_interrupted()
            boxes = [step.windows[number].box for number in batch]
            cut = window_args(args, boxes)
            _count(run, cut["input"], len(boxes))
            parts = unstack_windows(self.evaluate(apply_model, cut), len(boxes), conds)
            for number, part in zip(batch, parts, strict=True):
                total[(..., *step.windows[number].box.slices)] += part * step.weights[number] if step.weights else part
        return total


def _batches(windows: Sequence[Window], most: int) -> list[list[int]]:
    """Indices of windows of one shape, at most `most` together."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, window in enumerate(windows):
        by_shape[window.box.height, window.box.width].append(number)
    return [same[start : start + most] for same in by_shape.values() for start in range(0, len(same), most)]


def _count(run: Run, evaluated: Tensor, windows: int) -> None:
    run.tally.calls += 1
    run.tally.windows += windows
    run.tally.cells += evaluated.shape[0] * evaluated[0, 0].numel()


def _report(run: Run) -> None:
    tally = run.tally
    info(
        "%d model calls on %d windows in %d steps, %.1f%% of the full model cost, %.1f%% of the latent kept",
        tally.calls,
        tally.windows,
        run.steps,
        100 * tally.cells / max(1, tally.canvas_cells),
        100 * float(run.kept().double().mean()) if run.preserves else 0.0,
    )


def _checked_sigmas(sigmas: Tensor) -> list[float]:
    values = sigmas.detach().double().cpu().tolist()
    if any(below > here for here, below in pairwise(values)):
        raise ValueError(
            f"The sigmas of this run rise ({values[0]:.4g} to {max(values):.4g}); "
            "Quadtree Diffusion needs sigmas that fall. Do not patch the model that adds noise (unsampling), only the one "
            "that removes it."
        )
    return values


def attach(
    model: ModelPatcher, trees: Sequence[Quadtree], settings: Settings, clean_latent: Tensor | None = None
) -> ModelPatcher:
    """A clone of `model` that samples by windows and keeps what `trees` (one, or one per image of the batch) keep.

    `clean_latent` [B or 1, C, ..., H, W], as a LATENT holds it, is what is preserved; None takes the latent that is
    sampled. A model function wrapper that was set before is called for every window; an earlier Quadtree Diffusion is
    replaced. ValueError where the model cannot be cut.
    """
    geometry = Geometry.of(model)
    model = model.clone()
    previous = model.model_options.get("model_function_wrapper")
    if isinstance(previous, TiledDiffusion):
        info("the model has a Quadtree Diffusion already; this later one replaces it.")
        previous = previous.previous
    tiled = TiledDiffusion(trees, settings, geometry, clean_latent, previous)
    model.set_model_unet_function_wrapper(tiled)
    hooks = {
        WrappersMP.OUTER_SAMPLE: tiled.outer_sample,
        WrappersMP.SAMPLER_SAMPLE: tiled.sampler_sample,
        WrappersMP.PREPARE_SAMPLING: tiled.prepare_sampling,
    }
    for kind, hook in hooks.items():
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, hook)
    return model
