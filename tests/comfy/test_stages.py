"""Samplers that run parts of one schedule act as one run where they are told the whole of it."""

import comfy.samplers
import pytest
import torch
from quadtree_pack.sampling.model import Settings
from quadtree_pack.sampling.steps import locate_stage, place_stage, read_sigmas
from quadtree_pack.testing.support import Spy, error, free_cells, patched, pointwise, tree_of
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import attach

STEPS, HEIGHT, WIDTH = 12, 32, 40
TREE = tree_of([[0.0, 0.25, 0.6, 1.0]], HEIGHT, WIDTH)


def schedule_of(model, steps=STEPS):
    return comfy.samplers.KSampler(model, steps, "cpu", "euler", "simple").sigmas


def run_stages(entry, model, latent, ends, sampler):
    """Sample in stages that end at these steps, each with the whole schedule."""
    sigmas = schedule_of(entry.model)
    spies, samples, start = [], latent, 0
    for end in ends:
        clean = latent if start else None
        settings = Settings(tile_px=128, overlap_px=0, feather_px=0)
        spies.append(Spy(attach(model, [TREE], settings, clean, None, sigmas)))
        samples = sample(
            entry,
            samples,
            model=spies[-1].model,
            steps=STEPS,
            sampler=sampler,
            start_step=start,
            last_step=end,
            force_full_denoise=end == STEPS,
            noise=torch.zeros_like(latent) if start else None,
            disable_noise=start > 0,
        )
        start = end
    return samples, spies


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize("ends", [(6, 12), (3, 10, 12), (11, 12), (1, 2, 12)])
def test_stages_of_a_schedule_act_as_one_run(sampler, ends):
    entry = entry_of("flux")
    model, latent = pointwise(entry.model), entry.latent(HEIGHT, WIDTH)
    whole = Spy(patched(entry, TREE, model=model))
    expected = sample(entry, latent, model=whole.model, steps=STEPS, sampler=sampler)
    samples, spies = run_stages(entry, model, latent, ends, sampler)
    held = ~free_cells(TREE, latent)
    assert torch.equal(samples[..., held], latent[..., held])
    assert error(samples, expected) < 1e-5
    assert sum(spy.cells for spy in spies) <= 1.05 * whole.cells  # windows may lie elsewhere


def test_without_the_whole_schedule_each_stage_counts_its_own_steps():
    entry = entry_of("flux")
    latent = entry.latent(HEIGHT, WIDTH)
    spy = Spy(patched(entry, tree_of([[0.25]], HEIGHT, WIDTH)))
    sample(entry, latent, model=spy.model, steps=STEPS, last_step=6)
    assert spy.calls > 0  # with the whole schedule it would be held through step 9


def test_a_stage_of_another_schedule_is_refused_in_words():
    entry = entry_of("flux")
    other = schedule_of(entry.model, 7)
    model = attach(entry.model, [TREE], Settings(tile_px=128), None, None, other)
    with pytest.raises(ValueError, match=r"all_sigmas has 7 steps .* BasicScheduler"):
        sample(entry, entry.latent(HEIGHT, WIDTH), model=model, steps=STEPS)


@pytest.mark.parametrize(
    ("sigmas", "first"),
    [([4, 3, 2, 1, 0], 0), ([2, 1, 0], 2), ([3, 2], 1), ([3, 2, 0], 1), ([1.0001, 0], 3)],
)
def test_a_stage_is_found_in_its_schedule(sigmas, first):
    assert locate_stage(sigmas, [4.0, 3.0, 2.0, 1.0, 0.0]) == first


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("sampler", ["dpm_2", "uni_pc"])
def test_the_sigma_that_ksampler_leaves_out_before_0_is_no_step(sampler, start):
    model = entry_of("flux").model
    left_out = comfy.samplers.KSampler(model, STEPS, "cpu", sampler, "simple").sigmas
    assert len(left_out) == STEPS + 1
    all_sigmas = read_sigmas(schedule_of(model, STEPS + 1))
    assert place_stage(read_sigmas(left_out[start:]), all_sigmas) == (start, STEPS)


@pytest.mark.parametrize(("start", "end"), [(0, 12), (4, 12), (0, 5), (0, 11), (3, 8)])
def test_stages_without_such_a_sigma_have_all_steps(start, end):
    all_sigmas = read_sigmas(schedule_of(entry_of("flux").model))
    assert place_stage(all_sigmas[start : end + 1], all_sigmas) == (start, STEPS)


@pytest.mark.parametrize("sigmas", [[5, 4], [2, 1.5, 1, 0], [4, 3, 2, 1, 0.5, 0]])
def test_a_stage_that_is_no_part_is_refused(sigmas):
    with pytest.raises(ValueError, match="no part of them"):
        locate_stage(sigmas, [4.0, 3.0, 2.0, 1.0, 0.0])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "res_multistep", "heun"])
def test_stages_of_other_samplers_keep_what_is_held_and_free_what_is_not(sampler):
    entry = entry_of("flux")
    latent = entry.latent(HEIGHT, WIDTH)
    samples, spies = run_stages(entry, entry.model, latent, (7, STEPS), sampler)
    held = ~free_cells(TREE, latent)
    assert torch.equal(samples[..., held], latent[..., held])
    assert error(samples, latent) > 0.05 and all(spy.calls for spy in spies)
