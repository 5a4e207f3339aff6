"""A sampler's step is the sampler's: a tile is released at it, whatever wraps sampler or model.

The model is local, so that every tile of one run equals a plain run of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from comfy.k_diffusion.sampling import sample_dpmpp_2m, sample_euler, sample_heun
from comfy.patcher_extension import WrappersMP
from quadtree_pack.testing.local_models import local
from quadtree_pack.testing.support import SIDE, error, patched, tree_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.velocity import count_free_steps, hold

STEPS = 20
DENOISE = [[0.0, 0.05, 0.1, 0.2, 0.3, 0.33, 0.35, 0.4], [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0]]
SIZE = len(DENOISE) * SIDE, len(DENOISE[0]) * SIDE
PLACES = {denoise: (y, x) for y, row in enumerate(DENOISE) for x, denoise in enumerate(row)}
COMPARED = 0.05, 0.3, 0.5, 0.8  # with a plain run each
KSAMPLER = comfy.samplers.KSAMPLER


# --- Samplers of other packs ----------------------------------------------------------------------


def wrap(change: Callable[[float], float], inner: Any = sample_euler, *, tells: bool = True) -> Any:
    """Return a sampler whose model sees another sigma, as Detail Daemon and lying sigmas do.

    `inner` is a sampler, or the function of one.
    """

    def sample_lying(model, x, sigmas, *, wrapped, callback=None, **options):
        def show(noisy, sigma, **extra):
            return model(noisy, torch.full_like(sigma, change(float(sigma[0]))), **extra)

        show.inner_model = model.inner_model  # which some samplers ask for
        callback = callback if tells else None
        options |= wrapped.extra_options
        return wrapped.sampler_function(show, x, sigmas, callback=callback, **options)

    wrapped = inner if isinstance(inner, KSAMPLER) else KSAMPLER(inner)
    return KSAMPLER(sample_lying, {"wrapped": wrapped})


def hide(sampler: Any) -> Any:
    """Return the sampler within a function that does not show what it wraps."""

    def sample_hidden(model, x, sigmas, **options):
        return sampler.sampler_function(model, x, sigmas, **options, **sampler.extra_options)

    return KSAMPLER(sample_hidden)


def chain(*samplers: Any, ends: tuple[int, ...] = (10,), numbers: str = "anew") -> Any:
    """Return a sampler that runs others one after the other; each but the last to one of `ends`.

    It numbers the steps of each anew or on, or tells nothing of all but the first. An end is that
    of a run of STEPS.
    """

    def sample_chain(model, x, sigmas, *, samplers, callback=None, **options):
        cuts = [0, *(end * (len(sigmas) - 1) // STEPS for end in ends), len(sigmas) - 1]
        for sampler, (first, last) in zip(samplers, pairwise(cuts), strict=True):

            def tell(info, first=first):
                shift = {"anew": 0, "on": first}.get(numbers)
                if shift is not None or first == 0:
                    callback({**info, "i": info["i"] + (shift or 0)})

            part = sigmas[first : last + 1]
            options |= sampler.extra_options
            x = sampler.sampler_function(model, x, part, callback=tell, **options)
        return x

    return KSAMPLER(sample_chain, {"samplers": samplers})


def euler_loop(
    *, tells: bool = True, steps: int | None = None, restart: tuple | None = None
) -> Any:
    """Return another pack's own euler, which may stop after some steps, or restart once.

    `restart` is (step, earlier step, how the steps after it are numbered).
    """

    def sample_own(model, x, sigmas, extra_args=None, callback=None, disable=None):
        order = list(range(len(sigmas) - 1))[:steps]
        if restart is not None:
            order[restart[0] : restart[0]] = range(restart[1], restart[0])
        previous = -1
        for number, step in enumerate(order):
            if step <= previous:
                x = x + (sigmas[step] - sigmas[previous + 1]) * torch.ones_like(x)
            denoised = model(x, sigmas[step] * x.new_ones(len(x)), **(extra_args or {}))
            if tells:
                told = number if restart is not None and restart[2] == "on" else step
                callback({"x": x, "i": told, "denoised": denoised})
            x = denoised + (x - denoised) / sigmas[step] * sigmas[step + 1]
            previous = step
        return x

    return KSAMPLER(sample_own)


def midpoint_loop(change: Callable[[float], float]) -> Any:
    """Return another pack's sampler of two calls per step that tells its steps at their end."""

    def sample_midpoint(model, x, sigmas, extra_args=None, callback=None, disable=None):
        def estimate(x, sigma):
            return model(x, change(float(sigma)) * x.new_ones(len(x)), **(extra_args or {}))

        for step in range(len(sigmas) - 1):
            here, below = sigmas[step], sigmas[step + 1]
            denoised, middle = estimate(x, here), (here + below) / 2
            inner = denoised + (x - denoised) / here * middle
            denoised = estimate(inner, middle)
            x = x + (inner - denoised) / middle * (below - here)
            callback({"x": x, "i": step, "denoised": denoised})
        return x

    return KSAMPLER(sample_midpoint)


def daemon(strongest: float) -> Callable[[float], float]:
    """Return what multiplies sigma in the middle of the run."""
    return lambda sigma: sigma * (strongest if 0.25 < sigma < 0.75 else 1.0)


def add(offset: float) -> Callable[[float], float]:
    """Return what adds to sigma, as lying sigmas do."""
    return lambda sigma: abs(sigma + offset)


def multiply(factor: float) -> Callable[[float], float]:
    return lambda sigma: sigma * factor


# --- Nodes before ours that change the timestep ---------------------------------------------------


def shift_calls(model: Any) -> Any:
    """Set a model function wrapper, as nodes before ours do."""
    model = model.clone()
    model.set_model_unet_function_wrapper(
        lambda apply_model, args: apply_model(args["input"], args["timestep"] * 0.7, **args["c"])
    )
    return model


def shift_by(kind: str) -> Callable[[Any], Any]:
    """Return what sets a wrapper of this kind, whose second argument is the timestep."""

    def shift(executor, noisy, timestep, *args, **kwargs):
        return executor(noisy, timestep * 0.7, *args, **kwargs)

    def set_wrapper(model: Any) -> Any:
        model = model.clone()
        model.add_wrapper_with_key(kind, "shift", shift)
        return model

    return set_wrapper


# --- The cases ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """A sampler, the step that each of its model calls is in, and what else is unusual.

    `calls`: so often a step, at most as often as there are steps left; or as listed.
    `remembers`: what was before the release still counts after it, be it noise, earlier steps or
    the first sigma, so that no plain run is comparable.
    """

    sampler: Any
    calls: str | list[int] = "once"
    before: Callable[[Any], Any] = lambda model: model
    sigmas: Callable[[torch.Tensor], torch.Tensor] = lambda sigmas: sigmas
    remembers: bool = False

    def list_calls(self, steps: int) -> list[int]:
        if isinstance(self.calls, list):
            return self.calls
        return [step for step in range(steps) for _ in range(min(OFTEN[self.calls], steps - step))]


EULER, HEUN, HEUNPP2, DPM_2, ANCESTRAL = map(
    comfy.samplers.sampler_object, ["euler", "heun", "heunpp2", "dpm_2", "euler_ancestral"]
)
OFTEN = {"once": 1, "twice": 2, "three times": 3}
RESTARTED = [*range(8), *range(3, STEPS)]
EACH_TWICE = sorted([*range(STEPS), *range(STEPS)])
CASES = {
    "euler": Case(sampler=EULER),
    "heun": Case(sampler=HEUN, calls="twice"),
    "dpm_2": Case(sampler=DPM_2, calls="twice"),
    "heunpp2": Case(sampler=HEUNPP2, calls="three times"),
    "euler_ancestral": Case(sampler=ANCESTRAL, remembers=True),
    "half in the middle": Case(sampler=wrap(daemon(0.5))),
    "higher in the middle": Case(sampler=wrap(daemon(1.1))),
    "double in the middle": Case(sampler=wrap(daemon(2.0))),
    "double in the middle, hidden": Case(sampler=hide(wrap(daemon(2.0)))),
    "double in the middle, heun": Case(
        sampler=wrap(daemon(2.0), sample_heun), calls="twice", remembers=True
    ),
    "times 0.5": Case(sampler=wrap(multiply(0.5))),
    "times 0.8": Case(sampler=wrap(multiply(0.8))),
    "times 1.05": Case(sampler=wrap(multiply(1.05))),
    "lower": Case(sampler=wrap(add(-0.05))),
    "higher": Case(sampler=wrap(add(0.05))),
    "higher, hidden": Case(sampler=hide(wrap(add(0.05)))),
    "higher, heun": Case(sampler=wrap(add(0.05), sample_heun), calls="twice"),
    "lower, tells nothing": Case(sampler=wrap(add(-0.05), tells=False)),
    "higher, tells nothing": Case(sampler=wrap(add(0.05), tells=False)),
    "times 1.05, tells nothing": Case(sampler=wrap(multiply(1.05), tells=False)),
    "own loop": Case(sampler=euler_loop()),
    "own loop, tells nothing": Case(sampler=euler_loop(tells=False)),
    "told at the end of two calls": Case(sampler=midpoint_loop(add(0)), calls=EACH_TWICE),
    "told at the end of two calls, higher": Case(
        sampler=midpoint_loop(add(0.05)), calls=EACH_TWICE
    ),
    "restart": Case(sampler=euler_loop(restart=(8, 3, "back")), calls=RESTARTED, remembers=True),
    "restart, numbered on": Case(
        sampler=euler_loop(restart=(8, 3, "on")), calls=RESTARTED, remembers=True
    ),
    "restart, tells nothing": Case(
        sampler=euler_loop(restart=(8, 3, "back"), tells=False), calls=RESTARTED, remembers=True
    ),
    "stops early": Case(sampler=euler_loop(steps=15), calls=list(range(15))),
    "apply model": Case(sampler=EULER, before=shift_by(WrappersMP.APPLY_MODEL)),
    "diffusion model": Case(sampler=EULER, before=shift_by(WrappersMP.DIFFUSION_MODEL)),
    "model function": Case(sampler=EULER, before=shift_calls),
    "multiplied sigmas": Case(sampler=EULER, sigmas=lambda sigmas: sigmas * 0.9),
    "a first sigma twice": Case(
        sampler=EULER, sigmas=lambda sigmas: torch.cat([sigmas[:1], sigmas])
    ),
}
# Multistep samplers, which remember the estimates of earlier steps.
MULTISTEP = [
    "lms",
    "ipndm",
    "ipndm_v",
    "deis",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "res_multistep",
    "res_multistep_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "uni_pc",
    "uni_pc_bh2",
]
CASES |= {name: Case(sampler=comfy.samplers.sampler_object(name)) for name in MULTISTEP}
# Those that draw noise, too. A plain run from a later step is comparable where it draws the same.
DRAWING = [
    *("er_sde", "sa_solver", "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp"),
    *("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"),
    *("dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde_gpu"),
]


def draw_by_sigma(sigma: torch.Tensor, _sigma_next: torch.Tensor) -> torch.Tensor:
    """Return the noise of a step, the same whenever a run began."""
    generator = torch.Generator().manual_seed(int(1e6 * sigma))
    return torch.randn(given()[1].shape, generator=generator)


def drawing(name: str, **options: Any) -> Any:
    return comfy.samplers.ksampler(name, {"noise_sampler": draw_by_sigma, **options})


CASES |= {f"{name}, noise by sigma": Case(sampler=drawing(name)) for name in DRAWING}
CASES["dpmpp_2m_sde, eta 0"] = Case(sampler=comfy.samplers.ksampler("dpmpp_2m_sde", {"eta": 0.0}))
CASES["dpmpp_3m_sde, lower"] = Case(sampler=wrap(add(-0.05), drawing("dpmpp_3m_sde")))
CASES["sa_solver, twice a step"] = Case(
    sampler=comfy.samplers.ksampler("sa_solver", {"use_pece": True}),
    calls=sorted([*range(STEPS), *range(1, STEPS)]),
    remembers=True,
)
CASES |= {
    f"{name}, {how}": Case(
        sampler=wrap(change, comfy.samplers.sampler_object(name).sampler_function), calls=calls
    )
    for name, calls in {
        "dpmpp_2m": "once",
        "res_multistep_cfg_pp": "once",
        "deis": "once",
        "heunpp2": "three times",
    }.items()
    for how, change in {"lower": add(-0.05), "higher in the middle": daemon(1.1)}.items()
}
CASES["dpmpp_2m, in two wrappers"] = Case(
    sampler=wrap(add(0.05), wrap(daemon(1.1), sample_dpmpp_2m))
)
# Samplers that run others one after the other.
CASES |= {
    "a chain": Case(sampler=chain(EULER, EULER)),
    "a chain, numbered on": Case(sampler=chain(EULER, EULER, numbers="on")),
    "a chain, then told nothing": Case(sampler=chain(EULER, EULER, numbers="first")),
    "a chain, hidden": Case(sampler=hide(chain(EULER, EULER))),
    "a chain of one step each": Case(sampler=chain(*[EULER] * STEPS, ends=tuple(range(1, STEPS)))),
    "a chain, lower": Case(sampler=wrap(add(-0.05), chain(EULER, EULER))),
    "a chain of wrappers": Case(sampler=chain(wrap(add(0.05)), wrap(daemon(2.0))), remembers=True),
    "heun, then euler": Case(
        sampler=chain(HEUN, EULER), calls=sorted([*range(10), *range(STEPS)]), remembers=True
    ),
    "euler, then heun": Case(
        sampler=chain(EULER, HEUN),
        calls=sorted([*range(STEPS), *range(10, STEPS - 1)]),
        remembers=True,
    ),
    "dpmpp_2m, then deis": Case(
        sampler=chain(*map(comfy.samplers.sampler_object, ["dpmpp_2m", "deis"])), remembers=True
    ),
    "uni_pc, then lms": Case(
        sampler=chain(*map(comfy.samplers.sampler_object, ["uni_pc", "lms"])), remembers=True
    ),
}
KNOWN_FROM_THE_START = [name for name in CASES if isinstance(CASES[name].calls, str)]
KNOWN_FROM_THE_START.remove("double in the middle, hidden")  # its second call could be a midpoint


# --- The property ---------------------------------------------------------------------------------


@cache
def given() -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Return the model, the latent and its noise."""
    entry = local("flux")
    latent = entry.latent(*SIZE)
    return entry, latent, comfy.sample.prepare_noise(latent, 0)


def sigmas_of(steps: int) -> torch.Tensor:
    """Return sigmas from below sigma_max, where no model scales noise in its own way."""
    model = given()[0].model
    return comfy.samplers.KSampler(model, steps, "cpu", "euler", "simple", denoise=0.7).sigmas


def run(
    model: Any, sampler: Any, sigmas: torch.Tensor, noisy: torch.Tensor | None = None
) -> torch.Tensor:
    """Sample as SamplerCustom does, on the latent, or without adding noise on a noisy one."""
    entry, latent, noise = given()
    if noisy is not None:
        latent, noise = noisy, torch.zeros_like(noise)
    chosen = 1.0, sampler, sigmas, entry.positive, entry.negative, latent
    return comfy.sample.sample_custom(model, noise, *chosen, disable_pbar=True, seed=3)


def tile(row: int, column: int) -> tuple[Any, ...]:
    return ..., slice(row * SIDE, (row + 1) * SIDE), slice(column * SIDE, (column + 1) * SIDE)


def run_watched(
    case: Case, sigmas: torch.Tensor, noisy: torch.Tensor | None = None
) -> tuple[torch.Tensor, list]:
    """Return the samples, and for each model call which tiles were held [rows][columns]."""
    entry, latent, _ = given()
    clean = entry.model.model.process_latent_in(latent)
    before, tree = case.before(entry.model), tree_of(DENOISE, *SIZE)
    model = patched(entry, tree, model=before, clean_latent=None if noisy is None else latent)
    calls = []

    def look(executor, *args):
        denoised = executor(*args)
        same = (denoised == clean).all(1, keepdim=True).float()
        calls.append(F.avg_pool2d(same, SIDE)[0, 0] == 1)
        return denoised

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "watch", look)
    return run(model, case.sampler, sigmas, noisy), calls


def check_releases(case: Case, sigmas: torch.Tensor, calls: list) -> None:
    steps = len(sigmas) - 1
    expected = case.list_calls(steps)
    assert len(calls) == len(expected)
    for number, (step, held) in enumerate(zip(expected, calls, strict=True)):
        due = hold(torch.tensor(DENOISE), step, steps) == 0
        assert torch.equal(held, due), f"call {number}, in step {step}"


@pytest.mark.parametrize("name", CASES)
def test_a_tile_is_released_at_the_sampler_s_own_step(name):
    case = CASES[name]
    sigmas = case.sigmas(sigmas_of(STEPS))
    _, calls = run_watched(case, sigmas)
    check_releases(case, sigmas, calls)


@pytest.mark.parametrize("name", KNOWN_FROM_THE_START)
def test_with_few_steps_a_tile_is_released_at_the_sampler_s_own_step(name):
    case = CASES[name]
    sigmas = case.sigmas(sigmas_of(4))
    _, calls = run_watched(case, sigmas)
    check_releases(case, sigmas, calls)


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].remembers])
def test_a_released_tile_is_what_a_plain_run_from_that_step_makes(name):
    case = CASES[name]
    entry, latent, _ = given()
    sigmas = case.sigmas(sigmas_of(STEPS))
    steps = len(sigmas) - 1
    samples, _ = run_watched(case, sigmas)
    late = {}
    for denoise in COMPARED:
        place = PLACES[denoise]
        free = float(count_free_steps(torch.tensor(denoise), steps))
        if free % 1 or max(case.list_calls(steps)) < steps - 1:
            continue  # a partly free step, or an end in noise, has no plain run to compare with
        plain = run(case.before(entry.model), case.sampler, sigmas[steps - int(free) :])
        late[denoise] = error((samples - latent)[tile(*place)], (plain - latent)[tile(*place)])
    assert all(difference < 1e-4 for difference in late.values()), late


@pytest.mark.parametrize("sampler", DRAWING)
def test_a_tile_that_is_free_from_the_start_gets_the_noise_of_a_plain_run(sampler):
    entry, latent, noise = given()
    model = patched(entry, tree_of([[0.5, 1.0]], *SIZE))
    options = {"steps": 6, "sampler": sampler, "denoise": 0.7, "noise": noise}
    samples, plain = (sample(entry, latent, model=each, **options) for each in (model, entry.model))
    for column in range(1, SIZE[1] // SIDE, 2):
        place = tile(0, column)
        assert error((samples - latent)[place], (plain - latent)[place]) < 1e-4


@pytest.mark.parametrize("second", ["deis", "heunpp2", "res_multistep_cfg_pp"])
def test_in_a_chain_a_tile_is_what_the_sampler_that_releases_it_makes_alone(second):
    entry, latent, _ = given()
    sigmas = sigmas_of(STEPS)
    second = comfy.samplers.sampler_object(second)
    first = comfy.samplers.sampler_object("dpmpp_2m")
    samples, _ = run_watched(Case(sampler=chain(first, second)), sigmas)
    for denoise in (0.05, 0.3, 0.5):
        plain = run(entry.model, second, sigmas[STEPS - round(denoise * STEPS) :])
        place = tile(*PLACES[denoise])
        assert error((samples - latent)[place], (plain - latent)[place]) < 1e-4


@pytest.mark.parametrize("family", ["flux", "qwen_image", "sd15"])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "deis", "heunpp2", "res_multistep_cfg_pp"])
def test_each_image_of_a_batch_forgets_what_was_held_at_its_own_release(family, sampler):
    entry = local(family)
    latent = entry.latent(16, 24, batch=2)
    noise = comfy.sample.prepare_noise(latent, 0)
    denoises = 0.75, 0.25
    trees = [tree_of([[denoise]], 16, 24) for denoise in denoises]
    options = {"steps": 8, "sampler": sampler, "denoise": 0.7, "noise": noise}
    samples = sample(entry, latent, model=patched(entry, *trees), **options)
    for number, denoise in enumerate(denoises):
        plain = sample(entry, latent, start_step=8 - int(8 * denoise), **options)
        assert error((samples - latent)[number], (plain - latent)[number]) < 1e-4


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "lms", "heun", "heunpp2", "dpmpp_2m_cfg_pp"])
def test_a_multistep_run_that_frees_all_or_nothing_is_left_as_it_is(sampler):
    entry, latent, noise = given()
    options = {"steps": 6, "sampler": sampler, "denoise": 0.7, "noise": noise}
    for denoise in (0.0, 1.0):
        model = patched(entry, tree_of([[denoise]], *SIZE), tile_px=0)
        expected = sample(entry, latent, **options) if denoise else latent
        assert torch.equal(sample(entry, latent, model=model, **options), expected)


def test_each_stage_of_a_chain_counts_its_own_steps():
    entry, latent, _ = given()
    sigmas = sigmas_of(STEPS)
    first, calls = run_watched(CASES["euler"], sigmas[:11])
    check_releases(CASES["euler"], sigmas[:11], calls)
    second, calls = run_watched(CASES["euler"], sigmas[10:], first)
    check_releases(CASES["euler"], sigmas[10:], calls)
    kept, free = tile(*PLACES[0.0]), tile(*PLACES[1.0])
    assert torch.equal(second[kept], latent[kept])
    plain = run(entry.model, EULER, sigmas)
    assert error((second - latent)[free], (plain - latent)[free]) < 1e-4
