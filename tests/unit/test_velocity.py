"""The blend in velocity form and in denoised form, and the schedules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quadtree_pack.velocity import (
    SCHEDULES,
    blend_denoised,
    blend_velocity,
    denoised_from_velocity,
    find_step,
    hold,
    preservation_velocity,
    txt2img_scale,
    velocity_from_denoised,
)


def fields(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.float64) for _ in range(count)]


@given(st.floats(0.001, 100), st.integers(0, 100))
def test_velocity_and_denoised_are_inverse(sigma, seed):
    noisy, denoised = fields(2, seed)
    assert torch.allclose(
        denoised_from_velocity(noisy, velocity_from_denoised(noisy, denoised, sigma), sigma),
        denoised,
    )


@given(st.floats(0.001, 100), st.integers(0, 100))
def test_the_velocity_blend_equals_the_lerp_in_denoised_space(sigma, seed):
    noisy, denoised, clean = fields(3, seed)
    freedom = torch.rand(
        2, 1, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    velocity = velocity_from_denoised(noisy, denoised, sigma)
    blended = blend_velocity(velocity, preservation_velocity(noisy, clean, sigma), freedom)
    assert torch.allclose(
        denoised_from_velocity(noisy, blended, sigma), blend_denoised(denoised, clean, freedom)
    )


def test_the_blend_is_exact_at_both_ends():
    denoised, clean = (field.float() * 1000 for field in fields(2))
    assert torch.equal(blend_denoised(denoised, clean, torch.tensor(0.0)), clean)
    assert torch.equal(blend_denoised(denoised, clean, torch.tensor(1.0)), denoised)


def test_the_preservation_velocity_arrives_at_the_clean_latent():
    noisy, clean = fields(2)
    sigma = 0.7
    assert torch.allclose(noisy - sigma * preservation_velocity(noisy, clean, sigma), clean)


@pytest.mark.parametrize(
    ("denoise", "steps", "freedom"),
    [
        (0.0, 4, [0, 0, 0, 0]),
        (1.0, 4, [1, 1, 1, 1]),
        (0.5, 4, [0, 0, 1, 1]),
        (0.3, 4, [0, 0, 0.2, 1]),
        (0.1, 4, [0, 0, 0, 0.4]),
        (0.5, 1, [0.5]),
    ],
)
def test_hold_frees_the_last_share_of_the_steps(denoise, steps, freedom):
    found = [float(hold(torch.tensor(denoise), step, steps)) for step in range(steps)]
    assert found == pytest.approx(freedom, abs=1e-6)


def test_float_noise_frees_no_step():
    for steps in range(1, 101):
        for whole in range(steps + 1):
            denoise = torch.tensor(whole / steps + 1e-9, dtype=torch.float64)
            released = sum(float(hold(denoise, step, steps)) for step in range(steps))
            assert released == whole


@pytest.mark.parametrize("name", SCHEDULES)
@given(st.floats(0, 1), st.integers(1, 60))
def test_freedom_never_falls_and_zero_denoise_stays_held(name, denoise, steps):
    schedule = SCHEDULES[name]
    freedom = [float(schedule(torch.tensor(denoise), step, steps)) for step in range(steps)]
    assert freedom == sorted(freedom) and freedom[0] >= 0 and freedom[-1] <= 1
    assert all(float(schedule(torch.tensor(0.0), step, steps)) == 0 for step in range(steps))
    assert all(float(schedule(torch.tensor(1.0), step, steps)) == 1 for step in range(steps))


def test_the_ramp_ends_free_and_the_constant_stays():
    assert float(SCHEDULES["ramp"](torch.tensor(0.3), 9, 10)) == 1
    assert float(SCHEDULES["ramp"](torch.tensor(0.3), 0, 10)) == pytest.approx(0.3)
    assert float(SCHEDULES["constant"](torch.tensor(0.3), 9, 10)) == pytest.approx(0.3)


def test_text_to_image_scale_starts_at_seven_tenths_and_ends_at_one():
    calm, busy = torch.tensor(0.0), torch.tensor(1.0)
    assert float(txt2img_scale(calm, 0, 10)) == pytest.approx(0.7)
    assert float(txt2img_scale(calm, 9, 10)) == 1
    assert all(float(txt2img_scale(busy, step, 10)) == 1 for step in range(10))
    noisy, denoised = fields(2)
    assert torch.equal(blend_denoised(denoised, noisy, torch.tensor(1.0)), denoised)
    assert torch.allclose(
        blend_denoised(denoised, noisy, torch.tensor(0.7, dtype=torch.float64)),
        denoised_from_velocity(noisy, 0.7 * velocity_from_denoised(noisy, denoised, 0.5), 0.5),
    )


SIGMAS = [14.6, 5.0, 2.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("sigma", "step"),
    [
        (14.6, 0),
        (14.7, 0),
        (14.5999, 0),
        (8.5, 0),
        (5.0001, 1),
        (5.0, 1),
        (4.9999, 1),
        (3.2, 1),
        (2.0, 2),
        (0.5, 3),
        (0.01, 3),
        (0.0, 3),
    ],
)
def test_a_sigma_belongs_to_the_step_it_falls_in(sigma, step):
    assert find_step(sigma, SIGMAS) == step


@given(st.integers(1, 1000), st.floats(0.3, 12))
def test_every_sigma_of_a_run_is_its_own_step_in_float32(steps, shift):
    times = torch.linspace(1, 0, steps + 1)
    sigmas = shift * times / (1 + (shift - 1) * times)
    values = sigmas.double().tolist()
    noisy = torch.exp(torch.log(sigmas))  # samplers go through logarithms
    assert [find_step(float(sigma), values) for sigma in noisy[:-1]] == list(range(steps))
