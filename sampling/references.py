"""Which reference pictures lie on the image that is sampled, and so are cut with its windows.

An editing model sees references beside its canvas. One that shows the image itself has to be cut
as the canvas is, or a window would be told to look like all of it; one that shows something else
is seen whole. ComfyUI does not tell which is which, but the latents do.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from .placing import COARSEST_CELLS, TINY, resize
from .protocols import Conds, ModelCall, ids_of_conds

AUTOMATIC, ON_IMAGE, WHOLE = "automatic", "on the image", "whole"
CHOICES = (AUTOMATIC, ON_IMAGE, WHOLE)
# Lists of reference latents that models take in any size. The others must have the canvas' size.
ENTRIES = ("ref_latents", "context_latents")
# The least cosine between the gradients of two latents of one picture, at COARSEST_CELLS. With
# linear VAEs, five photos at 0.25 to 2 times the size had 0.63 and more, and 0.48 where 4% had been
# cut off; mirrored photos had 0.3 and less, and other photos 0.05.
SAME = 0.45


class References:
    """Tells of a run's reference pictures whether they lie on the image.

    `choice` is one of CHOICES. By AUTOMATIC those do that have the canvas' size, as a depth map or
    a sketch of the image may, and those that show what the clean latent shows.
    """

    def __init__(self, choice: str = AUTOMATIC) -> None:
        self.choice = choice
        self._known: dict[tuple[Hashable, str], list[bool]] = {}

    def note(self, cond: Conds, clean: Tensor | None) -> None:
        """Note what a cond's references show, once per run.

        `clean` [B or 1, C, ..., h, w] is the clean latent where the cond applies.
        """
        for name in ENTRIES:
            pictures = getattr(cond.get("model_conds", {}).get(name), "cond", None)
            key = cond.get("uuid"), name
            if isinstance(pictures, list) and clean is not None and key not in self._known:
                self._known[key] = [lies_on(picture, clean) for picture in pictures]

    def find(self, call: ModelCall, name: str) -> list[bool] | None:
        """Tell of each picture of an entry whether it lies on the canvas, in all conds of a call.

        None where the choice is left to us, and the call has conds that were not noted.
        """
        if self.choice != AUTOMATIC:
            return [self.choice == ON_IMAGE] * len(call["c"][name])
        keys = [(cond_id, name) for cond_id in ids_of_conds(call)]
        if not self._known.keys() >= set(keys):
            return None
        of_conds = [self._known[key] for key in keys]
        return [all(lies) for lies in zip(*of_conds, strict=True)]


def lies_on(picture: Tensor, clean: Tensor) -> bool:
    """Tell whether a reference picture has the size of the clean latent, or shows the same."""
    return picture.shape[-2:] == clean.shape[-2:] or show_same(picture, clean)


def show_same(picture: Tensor, other: Tensor) -> bool:
    """Tell whether two latents [B, C, ..., h, w] of any resolutions show the same pictures.

    Of a clip the first frame counts. Gradients are compared, since of smooth shades almost any two
    pictures share some.
    """
    ours, theirs = (_first_frames(latent) for latent in (picture, other))
    if ours.shape[1] != theirs.shape[1] or min(*ours.shape[-2:], *theirs.shape[-2:]) < 2:
        return False
    return measure_likeness(ours, theirs) >= SAME


def measure_likeness(ours: Tensor, theirs: Tensor) -> float:
    """Return the cosine between the gradients of latents [B, C, h, w], in -1..1.

    Of batches it is that of the pair that is least alike.
    """
    size = _shrink(theirs.shape[-2:], min(COARSEST_CELLS, max(ours.shape[-2:])))
    rows = max(len(ours), len(theirs))
    # As ComfyUI repeats references for a batch.
    ours, theirs = (_repeat(resize_all(latent, size), rows) for latent in (ours, theirs))
    found = [_gradients(latent.float()) for latent in (ours, theirs)]
    lengths = found[0].norm(dim=1) * found[1].norm(dim=1)
    return float(((found[0] * found[1]).sum(1) / lengths.clamp_min(TINY)).min())


def resize_all(latent: Tensor, size: Sequence[int]) -> Tensor:
    """Return latents [B, C, h, w] at another size."""
    return resize(latent.float().flatten(0, 1), *size).unflatten(0, latent.shape[:2])


def _first_frames(latent: Tensor) -> Tensor:
    return latent.flatten(2, -3)[:, :, 0] if latent.ndim > 4 else latent


def _shrink(size: Sequence[int], longest: int) -> list[int]:
    scale = min(1.0, longest / max(size))
    return [max(2, round(scale * side)) for side in size]


def _repeat(latent: Tensor, rows: int) -> Tensor:
    return latent[torch.arange(rows, device=latent.device) % len(latent)]


def _gradients(latent: Tensor) -> Tensor:
    """Return what changes from cell to cell of latents [B, C, h, w], as [B, values]."""
    return torch.cat([latent.diff(dim=axis).flatten(1) for axis in (-2, -1)], 1)
