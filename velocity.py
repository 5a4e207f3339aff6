"""Denoised <-> velocity, the preservation blend and its schedules.

Symbols, as in k-diffusion (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models"): `noisy` is x at noise level `sigma`, `denoised` is the model's estimate
D(x, sigma) of the clean latent, and the velocity is dx/dsigma. ComfyUI's model functions return
`denoised` for eps-, v-, EDM- and flow-models alike. A run uses `blend_denoised`; the functions in
velocity form define what it computes, and the tests check that both agree. `progress` runs from 0
at the first step to 1 at the last; `freedom` is 0 where a cell is held and 1 where it is free.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Leaf denoise times steps is rounded to this many digits: float noise must not free a step.
STEP_DIGITS = 6


def velocity_from_denoised(noisy: Tensor, denoised: Tensor, sigma: float | Tensor) -> Tensor:
    """Return the velocity (x - D) / sigma, same shape as `noisy`; sigma > 0.

    Karras et al. 2022, eq. 1 and 3; `to_d` in k-diffusion.
    """
    return (noisy - denoised) / sigma


def denoised_from_velocity(noisy: Tensor, velocity: Tensor, sigma: float | Tensor) -> Tensor:
    """Return x - sigma v, the inverse of `velocity_from_denoised`; defined at sigma 0, too."""
    return noisy - sigma * velocity


def preservation_velocity(noisy: Tensor, clean: Tensor, sigma: float | Tensor) -> Tensor:
    """Return (x - x0) / sigma, the velocity that ends in `clean` at sigma 0; sigma > 0."""
    return velocity_from_denoised(noisy, clean, sigma)


def blend_velocity(velocity: Tensor, keep: Tensor, freedom: Tensor) -> Tensor:
    """Return a v + (1 - a) v_keep with freedom a in 0..1.

    `blend_denoised` is the same blend without the division by sigma.
    """
    return freedom * velocity + (1 - freedom) * keep


def blend_denoised(denoised: Tensor, clean: Tensor, freedom: Tensor) -> Tensor:
    """Return x0 + a (D - x0) with freedom a in 0..1: the preservation blend in denoised space.

    v' = a v + (1 - a) v_keep with v = (x - D) / sigma and v_keep = (x - x0) / sigma gives
    x - sigma v' = x0 + a (D - x0). torch.lerp is exact at both ends: a = 0 returns `clean` and
    a = 1 returns `denoised`, bit for bit.
    """
    return torch.lerp(clean, denoised, freedom.to(denoised.dtype))


def count_free_steps(denoise: Tensor, steps: int) -> Tensor:
    """Return denoise * steps, the number of free steps in 0..steps, without rounding noise."""
    return (denoise.double() * steps).round(decimals=STEP_DIGITS)


def compute_progress(step: int, steps: int) -> float:
    """Return how far a step is between the first (0) and the last (1); 1 if there is only one."""
    return step / (steps - 1) if steps > 1 else 1.0


def hold(denoise: Tensor, step: int, steps: int) -> Tensor:
    """Return freedom 0..1 of cells that are held, then released for their last steps.

    A cell is released for denoise * steps steps. A fraction gives one partly free step, so that
    models of few steps still tell similar denoise values apart.
    """
    return (count_free_steps(denoise, steps) - (steps - 1 - step)).clamp(0, 1)


def ramp(denoise: Tensor, step: int, steps: int) -> Tensor:
    """Return freedom d + (1 - d) * progress for denoise d.

    It is 0 for d = 0: otherwise the last step would free what must be kept.
    """
    denoise = denoise.double()
    free = denoise + (1 - denoise) * compute_progress(step, steps)
    return free.where(count_free_steps(denoise, steps) > 0, 0.0)


def constant(denoise: Tensor, step: int, steps: int) -> Tensor:
    """Return freedom d at every step, for denoise d."""
    denoise = denoise.double()
    return denoise.where(count_free_steps(denoise, steps) > 0, 0.0)


SCHEDULES = {"hold": hold, "ramp": ramp, "constant": constant}


def txt2img_scale(denoise: Tensor, step: int, steps: int) -> Tensor:
    """Return the velocity scale s0 + (1 - s0) p^(1 / (1 + d)) with s0 = 0.7 + 0.3 d.

    d is the denoise and p the progress; the scale is 1 on the last step. It is the fallback where
    there is no clean latent to preserve: cells of low denoise move towards the model's estimate
    more slowly.
    """
    denoise = denoise.double()
    start = 0.7 + 0.3 * denoise
    return start + (1 - start) * compute_progress(step, steps) ** (1 / (1 + denoise))


def find_step(sigma: float, sigmas: list[float]) -> int:
    """Return the index of the step that a model call at `sigma` belongs to, 0..len(sigmas) - 2.

    Step i owns the sigmas above sigmas[i + 1] and up to sigmas[i]. Samplers also call the model
    between steps (dpm_2, dpmpp_sde) and at the next step's sigma (heun), which then is taken for
    the next step. Sigmas carry rounding noise, for which a thousandth of the step's length is
    tolerated.
    """
    for step in range(len(sigmas) - 2):
        here, below = sigmas[step], sigmas[step + 1]
        if sigma > below + 1e-3 * (here - below):
            return step
    return max(0, len(sigmas) - 2)
