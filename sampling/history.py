"""Multistep samplers forget what was held: released cells follow a run of their own.

A multistep sampler makes a step from the estimates of earlier steps, too. Of a held cell these are
the clean latent, and after its release they would lead it elsewhere than a plain run that begins
there. So the cells that one step releases follow a late run: the sampler's own function, begun at
that step. At each call it runs again over the estimates that the model has given since, up to the
one that is due. That costs no model call, and little else: samplers compute cell by cell. Where
they draw noise, a late run gets what the whole run drew for its cells.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler, default_noise_sampler
from torch import Tensor

from .frames import expand_to_rank, send
from .steps import (
    calls_again,
    count_calls_per_step,
    find_begin,
    find_module,
    list_calls,
    read_sigmas,
)

NoiseSampler = Callable[[Tensor, Tensor], Tensor]  # from one sigma to the next


def _in_core(*names: str, module: str = "comfy.k_diffusion.sampling") -> list[str]:
    return [f"{module}.sample_{name}" for name in names]


# ComfyUI's samplers that remember estimates, or the first sigma of their run (heunpp2), and draw no
# noise.
MULTISTEP = frozenset(
    [
        *_in_core("unipc", "unipc_bh2", module="comfy.extra_samplers.uni_pc"),
        *_in_core("lms", "ipndm", "ipndm_v", "deis", "dpmpp_2m", "dpmpp_2m_cfg_pp", "heunpp2"),
        *_in_core("res_multistep", "res_multistep_cfg_pp"),
        *_in_core("gradient_estimation", "gradient_estimation_cfg_pp"),
    ]
)


def draw_anew(x: Tensor, _sigmas: Tensor, seed: int | None) -> NoiseSampler:
    noise_sampler: NoiseSampler = default_noise_sampler(x, seed=seed)
    return noise_sampler


def draw_from_tree(x: Tensor, sigmas: Tensor, seed: int | None, *, cpu: bool) -> NoiseSampler:
    least = sigmas[sigmas > 0].min()
    noise_sampler: NoiseSampler = BrownianTreeNoiseSampler(
        x, least, sigmas.max(), seed=seed, cpu=cpu
    )
    return noise_sampler


# Those that draw noise, too, and what makes their noise sampler of x, sigmas and seed where they
# are given none.
DRAWING: dict[str, Callable[[Tensor, Tensor, int | None], NoiseSampler]] = {
    **dict.fromkeys(
        _in_core(
            *("er_sde", "sa_solver"),
            *("res_multistep_ancestral", "res_multistep_ancestral_cfg_pp"),
        ),
        draw_anew,
    ),
    **dict.fromkeys(
        _in_core("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"),
        partial(draw_from_tree, cpu=True),
    ),
    **dict.fromkeys(
        _in_core("dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde_gpu"),
        partial(draw_from_tree, cpu=False),
    ),
}
AFTER_GUIDANCE = "sampler_post_cfg_function"  # names core's list of functions in model options


class _Estimate(NamedTuple):
    """What a model call gave; CFG++ samplers also take what it gave without the prompt."""

    denoised: Tensor
    uncond: Tensor | None

    def take(self, cells: Tensor) -> _Estimate:
        uncond = None if self.uncond is None else take(self.uncond, cells)
        return _Estimate(take(self.denoised, cells), uncond)


class _MissingEstimateError(Exception):
    """Ends a late run at the latent `noisy` whose estimate the model has not given yet."""

    def __init__(self, noisy: Tensor) -> None:
        super().__init__()
        self.noisy = noisy


class _Stand:
    """Stands in a model's place, with the attributes that it has."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class _LateRun(_Stand):
    """The model of a late run; `estimates` [C, cells] are those of its calls so far.

    `noise` [C, cells] is what was drawn since it began.
    """

    def __init__(self, model: Any, cells: Tensor, step: int, noisy: Tensor) -> None:
        super().__init__(model)
        self.cells, self.step, self.noisy = cells, step, noisy
        self.estimates: list[_Estimate] = []
        self.noise: list[Tensor] = []
        self.calls = self.draws = 0

    def draw(self, _sigma: Tensor, _sigma_next: Tensor) -> Tensor:
        """Return the noise of the next step of the late run (a NoiseSampler)."""
        self.draws += 1
        return self.noise[self.draws - 1]

    def __call__(self, noisy: Tensor, *args: Any, **options: Any) -> Tensor:
        if self.calls == len(self.estimates):
            raise _MissingEstimateError(noisy)
        denoised, uncond = self.estimates[self.calls]
        self.calls += 1
        if uncond is not None:  # the last function is the sampler's own
            tell = options["model_options"][AFTER_GUIDANCE][-1]
            tell({"denoised": denoised, "uncond_denoised": uncond})
        return denoised


class _Model(_Stand):
    """The model of the whole run; what it is given is replaced where late runs are under way.

    `run_late` runs the sampler's function on a late run; `released` are the cells by their step,
    `steps` holds the step of each call, and `sigmas` those of the run. `noise_sampler` is that of
    a sampler that draws noise.
    """

    def __init__(
        self,
        model: Any,
        run_late: Callable[..., Tensor],
        released: dict[int, Tensor],
        steps: list[int],
        sigmas: Tensor,
        *,
        without_prompt: bool,
        noise_sampler: NoiseSampler | None,
    ) -> None:
        super().__init__(model)
        self.run_late, self.released = run_late, released
        self.steps, self.sigmas = steps, sigmas
        self.without_prompt, self.noise_sampler = without_prompt, noise_sampler
        self.late: list[_LateRun] = []
        self.calls = 0
        self.first = self.denoised = sigmas  # the latent of the first call, the latest estimate

    def __call__(self, noisy: Tensor, *args: Any, **options: Any) -> Tensor:
        noisy = self.begin(self.replace(noisy))
        uncond: list[Tensor] = []
        if self.without_prompt:
            options["model_options"] = _watch_uncond(options["model_options"], uncond)
        denoised = self.model(noisy, *args, **options)
        estimate = _Estimate(denoised, uncond[0] if uncond else None)
        for late in self.late:
            late.estimates.append(estimate.take(late.cells))
        self.denoised = denoised
        self.calls += 1
        return denoised

    def draw(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Return the noise of a step, and keep it for the late runs (a NoiseSampler)."""
        assert self.noise_sampler is not None
        noise = self.noise_sampler(sigma, sigma_next)
        for late in self.late:
            late.noise.append(take(noise, late.cells))
        return noise

    def begin(self, noisy: Tensor) -> Tensor:
        """Return the latent of a call, with a late run of the cells that its step releases.

        Held cells are put where they belong, on the line from their noise to what they are held
        to: not all samplers keep to it.
        """
        if self.calls == 0:
            self.first = noisy
        step = self.steps[min(self.calls, len(self.steps) - 1)]
        if step not in self.released:
            return noisy
        cells = send(self.released.pop(step), noisy.device)
        first, clean = take(self.first, cells), take(self.denoised, cells)
        held = clean + (first - clean) * (self.sigmas[step] / self.sigmas[0])
        self.late.append(_LateRun(self.model, cells, step, held))
        return put(noisy, cells, held)

    def replace(self, noisy: Tensor) -> Tensor:
        """Return the latent [B, C, ..., H, W] with what the late runs have come to."""
        for late in self.late:
            late.calls = late.draws = 0
            try:
                found = self.run_late(late)
            except _MissingEstimateError as reached:
                found = reached.noisy
            noisy = put(noisy, late.cells, found)
        return noisy


def _watch_uncond(model_options: dict[str, Any], found: list[Tensor]) -> dict[str, Any]:
    """Return the options of a model call that adds its estimate without the prompt to `found`."""

    def note(told: dict[str, Any]) -> Tensor:
        found.append(told["uncond_denoised"])
        return told["denoised"]

    return {**model_options, AFTER_GUIDANCE: [*model_options.get(AFTER_GUIDANCE, ()), note]}


def take(latent: Tensor, cells: Tensor) -> Tensor:
    """Return cells of a latent [B, C, ..., H, W] as [C, cells]; they index [B * ... * H * W]."""
    return latent.movedim(1, 0).flatten(1)[:, cells]


def put(latent: Tensor, cells: Tensor, values: Tensor) -> Tensor:
    """Return the latent with these values in the cells; the inverse of `take`."""
    by_channel = latent.movedim(1, 0)
    changed = by_channel.flatten(1).index_copy(1, cells, values)
    return changed.view(by_channel.shape).movedim(0, 1).contiguous()


def forget_held(
    sampler: Any, all_sigmas: Sequence[float], find_release: Callable[[], Tensor]
) -> Any:
    """Return the sampler, or where it is multistep a copy that forgets what was held.

    Those are the ones of MULTISTEP and DRAWING, unless one calls the model again in a step.

    `all_sigmas` are those of the run, of which a wrapped sampler may get a part. `find_release`
    returns the step that releases each cell, [B or 1, (T or 1,) H, W]; 0 for one that is never
    held.
    """
    function = getattr(sampler, "sampler_function", None)
    name = f"{find_module(sampler)}.{getattr(function, '__name__', '')}"
    make_noise = DRAWING.get(name)
    if function is None or calls_again(sampler) or not (name in MULTISTEP or make_noise):
        return sampler
    release = find_release()
    if not release.any():
        return sampler
    calls_per_step = count_calls_per_step(sampler) or 1

    @functools.wraps(function)
    def sample(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        first = find_begin(read_sigmas(sigmas), all_sigmas)
        if first is None or len(sigmas) < 2:
            return function(model, x, sigmas, **options)
        calls = list_calls(calls_per_step, len(sigmas) - 1)
        if make_noise is not None and options.get("noise_sampler") is None:
            seed = (options.get("extra_args") or {}).get("seed")
            options["noise_sampler"] = make_noise(x, sigmas, seed)
        return _sample_late(function, model, x, sigmas, release - first, calls, options)

    forgetting = copy.copy(sampler)
    forgetting.sampler_function = sample
    return forgetting


def _sample_late(
    function: Callable[..., Tensor],
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    release: Tensor,
    calls: list[int],
    options: dict[str, Any],
) -> Tensor:
    """Call a sampler's function, with a late run of the cells that each step releases."""
    devices = [x.device] if x.device.type == "cuda" else []
    noise_sampler = options.get("noise_sampler")

    def run_late(late: _LateRun) -> Tensor:
        # Of their own, since a sampler adds to its extra_args.
        quiet = {**options, "callback": None, "disable": True}
        quiet["extra_args"] = dict(options.get("extra_args") or {})
        if noise_sampler is not None:
            quiet["noise_sampler"] = late.draw
        with torch.random.fork_rng(devices):  # some samplers draw noise that they do not use
            return function(late, late.noisy, sigmas[late.step :], **quiet)

    places = expand_to_rank(release, x.ndim).expand_as(x[:, :1]).flatten()
    released = {
        step: (places == step).nonzero()[:, 0] for step in places.unique().tolist() if step > 0
    }
    without_prompt = function.__name__.endswith("_cfg_pp")
    whole = _Model(
        model,
        run_late,
        released,
        calls,
        sigmas,
        without_prompt=without_prompt,
        noise_sampler=noise_sampler,
    )
    if noise_sampler is not None:
        options = {**options, "noise_sampler": whole.draw}
    return whole.replace(function(whole, x, sigmas, **options))
