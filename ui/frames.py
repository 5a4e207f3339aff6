"""What the panel shows of the frames of a clip after a run: pictures of some, and their trees."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from ..quadtree import Quadtree
from ..tree.clips import ClipSums, group_frames
from ..utils import ceil_div
from .clips import CLIPS
from .inputs import check_number
from .pictures import PictureFile, save_picture

MOST_SHOWN = 48  # frames of a clip
SHOWN_PX = 768  # longest side of their pictures
LARGEST_CLIP = 512 << 20  # bytes of the sums of a clip, which are kept of the last one


class KeptClip(NamedTuple):
    """The frames of a clip that the panel shows, and their pictures."""

    shown: Sequence[int]
    pictures: Sequence[PictureFile]

    @classmethod
    def of_frames(cls, frames: Tensor, key: str) -> KeptClip:
        """Save pictures of some frames of [N, H, W, C] under a key."""
        shown = list_shown_frames(len(frames))
        pictures = [save_picture(frames[one], f"{key}_{one}", SHOWN_PX) for one in shown]
        return cls(shown, pictures)

    def choose(self, place: Any) -> int:
        """Return which of the shown frames a request means; the last one of a shorter clip."""
        return min(check_number("frame", place, 0, MOST_SHOWN, kind=int), len(self.shown) - 1)


class FrameTree(NamedTuple):
    """The tree of a frame, the trees of its clip, and what a budget found for them."""

    tree: Quadtree
    trees: Sequence[Quadtree]
    found: str | None


def list_shown_frames(count: int) -> list[int]:
    """Return the frames of a clip that are shown: the first of each tree, in equal steps."""
    firsts = [group.start for group in group_frames(count)]
    return firsts[:: ceil_div(len(firsts), MOST_SHOWN)]


def build_for_frame(
    clip: ClipSums, batch: str, frame: int, mask: Tensor | None, **options: Any
) -> FrameTree:
    """Build the tree of a frame of a clip as the node does; `batch` is one of CLIPS."""
    trees, found = _build_trees(clip, batch, mask, **options)
    return FrameTree(trees[frame % len(trees)], trees, found)


@lru_cache(maxsize=1)  # to look at one frame after the other builds nothing
def _build_trees(
    clip: ClipSums, batch: str, mask: Tensor | None, **options: Any
) -> tuple[Sequence[Quadtree], str | None]:
    built = CLIPS[batch](clip, [mask] * clip.count, **options)
    choice = built.choices[0]
    return built.trees, choice and choice.found
