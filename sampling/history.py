"""Multistep samplers forget what was held: released cells follow a run of their own.

A multistep sampler makes a step from the estimates of earlier steps, too. Of a held cell these are
the clean latent, and after its release they would lead it elsewhere than a plain run that begins
there. So the cells that one step releases follow a late run: the sampler's own function, begun at
that step. At each step it runs again over the estimates that the model has given since, up to the
one that is due. That costs no model call, and little else: samplers compute cell by cell.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .run import expand_to_rank, send
from .steps import find_module

# ComfyUI's samplers that remember estimates, call the model once a step and draw no noise.
MULTISTEP = frozenset(
    {f"comfy.extra_samplers.uni_pc.sample_{name}" for name in ["unipc", "unipc_bh2"]}
    | {
        f"comfy.k_diffusion.sampling.sample_{name}"
        for name in [
            "lms",
            "ipndm",
            "ipndm_v",
            "deis",
            "dpmpp_2m",
            "res_multistep",
            "gradient_estimation",
        ]
    }
)


class _MissingEstimateError(Exception):
    """Ends a late run at the latent `noisy` whose estimate the model has not given yet."""

    def __init__(self, noisy: Tensor) -> None:
        super().__init__()
        self.noisy = noisy


class _LateRun:
    """The model of a late run; `denoised` [C, cells] are the estimates of its steps so far."""

    def __init__(self, model: Any, cells: Tensor, step: int, noisy: Tensor) -> None:
        self.inner_model = model.inner_model
        self.cells, self.step, self.noisy = cells, step, noisy
        self.denoised: list[Tensor] = []
        self.calls = 0

    def __call__(self, noisy: Tensor, *args: Any, **options: Any) -> Tensor:
        if self.calls == len(self.denoised):
            raise _MissingEstimateError(noisy)
        self.calls += 1
        return self.denoised[self.calls - 1]


class _Model:
    """The model of the whole run; what it is given is replaced where late runs are under way.

    `run_late` runs the sampler's function on a late run; `released` are the cells by their step.
    """

    def __init__(self, model: Any, run_late: Callable[..., Tensor], released: dict[int, Tensor]):
        self.inner_model = model.inner_model
        self.model, self.run_late, self.released = model, run_late, released
        self.late: list[_LateRun] = []
        self.step = 0

    def __call__(self, noisy: Tensor, *args: Any, **options: Any) -> Tensor:
        noisy = self.replace(noisy)
        if self.step in self.released:
            cells = send(self.released[self.step], noisy.device)
            self.late.append(_LateRun(self.model, cells, self.step, take(noisy, cells)))
        denoised = self.model(noisy, *args, **options)
        for late in self.late:
            late.denoised.append(take(denoised, late.cells))
        self.step += 1
        return denoised

    def replace(self, noisy: Tensor) -> Tensor:
        """Return the latent [B, C, ..., H, W] with what the late runs have come to."""
        for late in self.late:
            late.calls = 0
            try:
                found = self.run_late(late)
            except _MissingEstimateError as reached:
                found = reached.noisy
            noisy = put(noisy, late.cells, found)
        return noisy


def take(latent: Tensor, cells: Tensor) -> Tensor:
    """Return cells of a latent [B, C, ..., H, W] as [C, cells]; they index [B * ... * H * W]."""
    return latent.movedim(1, 0).flatten(1)[:, cells]


def put(latent: Tensor, cells: Tensor, values: Tensor) -> Tensor:
    """Return the latent with these values in the cells; the inverse of `take`."""
    by_channel = latent.movedim(1, 0)
    changed = by_channel.flatten(1).index_copy(1, cells, values)
    return changed.view(by_channel.shape).movedim(0, 1).contiguous()


def forget_held(sampler: Any, find_release: Callable[[], Tensor]) -> Any:
    """Return the sampler, or where it is one of MULTISTEP a copy that forgets what was held.

    `find_release` returns the step that releases each cell, [B or 1, (T or 1,) H, W]; 0 for one
    that is never held.
    """
    function = getattr(sampler, "sampler_function", None)
    name = f"{find_module(sampler)}.{getattr(function, '__name__', '')}"
    if function is None or name not in MULTISTEP:
        return sampler
    release = find_release()
    if not release.any():
        return sampler

    @functools.wraps(function)
    def sample(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        def run_late(late: _LateRun) -> Tensor:
            quiet = {**options, "callback": None, "disable": True}
            return function(late, late.noisy, sigmas[late.step :], **quiet)

        steps = expand_to_rank(release, x.ndim).expand_as(x[:, :1]).flatten()
        released = {
            step: (steps == step).nonzero()[:, 0] for step in steps.unique().tolist() if step > 0
        }
        whole = _Model(model, run_late, released)
        return whole.replace(function(whole, x, sigmas, **options))

    sampler = copy.copy(sampler)
    sampler.sampler_function = sample
    return sampler
