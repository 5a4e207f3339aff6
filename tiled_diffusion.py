"""Tiled diffusion on a patched model: windows instead of the whole latent, and what is kept stays.

`attach` is the entry. It sets hooks on a clone of the model only; what a run needs lives in a
`Run`, which core's own copy of the model options carries for the length of that run and no longer.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .quadtree import FrameTrees, Quadtree
from .sampling.audio import Audio, Packing, check_cache, split_audio
from .sampling.caches import find_cache
from .sampling.conditioning import locate_area
from .sampling.contents import name_owner, reaches
from .sampling.control import defer
from .sampling.estimates import add_restoring, mark_estimate
from .sampling.evaluation import Evaluator, call_model, fit_batch, shape_calls
from .sampling.frames import (
    add_guide_frames,
    count_frames,
    find_context,
    fit_maps,
    free_empty_frames,
)
from .sampling.guides import Guides
from .sampling.history import forget_held
from .sampling.model import Geometry, Settings, is_compiled
from .sampling.parallel import TEAM, Cluster, Devices, Team
from .sampling.patches import list_attached
from .sampling.placing import WHOLE, Part, locate
from .sampling.protocols import (
    Conds,
    Executor,
    ModelCall,
    ModelFunction,
    ModelFunctionWrapper,
    Options,
    Source,
)
from .sampling.remaking import is_remade
from .sampling.rules import OBJECT_PATCHES, refuse_options
from .sampling.run import Mode, Run, are_apart, build_denoise_maps, create_run, expand_to_rank
from .sampling.steps import (
    announce,
    change_inner,
    count_calls_per_step,
    count_leading_zeros,
    describe_rise,
    is_foreign,
    numbers_its_steps,
    read_schedule,
    read_sigmas,
    runs_core,
)
from .utils import info, warn

CLEARLY_SMALLER = 0.6  # than the quadtree's image: a latent that may be a crop of it
REPORTED = "quadtree_reported"  # marks an error that was told
KEY = "quadtree_diffusion"  # names our wrappers on a model, and the Run in its transformer_options


def report_errors(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook of TiledDiffusion whose ValueErrors are also logged and shown on the node.

    Other packs swallow errors, and a run would seem to succeed that never happened.
    """

    @functools.wraps(hook)
    def wrapped(self: TiledDiffusion, *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(self, *args, **kwargs)
        except ValueError as error:
            if not hasattr(error, REPORTED):
                setattr(error, REPORTED, True)
                # As text: a log may keep what it gets, and an error holds on to the whole run.
                warn("the run ended with an error: %s", str(error))
                self.tell(f"Error: {error}")
            raise

    return wrapped


class TiledDiffusion:
    """The hooks of one patched model.

    Nothing of a run is kept here, so that samplers and threads can share it.
    """

    def __init__(
        self,
        trees: Sequence[Quadtree],
        settings: Settings,
        geometry: Geometry,
        *,
        clean_latent: Tensor | None,
        previous: ModelFunctionWrapper | None,
        progress: Callable[[str], None] | None = None,
        all_sigmas: Tensor | None = None,
        measured: Callable[[int, float], None] | None = None,
    ) -> None:
        self.trees = trees
        self.settings = settings
        self.geometry = geometry
        self.clean_latent = clean_latent
        self.previous = previous
        self.progress = progress
        self.measured = measured
        self.all_sigmas = read_schedule(all_sigmas)

    # ---- the hooks, in the order in which core calls them

    @report_errors
    def outer_sample(
        self,
        executor: Executor,
        noise: Tensor,
        latent: Tensor,
        sampler: Any,
        sigmas: Tensor,
        noise_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Open the run, and copy what no step freed from the caller's own latent (OUTER_SAMPLE)."""
        options = executor.class_obj.model_options
        inner = self._stand_before_model(options)
        model = executor.class_obj.model_patcher
        audio = self._find_audio(model, latent, noise_mask, kwargs.get("latent_shapes"))
        video, _ = split_audio(audio, latent)
        _check_latent(latent, video)
        guides = Guides.of(getattr(executor.class_obj, "conds", {}), video)
        refuse_options(
            {**options, "model_function_wrapper": inner, OBJECT_PATCHES: model.object_patches},
            video,
            guides=guides.frames,
            packed=audio is not None,
        )
        clean = self._clean_for(video)
        # A mask that a function redraws at every step (Differential Diffusion) says nothing about
        # the whole run.
        redrawn = "denoise_mask_function" in options
        geometry = self._fit_geometry(model, options, guides.block)
        values = read_sigmas(sigmas)
        if (zeros := count_leading_zeros(values)) and runs_core(sampler):
            info("the sigmas of this run begin with 0, which is left out.")
            sigmas, values = sigmas[zeros:], values[zeros:]
        rise = describe_rise(values)
        run = self.open_run(
            split_audio(audio, noise)[0],
            video,
            None if redrawn or noise_mask is None else split_audio(audio, noise_mask)[0],
            geometry,
            inner,
            rises=bool(rise),
            guides=guides.frames,
            apart=not (audio or getattr(model, "injections", None)),
        )
        run.audio, run.attached = audio, list_attached(model)
        if rise:
            run.note(f"the sigmas of this run {rise}; so nothing is preserved, windows only")
        carrier = options.setdefault("transformer_options", {})
        carrier[KEY] = run

        def follow_inner(inner: Any) -> Any:
            late = forget_held(
                inner, values, lambda: run.find_release(values, self._schedule_of(values))
            )
            return late if inner is sampler else announce(late, run.clock)

        late = change_inner(sampler, follow_inner)
        try:
            with self._share(run, options, model):
                samples = executor(noise, latent, late, sigmas, noise_mask, *args, **kwargs)
        finally:
            del carrier[KEY]
        if not run.clock.started:
            return samples
        self._close(run, len(noise))
        if not run.preserves:
            return samples
        restore = self._make_restore(run, clean)
        if run.estimate is not None:
            mark_estimate(run.estimate, restore)
        stopped_early = is_foreign(sampler) and not run.clock.reached_last_step
        if run.clock.sigmas[-1] > 0 or stopped_early:
            return samples  # what is held has the noise of the sigma that was reached
        return restore(samples)

    def prepare_sampling(
        self,
        executor: Executor,
        model: ModelPatcher,
        shape: Sequence[int],
        conds: Any,
        *args: Any,
        model_options: Options | None = None,
        **kwargs: Any,
    ) -> Any:
        """Ask for the memory of the largest batch, not of the latent (PREPARE_SAMPLING)."""
        run = _find_run(model_options or {})
        if run is not None:
            batched = shape_calls(run, shape, run.batch)
            shape = min(batched, list(shape), key=math.prod)
        # By its name, as core passes it: other wrappers look for it there.
        return executor(model, shape, conds, *args, model_options=model_options, **kwargs)

    @report_errors
    def sampler_sample(
        self,
        executor: Executor,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., None] | None,
        noise: Tensor,
        latent: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Start the run: note its sigmas and the clean latent in model space (SAMPLER_SAMPLE)."""
        run = _find_run(extra_args["model_options"])
        if run is not None:
            batch, (clean, audio) = None, split_audio(run.audio, latent)
            values = read_sigmas(sigmas)
            if self.settings.batch == 0 and run.tiling.batch > 1:
                batch = fit_batch(guider.inner_model, run, noise)
            if self.clean_latent is not None:
                clean = self._clean_for(clean).to(latent)
                clean = guider.inner_model.process_latent_in(clean)
            run.start(values, clean, batch, self._schedule_of(values))
            if run.audio is not None:
                run.audio.start(run, audio)
            sampler = executor.class_obj
            callback = run.clock.follow(
                run.watch(callback),
                calls_per_step=count_calls_per_step(sampler),
                foreign=is_foreign(sampler),
                numbers=numbers_its_steps(sampler),
            )
            sigmas = sigmas.clone()  # uni_pc writes into what it gets, which a scheduler may keep
        return executor(guider, sigmas, extra_args, callback, noise, latent, *args, **kwargs)

    def predict_noise(
        self, executor: Executor, noisy: Tensor, sigma: Tensor, model_options: Options, *args: Any
    ) -> Tensor:
        """Hold held cells once more after guidance (PREDICT_NOISE).

        Guidance may mix the whole image, as RescaleCFG does.
        """
        denoised = executor(noisy, sigma, model_options, *args)
        run = _find_run(model_options)
        if run is None:
            return denoised
        if run.audio is None:
            denoised = run.hold(denoised, sigma)
        else:
            denoised = run.audio.hold(run, denoised, sigma)
        run.clock.note_call()
        return denoised

    @report_errors
    def calc_cond_batch(
        self,
        executor: Executor,
        model: Any,
        conds: list[list[Conds] | None],
        noisy: Tensor,
        sigma: Tensor,
        model_options: Options,
    ) -> Any:
        """Note where areas lie, and defer ControlNets to the windows (CALC_COND_BATCH)."""
        run = _find_run(model_options)
        if run is None:
            return executor(model, conds, noisy, sigma, model_options)
        run.caches.begin_call()
        hooked = any(cond.get("hooks") is not None for group in conds for cond in group or ())
        run.share_with(self._find_teams(run, model_options, hooked=hooked))
        for team in run.teams:
            model_options = team.prepare(sigma, model_options)
        deferred: list[list[Conds] | None] = []
        canvas, _ = split_audio(run.audio, noisy)
        for group in conds:
            deferred.append(group and [defer(cond, run.get_proxy) for cond in group])
            for cond in group or ():
                run.masks.note(cond)
                if is_remade(cond):
                    run.memory.sources[cond["uuid"]] = Source(model, cond)
                if "area" in cond:
                    run.place_area(cond["uuid"], locate_area(cond["area"], canvas))
                run.note_references(cond)
        with run.taking(find_context(model_options, canvas)):
            return executor(model, deferred, noisy, sigma, model_options)

    @report_errors
    def __call__(self, apply_model: ModelFunction, call: ModelCall) -> Tensor:
        """Return the denoised latent [rows, C, ..., H, W] (model function wrapper)."""
        run = _find_run(call["c"])
        if run is None or not run.clock.started:
            run = self._open_run_without_hooks(call["input"])
        if run.plan.owner is not self:
            return call_model(self.previous, apply_model, call)
        evaluator = Evaluator(run, apply_model, self.tell)
        if run.audio is not None:
            return evaluator.denoise_packed(call, run.audio)
        return evaluator.denoise(call)

    # ---- what the hooks need

    def _stand_before_model(self, options: Options) -> ModelFunctionWrapper | None:
        """Make this run's options call ours; return the other node's wrapper that ours calls.

        That is the one that was set before ours, or one that was set after it and would drop it.
        """
        outermost = options.get("model_function_wrapper")
        if outermost is None or reaches(outermost, self):
            return self.previous
        info(
            "%s was set on the model after Quadtree Diffusion; it is called for every window, as "
            "if it had been set before.",
            name_owner(outermost) or "another wrapper",
        )
        options["model_function_wrapper"] = self
        return outermost

    @contextlib.contextmanager
    def _share(self, run: Run, options: Options, patcher: Any) -> Iterator[None]:
        """Let the cluster in a run's options, if there is one, take part in it."""
        cluster: Cluster | None = options.pop(TEAM, None)
        if cluster is None:
            yield
            return
        with cluster.join_run(run, patcher) as team:
            options[TEAM] = team
            try:
                yield
            finally:
                options[TEAM] = cluster

    def _find_teams(self, run: Run, model_options: Options, *, hooked: bool) -> list[Team]:
        """Return who can share the windows of a model call with these options.

        With hooks core sets the weights of each device itself.
        """
        cluster = model_options.get(TEAM)
        if hooked:
            if cluster is not None:
                cluster.note_unsendable("LoRA by hooks")
            return []
        if run.audio is not None and cluster is not None:
            cluster.note_unsendable("a video's audio")
            cluster = None
        teams = [Devices.of(model_options, run.get_hand), cluster]
        return [team for team in teams if team is not None]

    def open_run(
        self,
        noise: Tensor,
        latent: Tensor,
        noise_mask: Tensor | None,
        geometry: Geometry,
        inner: ModelFunctionWrapper | None,
        *,
        rises: bool = False,
        guides: int = 0,
        apart: bool = False,
    ) -> Run:
        """Return a run on `latent` [B, C, ..., H, W]; ValueError if it does not fit the model.

        Nothing is preserved where its noise level `rises`. `guides` are the LTXV guide frames at
        the latent's end, which are no frames of the clip. `apart` tells that nothing in the model
        may mix the images of a batch, as AnimateDiff does.
        """
        height, width = latent.shape[-2:]
        empty = latent.eq(0).all(1).flatten(-2).all(-1).cpu()  # per image, and per frame
        mode = Mode.FREE if rises else self._choose_mode(noise, empty)
        shows = mode is Mode.PRESERVE  # an empty or a noisy latent shows nothing
        parts = self._locate_images(latent, geometry.px_per_cell) if shows else []
        clip = latent[:, :, : latent.shape[2] - guides] if guides else latent
        maps = self._map_denoise(clip, geometry, parts)
        if mode is Mode.PRESERVE and self.clean_latent is None and bool(empty.any()):
            info("some images or frames are empty: nothing to preserve there, so they are free.")
            maps = free_empty_frames(maps, empty[:, : count_frames(clip)] if guides else empty)
        maps = add_guide_frames(maps, guides)
        run = create_run(
            self,
            self.settings,
            geometry,
            maps,
            frames=count_frames(latent),
            open_cells=None if noise_mask is None else (noise_mask > 0).any(1).cpu(),
            mode=mode,
            inner=inner,
            apart=apart and not guides and are_apart(self.trees, geometry),
        )
        if not parts:
            self._note_crop(run, width * geometry.px_per_cell, height * geometry.px_per_cell)
        return run

    def _close(self, run: Run, images: int) -> None:
        """Tell what a run of so many images has cost."""
        _report(run)
        self.tell(run.summarize())
        # Windows that a cache skipped are not in the tally, but they are in the price.
        if self.measured is not None and run.tally.cells and not run.tally.skipped:
            self.measured(run.tally.cells // images, time.monotonic() - run.started_s)

    def _make_restore(self, run: Run, clean: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what copies kept cells from the caller's own latent into a result of the run.

        Samplers end with rounding noise, and leaving the model's space rounds.
        """
        kept = run.kept()
        if self.clean_latent is not None:
            # Core gives what a noise mask closes back as it came in: noisy, in a second stage.
            kept = kept | ~run.plan.open

        def restore(result: Tensor) -> Tensor:
            video, audio = split_audio(run.audio, result)
            chosen = expand_to_rank(kept, video.ndim).to(video.device)
            video = torch.where(chosen, clean.to(video), video)
            if run.audio is None or audio is None:
                return video
            return run.audio.packing.join(video, run.audio.restore(run, audio))

        return restore

    def _fit_geometry(self, model: ModelPatcher, options: Options, block: int) -> Geometry:
        """Return the geometry for a run, whose windows begin on blocks of so many cells a side."""
        return replace(
            self.geometry,
            unit=math.lcm(self.geometry.unit, block),
            compiled=is_compiled(model),
            cached=find_cache(options.get("transformer_options", {})) is not None,
        )

    def _find_audio(
        self, model: ModelPatcher, latent: Tensor, noise_mask: Tensor | None, shapes: Any
    ) -> Audio | None:
        """Return the audio that is packed in a latent behind a video; None of other latents."""
        packing = Packing.of(model.model, shapes)
        if packing is None:
            check_cache(model.model, find_cache(model.model_options.get("transformer_options", {})))
            return None
        info(
            "every window hears the whole audio, which becomes the mean of what they make of it; "
            "to keep it, give it a noise mask of 0."
        )
        return Audio(packing, latent, noise_mask, noisy=self.clean_latent is not None)

    def _schedule_of(self, sigmas: Sequence[float]) -> list[float] | None:
        """Return all_sigmas; None for a run whose sigmas rise, which is no part of them."""
        return None if describe_rise(sigmas) else self.all_sigmas

    def _map_denoise(self, latent: Tensor, geometry: Geometry, parts: Sequence[Part]) -> Tensor:
        """Return the denoise of every cell, as `fit_maps` does; ValueError for another aspect."""
        height, width = latent.shape[-2:]
        if not parts or WHOLE in parts:
            for tree in self.trees:
                tree.check_fits(height, width)
        trees = [self.trees] * len(parts or [WHOLE])
        if len(trees) > 1:  # each image has a part of its own tree
            trees = [[tree] for tree, _ in zip(itertools.cycle(self.trees), parts, strict=False)]
        maps = [
            build_denoise_maps(own, self.settings, geometry, height, width, part)
            for own, part in zip(trees, parts or [WHOLE], strict=True)
        ]
        fade = self.settings.feather_px > 0
        return fit_maps(torch.cat(maps), self.trees, latent, geometry.frames_per_latent, fade=fade)

    def _locate_images(self, latent: Tensor, px_per_cell: int) -> list[Part]:
        """Return the part of the quadtree's image that each image of a latent shows.

        It is [WHOLE] where they show all of it, and empty where that cannot be told.
        """
        images = self._clean_for(latent)
        of_frames = isinstance(self.trees, FrameTrees) and len(self.trees) > 1
        if of_frames or count_frames(latent) > 1:
            return []
        parts: list[Part] = []
        images = images.squeeze(2) if images.ndim > 4 else images
        for image, tree in zip(images, itertools.cycle(self.trees), strict=False):
            width_px = px_per_cell * image.shape[-1]
            part = None if tree.luma is None else locate(image, tree.luma, width_px)
            if part is None:
                return []
            parts.append(part)
            if parts == [WHOLE]:
                return parts  # so are the others of a batch
        info("the latent shows a part of the quadtree's image; that part's tiles are used.")
        return parts

    def _note_crop(self, run: Run, width_px: int, height_px: int) -> None:
        """Warn where the latent may be a crop of the image that the tree was built from."""
        tree = self.trees[0]
        if width_px < CLEARLY_SMALLER * tree.width:
            run.note(
                f"the latent is {width_px} x {height_px} px and the quadtree's image {tree.width} "
                f"x {tree.height} px, so the tiles are made smaller; if another node samples crops "
                "of the image (UltimateSDUpscale, a detailer, a list of tiles), each crop needs a "
                "quadtree of its own"
            )

    def _open_run_without_hooks(self, noisy: Tensor) -> Run:
        """Return a run for a sampler that bypasses core's hooks: nothing is preserved."""
        if noisy.ndim < 4:
            raise _refuse_packed(noisy.shape)
        warn(
            "the model is called outside of core's sampling hooks, so nothing can be preserved; "
            "windows only."
        )
        everything = torch.ones(1, *noisy.shape[-2:], dtype=torch.float64)
        run = create_run(
            self,
            self.settings,
            self.geometry,
            everything,
            frames=count_frames(noisy),
            mode=Mode.FREE,
            inner=self.previous,
        )
        run.start([math.inf, 0.0])
        return run

    def _choose_mode(self, noise: Tensor, empty: Tensor) -> Mode:
        """Return what the quadtree means for a run, and say so if nothing is preserved.

        `empty`, bool [B] or [B, T], tells which images or frames are all zero.
        """
        if self.clean_latent is not None:
            return Mode.PRESERVE
        if bool(empty.all()):
            info(
                "the latent is empty (text to image): nothing to preserve; denoise only slows the "
                "velocity of calm regions."
            )
            return Mode.SCALE
        if not bool(noise.count_nonzero()):
            info(
                "no noise is added to this latent, so it is taken as noisy: nothing is preserved. "
                "Connect clean_latent to preserve."
            )
            return Mode.FREE
        return Mode.PRESERVE

    def _clean_for(self, latent: Tensor) -> Tensor:
        """Return what is preserved, as the caller gave it: `clean_latent`, or the latent itself."""
        clean = self.clean_latent
        if clean is None:
            return latent
        if clean.ndim == 4 and latent.ndim == 5:  # a still for a video model, as core takes it
            clean = clean.unsqueeze(2)
        if clean.shape[1:] != latent.shape[1:] or len(clean) not in (1, len(latent)):
            raise ValueError(
                f"clean_latent has shape {tuple(clean.shape)}, but the latent that is sampled has "
                f"{tuple(latent.shape)}; both must be of one size, with one clean latent, or one "
                "for each of the batch."
            )
        return clean

    def tell(self, words: str) -> None:
        """Tell the node's progress display how far the run is."""
        if self.progress is not None:
            self.progress(words)


def _find_run(options: Options) -> Run | None:
    """Return the run that is carried by the transformer_options in these options."""
    return options.get("transformer_options", {}).get(KEY)


def _refuse_packed(shape: Sequence[int]) -> ValueError:
    """Return the error for a latent without a picture, or whose picture nobody tells."""
    return ValueError(
        f"The latent that is sampled has shape {tuple(shape)} (audio, a 3D model, or several "
        "latents packed in one), where no cell has a place in a picture, so Quadtree Diffusion "
        "cannot cut it into windows. Sample it without this node. Of packed latents it takes "
        "LTX-2's video with audio, with ComfyUI's own samplers."
    )


def _check_latent(latent: Tensor, video: Tensor) -> None:
    """Raise ValueError unless a latent, and the video or image in it, can be cut into windows."""
    if video.ndim < 4:
        raise _refuse_packed(latent.shape)
    if latent.numel() == 0:
        raise ValueError(
            f"The latent that is sampled has shape {tuple(latent.shape)}; it must not be empty."
        )
    if not bool(torch.stack(latent.aminmax()).isfinite().all()):
        raise ValueError(
            "The latent that is sampled holds NaN or infinite values; encode it again, with a VAE "
            "in higher precision."
        )


def _report(run: Run) -> None:
    tally = run.tally
    if len(run.clock.sigmas) < 2:
        return  # without a step, no model is called
    if tally.canvas_cells == 0:
        run.note(
            "another node answered the model's calls in place of Quadtree Diffusion, so it had no "
            "effect on the model: nothing was saved, and the image was not cut into windows; tiles "
            "with denoise 0 were kept all the same; remove that node"
        )
        return
    info("%d model calls on %d windows in %s", tally.calls, tally.windows, run.summarize())


def attach(
    model: ModelPatcher,
    trees: Sequence[Quadtree],
    settings: Settings,
    clean_latent: Tensor | None = None,
    progress: Callable[[str], None] | None = None,
    all_sigmas: Tensor | None = None,
    measured: Callable[[int, float], None] | None = None,
) -> ModelPatcher:
    """Return a clone of `model` that samples by windows and keeps what `trees` keep.

    There is one tree, one for each image of the batch, or one for each frame of the clip in px that
    the latent was made of (`FrameTrees`). `clean_latent` [B or 1, C, ..., H, W], as
    a LATENT holds it, is what is preserved; None takes the latent that is sampled. A model function
    wrapper that was set before is called for every window; an earlier Quadtree Diffusion is
    replaced. `progress` is told in words how far a run is, and `measured` at its end the evaluated
    cells of one image (times conds) and the seconds of sampling, unless a cache skipped windows.
    `all_sigmas` [steps + 1] are those of a whole schedule, where samplers run stages of it. Raises
    ValueError where the model cannot be cut into windows.
    """
    geometry = Geometry.of(model)
    model = model.clone()
    previous = model.model_options.get("model_function_wrapper")
    if isinstance(previous, TiledDiffusion):
        info("the model has a Quadtree Diffusion already; this later one replaces it.")
        previous = previous.previous
    tiled = TiledDiffusion(
        trees,
        settings,
        geometry,
        clean_latent=clean_latent,
        previous=previous,
        progress=progress,
        all_sigmas=all_sigmas,
        measured=measured,
    )
    model.set_model_unet_function_wrapper(tiled)
    latent_format = model.get_model_object("latent_format")
    model.add_object_patch("latent_format", add_restoring(latent_format))
    hooks = {
        WrappersMP.OUTER_SAMPLE: tiled.outer_sample,
        WrappersMP.SAMPLER_SAMPLE: tiled.sampler_sample,
        WrappersMP.PREPARE_SAMPLING: tiled.prepare_sampling,
        WrappersMP.PREDICT_NOISE: tiled.predict_noise,
        WrappersMP.CALC_COND_BATCH: tiled.calc_cond_batch,
    }
    for kind, hook in hooks.items():
        model.remove_wrappers_with_key(kind, KEY)
        # Before all others: what is held has the last word over what a cache or another node made
        # of it.
        model.wrappers[kind] = {KEY: [hook], **model.wrappers.get(kind, {})}
    return model
