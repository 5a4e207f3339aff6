"""Tiled diffusion on a patched model: evaluate the windows of a step, blend, and hold back what the quadtree keeps.

`attach` is the entry. It sets hooks on a clone of the model only; what a run needs lives in a `Run`, which core's own
copy of the model options carries for the length of that run and no longer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .blending import METHODS
from .conditioning import unstack_windows, window_args
from .planning import Window
from .quadtree import Box, Quadtree
from .run import Geometry, Run, Settings, Step, denoise_maps
from .utils import info, warn
from .velocity import blend_denoised, scale_velocity

KEY = "quadtree_diffusion"  # names our wrappers on a model, and the Run in its transformer_options


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
        self.trees = tuple(trees)
        self.settings = settings
        self.geometry = geometry
        self.clean_latent = clean_latent
        self.previous = previous
        self.warned = False

    def open_run(self, noise: Tensor, latent: Tensor, noise_mask: Tensor | None, mask_is_final: bool) -> Run:
        """The plan of a run on `latent` [B, C, ..., H, W]; ValueError where tree, latent and model do not fit."""
        batch, height, width = len(latent), *latent.shape[-2:]
        self._check_latent(latent)
        maps = denoise_maps(self.trees, self.settings, self.geometry, height, width)
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
