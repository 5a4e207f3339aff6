"""Which step a model call belongs to: told by the sampler's callback, or read from sigma."""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..utils import name_module
from ..velocity import find_step

# How often ComfyUI's samplers call the model in a step, their callback after the first call. It is
# at most as often as there are steps left: the last step of heun has one call, and heunpp2 has two
# in the one before. For all others the step is read from sigma, which waits for the device.
CALLS_PER_STEP = {
    f"sample_{name}": calls
    for calls, names in {
        1: [
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
            "dpmpp_2m_sde_heun",
            "dpmpp_2m_sde_heun_gpu",
            "dpmpp_3m_sde",
            "dpmpp_3m_sde_gpu",
            "res_multistep",
            "res_multistep_cfg_pp",
            "res_multistep_ancestral",
            "res_multistep_ancestral_cfg_pp",
            "gradient_estimation",
            "gradient_estimation_cfg_pp",
            "sa_solver",
        ],
        2: [
            "heun",
            "exp_heun_2_x0",
            "exp_heun_2_x0_sde",
            "dpm_2",
            "dpm_2_ancestral",
            "dpmpp_2s_ancestral",
            "dpmpp_2s_ancestral_cfg_pp",
            "dpmpp_sde",
            "dpmpp_sde_gpu",
            "seeds_2",
        ],
        3: ["heunpp2"],
    }.items()
    for name in names
}
# In the modules of packs whose sampling code stands in the place of ComfyUI's while they sample.
# LanPaint calls the model several times in a step, and needs its estimate of what a noise mask
# closes.
SAMPLING_ANEW = ("lanpaint",)
SAME_SIGMA = 1e-4  # relative difference of two sigmas that are taken for the same


def find_module(sampler: Any) -> str:
    """Return the module of a `comfy.samplers.KSAMPLER`'s function; empty for other samplers.

    Where other code stands in the place of its `sample`, it is the module of that.
    """
    function = getattr(sampler, "sampler_function", None)
    return find_replacement(sampler) or getattr(function, "__module__", "")


def find_replacement(sampler: Any) -> str:
    """Return the module of what one of SAMPLING_ANEW put in the place of `KSAMPLER.sample`, or "".

    Others call ComfyUI's own from there (smZNodes).
    """
    module = name_module(getattr(type(sampler), "sample", None))
    return module if any(word in module.lower() for word in SAMPLING_ANEW) else ""


def unwrap(sampler: Any) -> Any:
    """Return the sampler that a wrapper holds in its options, as Detail Daemon's does."""
    options = getattr(sampler, "extra_options", {}).values() if is_foreign(sampler) else ()
    wrapped = [option for option in options if hasattr(option, "sampler_function")]
    return unwrap(wrapped[0]) if len(wrapped) == 1 else sampler


def runs_core(sampler: Any) -> bool:
    """Tell whether a sampler is one of ComfyUI's, or wraps one."""
    return not is_foreign(unwrap(sampler))


def change_inner(sampler: Any, change: Callable[[Any], Any]) -> Any:
    """Return what `change` makes of a sampler; a wrapper is copied around what it makes of its own.

    A sampler of another pack wraps those that it holds in its options, itself or in a list.
    """
    options = getattr(sampler, "extra_options", {}) if is_foreign(sampler) else {}
    changed = {name: _change_option(option, change) for name, option in options.items()}
    if all(changed[name] is option for name, option in options.items()):
        return change(sampler)
    outer = copy.copy(sampler)
    outer.extra_options = changed
    return outer


def _change_option(option: Any, change: Callable[[Any], Any]) -> Any:
    if type(option) in (list, tuple):
        changed = type(option)(_change_option(part, change) for part in option)
        same = all(map(operator.is_, changed, option))
        return option if same else changed
    return change_inner(option, change) if hasattr(option, "sampler_function") else option


def count_calls_per_step(sampler: Any) -> int | None:
    """Return CALLS_PER_STEP of a `comfy.samplers.KSAMPLER`, or of the one that it wraps."""
    inner = unwrap(sampler)
    if find_module(inner) != "comfy.k_diffusion.sampling" or calls_again(inner):
        return None
    return CALLS_PER_STEP.get(getattr(inner.sampler_function, "__name__", ""))


def calls_again(sampler: Any) -> bool:
    """Tell whether a `comfy.samplers.KSAMPLER` is sa_solver set to evaluate what it corrected.

    That is a second call in all steps but the first.
    """
    return bool(getattr(sampler, "extra_options", {}).get("use_pece"))


def list_calls(calls_per_step: int, steps: int) -> list[int]:
    """Return the step of each model call of a run.

    The last steps have fewer calls: at most as many as there are steps left.
    """
    return [step for step in range(steps) for _ in range(min(calls_per_step, steps - step))]


def numbers_its_steps(sampler: Any) -> bool:
    """Tell whether a sampler's callback gets the number of its step.

    dpm_fast and dpm_adaptive, which core wraps in functions of `comfy.samplers`, choose steps of
    their own.
    """
    return find_module(unwrap(sampler)) != "comfy.samplers"


def is_foreign(sampler: Any) -> bool:
    """Tell whether a sampler is another pack's.

    It may end before its last sigma, and show the model another sigma than that of its step.
    """
    return not find_module(sampler).startswith("comfy.")


def read_sigmas(sigmas: Tensor) -> list[float]:
    """Return the sigmas of a run [steps + 1]; ValueError unless they are finite."""
    values = sigmas.detach().double().cpu().tolist()
    if not all(map(math.isfinite, values)):
        found = ", ".join(f"{value:.4g}" for value in values)
        raise ValueError(
            f"The sigmas of this run are not all numbers: {found}. The scheduler cannot make them "
            "for this model and so few steps (kl_optimal needs two); take another scheduler, or "
            "more steps."
        )
    return values


def count_leading_zeros(sigmas: Sequence[float]) -> int:
    """Return how many sigmas of 0 are before those of a run; 0 where all of them are 0.

    A sampler of ComfyUI divides by the sigma of a step, so a step from 0 gives no numbers.
    """
    for number, sigma in enumerate(sigmas):
        if sigma > 0:
            return number
    return 0


def describe_rise(sigmas: Sequence[float]) -> str:
    """Say where sigmas rise, and what that may mean; "" where they only fall.

    A run that adds noise again has no step from which a cell is free to the end.
    """
    for here, after in pairwise(sigmas):
        if after > here:
            return (
                f"rise, from {here:.4g} to {after:.4g}: it adds noise (unsampling), restarts, has "
                "a multiplied range, or its scheduler begins with 0"
            )
    return ""


def read_schedule(all_sigmas: Tensor | None) -> list[float] | None:
    """Return `read_sigmas` of a whole schedule; ValueError where it rises."""
    if all_sigmas is None:
        return None
    values = read_sigmas(all_sigmas)
    if rise := describe_rise(values):
        raise ValueError(
            f"The sigmas of all_sigmas {rise}. Give it a schedule that only falls, or disconnect "
            "all_sigmas."
        )
    return values


def place_stage(sigmas: Sequence[float], all_sigmas: Sequence[float] | None) -> tuple[int, int]:
    """Return the step at which a run with these sigmas begins, and the steps of the schedule.

    `all_sigmas` are those of the schedule that the run is a stage of; None: it is the whole of it.
    A run that goes to 0 from the last sigma but two is the end of a schedule of one step less: for
    dpm_2, uni_pc and some others KSampler makes a step more and leaves out the sigma before 0.
    """
    if all_sigmas is None:
        return 0, max(1, len(sigmas) - 1)
    first, steps = locate_stage(sigmas, all_sigmas), len(all_sigmas) - 1
    leaves_one_out = sigmas[-1] == 0 and first + len(sigmas) - 1 == steps - 1
    return first, steps - leaves_one_out


def locate_stage(sigmas: Sequence[float], all_sigmas: Sequence[float]) -> int:
    """Return the step of a whole schedule at which a run with these sigmas begins.

    Raises ValueError where the sigmas are no part of the schedule.
    """
    first = find_part(sigmas, all_sigmas)
    if first is None:
        raise ValueError(
            f"all_sigmas has {len(all_sigmas) - 1} steps from {all_sigmas[0]:.4g} to "
            f"{all_sigmas[-1]:.4g}, and the {len(sigmas) - 1} steps from {sigmas[0]:.4g} of this "
            "sampler are no part of them. Give BasicScheduler the scheduler, the number of steps "
            "and the model (with its shift) of the sampler, or disconnect all_sigmas. For dpm_2 "
            "and uni_pc KSampler takes sigmas that no scheduler gives: use SamplerCustomAdvanced "
            "with SplitSigmas there."
        )
    return first


def find_part(sigmas: Sequence[float], all_sigmas: Sequence[float]) -> int | None:
    """Return the step of `all_sigmas` at which these sigmas begin; None where they are no part.

    The last sigma of a part may be 0 in place of the schedule's, where a sampler was told to end
    without noise.
    """
    count = len(sigmas) - 1
    for first in range(len(all_sigmas) - count):
        part = all_sigmas[first : first + count]
        if all(map(_is_same, sigmas[:count], part)):
            return first
    return None


def find_begin(part: Sequence[float], sigmas: Sequence[float]) -> int | None:
    """Return the step of a run at which a sampler begins that gets these of its sigmas.

    As many as the run has are the whole run, whatever they are: a wrapper may have changed them.
    None where fewer are no part of it.
    """
    return 0 if len(part) == len(sigmas) else find_part(part, sigmas)


class StepClock:
    """Tells the step that is due. It does not run before it is started with the run's sigmas.

    What the sampler itself tells goes first, since wrappers of samplers show the model another
    sigma than that of the step: its callback numbers the step, and the calls since then show
    whether the next one has begun. Sigma decides where the sampler tells nothing, or where its
    steps differ in their number of calls.
    """

    def __init__(self) -> None:
        self.start([])

    @property
    def started(self) -> bool:
        return bool(self.sigmas)

    @property
    def steps(self) -> int:
        return max(1, len(self.sigmas) - 1)

    def start(self, sigmas: Sequence[float]) -> None:
        """Start a run with these sigmas [steps + 1]."""
        self.sigmas = list(sigmas)
        self.latest = 0  # the latest step that a model call or the sampler's callback was in
        self.told: int | None = None  # the step that the sampler's callback told last
        self.calls = 0  # that ended since then
        self.all_calls = 0  # that ended since the start
        self.calls_per_step: int | None = None  # from one callback to the next, where known
        self.calls_ahead = 1  # of the first step, before its callback
        self.is_foreign = False
        self.knows_calls = False  # whether calls_per_step is known from the start
        self.first, self.last = 0, self.steps - 1  # of the part that is run: see `enter`
        self.shift = 0  # from the callback's numbers to those of the run's steps
        self.is_shorter = True  # whether its last steps have fewer calls
        self.is_numbered = False  # whether the callback gets the number of the step
        self.is_regular = True  # whether all steps have the same number of calls
        self.restarted_at: int | None = None  # the step that the call before the callback is in
        self.first_shown = math.nan  # sigma of the first model call
        self.shown = math.inf  # sigma of the latest
        self.times_lowered = -1  # how often it was lower than that of the call before

    @property
    def reached_last_step(self) -> bool:
        return self.latest >= self.steps - 1

    def follow(
        self,
        callback: Callable[..., None] | None,
        *,
        calls_per_step: int | None,
        foreign: bool,
        numbers: bool,
    ) -> Callable[..., None]:
        """Return the sampler's callback, which also tells this clock where the run is.

        Where the sampler `numbers` its steps, model calls are in the step that it told last, or in
        the next; `calls_per_step` tells which of them. Of a `foreign` sampler it may become known
        when two steps were told.
        """
        self.calls_per_step, self.is_foreign, self.is_numbered = calls_per_step, foreign, numbers
        self.knows_calls = calls_per_step is not None
        self.is_regular = foreign or self.knows_calls

        def note_step(step: int, *args: Any) -> None:
            if self.told is None and step == self.first:  # it counts the steps of the whole run
                self.shift = 0
            if self.is_numbered:
                self._note_told(self.shift + step)
            self.latest = max(self.latest, self.shift + step)
            if callback is not None:
                callback(step, *args)

        return note_step

    def enter(self, part: Sequence[float], *, calls_per_step: int | None, numbers: bool) -> None:
        """Note that a sampler which another one wraps begins to run these sigmas.

        Its callback numbers the steps of this part, unless the wrapper numbers them as those of
        the whole run. See `follow` for the other arguments.
        """
        first = find_begin(part, self.sigmas)
        if first is None:
            return
        self.first, self.last, self.shift = first, first + len(part) - 2, first
        # heunpp2 has fewer calls at the end of its sigmas, the others only where that is 0.
        self.is_shorter = part[-1] == 0 or calls_per_step == 3
        self.told, self.calls, self.restarted_at = None, 0, None
        self.calls_per_step, self.knows_calls = calls_per_step, calls_per_step is not None
        self.is_regular, self.is_numbered = True, numbers

    def list_calls(self) -> list[int]:
        """Return the step of each model call of the run, as far as the sampler's kind tells."""
        return list_calls(self.calls_per_step or 1, self.steps)

    def note_call(self) -> None:
        """Note that a model call of the sampler has ended."""
        self.calls += 1
        self.all_calls += 1

    def _note_told(self, step: int) -> None:
        if self.told is not None and step < self.told and self.restarted_at is None:
            # It begins to count anew: another sampler within it goes on with the steps.
            self.shift += self.told + 1 - step
            step = self.told + 1
        if self.told is None:
            self.calls_ahead = self.calls
        elif self.calls_per_step is None:
            self.calls_per_step = self.calls
        elif self.calls != self.calls_per_step:
            self.is_regular = False
        self.told, self.calls = step, 0
        if self.restarted_at not in (None, step):  # it numbers more steps than the run has
            self.told, self.is_numbered = None, False
        self.restarted_at = None

    def index_at(self, sigma: Tensor) -> int:
        """Return the step of a model call at `sigma` [rows]; reads it only where it must."""
        index = self._index_by_calls()
        if self.is_foreign or index is None:
            index = self._check_sigma(float(sigma[0]), index)
        self.latest = max(self.latest, index)
        return index

    def _index_by_calls(self) -> int | None:
        if not (self.is_regular and self.is_numbered) or self.calls_per_step is None:
            return None
        if self.told is None:  # in the first step, unless nothing is told at all
            return self.first if self.calls < self.calls_per_step else None
        rest = self.calls_per_step - self.calls_ahead  # that follow the callback
        if self.knows_calls and self.is_shorter:
            rest = min(rest, self.last - self.told)
        begun = (self.calls - rest) // self.calls_per_step + 1  # steps that nothing was told of
        return min(self.told + max(0, begun), self.steps - 1)

    def _check_sigma(self, shown: float, by_calls: int | None) -> int:
        """Return the step of a model call that was shown this sigma, and `by_calls` is in."""
        if math.isnan(self.first_shown):
            self.first_shown = shown
        is_higher, is_lower = shown > self.shown, shown < self.shown
        self.shown = shown
        self.times_lowered += is_lower
        if self.told is not None and is_higher:
            self.restarted_at = self._find_restart(shown, self.told)
        if self.restarted_at is not None:
            return self.restarted_at
        return self._index_by_sigma(shown) if by_calls is None else by_calls

    def _find_restart(self, shown: float, told: int) -> int | None:
        """Return the step that a sampler goes back to, if that is what a higher sigma means."""
        for step in range(told + 1):
            if _is_same(shown, self.sigmas[step]):
                return step
        return None

    def _index_by_sigma(self, shown: float) -> int:
        """Return the step of a model call that was shown this sigma.

        The first call is in the first step, whatever it is shown.
        """
        if self.told is not None:
            above = max(0.0, self.first_shown - self.sigmas[0])
            index = find_step(shown - above, self.sigmas)
            return min(max(index, self.told), self.told + 1, self.steps - 1)
        if self.first > 0 and self.calls == 0:
            return self.first
        if not _is_same(self.first_shown, self.sigmas[0]):
            # It shows sigmas of its own and tells nothing: a lower one is taken for a new step.
            return min(self.times_lowered, self.steps - 1)
        return 0 if shown == self.first_shown else find_step(shown, self.sigmas)


def announce(sampler: Any, clock: StepClock) -> Any:
    """Return a copy of a sampler that another one wraps; it tells a run's clock when it begins."""
    function = sampler.sampler_function
    calls_per_step, numbers = count_calls_per_step(sampler), numbers_its_steps(sampler)

    @functools.wraps(function)
    def sample(model: Any, x: Tensor, sigmas: Tensor, *args: Any, **options: Any) -> Tensor:
        clock.enter(read_sigmas(sigmas), calls_per_step=calls_per_step, numbers=numbers)
        return function(model, x, sigmas, *args, **options)

    announcing = copy.copy(sampler)
    announcing.sampler_function = sample
    return announcing


def _is_same(sigma: float, other: float) -> bool:
    return math.isclose(sigma, other, rel_tol=SAME_SIGMA)
