"""Sums over the frames of a clip, read one by one, in which motion is detail like any other.

A frame's sums of colours are means over it and its neighbours, so that their variance is one in
space and time; to its octaves comes the change to its neighbours (`sum_motion`). So frames that are
all equal give the sums of one of them, and a still background gives those of a still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .detail import COLOR_FIELDS, BlockSums, detail_by_color
from .octaves import share_detail, sum_motion, sum_octaves


class FrameSums(NamedTuple):
    """The sums of a frame in its clip, as `BlockSums` holds them, with edges and octaves."""

    sums: Tensor
    octaves: Tensor


def sum_frames(frames: Tensor) -> Iterator[FrameSums]:
    """Yield the sums of each frame of a clip [N, H, W, C] in 0..1.

    Raises ValueError for frames that `BlockSums.of_image` refuses.
    """
    before: list[Tensor] = []  # the colours of the frame before, and the change since
    change: list[Tensor] = []
    here = _sum_image(frames[0])
    for number, frame in enumerate(frames):
        around, changes, after = [*before, here.sums], change, None
        if number + 1 < len(frames):
            after = _sum_image(frames[number + 1])
            around.append(after.sums)
            change = [sum_motion(frame, frames[number + 1]).cpu()]
            changes = changes + change
        octaves = here.octaves
        if changes:
            octaves = octaves + torch.stack(changes).mean(0)
        yield FrameSums(torch.stack(around).mean(0), octaves)
        if after is not None:
            before, here = [here.sums], after


def _sum_image(image: Tensor) -> FrameSums:
    return FrameSums(BlockSums.of_image(image, edges=True).sums, sum_octaves(image).cpu())


@dataclass(frozen=True, eq=False)
class ClipSums:
    """The sums of all frames of a clip of `width` x `height` px: about a tenth of its bytes."""

    width: int
    height: int
    frames: Sequence[FrameSums]

    @classmethod
    def of_frames(cls, frames: Tensor) -> ClipSums:
        """Return the sums of a clip [N, H, W, C] in 0..1, see `sum_frames`."""
        height, width = frames.shape[1:3]
        return cls(width, height, list(sum_frames(frames)))

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for frame in self.frames for part in frame)

    def join(self, sums: Tensor, octaves: Tensor) -> BlockSums:
        """Return sums over all frames as those of one image."""
        return BlockSums(self.width, self.height, sums, octaves, len(self.frames))


def average_frames(clip: ClipSums) -> BlockSums:
    """Return the means over the frames of a clip: what moves counts for as long as it does."""
    total = clip.frames[0]
    for frame in clip.frames[1:]:
        total = FrameSums(*map(torch.add, total, frame))
    return clip.join(*(values / len(clip.frames) for values in total))


def find_busiest(clip: ClipSums) -> BlockSums:
    """Return the most that any frame of a clip has in each block: a short motion counts fully."""
    most = clip.frames[0]
    for frame in clip.frames[1:]:
        most = _take_busier(most, frame)
    return clip.join(*most)


def _take_busier(one: FrameSums, other: FrameSums) -> FrameSums:
    """Return the colours of the frame in which they vary more, and the most of all the rest."""
    busier = detail_by_color(other.sums) > detail_by_color(one.sums)
    sums = torch.where(busier[..., None], other.sums, one.sums)
    sums[..., COLOR_FIELDS:] = torch.maximum(one.sums, other.sums)[..., COLOR_FIELDS:]
    return FrameSums(sums, torch.maximum(one.octaves, other.octaves))


def measure_frames(clip: ClipSums, side: int) -> Tensor:
    """Return each tile's share of a clip's fine detail in each frame, float64 [N, rows, columns].

    Tiles are squares of `side` px; the shares of all frames sum to 1, or to 0 without any detail.
    """
    frame_sums = [torch.cat([frame.octaves, frame.sums[..., 4:5]], -1) for frame in clip.frames]
    return share_detail(frame_sums, side)
