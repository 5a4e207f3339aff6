"""A run whose sigmas rise adds noise: it is cut into windows, and nothing is preserved."""

import pytest
import torch
from quadtree_pack.sampling.model import Settings
from quadtree_pack.testing.support import Spy, error, half_kept, pointwise
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import attach

RISING = {
    "unsampling": [0.0001, 0.3, 0.6, 0.95],
    "a restart": [1.0, 0.6, 0.2, 0.7, 0.3, 0.0],
    "a multiplied range": [1.0, 0.8, 0.84, 0.5, 0.0],
}


def attached(entry, told, tree, model, **options):
    settings = Settings(feather_px=0, tile_px=128, overlap_px=32)
    return attach(model, (tree,), settings, progress=told.append, **options)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpm_2"])
@pytest.mark.parametrize("sigmas", RISING.values(), ids=RISING)
@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_windows_are_as_without_them_and_the_cause_is_told(family, sigmas, sampler):
    entry = entry_of(family)
    latent = entry.latent(batch=2)
    spy = Spy(entry.model)
    model = pointwise(spy.model)
    run = {"sigmas": torch.tensor(sigmas), "sampler": sampler}
    plain = sample(entry, latent, model=model, **run)
    told = []
    spy.shapes.clear()
    tiled = attached(entry, told, half_kept(32, 40), model)
    assert error(sample(entry, latent, model=tiled, **run), plain) < 1e-5
    assert "the sigmas of this run rise" in told[-1] and "nothing is preserved" in told[-1]
    assert max(shape[-1] for shape in spy.shapes) < 40


def test_the_schedule_of_all_stages_means_nothing_to_a_run_that_adds_noise():
    entry = entry_of("flux")
    told = []
    falling = torch.tensor([1.0, 0.6, 0.3, 0.0])
    tiled = attached(entry, told, half_kept(32, 40), entry.model, all_sigmas=falling)
    samples = sample(entry, entry.latent(), model=tiled, sigmas=torch.tensor([0.1, 0.5, 0.95]))
    assert samples.isfinite().all() and "rise" in told[-1]


@pytest.mark.parametrize("zeros", [1, 2])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "uni_pc", "dpm_fast"])
@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_zeros_before_the_sigmas_of_a_run_are_left_out(family, sampler, zeros):
    entry = entry_of(family)
    latent, tree = entry.latent(), half_kept(32, 40, free=0.5)
    sigmas = torch.tensor([1.0, 0.7, 0.4, 0.2, 0.0])
    after = torch.cat([torch.zeros(zeros), sigmas])
    found, expected = (
        sample(entry, latent, model=attached(entry, [], tree, entry.model), **run)
        for run in ({"sigmas": one, "sampler": sampler} for one in (after, sigmas))
    )
    assert torch.equal(found, expected) and not torch.equal(found, latent)
