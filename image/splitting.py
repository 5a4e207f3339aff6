"""Finds where a decoder can be split in two parts, the second of which can run in windows.

A decoder works at the resolution of the latent first, where it may look at the whole image
(attention), and ends with convolutions that look a few cells around. It is split between the two.
Where that is, and how far the second part looks, is measured on the decoder itself: a NaN spreads
to everything that is made from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from ..windows.memory import is_oom
from .decoder import Decoder, count_px_frames, hook_forwards

PROBE_CELLS = 4  # side of the probe: enough to see whether everything comes from the features
PROBE_FRAMES = 4  # of a clip's probe: decoders take its first frame alone, then two at a time
# Length and width of the strip on which the reach is measured. Half of the length is well beyond
# the reach of known decoders (7 to 13 cells), and the width is enough for padding that reflects the
# edge.
STRIP_CELLS = 48, 2
LEVEL = 2 / 255  # of an 8-bit picture, in the decoder's -1 to 1
MOST_TRIES = 8  # modules that are tried; each try costs a decode of the probe


@dataclass(frozen=True, slots=True)
class SplitPoint:
    """A module whose output everything else is made from.

    Attributes:
        module: The module whose output are the features.
        scale: Features per latent cell along an axis.
        px: Picture px per latent cell along an axis.
        reach: How many cells away features still change the px of a cell.
    """

    module: nn.Module
    scale: int
    px: int
    reach: int


def find_split_point(decoder: Decoder, latent: Tensor) -> SplitPoint | None:
    """Return where the decoder can be split; None where no place was found.

    There is none in a decoder whose second part looks at the whole image. In one that decodes a
    clip part by part, it is found by an image and must hold for some frames.
    """
    probe = latent.new_zeros(1, *latent.shape[1:-2], PROBE_CELLS, PROBE_CELLS)
    still = probe
    if latent.ndim == 5:
        still, probe = probe[:, :, :1], probe[:, :, :PROBE_FRAMES]
    with ignore_failures():
        # The last module at the lowest resolution leaves the least to do in windows. Where
        # something bypasses it, the output has the shape of the few cells that it is run on, and an
        # earlier one is tried.
        candidates = find_lowest_modules(decoder, still)[-MOST_TRIES:]
        for module, output in reversed(candidates):
            with ignore_failures():
                several = probe.shape != still.shape
                features = decoder.run_first_part(probe, module) if several else [output]
                if _decides_picture(decoder, module, features, probe):
                    return _measure_split_point(decoder, module, features, probe)
    return None


@contextmanager
def ignore_failures() -> Iterator[None]:
    """Leave the block where the VAE's own code fails, but not out of memory or interrupted."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        if is_oom(error):
            raise


def find_lowest_modules(decoder: Decoder, probe: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Return the modules whose output has the lowest resolution, with their output for the probe.

    They come in the order in which they finish. Modules that run more than once are left out, since
    their second output is not their first one; so are modules that lie in another of the list,
    since that one has the same output, or something bypasses the inner one.
    """
    calls: Counter[nn.Module] = Counter()
    seen: list[tuple[nn.Module, Tensor]] = []
    lowest = 0

    def note(module: nn.Module, _args: tuple, output: Any) -> None:
        nonlocal lowest
        calls[module] += 1
        side = _side_of(output)
        if side and (not lowest or side <= lowest):
            lowest = side
            seen.append((module, output.clone()))  # what follows may write into it

    with hook_forwards(note, *decoder.model.modules()):
        decoder.run(probe)
    found = [
        (module, output)
        for module, output in seen
        if output.shape[-1] == lowest and calls[module] == 1
    ]
    inner: set[nn.Module] = set()
    for module, _ in found:
        inner.update(child for child in module.modules() if child is not module)
    return [(module, output) for module, output in found if module not in inner]


def _side_of(output: Any) -> int:
    """Return the side of square features, a multiple of the probe's; 0 for anything else."""
    if not isinstance(output, Tensor) or output.ndim < 4:
        return 0
    height, width = output.shape[-2:]
    return width if height == width and width % PROBE_CELLS == 0 else 0


def _decides_picture(
    decoder: Decoder, module: nn.Module, features: Sequence[Tensor], probe: Tensor
) -> bool:
    """Return whether the picture of the probe is made of nothing but these features.

    A decoder that adds noise to them, as LTXV 0.9.1's does, would add other noise in every window.
    """
    picture = decoder.run_second_part(features, module, probe)
    side = decoder.px_per_cell * PROBE_CELLS
    is_whole = picture.shape[-2:] == (side, side)
    if probe.ndim == 5:
        is_whole = is_whole and picture.shape[2] == count_px_frames(decoder.vae, probe)
    if not is_whole or not bool(picture.isfinite().all()):
        return False
    again = decoder.run_second_part(features, module, probe)
    return bool((picture - again).abs().max() < LEVEL)


def _measure_split_point(
    decoder: Decoder, module: nn.Module, features: Sequence[Tensor], probe: Tensor
) -> SplitPoint | None:
    reach = 0
    for axis in (-1, -2):
        along = measure_reach(axis, decoder, module, features, probe)
        if along is None:
            return None
        reach = max(reach, along)
    scale = features[0].shape[-1] // PROBE_CELLS
    return SplitPoint(module, scale, decoder.px_per_cell, reach)


def measure_reach(
    axis: int, decoder: Decoder, module: nn.Module, features: Sequence[Tensor], probe: Tensor
) -> int | None:
    """Return how many cells away along an axis, -1 or -2, features change the picture.

    None where they change all of it. The probe's features are repeated to a long strip, and those
    of the cell in its middle become NaN.
    """
    length = STRIP_CELLS[0]
    middle = length // 2
    strips = [_lay_strip(part, axis, middle) for part in features]
    # Fast convolutions (Winograd, Fourier) would carry the NaN further than the sum that they stand
    # for.
    with torch.backends.cudnn.flags(enabled=False):
        picture = decoder.run_second_part(strips, module, probe)
    by_cell = picture.isnan().movedim(axis, -1).unflatten(-1, (length, -1))
    spoilt = by_cell.movedim(-2, 0).flatten(1).any(1)
    if spoilt[0] or spoilt[-1]:
        return None
    cells = spoilt.nonzero().flatten().tolist()
    return max(middle - cells[0], cells[-1] - middle)


def _lay_strip(features: Tensor, axis: int, middle: int) -> Tensor:
    """Repeat the probe's features to a long strip along an axis, with NaN in one cell of it."""
    length, width = STRIP_CELLS
    scale = features.shape[-1] // PROBE_CELLS
    repeats = [1] * features.ndim
    repeats[axis] = length // PROBE_CELLS
    strip = features.narrow(-3 - axis, 0, width * scale).repeat(repeats)
    strip.narrow(axis, middle * scale, scale).fill_(torch.nan)
    return strip
