"""Batches, odd sizes, masks, settings, text to image and custom samplers: what a run may bring."""

import logging

import comfy.latent_formats
import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from quadtree_pack.sampling.cost import Sampling, estimate_cost
from quadtree_pack.sampling.estimates import add_restoring, mark_estimate
from quadtree_pack.sampling.model import Geometry, Settings
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
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import attach
from quadtree_pack.windows.blending import METHODS


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


def test_an_empty_image_of_a_batch_is_free_and_the_others_keep_what_their_tree_keeps():
    entry = entry_of("flux")
    latent = torch.cat([entry.latent(), torch.zeros(1, 16, 32, 40)])
    tree = half_kept(32, 40)
    samples = sample(entry, latent, model=patched(entry, tree, tile_px=0))
    held = ~free_cells(tree, latent)
    assert torch.equal(samples[0][:, held], latent[0][:, held])
    assert torch.equal(samples[1], sample(entry, latent)[1])


def sample_custom(model, entry, latent, sigmas, sampler="euler"):
    """Return both outputs of ComfyUI's SamplerCustomAdvanced."""
    from comfy_extras.nodes_custom_sampler import (
        BasicGuider,
        Noise_RandomNoise,
        SamplerCustomAdvanced,
    )

    guider = BasicGuider.execute(model, entry.positive).args[0]
    chosen = comfy.samplers.sampler_object(sampler)
    given = Noise_RandomNoise(42), guider, chosen, sigmas, latent
    return [output["samples"] for output in SamplerCustomAdvanced.execute(*given).args]


def sigmas_of(entry, steps=6):
    sampling = entry.model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, "simple", steps)


def test_a_custom_sampler_runs_as_the_ksampler_does():
    entry = entry_of("flux")
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40))
    output, _ = sample_custom(model, entry, {"samples": latent}, sigmas_of(entry))
    assert torch.equal(output, sample(entry, latent, model=model))


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_a_denoised_output_is_kept_as_exactly_as_the_other(sampler):
    entry = entry_of("sd15")
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40))
    held = ~free_cells(half_kept(32, 40), latent)
    outputs = sample_custom(model, entry, {"samples": latent}, sigmas_of(entry, 4), sampler)
    for output in outputs:
        assert torch.equal(output[..., held], latent[..., held])
        assert (output != latent)[..., ~held].float().mean() > 0.99


@families(["flux", "wan21_t2v", "ltxv", "sdxl"])
@pytest.mark.parametrize("last_step", [2, 6])
def test_what_is_kept_is_exact_in_the_denoised_output_of_every_stage(entry, last_step):
    latent = entry.latent(batch=2)
    tree = half_kept(32, 40, entry.px_per_cell)
    held = ~free_cells(tree, latent)
    sigmas = sigmas_of(entry)[: last_step + 1]
    _, denoised = sample_custom(patched(entry, tree), entry, {"samples": latent}, sigmas)
    assert torch.equal(denoised[..., held], latent[..., held])


def test_a_second_stage_s_denoised_output_has_what_a_mask_closes_from_the_clean_latent():
    entry = entry_of("flux")
    latent = entry.latent()
    mask = torch.ones(1, 1, 32, 40)
    mask[..., :20] = 0
    model = patched(entry, half_kept(32, 40), clean_latent=latent)
    noisy = {"samples": latent + 0.3, "noise_mask": mask}
    for output in sample_custom(model, entry, noisy, sigmas_of(entry)[3:]):
        assert torch.equal(output[..., :20], latent[..., :20])


def test_a_mark_stays_on_an_estimate_that_is_copied_from_another_device():
    class Elsewhere(torch.Tensor):
        def cpu(self):
            return self.as_subclass(torch.Tensor).clone()

    estimate = torch.ones(1, 4, 2, 2).as_subclass(Elsewhere)
    latent_format = add_restoring(comfy.latent_formats.SD15())
    mark_estimate(estimate, torch.zeros_like)
    assert latent_format.process_out(estimate.cpu()).eq(0).all()
    assert latent_format.process_out(torch.ones(1)) == 1 / latent_format.scale_factor


def test_the_report_counts_what_reached_the_model(caplog):
    entry = entry_of("flux")
    latent = entry.latent()
    spy = Spy(patched(entry, half_kept(32, 40)))
    with caplog.at_level(logging.INFO):
        sample(entry, latent, model=spy.model, cfg=3.0, steps=5)
    share = 100 * spy.cells / (5 * 2 * 32 * 40)
    windows = sum(shape[0] for shape in spy.shapes) // 2
    assert (
        f"{spy.calls} model calls on {windows} windows in 5 steps, "
        f"{share:.1f}% of the full model cost" in caplog.text
    )


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
    share = estimate_cost(
        [tree], settings, Geometry.of(entry.model), sampling=Sampling(steps=7), height=50, width=66
    )
    assert spy.cells / (7 * 50 * 66) == pytest.approx(share, rel=1e-9)


def test_the_estimate_of_a_batch_is_the_mean_of_its_images():
    entry = entry_of("flux")
    settings = Settings(tile_px=256, overlap_px=64)
    trees = [tree_of([row], 50, 66) for row in ([0.0, 0.6], [0.3, 0.0], [0.0, 0.0])]
    spy = Spy(attach(entry.model, trees, settings))
    sample(entry, entry.latent(50, 66, batch=3), model=spy.model, steps=7, denoise=0.7)
    geometry, run = Geometry.of(entry.model), {"sampling": Sampling(steps=7)}
    together, *alone = (
        estimate_cost(some, settings, geometry, **run, height=50, width=66)
        for some in (trees, *([tree] for tree in trees))
    )
    assert together == pytest.approx(sum(alone) / 3, rel=1e-9)
    assert spy.cells / (3 * 7 * 50 * 66) == pytest.approx(together, rel=1e-9)
