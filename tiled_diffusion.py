"""Tiled diffusion on a patched model: evaluate the windows of a step, blend, and hold back what the quadtree keeps.

`attach` is the entry. It sets hooks on a clone of the model only; what a run needs lives in a `Run`, which core's own
copy of the model options carries for the length of that run and no longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .quadtree import Quadtree
from .sampling.conditioning import (
    ONE_ROW_PATCHES,
    Cutter,
    narrowed,
    patch_names,
    select_conds,
    unstack_windows,
    window_args,
)
from .sampling.control import Deferred, Deferring, cut_features
from .sampling.model import Geometry, Settings
from .sampling.parallel import Devices, on_device
from .sampling.run import Mode, Run, Step, denoise_maps, new_run, per_image
from .utils import Box, info, warn
from .windows.shapes import batch_windows
from .windows.tiling import Tiling

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
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.trees = tuple(trees)
        self.settings = settings
        self.geometry = geometry
        self.clean_latent = clean_latent
        self.previous = previous
        self.progress = progress

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
            info(
                "the latent is empty (text to image): nothing to preserve; denoise only slows the velocity of calm regions."
            )
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

    def _check_latent(self, latent: Tensor, model: ModelPatcher) -> None:
        if latent.ndim < 4:
            raise ValueError(
                f"{type(model.model).__name__} samples a packed latent of shape {tuple(latent.shape)} (several latents in "
                "one), which cannot be cut into windows. Sample without Quadtree Diffusion."
            )
        if latent.numel() == 0:
            raise ValueError(
                f"The latent that is sampled has shape {tuple(latent.shape)}; it must not be empty."
            )
        if not bool(torch.stack(latent.aminmax()).isfinite().all()):
            raise ValueError(
                "The latent that is sampled holds NaN or infinite values; encode it again, with a VAE in higher precision."
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
        clean = (
            clean.unsqueeze(2) if clean.ndim == 4 and latent.ndim == 5 else clean
        )  # as core does for stills
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
        self._check_latent(latent, executor.class_obj.model_patcher)
        clean = self._clean_like(latent)
        # A mask that a function redraws at every step (Differential Diffusion) says nothing about the whole run.
        run = self.open_run(
            noise, latent, None if "denoise_mask_function" in options else noise_mask
        )
        carrier = options.setdefault("transformer_options", {})
        carrier[KEY] = run
        try:
            samples = executor(noise, latent, sampler, sigmas, noise_mask, *args, **kwargs)
        finally:
            del carrier[KEY]
        if not run.sigmas:
            return samples
        _report(run)
        self.tell(run.summary())
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
                run.batch = _batch_that_fits(guider.inner_model, run.tiling, noise)
            run.clean = latent
            if self.clean_latent is not None:
                run.clean = guider.inner_model.process_latent_in(
                    self._clean_like(latent).to(latent)
                )
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
            batched = _batch_shape(shape, run.tiling, run.batch)
            shape = min(batched, list(shape), key=math.prod)
        return executor(model, shape, conds, model_options, *args, **kwargs)

    def calc_cond_batch(
        self,
        executor: Callable,
        model: Any,
        conds: list[list[dict] | None],
        noisy: Tensor,
        sigma: Tensor,
        model_options: dict,
    ) -> Any:
        """Core's CALC_COND_BATCH: notes where each conditioning area lies, and defers ControlNets until windows are known."""
        run = model_options.get("transformer_options", {}).get(KEY)
        if run is None:
            return executor(model, conds, noisy, sigma, model_options)
        hooked = any(cond.get("hooks") is not None for group in conds for cond in group or ())
        run.devices = (
            None if hooked else Devices.of(model_options)
        )  # with hooks core sets the weights of each device itself
        if run.devices is not None:
            for clone in run.devices.clones.values():
                clone.prepare_state(sigma, {**model_options, "ignore_multigpu": True})
            model_options = {
                key: value for key, value in model_options.items() if key != "multigpu_clones"
            }
        conds = [group and [_deferred(cond, run, noisy) for cond in group] for group in conds]
        return executor(model, conds, noisy, sigma, model_options)

    def predict_noise(
        self, executor: Callable, noisy: Tensor, sigma: Tensor, model_options: dict, *args: Any
    ) -> Tensor:
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
        run.tally.canvas_cells += _cells(noisy)
        places = _places(run, args)
        while True:
            try:
                return self.evaluate_places(apply_model, args, run, places)
            except comfy.model_management.InterruptProcessingException:
                raise
            except (
                Exception
            ) as error:  # of what kind running out of memory is depends on the device: core knows
                if not comfy.model_management.is_oom(error) or not _shrunk(run):
                    raise
            comfy.model_management.soft_empty_cache()

    def evaluate_places(
        self, apply_model: Callable, args: dict[str, Any], run: Run, places: list[Box]
    ) -> Tensor:
        """Denoised of a call whose conds lie in these places: the canvas, or areas of one size that core evaluates together."""
        noisy, sigma = args["input"], args["timestep"]
        steps = [run.step(sigma, noisy.device, noisy.ndim, place) for place in places]
        at = {
            place: narrowed(args["c"], run.canvas, place, run.tiling.unit)
            for place in places
            if place != run.canvas
        }
        if len(set(places)) == 1:
            args = {**args, "c": at.get(places[0], args["c"])}
            return self.evaluate_windows(apply_model, args, run, steps[0])
        parts: list[Tensor] = list(noisy.chunk(len(places)))
        if all(_is_one_window(step) for step in steps) and all(c is args["c"] for c in at.values()):
            denoised = self.evaluate_whole(apply_model, args, run, steps[0]).chunk(len(places))
            return torch.cat(
                [
                    run.blended(*pair, step)
                    for *pair, step in zip(parts, denoised, steps, strict=True)
                ]
            )
        for place in dict.fromkeys(places):
            numbers = [number for number, other in enumerate(places) if other == place]
            chosen = _of_conds({**args, "c": at.get(place, args["c"])}, numbers)
            denoised = self.evaluate_windows(apply_model, chosen, run, steps[numbers[0]])
            for number, part in zip(numbers, denoised.chunk(len(numbers)), strict=True):
                parts[number] = part
        return torch.cat(parts)

    def evaluate_whole(
        self, apply_model: Callable, args: dict[str, Any], run: Run, step: Step
    ) -> Tensor:
        """What the model makes of a call in one window."""
        control = args["c"].get("control")
        if isinstance(control, Deferred):
            everything = Box(0, 0, step.place.width, step.place.height)
            args = {
                **args,
                "c": {
                    **args["c"],
                    "control": control.in_windows([everything], run.tiling.unit, args),
                },
            }
        run.together = 1
        denoised = self.evaluate(apply_model, args)
        _count(run, args["input"], 1)
        self.tell(_progress(run, step, 1))
        return denoised

    def _run_without_hooks(self, noisy: Tensor) -> Run:
        """For a sampler that bypasses core's hooks: windows, but nothing is preserved."""
        warn(
            "the model is called outside of core's sampling hooks, so nothing can be preserved; windows only."
        )
        everything = torch.ones(1, *noisy.shape[-2:], dtype=torch.float64)
        run = new_run(self, self.settings, self.geometry, everything, mode=Mode.FREE)
        run.sigmas = [math.inf, 0.0]
        return run

    def tell(self, words: str) -> None:
        if self.progress is not None:
            self.progress(words)

    def evaluate(self, apply_model: Callable, args: dict[str, Any]) -> Tensor:
        if self.previous is not None:
            return self.previous(apply_model, args)
        return apply_model(args["input"], args["timestep"], **args["c"])

    def evaluate_windows(
        self, apply_model: Callable, args: dict[str, Any], run: Run, step: Step
    ) -> Tensor:
        """Denoised [conds * B, C, ..., H, W]: the step's windows blended with each other and with what holds the cells."""
        noisy, conds = args["input"], len(args["cond_or_uncond"])
        if _is_one_window(step):
            return run.blended(noisy, self.evaluate_whole(apply_model, args, run, step), step)
        total = run.bound(noisy, step)
        one_row = not ONE_ROW_PATCHES.isdisjoint(
            patch_names(args["c"].get("transformer_options", {}))
        )
        todo = batch_windows(step.windows, 1 if one_row else run.batch)
        for batch, denoised in zip(
            todo, self.evaluate_batches(apply_model, args, run, step, todo), strict=True
        ):
            for number, part in zip(
                batch, unstack_windows(denoised, len(batch), conds), strict=True
            ):
                total[(..., *step.windows[number].box.slices)].addcmul_(
                    run.by_image(part), step.weights[number]
                )
        return total.flatten(0, 1)

    def evaluate_batches(
        self,
        apply_model: Callable,
        args: dict[str, Any],
        run: Run,
        step: Step,
        todo: list[list[int]],
    ) -> Iterable[Tensor]:
        """Denoised [conds * windows * B, C, ..., h, w] of each batch of windows, one after the other or on several GPUs."""

        def evaluate(apply_model: Callable, args: dict[str, Any], batch: list[int]) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            boxes = [step.windows[number].box for number in batch]
            cut = _cut(args, boxes, run)
            denoised = self.evaluate(apply_model, cut)
            _count(run, cut["input"], len(boxes))
            done.append(len(boxes))
            self.tell(_progress(run, step, sum(done)))
            return denoised

        done: list[int] = []

        run.together = max(map(len, todo), default=1)
        # A later wrapper may hand on a model function of its own: then that one is asked, on this device.
        spread = run.devices is not None and len(todo) > 1 and run.devices.know(apply_model)
        if not spread:
            return (evaluate(apply_model, args, batch) for batch in todo)
        here = args["input"].device
        moved = {device: on_device(args, device) for device in run.devices.clones}

        def on(device: torch.device, number: int) -> Tensor:
            return evaluate(
                run.devices.clones[device].model.apply_model, moved[device], todo[number]
            ).to(here)

        return run.devices.run(
            on, [_cost(run.tiling, step.windows[batch[0]].box, len(batch)) for batch in todo]
        )


def _deferred(cond: dict[str, Any], run: Run, noisy: Tensor) -> dict[str, Any]:
    """The cond as core will see it: with a stand-in for its control object. Where its area lies is noted in the run."""
    if "area" in cond:
        run.places[cond["uuid"]] = _area_box(cond["area"], noisy)
    control = cond.get("control")
    if control is None:
        return cond
    return {**cond, "control": run.stand_ins.setdefault(control, Deferring(control, run.hints))}


def _area_box(area: Sequence[Any], noisy: Tensor) -> Box:
    """Where core puts an area, given as sizes and then offsets, in cells of the canvas `noisy` [B, C, ..., H, W]."""
    ranks, dims = len(area) // 2, noisy.ndim - 2
    sizes, offsets = list(area[:ranks])[:dims], list(area[ranks:])[:dims]
    height, width = noisy.shape[-2:]
    if ranks > 2 and dims > 2 and min(sizes[0], noisy.shape[2] - offsets[0]) < noisy.shape[2]:
        raise ValueError(
            "Quadtree Diffusion takes no conditioning area over some frames of a video. Use one over all frames."
        )
    (high, wide), (y, x) = sizes[-2:], offsets[-2:]
    return Box(x, y, min(width, x + wide), min(height, y + high))


def _places(run: Run, args: dict[str, Any]) -> list[Box]:
    """Where on the canvas each cond of a call lies."""
    size, conds = tuple(args["input"].shape[-2:]), len(args["cond_or_uncond"])
    ids = args["c"].get("transformer_options", {}).get("uuids") or [None] * conds
    places = [run.places.get(one, run.canvas) for one in ids]
    if len(places) != conds or any((place.height, place.width) != size for place in places):
        raise ValueError(
            f"A model call on {size[1]} x {size[0]} cells reached Quadtree Diffusion, but this run's latent has "
            f"{run.canvas.width} x {run.canvas.height} cells. Use a sampler, and nodes, that do not change or cut the latent."
        )
    return places


def _of_conds(args: dict[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """The arguments of a model-function wrapper for some conds of a call."""
    conds, noisy = args["cond_or_uncond"], args["input"]
    entries = {**args["c"], "input": noisy, "timestep": args["timestep"]}
    c = select_conds(entries, numbers, len(conds), len(noisy))
    return {
        **args,
        "input": c.pop("input"),
        "timestep": c.pop("timestep"),
        "c": c,
        "cond_or_uncond": [conds[number] for number in numbers],
    }


def _cut(args: dict[str, Any], boxes: Sequence[Box], run: Run) -> dict[str, Any]:
    """The arguments of a model-function wrapper for a batch of windows of one shape."""
    unit, control = run.tiling.unit, args["c"].get("control")
    cut = window_args(args, boxes, unit, run.warned)
    if isinstance(control, Deferred):
        cut["c"]["control"] = control.in_windows(boxes, unit, cut)
    elif control is not None:
        cut["c"]["control"] = cut_features(
            control, Cutter(args["input"], boxes, len(args["cond_or_uncond"]), unit)
        )
    return cut


def _is_one_window(step: Step) -> bool:
    return [window.box for window in step.windows] == [
        Box(0, 0, step.place.width, step.place.height)
    ]


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


def _progress(run: Run, step: Step, done: int) -> str:
    so_far = f"{100 * run.tally.share:.0f}% of full cost so far"
    return f"step {step.index + 1}/{run.steps}, {done} of {len(step.windows)} windows, {so_far}"


def _cost(tiling: Tiling, box: Box, windows: int) -> float:
    return tiling.cost.predict_shape(box.height * box.width, count=windows, batch=windows)


def _count(run: Run, evaluated: Tensor, windows: int) -> None:
    with run.lock:
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
    return max(
        1, min(MOST_WINDOWS, int(comfy.model_management.get_free_memory(noise.device) / needed))
    )


def _shrunk(run: Run) -> bool:
    if not run.shrink():
        warn(
            "out of memory even with the smallest windows. Use a smaller tile_overlap or image, or free memory."
        )
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
        warn(
            "another node replaced the model function wrapper after Quadtree Diffusion, so it had no effect on the model."
        )
        return
    info("%d model calls on %d windows in %s", tally.calls, tally.windows, run.summary())


def _checked_sigmas(sigmas: Tensor) -> list[float]:
    values = sigmas.detach().double().cpu().tolist()
    if not all(map(math.isfinite, values)):
        raise ValueError(
            f"The sigmas of this run are not all numbers: {', '.join(f'{value:.4g}' for value in values)}. The scheduler "
            "cannot make them for this model and so few steps (kl_optimal needs two); take another scheduler, or more steps."
        )
    for here, below in pairwise(values):
        if below > here:
            raise ValueError(
                f"The sigmas of this run rise, from {here:.4g} to {below:.4g}; Quadtree Diffusion needs sigmas that fall. "
                "Do not patch the model that adds noise (unsampling), only the one that removes it."
            )
    return values


def _guided_by_attention(options: dict[str, Any]) -> bool:
    functions = options.get("sampler_post_cfg_function", ())
    return any(
        getattr(function, "__qualname__", "").startswith("SelfAttentionGuidance")
        for function in functions
    )


# What would go wrong in windows: how it is recognised in the model's options, its name, and what to do instead.
REFUSALS: tuple[tuple[Callable[[dict[str, Any]], bool], str, str], ...] = (
    (
        lambda options: (
            type(options.get("transformer_options", {}).get("easycache")).__name__
            == "EasyCacheHolder"
        ),
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
            raise ValueError(
                f"{what}, which does not work together with Quadtree Diffusion. {advice}"
            )


def attach(
    model: ModelPatcher,
    trees: Sequence[Quadtree],
    settings: Settings,
    clean_latent: Tensor | None = None,
    progress: Callable[[str], None] | None = None,
) -> ModelPatcher:
    """A clone of `model` that samples by windows and keeps what `trees` (one, or one per image of the batch) keep.

    `clean_latent` [B or 1, C, ..., H, W], as a LATENT holds it, is what is preserved; None takes the latent that is
    sampled. A model function wrapper that was set before is called for every window; an earlier Quadtree Diffusion is
    replaced. `progress` is told in words how far a run is. ValueError where the model cannot be cut.
    """
    geometry = Geometry.of(model)
    model = model.clone()
    previous = model.model_options.get("model_function_wrapper")
    if isinstance(previous, TiledDiffusion):
        info("the model has a Quadtree Diffusion already; this later one replaces it.")
        previous = previous.previous
    tiled = TiledDiffusion(trees, settings, geometry, clean_latent, previous, progress)
    model.set_model_unet_function_wrapper(tiled)
    hooks = {
        WrappersMP.OUTER_SAMPLE: tiled.outer_sample,
        WrappersMP.SAMPLER_SAMPLE: tiled.sampler_sample,
        WrappersMP.PREPARE_SAMPLING: tiled.prepare_sampling,
        WrappersMP.PREDICT_NOISE: tiled.predict_noise,
        WrappersMP.CALC_COND_BATCH: tiled.calc_cond_batch,
    }
    for kind, hook in hooks.items():
        model.remove_wrappers_with_key(kind, KEY)
        # Before all others: what is held has the last word over what a cache or another node made of it.
        model.wrappers[kind] = {KEY: [hook], **model.wrappers.get(kind, {})}
    return model
