"""Tiled diffusion on a patched model: windows instead of the whole latent, and what is kept stays.

`attach` is the entry. It sets hooks on a clone of the model only; what a run needs lives in a
`Run`, which core's own copy of the model options carries for the length of that run and no longer.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .quadtree import Quadtree
from .sampling.audio import split_audio
from .sampling.conditioning import locate_area
from .sampling.contents import name_owner, reaches
from .sampling.control import defer
from .sampling.estimates import add_restoring, mark_estimate
from .sampling.evaluation import Evaluator, call_model
from .sampling.fitting import fit_batch, shape_calls
from .sampling.frames import (
    expand_to_rank,
    find_context,
)
from .sampling.history import forget_held
from .sampling.model import Geometry, Settings
from .sampling.opening import Inputs, SamplerCall, open_run, open_run_without_hooks
from .sampling.parallel import TEAM, Cluster, Devices, Team
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
from .sampling.rules import refuse_network
from .sampling.run import Run
from .sampling.steps import (
    announce,
    change_inner,
    count_calls_per_step,
    count_leading_zeros,
    find_replacement,
    is_foreign,
    numbers_its_steps,
    read_schedule,
    read_sigmas,
    runs_core,
)
from .utils import info, warn

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
        inputs: Inputs,
        *,
        previous: ModelFunctionWrapper | None,
        progress: Callable[[str], None] | None = None,
        measured: Callable[[int, float], None] | None = None,
    ) -> None:
        self.inputs = inputs
        self.previous = previous
        self.progress = progress
        self.measured = measured

    def __deepcopy__(self, memo: dict[int, object]) -> TiledDiffusion:
        """Return the patch itself: who deep-copies model options still calls the run's owner."""
        return self

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
        options, model = executor.class_obj.model_options, executor.class_obj.model_patcher
        values = read_sigmas(sigmas)
        if (zeros := count_leading_zeros(values)) and runs_core(sampler):
            info("the sigmas of this run begin with 0, which is left out.")
            sigmas, values = sigmas[zeros:], values[zeros:]
        run = self.open_run(
            SamplerCall(
                guider=executor.class_obj,
                noise=noise,
                latent=latent,
                noise_mask=noise_mask,
                evaluates_closed=bool(find_replacement(sampler)),
                shapes=kwargs.get("latent_shapes"),
                sigmas=values,
            )
        )
        followed = self._follow(sampler, run, values)
        carrier = options.setdefault("transformer_options", {})
        carrier[KEY] = run
        try:
            with self._share(run, options, model):
                samples = executor(noise, latent, followed, sigmas, noise_mask, *args, **kwargs)
        finally:
            del carrier[KEY]
        return self._close(run, sampler, samples, latent)

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
            refuse_network(guider.inner_model.diffusion_model)
            batch, (clean, audio) = None, split_audio(run.audio, latent)
            values = read_sigmas(sigmas)
            if self.inputs.settings.batch == 0 and run.tiling.batch > 1:
                batch = fit_batch(guider.inner_model, run, noise)
            if self.inputs.clean_latent is not None:
                clean = self.inputs.clean_for(clean).to(latent)
                clean = guider.inner_model.process_latent_in(clean)
            run.start(values, clean, batch, self.inputs.schedule_of(values))
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
    ) -> Tensor | tuple[Tensor, ...]:
        """Hold held cells once more after guidance (PREDICT_NOISE).

        Guidance may mix the whole image, as RescaleCFG does.
        """
        denoised = executor(noisy, sigma, model_options, *args)
        run = _find_run(model_options)
        if run is None:
            return denoised
        # Of several scales of guidance where LanPaint samples.
        estimates = denoised if isinstance(denoised, tuple) else (denoised,)
        held = tuple(self._hold(run, estimate, sigma) for estimate in estimates)
        run.clock.note_call()
        return held if isinstance(denoised, tuple) else held[0]

    def _hold(self, run: Run, denoised: Tensor, sigma: Tensor) -> Tensor:
        if run.audio is None:
            return run.hold(denoised, sigma)
        return run.audio.hold(run, denoised, sigma)

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
            run = open_run_without_hooks(self, self.inputs, call["input"], self.previous)
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

    def open_run(self, call: SamplerCall) -> Run:
        """Return the run of a sampler's call, whose options call this node from here on."""
        inner = self._stand_before_model(call.guider.model_options)
        return open_run(self, self.inputs, call, inner)

    def _follow(self, sampler: Any, run: Run, sigmas: Sequence[float]) -> Any:
        """Return the sampler with all that a run needs to know of it, and it of the run."""

        def find_release() -> Tensor:
            return run.find_release(sigmas, self.inputs.schedule_of(sigmas))

        def follow_inner(inner: Any) -> Any:
            late = forget_held(inner, sigmas, find_release)
            return late if inner is sampler else announce(late, run.clock)

        return change_inner(sampler, follow_inner)

    def _close(self, run: Run, sampler: Any, samples: Tensor, latent: Tensor) -> Tensor:
        """Tell what a run has cost; return its result, with what it kept from the caller's."""
        if not run.clock.started:
            return samples
        self._tell_cost(run, len(samples))
        if not run.preserves:
            return samples
        restore = self._make_restore(run, latent)
        if run.estimate is not None:
            mark_estimate(run.estimate, restore)
        stopped_early = is_foreign(sampler) and not run.clock.reached_last_step
        if run.clock.sigmas[-1] > 0 or stopped_early:
            return samples  # what is held has the noise of the sigma that was reached
        return restore(samples)

    def _tell_cost(self, run: Run, images: int) -> None:
        """Tell what a run of so many images has cost."""
        _report(run)
        self.tell(run.summarize())
        # Windows that a cache skipped are not in the tally, but they are in the price.
        if self.measured is not None and run.tally.cells and not run.tally.skipped:
            self.measured(run.tally.cells // images, time.monotonic() - run.started_s)

    def _make_restore(self, run: Run, latent: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what copies kept cells from the caller's own latent into a result of the run.

        Samplers end with rounding noise, and leaving the model's space rounds.
        """
        clean = self.inputs.clean_for(split_audio(run.audio, latent)[0])
        kept = run.kept()
        if self.inputs.clean_latent is not None and run.closed is not None:
            # Core gives what a noise mask closes back as it came in: noisy, in a second stage.
            kept = kept | run.closed

        def restore(result: Tensor) -> Tensor:
            video, audio = split_audio(run.audio, result)
            chosen = expand_to_rank(kept, video.ndim).to(video.device)
            video = torch.where(chosen, clean.to(video), video)
            if run.audio is None or audio is None:
                return video
            return run.audio.packing.join(video, run.audio.restore(run, audio))

        return restore

    def tell(self, words: str) -> None:
        """Tell the node's progress display how far the run is."""
        if self.progress is not None:
            self.progress(words)


def _find_run(options: Options) -> Run | None:
    """Return the run that is carried by the transformer_options in these options."""
    return options.get("transformer_options", {}).get(KEY)


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
    inputs = Inputs(
        trees=trees,
        settings=settings,
        geometry=geometry,
        clean_latent=clean_latent,
        all_sigmas=read_schedule(all_sigmas),
    )
    tiled = TiledDiffusion(inputs, previous=previous, progress=progress, measured=measured)
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
