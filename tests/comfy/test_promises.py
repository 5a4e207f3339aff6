"""The promises, on ComfyUI's own samplers, schedulers and model code with tiny real architectures."""

import hashlib
import logging
import subprocess
import sys

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from quadtree_pack.sampling.conditioning import window_args
from quadtree_pack.sampling.model import Geometry, Settings
from quadtree_pack.sampling.run import estimate
from quadtree_pack.testing.registration import ROOT
from quadtree_pack.testing.support import (
    SIDE,
    Spy,
    error,
    free_cells,
    half_kept,
    patched,
    pointwise,
    tree_of,
)
from quadtree_pack.testing.tiny_models import ZOO, entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import KEY, ONE_CALL_PER_STEP, attach
from quadtree_pack.velocity import step_of
from quadtree_pack.windows.blending import METHODS, shares

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


@pytest.fixture
def entry(request):
    return entry_of(request.param)


def families(names):
    return pytest.mark.parametrize("entry", names, indirect=True)


# ---- promise 1: what has denoise 0 stays as it is, and costs nothing


def check_held(entry, sampler, scheduler, latent):
    """The held region equals the input to the bit, and the sampler itself brought it there, not our copy."""
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


# ---- promise 2: one window, denoise 1: nothing is different


@families(CROSS_SECTION)
@pytest.mark.parametrize(
    ("sampler", "cfg"), [("euler", 1.0), ("dpmpp_2m", 3.0), ("euler_ancestral_cfg_pp", 3.0)]
)
def test_full_denoise_in_one_window_is_the_plain_run_to_the_bit(entry, sampler, cfg):
    latent = entry.latent()
    whole = patched(entry, tree_of([[1.0]], 32, 40, entry.px_per_cell), tile_px=0, feather_px=32)
    run = {"cfg": cfg, "sampler": sampler, "steps": 4, "denoise": 0.6}
    assert torch.equal(sample(entry, latent, model=whole, **run), sample(entry, latent, **run))


# ---- promise 3: denoise d is what the sampler's own denoise would have been


@families(MAIN_FAMILIES)
@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize(("denoise", "start"), [(0.25, 6), (0.5, 4), (0.75, 2), (1.0, 0)])
def test_a_uniform_denoise_equals_a_late_start(entry, sampler, denoise, start):
    latent = entry.latent()
    held = patched(entry, tree_of([[denoise]], 32, 40, entry.px_per_cell), tile_px=0)
    run = {"sampler": sampler, "steps": 8, "denoise": 0.7}
    assert (
        error(
            sample(entry, latent, model=held, **run), sample(entry, latent, start_step=start, **run)
        )
        < 1e-5
    )


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
def test_a_sampler_that_announces_its_steps_announces_what_sigma_says(sampler):
    entry = entry_of("flux")
    latent = entry.latent(16, 24)
    model = patched(entry, tree_of([[0.5]], 16, 24), model=pointwise(entry.model))
    patch = model.model_options["model_function_wrapper"]
    announced = []

    def look(apply_model, args):
        run = args["c"]["transformer_options"][KEY]
        if run.announced is not None:
            announced.append((run.announced, step_of(float(args["timestep"][0]), run.sigmas)))
        return patch(apply_model, args)

    model.set_model_unet_function_wrapper(look)
    sample(entry, latent, model=model, sampler=sampler, steps=6, cfg=3.0)
    assert all(told == read for told, read in announced)
    name = comfy.samplers.sampler_object(sampler).sampler_function.__name__
    assert len(announced) == (6 if name in ONE_CALL_PER_STEP else 0)


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
        index = step_of(float(args["timestep"][0]), run.sigmas)
        windows, margin = run.windows(index), run.tiling.overlap * run.tiling.unit // 2
        total = torch.zeros_like(args["input"], dtype=torch.float64)
        for window, share in zip(
            windows, shares(windows, (48, 40), run.method, margin), strict=True
        ):
            cut = window_args(args, [window.box], 1, set())
            denoised = apply_model(cut["input"], cut["timestep"], **cut["c"])
            total[(..., *window.box.slices)] += denoised.double() * share
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


# ---- promise 4: no seams


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


# ---- promise 5: nothing outside the clone changes

PLAIN_RUN = """
import hashlib, os, sys
from pathlib import Path
from types import ModuleType
import comfy_setup
from quadtree_pack.testing.tiny_models import ZOO
from quadtree_pack.testing.tiny_models.building import sample
entry = ZOO["flux"]()
print(hashlib.sha256(sample(entry, entry.latent(), cfg=3.0, sampler="dpmpp_2m").numpy().tobytes()).hexdigest())
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


# ---- what else a run may bring


def test_each_image_of_a_batch_follows_its_own_tree():
    entry = entry_of("flux")
    latent = entry.latent(batch=2)
    trees = half_kept(32, 40), tree_of([[1.0, 0.0], [0.0, 1.0]], 32, 40)
    samples = sample(entry, latent, model=patched(entry, *trees), cfg=3.0)
    for row, tree in enumerate(trees):
        held = ~free_cells(tree, latent)
        assert torch.equal(samples[row][:, held], latent[row][:, held])
        assert (samples[row][:, ~held] != latent[row][:, ~held]).any(0).float().mean() > 0.99


@families(["sd15", "sdxl", "flux"])
@pytest.mark.parametrize("method", METHODS)
def test_odd_latents_are_kept_and_refined(entry, method):
    latent = entry.latent(50, 67)
    tree = half_kept(50, 67, entry.px_per_cell)
    held = ~free_cells(tree, latent)
    tiled = patched(entry, tree, method=method, tile_px=256, overlap_px=64)
    samples = sample(entry, latent, model=tiled, steps=2, cfg=3.0, denoise=0.6)
    assert torch.equal(samples[..., held], latent[..., held])
    assert (samples != latent)[..., ~held].float().mean() > 0.99 and samples.isfinite().all()


def test_a_noise_mask_saves_the_windows_it_masks_out():
    entry = entry_of("flux")
    latent = entry.latent()
    mask = torch.zeros(1, 1, 32, 40)
    mask[..., :16] = 1
    everything = tree_of([[1.0]], 32, 40)
    spy = Spy(entry.model)
    model = pointwise(spy.model)
    tiled = patched(entry, everything, model=model, method="MultiDiffusion", tile_px=64)
    plain = sample(entry, latent, model=model, noise_mask=mask)
    spy.shapes = []
    sample(entry, latent, model=tiled)
    whole_cells, spy.shapes = spy.cells, []
    assert error(sample(entry, latent, model=tiled, noise_mask=mask), plain) < 1e-5
    assert 0 < spy.cells <= 0.5 * whole_cells


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


def test_without_added_noise_nothing_is_taken_for_clean(caplog):
    entry = entry_of("flux")
    latent = entry.latent()
    noise = torch.zeros_like(latent)
    model = pointwise(entry.model)
    tiled = patched(entry, half_kept(32, 40), model=model)
    with caplog.at_level(logging.INFO):
        samples = sample(entry, latent, model=tiled, noise=noise, start_step=2)
    assert error(samples, sample(entry, latent, model=model, noise=noise, start_step=2)) < 1e-5
    assert "clean_latent" in caplog.text


def test_text_to_image_scales_the_velocity_and_says_so(caplog):
    entry = entry_of("flux")
    empty = torch.zeros(1, 16, 32, 40)
    full = sample(entry, empty, model=patched(entry, tree_of([[1.0]], 32, 40), tile_px=0))
    assert torch.equal(full, sample(entry, empty))
    with caplog.at_level(logging.INFO):
        calm = sample(entry, empty, model=patched(entry, half_kept(32, 40), tile_px=0))
    assert "text to image" in caplog.text and not torch.equal(calm, full) and calm.isfinite().all()


def test_a_custom_sampler_runs_as_the_ksampler_does():
    from comfy_extras.nodes_custom_sampler import (
        BasicGuider,
        Noise_RandomNoise,
        SamplerCustomAdvanced,
    )

    entry = entry_of("flux")
    latent = entry.latent()
    tree = half_kept(32, 40)
    model = patched(entry, tree)
    guider = BasicGuider.execute(model, entry.positive).args[0]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 6)
    sampler = comfy.samplers.sampler_object("euler")
    output = SamplerCustomAdvanced.execute(
        Noise_RandomNoise(42), guider, sampler, sigmas, {"samples": latent}
    )
    assert torch.equal(output.args[0]["samples"], sample(entry, latent, model=model))


def test_a_wrapper_that_was_set_before_is_called_for_every_window():
    entry = entry_of("flux")
    seen = []
    earlier = entry.model.clone()
    earlier.set_model_unet_function_wrapper(
        lambda apply_model, args: (
            seen.append(args["input"].shape)
            or apply_model(args["input"], args["timestep"], **args["c"])
        )
    )
    latent = entry.latent()
    spy = Spy(patched(entry, half_kept(32, 40), model=earlier))
    samples = sample(entry, latent, model=spy.model)
    assert seen == spy.shapes and len(seen) > 6
    assert torch.equal(samples, sample(entry, latent, model=patched(entry, half_kept(32, 40))))


def test_of_two_nodes_in_a_row_the_later_one_wins(caplog):
    entry = entry_of("flux")
    latent = entry.latent()
    once = patched(entry, half_kept(32, 40))
    with caplog.at_level(logging.INFO):
        twice = patched(entry, half_kept(32, 40), model=patched(entry, tree_of([[0.0]], 32, 40)))
    assert "replaces" in caplog.text
    assert torch.equal(sample(entry, latent, model=twice), sample(entry, latent, model=once))


def test_the_report_counts_what_reached_the_model(caplog):
    entry = entry_of("flux")
    latent = entry.latent()
    spy = Spy(patched(entry, half_kept(32, 40)))
    with caplog.at_level(logging.INFO):
        sample(entry, latent, model=spy.model, cfg=3.0, steps=5)
    share = 100 * spy.cells / (5 * 2 * 32 * 40)
    windows = sum(shape[0] for shape in spy.shapes) // 2
    assert (
        f"{spy.calls} model calls on {windows} windows in 5 steps, {share:.1f}% of the full model cost"
        in caplog.text
    )


def test_memory_is_asked_for_windows_not_for_the_whole_latent():
    entry = entry_of("flux")
    asked = []
    model = patched(entry, half_kept(32, 40), tile_px=64, batch=2)
    model.add_wrapper_with_key(
        WrappersMP.PREPARE_SAMPLING,
        "spy",
        lambda executor, model, shape, *args, **kwargs: (
            asked.append(shape) or executor(model, shape, *args, **kwargs)
        ),
    )
    sample(entry, entry.latent(), model=model, steps=1)
    assert asked == [[2, 16, SIDE, SIDE]]


# ---- other nodes


def rescale_cfg(model):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, 0.7)[0]


def lazy_cache(model):
    from comfy_extras.nodes_easycache import LazyCacheNode

    return LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("node", [rescale_cfg, lazy_cache])
def test_guidance_and_caches_that_mix_the_image_do_not_move_what_is_held(node, order):
    entry = entry_of("sd15")
    latent = entry.latent()
    tree = tree_of([[0.0, 0.5], [0.5, 0.0]], 32, 40)
    held = ~free_cells(tree, latent)
    model = (
        patched(entry, tree, model=node(entry.model))
        if order == "before"
        else node(patched(entry, tree))
    )
    spy = Spy(model)
    sample(entry, latent, model=spy.model, steps=8, cfg=5.0, denoise=0.7)
    clean = entry.model.model.process_latent_in(latent)
    assert (spy.samples[..., held] - clean[..., held]).abs().max() < 1e-5


def test_differential_diffusion_and_the_tree_both_hold():
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    entry = entry_of("flux")
    latent = entry.latent()
    mask = torch.ones(1, 1, 32, 40)
    mask[..., :20] = 0.5
    model = pointwise(entry.model)
    differential = DifferentialDiffusion.execute(model).args[0]
    both = DifferentialDiffusion.execute(
        patched(entry, tree_of([[1.0]], 32, 40), model=model)
    ).args[0]
    run = {"noise_mask": mask, "denoise": 0.8}
    assert (
        error(
            sample(entry, latent, model=both, **run),
            sample(entry, latent, model=differential, **run),
        )
        < 1e-5
    )


def test_a_wrapper_set_afterwards_that_drops_ours_is_reported(caplog):
    entry = entry_of("flux")
    model = patched(entry, half_kept(32, 40))
    model.set_model_unet_function_wrapper(
        lambda apply_model, args: apply_model(args["input"], args["timestep"], **args["c"])
    )
    with caplog.at_level(logging.WARNING):
        sample(entry, entry.latent(), model=model, steps=2)
    assert "had no effect" in caplog.text


def test_a_chaining_wrapper_between_two_of_our_nodes_leaves_the_later_one_in_charge():
    entry = entry_of("flux")
    latent = entry.latent()
    inner = patched(entry, tree_of([[0.0]], 32, 40))
    ours = inner.model_options["model_function_wrapper"]
    inner.set_model_unet_function_wrapper(lambda apply_model, args: ours(apply_model, args))
    chained = patched(entry, half_kept(32, 40), model=inner)
    assert torch.equal(
        sample(entry, latent, model=chained),
        sample(entry, latent, model=patched(entry, half_kept(32, 40))),
    )


def test_a_call_outside_of_core_s_hooks_runs_in_windows_and_says_so(caplog):
    entry = entry_of("flux")
    model = pointwise(entry.model)
    tiled = patched(entry, half_kept(32, 40), model=model)
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE):
        tiled.remove_wrappers_with_key(kind, KEY)
    latent = entry.latent()
    with caplog.at_level(logging.WARNING):
        samples = sample(entry, latent, model=tiled, steps=2)
    assert "outside of core's sampling hooks" in caplog.text
    assert error(samples, sample(entry, latent, model=model, steps=2)) < 1e-5


def test_an_interrupt_is_honoured_between_the_windows_of_one_step():
    entry = entry_of("flux")
    seen = []

    def interrupting(apply_model, args):
        seen.append(1)
        comfy.model_management.interrupt_current_processing()
        return args[
            "input"
        ]  # core looks for an interrupt inside the model, which is not entered here

    model = entry.model.clone()
    model.set_model_unet_function_wrapper(interrupting)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40), model=model, batch=1))
    assert len(seen) == 1


def test_what_a_window_s_model_call_writes_into_its_options_does_not_reach_the_next():
    entry = entry_of("flux")
    found = []

    def writing(apply_model, args):
        found.append(args["c"]["transformer_options"].get("scribble"))
        args["c"]["transformer_options"]["scribble"] = 1
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = entry.model.clone()
    model.set_model_unet_function_wrapper(writing)
    sample(
        entry,
        entry.latent(),
        model=patched(entry, half_kept(32, 40), model=model, batch=1),
        steps=2,
    )
    assert len(found) > 2 and set(found) == {None}


# ---- what the settings do


@pytest.mark.parametrize("schedule", ["ramp", "constant"])
def test_the_schedule_reaches_the_run(schedule):
    entry = entry_of("flux")
    latent = entry.latent()
    tree = tree_of([[0.5, 0.0]], 32, 40)
    held = ~free_cells(tree, latent)
    runs = {
        name: sample(entry, latent, model=patched(entry, tree, schedule=name))
        for name in ("hold", schedule)
    }
    assert torch.equal(runs[schedule][..., held], latent[..., held])
    assert not torch.allclose(runs["hold"][..., ~held], runs[schedule][..., ~held])


def test_a_constant_half_is_the_lerp_at_every_step():
    entry = entry_of("flux")
    latent = entry.latent()
    model = pointwise(entry.model)
    half = patched(entry, tree_of([[0.5]], 32, 40), model=model, schedule="constant", tile_px=0)
    whole = patched(entry, tree_of([[1.0]], 32, 40), model=model, tile_px=0)
    clean, run = entry.model.model.process_latent_in(latent), {"steps": 1, "denoise": 0.9}
    expected = entry.model.model.process_latent_in(sample(entry, latent, model=whole, **run))
    found = entry.model.model.process_latent_in(sample(entry, latent, model=half, **run))
    assert error(found, (clean + expected) / 2) < 1e-5


def test_feather_and_skipped_leaves_reach_the_run():
    entry = entry_of("flux")
    latent = entry.latent()
    changed = {}
    for name, settings in {
        "sharp": {},
        "feathered": {"feather_px": 64},
        "skipped": {"keep_below_px": 128},
    }.items():
        samples = sample(
            entry, latent, model=patched(entry, half_kept(32, 40), **settings), steps=4
        )
        changed[name] = float((samples - latent).abs().mean())
    assert 0 == changed["skipped"] < changed["feathered"] < 0.9 * changed["sharp"]


def test_trees_repeat_over_a_repeated_batch_in_order():
    entry = entry_of("flux")
    latent = entry.latent(batch=2).repeat(2, 1, 1, 1)
    trees = half_kept(32, 40), tree_of([[0.0]], 32, 40)
    samples = sample(entry, latent, model=patched(entry, *trees), steps=2)
    assert [bool((row != clean).any()) for row, clean in zip(samples, latent, strict=True)] == [
        True,
        False,
        True,
        False,
    ]


def test_a_single_clean_latent_serves_a_batch_and_a_still_serves_a_video_model():
    entry = entry_of("qwen_image")
    latent = entry.latent(batch=2)
    tree = half_kept(32, 40)
    held = ~free_cells(tree, latent)
    still = latent[:1, :, 0]
    samples = sample(entry, latent, model=patched(entry, tree, clean_latent=still), steps=2)
    assert torch.equal(samples[1][:, 0][:, held], still[0][:, held])


@pytest.mark.parametrize("name", ["flux", "sd15"])
@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_is_what_is_counted(name, method):
    entry = entry_of(name)
    latent = entry.latent(50, 66)
    tree = tree_of([[0.0, 0.6, 0.3], [1.0, 0.1, 0.0]], 50, 66)
    settings = Settings(method=method, tile_px=256, overlap_px=64)
    spy = Spy(attach(entry.model, [tree], settings))
    sample(entry, latent, model=spy.model, steps=7, denoise=0.7)
    share = estimate([tree], settings, Geometry.of(entry.model), 7, 50, 66)
    assert spy.cells / (7 * 50 * 66) == pytest.approx(share, rel=1e-9)


# ---- memory


def out_of_memory_above(model, cells, seen):
    """A clone that has memory for so many latent cells (times rows) in one call."""

    def limited(apply_model, args):
        seen.append(tuple(args["input"].shape))
        if args["input"][:, 0].numel() > cells:
            raise torch.OutOfMemoryError("simulated")
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(limited)
    return model


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        (2559, "the whole canvas"),
        (640, "two windows of a batch"),
        (512, "one window"),
        (140, "half a window"),
    ],
)
def test_a_run_that_is_out_of_memory_goes_on_smaller_and_ends_right(cells, what, caplog):
    entry = entry_of("flux")
    latent = entry.latent()
    seen = []
    model = pointwise(entry.model)
    limited = out_of_memory_above(model, cells, seen)
    tile = {"tile_px": 0} if what == "the whole canvas" else {"tile_px": 128}
    tiled = patched(entry, tree_of([[1.0]], 32, 40), model=limited, method="SpotDiffusion", **tile)
    run = {"steps": 3, "denoise": 0.7, "cfg": 3.0}
    with caplog.at_level(logging.WARNING):
        samples = sample(entry, latent, model=tiled, **run)
    assert error(samples, sample(entry, latent, model=model, **run)) < 1e-5
    assert caplog.text.count("out of memory") == 1
    failed = [shape for shape in seen if shape[0] * shape[-1] * shape[-2] > cells]
    assert 0 < len(failed) <= 7 and len(seen) > 2 * len(failed)


def test_out_of_memory_goes_down_to_the_smallest_windows_with_the_default_overlap():
    """SD1.5 is cut at 64 px, so the default overlap of 64 px is a single unit."""
    entry = entry_of("sd15")
    latent = entry.latent(64, 64)
    free = [[1.0 if 2 <= x < 6 and 2 <= y < 6 else 0.0 for x in range(8)] for y in range(8)]
    tree = tree_of(free, 64, 64)
    held = ~free_cells(tree, latent)
    seen = []
    limited = out_of_memory_above(entry.model, 256, seen)
    samples = sample(
        entry,
        latent,
        model=patched(entry, tree, model=limited, tile_px=512, overlap_px=64),
        steps=2,
    )
    assert (
        torch.equal(samples[..., held], latent[..., held])
        and max(shape[-1] for shape in seen[-4:]) <= 16
    )


def test_without_any_memory_the_error_is_core_s_own(caplog):
    entry = entry_of("flux")
    tiled = patched(entry, half_kept(32, 40), model=out_of_memory_above(entry.model, 0, []))
    with pytest.raises(torch.OutOfMemoryError), caplog.at_level(logging.WARNING):
        sample(entry, entry.latent(), model=tiled)
    assert "even with the smallest windows" in caplog.text


def test_other_errors_of_the_model_are_not_retried():
    entry = entry_of("flux")
    calls = []

    def broken(apply_model, args):
        calls.append(1)
        raise KeyError("broken")

    model = entry.model.clone()
    model.set_model_unet_function_wrapper(broken)
    with pytest.raises(KeyError, match="broken"):
        sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40), model=model))
    assert len(calls) == 1


def test_an_automatic_batch_follows_the_free_memory(monkeypatch):
    entry = entry_of("flux")
    latent = entry.latent(64, 64)
    seen = []
    model = out_of_memory_above(entry.model, 10**9, seen)
    tiled = patched(entry, tree_of([[1.0]], 64, 64), model=model, batch=0, method="SpotDiffusion")
    free = comfy.model_management.get_free_memory(latent.device)
    sizes = {}
    for windows in (1, 5, 1000):
        seen.clear()
        needed = free / 1.5 / (windows + 0.5)
        with monkeypatch.context() as patch:
            patch.setattr(
                entry.model.model, "memory_required", lambda *_, needed=needed, **__: needed
            )
            sample(entry, latent, model=tiled, steps=1)
        sizes[windows] = max(shape[0] for shape in seen)
    assert sizes[1] == 1 < sizes[5] <= 5 < sizes[1000] <= 16


# ---- refusals: what came, what fits, what to do


def test_another_aspect_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="320 x 256 px, but the latent has 32 x 40 cells"):
        sample(entry, entry.latent(40, 32), model=patched(entry, half_kept(32, 40)))


def test_trees_that_do_not_match_the_batch_are_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="2 trees, one per image, but the latent batch has 3"):
        sample(
            entry, entry.latent(batch=3), model=patched(entry, half_kept(32, 40), half_kept(32, 40))
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tile_px": 8}, "tile_size 8 px is smaller than the 16 px that this model needs"),
        ({"tile_px": 64, "overlap_px": 48}, "tile_overlap 48 px .* at most 32 px"),
    ],
)
def test_sizes_that_do_not_fit_the_model_are_refused(settings, words):
    entry = entry_of("flux")
    with pytest.raises(ValueError, match=words):
        sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40), **settings))


def test_a_latent_with_empty_and_filled_images_is_refused():
    entry = entry_of("flux")
    latent = torch.cat([entry.latent(), torch.zeros(1, 16, 32, 40)])
    with pytest.raises(ValueError, match=r"are empty .* and others are not"):
        sample(entry, latent, model=patched(entry, half_kept(32, 40)))


def easy_cache(model):
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]


def self_attention_guidance(model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(model, 0.5, 2.0).args[0]


def context_windows(model):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    return ContextWindowsManualNode.execute(
        model, 2, 1, "standard_static", 1, False, "pyramid", 0, False
    ).args[0]


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (easy_cache, "EasyCache .* Use LazyCache"),
        (self_attention_guidance, "Self-Attention Guidance"),
        (context_windows, "Context windows"),
    ],
)
def test_nodes_that_cannot_work_together_are_refused(node, words):
    entry = entry_of("sd15")
    with pytest.raises(ValueError, match=words):
        sample(entry, entry.latent(batch=4), model=node(patched(entry, half_kept(32, 40))))


def gligen(model):
    class Gligen:
        def patch(self, x, extra_options):
            return x

    model = model.clone()
    model.model_options["transformer_options"]["patches"] = {"middle_patch": [Gligen().patch]}
    Gligen.patch.__qualname__ = "Gligen.patch"
    return model


def test_conditioning_that_would_go_to_every_window_uncut_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="cannot cut GLIGEN boxes"):
        sample(entry, entry.latent(), model=gligen(patched(entry, half_kept(32, 40))))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_latent_with_nan_is_refused_before_the_run(value):
    entry = entry_of("flux")
    latent = entry.latent()
    latent[0, 3, 1, 2] = value
    spy = Spy(patched(entry, half_kept(32, 40)))
    with pytest.raises(ValueError, match="latent that is sampled holds NaN"):
        sample(entry, latent, model=spy.model)
    assert spy.calls == 0


def test_an_empty_batch_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="must not be empty"):
        sample(entry, entry.latent()[:0], model=patched(entry, half_kept(32, 40)))


def test_rising_sigmas_are_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="sigmas of this run rise"):
        sample(
            entry,
            entry.latent(),
            model=patched(entry, half_kept(32, 40)),
            sigmas=torch.tensor([0.0, 0.5, 1.0]),
        )


def test_a_scheduler_that_gives_no_numbers_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match=r"not all numbers: nan, 0\..*more steps"):
        sample(
            entry,
            entry.latent(),
            model=patched(entry, half_kept(32, 40)),
            steps=1,
            scheduler="kl_optimal",
        )


def test_a_clean_latent_of_another_size_is_refused():
    entry = entry_of("flux")
    with pytest.raises(ValueError, match="clean_latent has shape"):
        sample(
            entry,
            entry.latent(),
            model=patched(entry, half_kept(32, 40), clean_latent=entry.latent(16, 20)),
        )


def test_audio_models_are_refused():
    entry = entry_of("flux")
    model = entry.model.clone()
    audio = type("Audio", (type(model.model.latent_format),), {"latent_dimensions": 1})()
    model.add_object_patch("latent_format", audio)
    with pytest.raises(ValueError, match="one-dimensional latents"):
        patched(entry, half_kept(32, 40), model=model)


def test_nothing_in_the_loop_waits_for_the_device(monkeypatch):
    """On a GPU, reading a value of the latent or of sigma would drain its queue; here every such read is counted."""
    entry = entry_of("flux")
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40), model=pointwise(entry.model))
    patch = model.model_options["model_function_wrapper"]
    reads = []

    def watched(apply_model, args):
        with monkeypatch.context() as watch:
            for name in (
                "item",
                "__float__",
                "__int__",
                "__bool__",
                "__index__",
                "tolist",
                "cpu",
                "nonzero",
            ):
                real = getattr(torch.Tensor, name)

                def read(tensor, *rest, name=name, real=real, **options):
                    if any(
                        tensor.data_ptr() == other.data_ptr()
                        for other in (args["input"], args["timestep"])
                    ):
                        reads.append(name)
                    return real(tensor, *rest, **options)

                watch.setattr(torch.Tensor, name, read)
            return patch(apply_model, args)

    model.set_model_unet_function_wrapper(watched)
    sample(entry, latent, model=model, steps=4, cfg=3.0)
    assert reads == []
    sample(
        entry, latent, model=model, steps=4, cfg=3.0, sampler="heun"
    )  # its second call a step is not announced
    assert "__float__" in reads or "item" in reads
