"""Which step a model call belongs to: told by the sampler's callback, or read from sigma."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..velocity import find_step

SAME_SIGMA = 1e-3  # relative difference of two sigmas that are one, computed in different ways

# ComfyUI's samplers that call the model once a step and then their callback, which tells that the
# next step is due. For all others the step is read from sigma, which waits for the device.
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


def find_module(sampler: Any) -> str:
    """Return the module of a `comfy.samplers.KSAMPLER`'s function; empty for other samplers."""
    return getattr(getattr(sampler, "sampler_function", None), "__module__", "")


def calls_once_per_step(sampler: Any) -> bool:
    """Tell whether a `comfy.samplers.KSAMPLER` is one of ONE_CALL_PER_STEP."""
    if find_module(sampler) != "comfy.k_diffusion.sampling":
        return False
    return getattr(sampler.sampler_function, "__name__", "") in ONE_CALL_PER_STEP


def numbers_its_steps(sampler: Any) -> bool:
    """Tell whether a sampler's callback gets the number of its step.

    dpm_fast and dpm_adaptive, which core wraps in functions of `comfy.samplers`, choose steps of
    their own.
    """
    return find_module(sampler) != "comfy.samplers"


def may_stop_early(sampler: Any) -> bool:
    """Tell whether a sampler may end before its last sigma, as those of other packs may."""
    return not find_module(sampler).startswith("comfy.")


def read_sigmas(sigmas: Tensor) -> list[float]:
    """Return the sigmas of a run [steps + 1]; ValueError unless they are finite and never rise."""
    values = sigmas.detach().double().cpu().tolist()
    if not all(map(math.isfinite, values)):
        found = ", ".join(f"{value:.4g}" for value in values)
        raise ValueError(
            f"The sigmas of this run are not all numbers: {found}. The scheduler cannot make them "
            "for this model and so few steps (kl_optimal needs two); take another scheduler, or "
            "more steps."
        )
    for here, below in pairwise(values):
        if below > here:
            raise ValueError(
                f"The sigmas of this run rise, from {here:.4g} to {below:.4g}: it adds noise "
                "(unsampling), restarts, or its scheduler begins with 0. Quadtree Diffusion needs "
                "sigmas that only fall; connect the model without it to this sampler."
            )
    return values


def locate_stage(sigmas: Sequence[float], all_sigmas: Sequence[float]) -> int:
    """Return the step of a whole schedule at which a run with these sigmas begins.

    The last sigma of a stage may be 0 in place of the schedule's, where a sampler was told to end
    without noise. Raises ValueError where the sigmas are no part of the schedule.
    """
    count = len(sigmas) - 1
    for first in range(len(all_sigmas) - count):
        part = all_sigmas[first : first + count]
        pairs = zip(sigmas, part)  # noqa: B905 - the last sigma is left out
        if all(math.isclose(one, other, rel_tol=SAME_SIGMA) for one, other in pairs):
            return first
    raise ValueError(
        f"all_sigmas has {len(all_sigmas) - 1} steps from {all_sigmas[0]:.4g} to "
        f"{all_sigmas[-1]:.4g}, and the {count} steps from {sigmas[0]:.4g} of this sampler are no "
        "part of them. Give BasicScheduler the scheduler, the number of steps and the model "
        "(with its shift) of the sampler, or disconnect all_sigmas."
    )


class StepClock:
    """Tells the step that is due. It does not run before it is started with the run's sigmas."""

    def __init__(self) -> None:
        self.sigmas: list[float] = []
        self.announced: int | None = None  # the step that is due, where the sampler tells
        self.told: int | None = None  # the latest step that the sampler's callback told
        self.first_shown: float | None = None  # sigma of the first model call
        self.latest = 0  # the latest step that a model call or the sampler's callback was in

    @property
    def started(self) -> bool:
        return bool(self.sigmas)

    @property
    def steps(self) -> int:
        return max(1, len(self.sigmas) - 1)

    def start(self, sigmas: Sequence[float]) -> None:
        """Start a run with these sigmas [steps + 1]."""
        self.sigmas = list(sigmas)
        self.announced = self.told = None
        self.first_shown = None
        self.latest = 0

    @property
    def reached_last_step(self) -> bool:
        return self.latest >= self.steps - 1

    def follow(
        self, callback: Callable[..., None] | None, *, announces: bool, numbers: bool
    ) -> Callable[..., None]:
        """Return the sampler's callback, which also tells this clock where the run is.

        Where the sampler `announces` its steps, the next one is due then. Where it `numbers` them,
        model calls are in the step that it told last, or in the next.
        """
        if announces:
            self.announced = 0

        def note_step(step: int, *args: Any) -> None:
            self.latest = max(self.latest, step)
            if announces:
                self.announced = min(step + 1, self.steps - 1)
            if numbers:
                self.told = step
            if callback is not None:
                callback(step, *args)

        return note_step

    def index_at(self, sigma: Tensor) -> int:
        """Return the step of a model call at `sigma` [rows]; reads it only if no step was told."""
        if self.announced is not None:
            return self.announced
        shown = float(sigma[0])
        if self.first_shown is None:
            self.first_shown = shown
        # Wrappers of samplers show the model another sigma than that of the step, so what the
        # callback tells goes first. Before it tells anything, the sigma of the first call is that
        # of the first step, whatever it is.
        index = find_step(shown, self.sigmas)
        if self.told is not None:
            index = min(max(index, self.told), self.told + 1, self.steps - 1)
        elif shown == self.first_shown:
            index = 0
        self.latest = max(self.latest, index)
        return index
