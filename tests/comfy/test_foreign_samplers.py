"""Samplers that write into their sigmas, and samplers of other packs that stop early."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from quadtree_pack.sampling.steps import find_replacement
from quadtree_pack.testing.beside import Watch
from quadtree_pack.testing.support import error, free_cells, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample

STEPS = 6


def sigmas_of(entry):
    return comfy.samplers.KSampler(entry.model, STEPS, "cpu", "euler", "simple").sigmas


def sample_with(entry, sampler, sigmas, seed=0):
    """Sample the entry's latent as SamplerCustom does; return the latent, its noise, the result."""
    latent = entry.latent()
    noise = comfy.sample.prepare_noise(latent, seed)
    model = patched(entry, half_kept(32, 40))
    run = (1.0, sampler, sigmas, entry.positive, entry.negative, latent)
    return latent, noise, comfy.sample.sample_custom(model, noise, *run, disable_pbar=True)


@pytest.mark.parametrize("sampler", ["uni_pc", "uni_pc_bh2", "euler"])
def test_kept_regions_are_exact_in_every_prompt_with_cached_sigmas(sampler):
    entry = entry_of("flux")
    sigmas = sigmas_of(entry)
    before = sigmas.clone()
    for seed in range(3):
        latent, _, samples = sample_with(
            entry, comfy.samplers.sampler_object(sampler), sigmas, seed
        )
        held = ~free_cells(half_kept(32, 40), latent)
        assert torch.equal(samples[..., held], latent[..., held])
    assert torch.equal(sigmas, before)


def test_a_second_stage_gives_what_the_noise_mask_closes_from_the_clean_latent():
    entry = entry_of("flux")
    latent = entry.latent()
    mask = torch.ones(1, 1, 32, 40)
    mask[..., :20] = 0
    tree = half_kept(32, 40)
    first = sample(entry, latent, model=patched(entry, tree), steps=8, last_step=5, noise_mask=mask)
    finished = sample(
        entry,
        first,
        model=patched(entry, tree, clean_latent=latent),
        steps=8,
        start_step=5,
        noise=torch.zeros_like(latent),
        disable_noise=True,
        noise_mask=mask,
    )
    assert torch.equal(finished[..., :20], latent[..., :20])
    assert not torch.equal(finished[..., 20:], latent[..., 20:])


def make_sampler(steps_to_run, *, tells):
    """Return a sampler of another pack: euler, for so many steps, with or without a callback."""

    def sample_foreign(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for step in range(steps_to_run):
            denoised = model(x, sigmas[step] * x.new_ones([x.shape[0]]), **extra_args)
            if tells:
                callback({"x": x, "i": step, "denoised": denoised})
            x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
        return x

    return comfy.samplers.KSAMPLER(sample_foreign)


@pytest.mark.parametrize("tells", [True, False], ids=["with callback", "without"])
@pytest.mark.parametrize("steps_to_run", [1, 3, 5])
def test_what_is_held_has_the_noise_of_the_step_where_a_sampler_stopped(steps_to_run, tells):
    entry = entry_of("flux")
    sigmas = sigmas_of(entry)
    sampler = make_sampler(steps_to_run, tells=tells)
    latent, noise, samples = sample_with(entry, sampler, sigmas)
    held = ~free_cells(half_kept(32, 40), latent)
    sampling, space = entry.model.get_model_object("model_sampling"), entry.model.model
    reached = sigmas[steps_to_run]
    noisy = sampling.noise_scaling(reached, noise, space.process_latent_in(latent))
    expected = space.process_latent_out(noisy)
    assert error(samples[..., held], expected[..., held]) < 1e-5


@pytest.mark.parametrize("tells", [True, False], ids=["with callback", "without"])
def test_a_foreign_sampler_that_runs_to_its_end_keeps_exactly(tells):
    entry = entry_of("flux")
    sampler = make_sampler(STEPS, tells=tells)
    latent, _, samples = sample_with(entry, sampler, sigmas_of(entry))
    held = ~free_cells(half_kept(32, 40), latent)
    assert torch.equal(samples[..., held], latent[..., held])


@pytest.fixture
def thinking(monkeypatch):
    """Samples as LanPaint does, in the place of ComfyUI's own code; returns all estimates it got.

    It calls the model twice in a step, for estimates with two scales of guidance, and moves the
    latent towards the first also where a noise mask closes it.
    """
    core_sample, core_predict = (
        comfy.samplers.KSAMPLER.sample,
        comfy.samplers.CFGGuider.predict_noise,
    )
    estimates = []

    class Thinking(comfy.samplers.KSamplerX0Inpaint):
        def __call__(self, x, sigma, denoise_mask, model_options=None, seed=None):
            first, second = self.inner_model(x, sigma, model_options=model_options, seed=seed)
            estimates.extend((first, second))
            x = x + 0.2 * (first - x) + 0.1 * (second - first)
            out, _ = self.inner_model(x, sigma, model_options=model_options, seed=seed)
            return out if denoise_mask is None else torch.lerp(self.latent_image, out, denoise_mask)

    def sample_thinking(self, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(comfy.samplers, "KSamplerX0Inpaint", Thinking)
            return core_sample(self, *args, **options)

    def predict_two(self, *args, **options):
        estimate = core_predict(self, *args, **options)
        return estimate, 1.5 * estimate

    sample_thinking.__module__ = "/comfy/custom_nodes/LanPaint.src.LanPaint.nodes"
    monkeypatch.setattr(comfy.samplers.KSAMPLER, "sample", sample_thinking)
    monkeypatch.setattr(comfy.samplers.CFGGuider, "predict_noise", predict_two)
    return estimates


def test_code_in_the_place_of_comfyui_s_sampling_releases_at_its_own_steps(thinking):
    entry, tree = entry_of("flux"), tree_of([[0.0, 0.5]], 32, 40)
    latent = entry.latent()
    watch = Watch(patched(entry, tree))
    samples = sample(entry, latent, model=watch.model, steps=STEPS)
    held = ~free_cells(tree, latent)
    assert watch.first_step == STEPS // 2 and torch.equal(samples[..., held], latent[..., held])
    clean = entry.model.model.process_latent_in(latent)
    assert len(thinking) == 2 * STEPS
    assert all(torch.equal(estimate[..., held], clean[..., held]) for estimate in thinking)


def test_code_in_the_place_of_comfyui_s_sampling_gets_estimates_of_what_a_mask_closes(thinking):
    entry, mask = entry_of("flux"), torch.ones(1, 1, 32, 40)
    latent, mask[..., :20] = entry.latent(), 0
    plain = sample(entry, latent, steps=STEPS, noise_mask=mask)
    whole = patched(entry, tree_of([[1.0]], 32, 40), tile_px=0)
    assert torch.equal(sample(entry, latent, model=whole, steps=STEPS, noise_mask=mask), plain)


def test_code_in_the_place_of_comfyui_s_sampling_keeps_the_clean_latent_under_a_mask(thinking):
    entry, mask = entry_of("flux"), torch.ones(1, 1, 32, 40)
    latent, mask[..., :20] = entry.latent(), 0
    noise = torch.zeros_like(latent)
    noisy = latent + torch.randn(latent.shape, generator=torch.manual_seed(3))
    model = patched(entry, tree_of([[1.0]], 32, 40), clean_latent=latent)
    samples = sample(entry, noisy, model=model, steps=STEPS, noise_mask=mask, noise=noise)
    assert torch.equal(samples[..., :20], latent[..., :20])
    assert not torch.equal(samples[..., 20:], latent[..., 20:])


def test_a_folder_named_like_a_pack_does_not_count():
    class Sampler:
        def sample(self):
            pass

    Sampler.sample.__module__ = "/LanPaint-portable/ComfyUI/custom_nodes/other.sampling"
    assert not find_replacement(Sampler())
    Sampler.sample.__module__ = "C:\\ComfyUI\\custom_nodes\\LanPaint.src.nodes"
    assert find_replacement(Sampler())


def test_code_that_calls_comfyui_s_own_in_its_place_changes_nothing(monkeypatch):
    """As that of smZNodes does, for everyone who has that pack installed."""
    entry, mask = entry_of("flux"), torch.ones(1, 1, 32, 40)
    latent, mask[..., :20] = entry.latent(), 0
    core_sample = comfy.samplers.KSAMPLER.sample

    def sample_watched():
        watch = Watch(patched(entry, tree_of([[0.5, 0.5]], 32, 40)))
        return sample(entry, latent, model=watch.model, steps=STEPS, noise_mask=mask), watch

    samples, watch = sample_watched()
    monkeypatch.setattr(
        comfy.samplers.KSAMPLER, "sample", lambda *args, **options: core_sample(*args, **options)
    )
    again, watched = sample_watched()
    assert torch.equal(again, samples)
    assert watched.cells == watch.cells and watched.first_step == watch.first_step
