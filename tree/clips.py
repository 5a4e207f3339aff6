"""Sums over the frames of a clip, read one by one, in which motion is detail like any other.

A frame's sums of colours are means over it and its neighbours, so that their variance is one in
space and time; to its octaves comes the change to its neighbours (`sum_motion`). So frames that are
all equal give the sums of one of them, and a still background gives those of a still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from .detail import COLOR_FIELDS, BlockSums, detail_by_color
from .octaves import share_detail, sum_motion, sum_octaves

# Trees per frame change after the first frame and then after so many, which are whole latent frames
# of most video models: 4 or 8 frames (Mochi's are 6).
FRAMES_PER_GROUP = 8


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
    """The sums of a clip of `width` x `height` px: about a fiftieth of its bytes.

    `average` are the means over all frames, and `most` the most that any has. `octaves` are those
    of each frame, in float32; `colours` the most that any has of each group of frames that share a
    tree, see `group_frames`.
    """

    width: int
    height: int
    average: FrameSums
    most: FrameSums
    octaves: Sequence[Tensor]
    colours: Sequence[Tensor]

    @classmethod
    def of_frames(cls, frames: Tensor) -> ClipSums:
        """Return the sums of a clip [N, H, W, C] in 0..1, which is read frame by frame."""
        height, width = frames.shape[1:3]
        sums = sum_frames(frames)
        total = most = next(sums)
        octaves, colours = [total.octaves.float()], [total.sums]
        _, *groups = group_frames(len(frames))
        for group in groups:
            some = list(islice(sums, group.stop - group.start))
            busiest = reduce(_take_busier, some)
            total, most = reduce(_add, some, total), _take_busier(most, busiest)
            octaves += [one.octaves.float() for one in some]
            colours.append(busiest.sums)
        average = FrameSums(*(part / len(frames) for part in total))
        return cls(width, height, average, most, octaves, colours)

    @property
    def count(self) -> int:
        """The frames of the clip."""
        return len(self.octaves)

    @property
    def bytes(self) -> int:
        parts = *self.average, *self.most, *self.octaves, *self.colours
        return sum(part.nbytes for part in parts)

    def join(self, sums: FrameSums) -> BlockSums:
        """Return sums over all frames as those of one image."""
        return BlockSums(self.width, self.height, *sums, self.count)


def group_frames(count: int) -> Iterator[slice]:
    """Yield the first frame of a clip, and then the frames that share a tree."""
    yield slice(0, 1)
    for start in range(1, count, FRAMES_PER_GROUP):
        yield slice(start, min(count, start + FRAMES_PER_GROUP))


def average_frames(clip: ClipSums) -> BlockSums:
    """Return the means over the frames of a clip: what moves counts for as long as it does."""
    return clip.join(clip.average)


def find_busiest(clip: ClipSums) -> BlockSums:
    """Return the most that any frame of a clip has in each block: a short motion counts fully."""
    return clip.join(clip.most)


def _add(one: FrameSums, other: FrameSums) -> FrameSums:
    return FrameSums(*map(torch.add, one, other))


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
    return share_detail(clip.octaves, clip.average.sums[..., 4], side)
