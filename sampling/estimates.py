"""The last estimate of a run, whose kept cells stay exact when ComfyUI converts it.

It is what the sampler's callback was given last, and becomes the `denoised_output` of ComfyUI's
custom sampler nodes: when the run is over, the latent format of the model takes it out of the
model's space, and that rounds. So a run marks its last estimate with what it keeps, and the patched
model has a latent format that looks for the mark.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

Restore = Callable[[Tensor], Tensor]  # puts into a converted latent what the run keeps
MARK = "quadtree_restore"  # names the attribute of an estimate that holds a Restore


class RestoringFormat:
    """What a latent format is given so that it restores what an estimate was marked with."""

    def process_out(self, latent: Tensor) -> Tensor:
        converted: Tensor = super().process_out(latent)  # type: ignore[misc]
        restore: Restore | None = getattr(latent, MARK, None)
        return converted if restore is None else restore(converted)


def add_restoring(latent_format: Any) -> Any:
    """Return a copy of a `comfy.latent_formats.LatentFormat` that restores what is kept."""
    if isinstance(latent_format, RestoringFormat):
        return latent_format
    base = type(latent_format)
    restoring = copy.copy(latent_format)
    restoring.__class__ = type(base.__name__, (RestoringFormat, base), {})
    return restoring


def mark_estimate(estimate: Tensor, restore: Restore) -> None:
    """Let `restore` have the last word when ComfyUI converts an estimate of the model's space.

    ComfyUI takes it to the CPU before, and only the tensor itself would keep the mark.
    """
    on_cpu = estimate.cpu()
    setattr(on_cpu, MARK, restore)
    if on_cpu is not estimate:
        estimate.cpu = lambda *_, **__: on_cpu  # type: ignore[method-assign]
