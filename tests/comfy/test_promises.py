"""The five promises, on real tiny models: kept, unchanged in one window, a late start, no seams,
nothing left behind."""

import hashlib
import subprocess
import sys

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from quadtree_pack.sampling.conditioning import crop_call
from quadtree_pack.sampling.cropping import RunMemory
from quadtree_pack.sampling.steps import CALLS_PER_STEP
from quadtree_pack.testing.registration import ROOT
from quadtree_pack.testing.support import (
    Spy,
    error,
    families,
    free_cells,
    half_kept,
    patched,
    pointwise,
    tree_of,
)
from quadtree_pack.testing.tiny_models import ZOO, entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import KEY
from quadtree_pack.velocity import find_step
from quadtree_pack.windows.blending import METHODS, compute_shares

SAMPLERS = comfy.samplers.KSampler.SAMPLERS


SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


CROSS_SECTION = [
    "sd15",
    "sd2_v",
    "sdxl",
    "sd15_inpaint",
    "flux",
    "flux_kontext",
    "qwen_image",
]  # all: test_families.py


MAIN_FAMILIES = ["sd15", "sd2_v", "sdxl", "flux"]


STOPS_BEFORE_0 = {"dpm_fast", "dpm_adaptive"}  # core ends these two at the last sigma above 0


def check_held(entry, sampler, scheduler, latent):
    """The held region equals the input to the bit, and the sampler itself brought it there, not our
    copy."""
    tree = half_kept(*latent.shape[-2:], entry.px_per_cell)
    held = ~free_cells(tree, latent)
    spy = Spy(patched(entry, tree))
    samples = sample(entry, latent, model=spy.model, steps=3, sampler=sampler, scheduler=scheduler)
    assert torch.equal(samples[..., held], latent[..., held])
    assert not torch.equal(samples[..., ~held], latent[..., ~held]) and spy.calls > 0
    sigmas = comfy.samplers.KSampler(entry.model, 3, "cpu", sampler, scheduler).sigmas
    tolerance = 6 * float(sigmas[-2]) if sampler in STOPS_BEFORE_0 else 0.005
    clean = entry.model.model.process_latent_in(latent)
    assert (spy.samples[..., held] - clean[..., held]).abs().max() < tolerance


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_held_region_is_kept_by_every_sampler_and_scheduler(sampler, scheduler):
    entry = entry_of("flux")
    check_held(entry, sampler, scheduler, entry.latent(16, 24))


@families(["sd15", "sd2_v", "sdxl"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_held_region_is_kept_in_every_kind_of_prediction(entry, sampler):
    check_held(entry, sampler, "normal", entry.latent(16, 24))


@families(CROSS_SECTION)
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m_sde"])
def test_nothing_is_evaluated_where_all_is_held(entry, sampler):
    latent = entry.latent(24, 16)
    spy = Spy(patched(entry, tree_of([[0.0]], 24, 16, entry.px_per_cell)))
    samples = sample(entry, latent, model=spy.model, cfg=3.0, sampler=sampler, denoise=0.7)
    assert torch.equal(samples, latent) and spy.calls == 0


@families(CROSS_SECTION)
@pytest.mark.parametrize(
    ("sampler", "cfg"), [("euler", 1.0), ("dpmpp_2m", 3.0), ("euler_ancestral_cfg_pp", 3.0)]
)
def test_full_denoise_in_one_window_is_the_plain_run_to_the_bit(entry, sampler, cfg):
    latent = entry.latent()
    whole = patched(entry, tree_of([[1.0]], 32, 40, entry.px_per_cell), tile_px=0, feather_px=32)
    run = {"cfg": cfg, "sampler": sampler, "steps": 4, "denoise": 0.6}
    assert torch.equal(sample(entry, latent, model=whole, **run), sample(entry, latent, **run))


@families(MAIN_FAMILIES)
@pytest.mark.parametrize(
    ("sampler", "bound"),
    [("euler", 1e-5), ("ddim", 1e-5), ("heun", 5e-5), ("dpmpp_2m", 5e-5), ("deis", 5e-5)],
)
@pytest.mark.parametrize(("denoise", "start"), [(0.25, 6), (0.5, 4), (0.75, 2), (1.0, 0)])
def test_a_uniform_denoise_equals_a_late_start(entry, sampler, bound, denoise, start):
    latent = entry.latent()
    held = patched(entry, tree_of([[denoise]], 32, 40, entry.px_per_cell), tile_px=0)
    run = {"sampler": sampler, "steps": 8, "denoise": 0.7}
    plain = sample(entry, latent, start_step=start, **run)
    assert error(sample(entry, latent, model=held, **run), plain) < bound


@families(["sd15", "sdxl"])
def test_from_the_largest_sigma_core_s_own_noise_scaling_is_the_only_difference(entry):
    latent = entry.latent()
    held = patched(entry, tree_of([[0.5]], 32, 40, entry.px_per_cell), tile_px=0)
    assert (
        error(
            sample(entry, latent, model=held, steps=8), sample(entry, latent, steps=8, start_step=4)
        )
        < 1e-2
    )


@pytest.mark.parametrize(
    "sampler", ["heun", "dpm_2", "dpmpp_sde", "dpmpp_2s_ancestral", "dpmpp_2m"]
)
def test_samplers_that_call_between_steps_find_the_right_step(sampler):
    entry = entry_of("sd15")
    latent = entry.latent(16, 24)
    spy = Spy(patched(entry, tree_of([[0.5]], 16, 24), tile_px=0))
    sample(entry, latent, model=spy.model, sampler=sampler, steps=8)
    sigmas = comfy.samplers.KSampler(entry.model, 8, "cpu", sampler, "simple").sigmas
    assert max(spy.sigmas) == pytest.approx(float(sigmas[4]), rel=1e-4)
    assert min(spy.sigmas) <= float(sigmas[7]) * 1.0001


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_step_of_a_sampler_of_core_is_known_without_its_sigma(sampler):
    entry = entry_of("flux")
    latent = entry.latent(16, 24)
    model = patched(entry, tree_of([[0.5]], 16, 24), model=pointwise(entry.model))
    patch = model.model_options["model_function_wrapper"]
    known, read = [], []

    def look(apply_model, args):
        clock = args["c"]["transformer_options"][KEY].clock
        known.append(clock._index_by_calls())
        read.append(find_step(float(args["timestep"][0]), clock.sigmas))
        return patch(apply_model, args)

    model.set_model_unet_function_wrapper(look)
    sample(entry, latent, model=model, sampler=sampler, steps=6, cfg=3.0)
    name = comfy.samplers.sampler_object(sampler).sampler_function.__name__
    calls = CALLS_PER_STEP.get(name)
    if calls is None:
        assert set(known) == {None}
    else:
        assert known == [step for step in range(6) for _ in range(min(calls, 6 - step))]
        firsts = [known.index(step) for step in range(6)]
        assert [read[first] for first in firsts] == list(range(6))


@families(["sd15", "flux", "qwen_image"])
@pytest.mark.parametrize("method", METHODS)
def test_every_model_call_equals_a_naive_dense_reference(entry, method):
    """Evaluate each window by itself, blend in float64, then hold."""
    latent = entry.latent(48, 40, batch=2)
    trees = tree_of([[0.0, 0.6], [1.0, 0.3]], 48, 40), half_kept(48, 40)
    model = patched(entry, *trees, method=method, overlap_px=32, schedule="ramp")
    patch = model.model_options["model_function_wrapper"]
    errors = []

    def naive(apply_model, args):
        run = args["c"]["transformer_options"][KEY]
        index = find_step(float(args["timestep"][0]), run.clock.sigmas)
        layout, margin = run.layouts.lay_out(index), run.tiling.overlap * run.tiling.unit // 2
        total = torch.zeros_like(args["input"], dtype=torch.float64)
        images = layout.images or [(0, 1)] * len(layout.windows)
        for image in range(2):
            own = [one for one, some in zip(layout.windows, images, strict=True) if image in some]
            shares = compute_shares(own, (48, 40), run.plan.method, margin)
            for window, share in zip(own, shares, strict=True):
                cut = crop_call(args, [window.box], unit=1, memory=RunMemory())
                denoised = apply_model(cut["input"], cut["timestep"], **cut["c"])
                inside = (slice(image, None, 2), ..., *window.box.slices)  # rows of this image
                total[inside] += denoised[image::2].double() * share
        freedom = run.freedom(index).view(2, *[1] * (total.ndim - 3), 48, 40)
        freedom, clean = (
            part.repeat(len(total) // 2, *[1] * (part.ndim - 1))
            for part in (freedom, run.clean.double())
        )
        return clean + freedom * (total - clean)

    def both(apply_model, args):
        found = patch(apply_model, args)
        errors.append(error(found, naive(apply_model, args)))
        return found

    model.set_model_unet_function_wrapper(both)
    sample(entry, latent, model=model, steps=3, denoise=0.6, cfg=3.0)
    assert len(errors) >= 3 and max(errors) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [1, 3])
@families(["sd15", "sd15_inpaint", "flux", "flux_kontext", "qwen_image"])
def test_windows_do_not_show_on_a_pointwise_model(entry, method, batch):
    model = pointwise(entry.model)
    latent = entry.latent()
    tiled = patched(
        entry,
        tree_of([[1.0]], 32, 40),
        model=model,
        method=method,
        batch=batch,
        tile_px=128,
        overlap_px=32,
    )
    run = {"cfg": 3.0, "steps": 4, "denoise": 0.8}
    assert (
        error(sample(entry, latent, model=tiled, **run), sample(entry, latent, model=model, **run))
        < 1e-5
    )


@families(["sd15", "flux", "qwen_image"])
@pytest.mark.parametrize("method", METHODS)
def test_one_window_at_a_time_equals_batches(entry, method):
    latent = entry.latent()
    settings = {"method": method, "overlap_px": 32}
    one, many = (patched(entry, half_kept(32, 40), batch=batch, **settings) for batch in (1, 4))
    run = {"cfg": 3.0, "steps": 3, "denoise": 0.6}
    assert (
        error(sample(entry, latent, model=many, **run), sample(entry, latent, model=one, **run))
        < 1e-4
    )


PLAIN_RUN = """
import hashlib, os, sys
from pathlib import Path
from types import ModuleType
import comfy_setup
from quadtree_pack.testing.tiny_models import ZOO
from quadtree_pack.testing.tiny_models.building import sample
entry = ZOO["flux"]()
samples = sample(entry, entry.latent(), cfg=3.0, sampler="dpmpp_2m")
print(hashlib.sha256(samples.numpy().tobytes()).hexdigest())
assert "quadtree_pack.tiled_diffusion" not in sys.modules
"""


def plain_run():
    entry = ZOO["flux"]()
    return hashlib.sha256(
        sample(entry, entry.latent(), cfg=3.0, sampler="dpmpp_2m").numpy().tobytes()
    ).hexdigest()


def test_a_plain_run_is_the_same_before_after_and_in_a_process_without_the_pack():
    before = plain_run()
    entry = entry_of("flux")
    sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40)), cfg=3.0)
    script = PLAIN_RUN.replace("import comfy_setup", SETUP)
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert before == plain_run() == elsewhere.stdout.split()[-1]


SETUP = f"""
package = ModuleType("quadtree_pack")
package.__path__ = [{str(ROOT)!r}]
sys.modules["quadtree_pack"] = package
from quadtree_pack.testing.registration import register_comfyui
register_comfyui("--cpu")
import torch
torch.set_num_threads(1)
"""


@families(MAIN_FAMILIES)
def test_the_caller_s_model_gets_no_hook_and_the_clone_keeps_nothing_of_a_run(entry):
    model = patched(entry, half_kept(32, 40, entry.px_per_cell))
    sample(entry, entry.latent(), model=model, steps=2)
    assert "model_function_wrapper" not in entry.model.model_options
    assert not any(KEY in named for named in entry.model.wrappers.values())
    assert KEY not in model.model_options["transformer_options"]


def test_a_plain_run_afterwards_has_the_model_s_own_latent_format():
    entry = entry_of("flux")
    own = entry.model.get_model_object("latent_format")
    sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40)), steps=1)
    sample(entry, entry.latent(), steps=1)
    assert entry.model.model.latent_format is own


def test_two_runs_of_one_patched_model_do_not_know_of_each_other():
    entry = entry_of("flux")
    model = patched(entry, half_kept(32, 40))
    first, second = entry.latent(seed=1), entry.latent(seed=2)
    sample(entry, first, model=model)
    again = sample(entry, second, model=model)
    assert torch.equal(again, sample(entry, second, model=patched(entry, half_kept(32, 40))))


def test_an_interrupt_in_the_middle_leaves_the_next_run_clean():
    entry = entry_of("flux")
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40))
    expected = sample(entry, latent, model=model)

    def stop(step, *_):
        if step == 2:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(entry, latent, model=model, callback=stop)
    assert torch.equal(sample(entry, latent, model=model), expected)


def test_a_run_that_stops_early_hands_over_held_regions_at_its_noise_level():
    entry = entry_of("flux")
    latent = entry.latent()
    tree = half_kept(32, 40)
    held = ~free_cells(tree, latent)
    sigmas = comfy.samplers.KSampler(entry.model, 8, "cpu", "euler", "simple").sigmas
    noise = comfy.sample.prepare_noise(latent, 42)
    stopped = sample(entry, latent, model=patched(entry, tree), steps=8, last_step=5)
    sampling, space = entry.model.get_model_object("model_sampling"), entry.model.model
    noisy = sampling.noise_scaling(sigmas[5], noise, space.process_latent_in(latent))
    expected = space.process_latent_out(sampling.inverse_noise_scaling(sigmas[5], noisy))
    assert error(stopped[..., held], expected[..., held]) < 1e-5

    # The second stage gets a noisy latent and no noise: the clean latent must be handed in.
    silence = torch.zeros_like(noise)
    second = patched(entry, tree, clean_latent=latent)
    finished = sample(
        entry, stopped, model=second, steps=8, start_step=5, noise=silence, disable_noise=True
    )
    assert torch.equal(finished[..., held], latent[..., held])
    in_one = sample(entry, latent, model=patched(entry, tree), steps=8)
    first_five = sample(entry, latent, model=patched(entry, tree), steps=8, last_step=5)
    assert torch.equal(first_five, stopped) and torch.equal(in_one[..., held], finished[..., held])
