"""Tiled diffusion on a patched model: evaluate the windows of a step, blend, and hold back what the quadtree keeps.

`attach` is the entry. It sets hooks on a clone of the model only; what a run needs lives in a `Run`, which core's own
copy of the model options carries for the length of that run and no longer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .conditioning import unstack_windows, window_args
from .planning import Tiling, Window
from .quadtree import Box, Quadtree
from .run import Geometry, Mode, Run, Settings, Step, denoise_maps, new_run, per_image
from .utils import info, warn

# Core's samplers that call the model once a step and then their callback: it tells which step is next. For others, and for ones
# not known, the step is read from sigma, which waits for the device.
ONE_CALL_PER_STEP = frozenset(
    f"sample_{name}"
    for name in [
        "euler",
        "euler_ancestral",
        "euler_cfg_pp",
        "euler_ancestral_cfg_pp",
        "lms",
        "ddpm",
        "lcm",
        "ipndm",
        "ipndm_v",
        "deis",
        "er_sde",
        "dpmpp_2m",
        "dpmpp_2m_cfg_pp",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_gpu",
        "dpmpp_3m_sde",
        "dpmpp_3m_sde_gpu",
        "res_multistep",
        "res_multistep_cfg_pp",
        "res_multistep_ancestral",
        "res_multistep_ancestral_cfg_pp",
        "gradient_estimation",
        "gradient_estimation_cfg_pp",
    ]
)
MOST_WINDOWS = 16  # in one model call, however much memory is free: beyond it nothing gets faster
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

    def open_run(self, noise: Tensor, latent: Tensor, noise_mask: Tensor | None) -> Run:
        """The plan of a run on `latent` [B, C, ..., H, W]; ValueError where tree, latent and model do not fit."""
        maps = denoise_maps(self.trees, self.settings, self.geometry, *latent.shape[-2:])
        maps = maps.repeat(len(latent) // len(maps), 1, 1) if len(maps) > 1 else maps
        open_cells = None if noise_mask is None else (noise_mask > 0).flatten(0, -3).any(0).cpu()
        mode = self._mode(noise, latent)
        return new_run(self, self.settings, self.geometry, maps, open_cells=open_cells, mode=mode)

    def _mode(self, noise: Tensor, latent: Tensor) -> Mode:
        if self.clean_latent is not None:
            return Mode.PRESERVE
        filled = latent.ne(0).any(1).flatten(-2).any(-1)  # per image, and per frame
        if not bool(filled.any()):
            info("the latent is empty (text to image): nothing to preserve; denoise only slows the velocity of calm regions.")
            return Mode.SCALE
        if not bool(filled.all()):
            raise ValueError(
                "Some images or frames of this latent are empty (all zero) and others are not; there is nothing to preserve in "
                "the empty ones. Sample them without Quadtree Diffusion, or connect clean_latent."
            )
        if not bool(noise.count_nonzero()):
            info(
                "no noise is added to this latent, so it is taken as noisy: nothing is preserved. "
                "Connect clean_latent to preserve."
            )
            return Mode.FREE
        return Mode.PRESERVE

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

    def _clean_like(self, latent: Tensor) -> Tensor:
        """What is preserved, as the caller gave it: `clean_latent`, or the latent that is sampled."""
        if self.clean_latent is None:
            return latent
        clean = self.clean_latent
        clean = clean.unsqueeze(2) if clean.ndim == 4 and latent.ndim == 5 else clean  # as core does for stills
        if clean.shape[1:] != latent.shape[1:] or len(clean) not in (1, len(latent)):
            raise ValueError(
                f"clean_latent has shape {tuple(clean.shape)}, but the latent that is sampled has {tuple(latent.shape)}; "
                "both must be of one size, with one clean latent, or one for each of the batch."
            )
        return clean

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
        _refuse(options)
        self._check_latent(latent)
        clean = self._clean_like(latent)
        # A mask that a function redraws at every step (Differential Diffusion) says nothing about the whole run.
        run = self.open_run(noise, latent, None if "denoise_mask_function" in options else noise_mask)
        carrier = options.setdefault("transformer_options", {})
        carrier[KEY] = run
        try:
            samples = executor(noise, latent, sampler, sigmas, noise_mask, *args, **kwargs)
        finally:
            del carrier[KEY]
        if not run.sigmas:
            return samples
        _report(run)
        if run.mode is not Mode.PRESERVE or run.sigmas[-1] > 0:
            return samples
        # Samplers end with rounding noise, and leaving the model's space rounds: kept cells are copied, not computed.
        kept = per_image(run.kept(), samples.ndim).to(samples.device)
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
            if _announces(executor.class_obj):
                callback = _announcing(run, callback)
            if self.settings.batch == 0:
                run.lay(replace(run.tiling, batch=_batch_that_fits(guider.inner_model, run.tiling, noise)))
            run.clean = latent
            if self.clean_latent is not None:
                run.clean = guider.inner_model.process_latent_in(self._clean_like(latent).to(latent))
        return executor(guider, sigmas, extra_args, callback, noise, latent, *args, **kwargs)

    def prepare_sampling(
        self,
        executor: Callable,
        model: ModelPatcher,
        shape: Sequence[int],
        conds: Any,
        model_options: dict,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Core's PREPARE_SAMPLING: asks for the memory of the largest batch of windows instead of the whole latent."""
        run = model_options.get("transformer_options", {}).get(KEY)
        if run is not None:
            batched = _batch_shape(shape, run.tiling, run.tiling.batch)
            shape = min(batched, list(shape), key=math.prod)
        return executor(model, shape, conds, model_options, *args, **kwargs)

    def predict_noise(self, executor: Callable, noisy: Tensor, sigma: Tensor, model_options: dict, *args: Any) -> Tensor:
        """Core's PREDICT_NOISE: holds held cells once more after guidance, which may mix the whole image (RescaleCFG)."""
        denoised = executor(noisy, sigma, model_options, *args)
        run = model_options.get("transformer_options", {}).get(KEY)
        if run is None or run.mode is not Mode.PRESERVE or not run.sigmas:
            return denoised
        held = run.step(sigma, noisy.device, noisy.ndim).freedom == 0
        return torch.where(held, run.clean.to(denoised), denoised)

    def __call__(self, apply_model: Callable, args: dict[str, Any]) -> Tensor:
        """The model-function wrapper: `denoised` [rows, C, ..., H, W] for `args["input"]` of the same shape."""
        noisy = args["input"]
        run = args["c"].get("transformer_options", {}).get(KEY)
        if run is None or not run.sigmas:
            run = self._run_without_hooks(noisy)
        if run.owner is not self:
            return self.evaluate(apply_model, args)
        if noisy.shape[-2:] != run.open.shape:
            raise ValueError(
                f"A conditioning area of {noisy.shape[-1]} x {noisy.shape[-2]} cells reached Quadtree Diffusion, which cannot "
                'place areas yet. Use Conditioning (Set Mask) with set_cond_area "default".'
            )
        run.tally.canvas_cells += _cells(noisy)
        while True:
            step = run.step(args["timestep"], noisy.device, noisy.ndim)
            try:
                return self.evaluate_windows(apply_model, args, run, step)
            except comfy.model_management.InterruptProcessingException:
                raise
            except Exception as error:  # of what kind running out of memory is depends on the device: core knows
                if not comfy.model_management.is_oom(error) or not _shrunk(run):
                    raise
            comfy.model_management.soft_empty_cache()

    def _run_without_hooks(self, noisy: Tensor) -> Run:
        """For a sampler that bypasses core's hooks: windows, but nothing is preserved."""
        warn("the model is called outside of core's sampling hooks, so nothing can be preserved; windows only.")
        everything = torch.ones(1, *noisy.shape[-2:], dtype=torch.float64)
        run = new_run(self, self.settings, self.geometry, everything, mode=Mode.FREE)
        run.sigmas = [math.inf, 0.0]
        return run

    def evaluate(self, apply_model: Callable, args: dict[str, Any]) -> Tensor:
        if self.previous is not None:
            return self.previous(apply_model, args)
        return apply_model(args["input"], args["timestep"], **args["c"])

    def evaluate_windows(self, apply_model: Callable, args: dict[str, Any], run: Run, step: Step) -> Tensor:
        """Denoised [conds * B, C, ..., H, W]: the step's windows blended with each other and with what holds the cells."""
        noisy, conds = args["input"], len(args["cond_or_uncond"])
        height, width = run.open.shape
        whole = [window.box for window in step.windows] == [Box(0, 0, width, height)]
        # ControlNet hints are not cut yet, but an image that one window can hold needs no cut.
        fits = max(height, width) <= run.tiling.tile * run.tiling.unit
        if whole or (step.windows and fits and args["c"].get("control") is not None):
            _count(run, noisy, 1)
            return run.blended(noisy, self.evaluate(apply_model, args), step)
        total = run.bound(noisy, step)
        for batch in batches(step.windows, run.tiling.batch):
            comfy.model_management.throw_exception_if_processing_interrupted()
            boxes = [step.windows[number].box for number in batch]
            cut = window_args(args, boxes)
            _count(run, cut["input"], len(boxes))
            parts = unstack_windows(self.evaluate(apply_model, cut), len(boxes), conds)
            for number, part in zip(batch, parts, strict=True):
                total[(..., *step.windows[number].box.slices)].addcmul_(run.by_image(part), step.weights[number])
        return total.flatten(0, 1)


def _announces(sampler: Any) -> bool:
    function = getattr(sampler, "sampler_function", None)
    of_core = getattr(function, "__module__", "") == "comfy.k_diffusion.sampling"
    return of_core and function.__name__ in ONE_CALL_PER_STEP


def _announcing(run: Run, callback: Callable | None) -> Callable:
    """The sampler's callback, which also tells the run that the next step is due."""
    run.announced = 0

    def announce(step: int, *args: Any) -> None:
        run.announced = min(step + 1, run.steps - 1)
        if callback is not None:
            callback(step, *args)

    return announce


def batches(windows: Sequence[Window], most: int) -> list[list[int]]:
    """Indices of windows of one shape, at most `most` together."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, window in enumerate(windows):
        by_shape[window.box.height, window.box.width].append(number)
    return [same[start : start + most] for same in by_shape.values() for start in range(0, len(same), most)]


def _count(run: Run, evaluated: Tensor, windows: int) -> None:
    run.tally.calls += 1
    run.tally.windows += windows
    run.tally.cells += _cells(evaluated)


def _cells(latent: Tensor) -> int:
    """Latent cells of all rows of [rows, C, ..., H, W]."""
    return latent[:, 0].numel()


def _batch_shape(shape: Sequence[int], tiling: Tiling, windows: int) -> list[int]:
    """Shape of that many of the largest windows of a latent of this shape [rows, C, ..., H, W]."""
    rows, *middle, height, width = shape
    tile = tiling.tile * tiling.unit
    return [rows * windows, *middle, min(tile, height), min(tile, width)]


def _batch_that_fits(model: Any, tiling: Tiling, noise: Tensor) -> int:
    """How many of the largest windows fit the free memory at once, with both conds, by core's own estimate and reserve."""
    needed = 1.5 * model.memory_required(_batch_shape(noise.shape, tiling, 2))
    return max(1, min(MOST_WINDOWS, int(comfy.model_management.get_free_memory(noise.device) / needed)))


def _shrunk(run: Run) -> bool:
    if not run.shrink():
        warn("out of memory even with the smallest windows. Use a smaller tile_overlap or image, or free memory.")
        return False
    if not run.shrunk:
        warn(
            "out of memory: the run goes on with fewer windows at a time, then with smaller ones, as with a smaller tile_size."
        )
        run.shrunk = True
    return True


def _report(run: Run) -> None:
    tally = run.tally
    if tally.canvas_cells == 0:
        warn("another node replaced the model function wrapper after Quadtree Diffusion, so it had no effect on the model.")
        return
    info(
        "%d model calls on %d windows in %d steps, %.1f%% of the full model cost, %.1f%% of the latent kept",
        tally.calls,
        tally.windows,
        run.steps,
        100 * tally.cells / tally.canvas_cells,
        100 * float(run.kept().double().mean()),
    )


def _checked_sigmas(sigmas: Tensor) -> list[float]:
    values = sigmas.detach().double().cpu().tolist()
    for here, below in pairwise(values):
        if below > here:
            raise ValueError(
                f"The sigmas of this run rise, from {here:.4g} to {below:.4g}; Quadtree Diffusion needs sigmas that fall. "
                "Do not patch the model that adds noise (unsampling), only the one that removes it."
            )
    return values


def _guided_by_attention(options: dict[str, Any]) -> bool:
    functions = options.get("sampler_post_cfg_function", ())
    return any(getattr(function, "__qualname__", "").startswith("SelfAttentionGuidance") for function in functions)


# What would go wrong in windows: how it is recognised in the model's options, its name, and what to do instead.
REFUSALS: tuple[tuple[Callable[[dict[str, Any]], bool], str, str], ...] = (
    (
        lambda options: type(options.get("transformer_options", {}).get("easycache")).__name__ == "EasyCacheHolder",
        "EasyCache keeps one result per model call",
        "Use LazyCache.",
    ),
    (
        lambda options: options.get("context_handler") is not None,
        "Context windows cut the latent, too",
        "Remove one of the two.",
    ),
    (
        _guided_by_attention,
        "Self-Attention Guidance reads the attention of the whole image",
        "Use Perturbed-Attention Guidance.",
    ),
)


def _refuse(options: dict[str, Any]) -> None:
    for recognised, what, advice in REFUSALS:
        if recognised(options):
            raise ValueError(f"{what}, which does not work together with Quadtree Diffusion. {advice}")


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
        WrappersMP.PREDICT_NOISE: tiled.predict_noise,
    }
    for kind, hook in hooks.items():
        model.remove_wrappers_with_key(kind, KEY)
        # Before all others: what is held has the last word over what a cache or another node made of it.
        model.wrappers[kind] = {KEY: [hook], **model.wrappers.get(kind, {})}
    return model
