"""The windows of a batch of images: each image gets those that it would get alone.

So it becomes the same picture in any batch, and costs what it costs alone. Images with the same
windows share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from .planning import Planner
from .tiling import Images, Tiling, Window


class ImageWindows(NamedTuple):
    """Windows of a step, and the images of the batch that they are for; None: all of them."""

    windows: tuple[Window, ...]
    images: Images | None


def plan_images(
    units: Sequence[Sequence[np.ndarray]], size: tuple[int, int], tiling: Tiling
) -> list[list[ImageWindows]]:
    """Return the windows of each step of a run.

    `units` has the active units of each step, from `mark_active_units`, for every image; `size` is
    (height, width) of the latent in cells.
    """
    alike: dict[bytes, list[int]] = {}
    for image, steps in enumerate(units):
        alike.setdefault(b"".join(active.tobytes() for active in steps), []).append(image)
    plans = [Planner(size, tiling).plan_run(units[images[0]]) for images in alike.values()]
    return [
        _share(zip(of_step, alike.values(), strict=True)) for of_step in zip(*plans, strict=True)
    ]


def _share(
    of_images: Iterable[tuple[tuple[Window, ...], Sequence[int]]],
) -> list[ImageWindows]:
    """Join the images that have the same windows at a step."""
    shared: dict[tuple[Window, ...], list[int]] = {}
    for windows, images in of_images:
        shared.setdefault(windows, []).extend(images)
    if len(shared) == 1:
        return [ImageWindows(windows, None) for windows in shared]
    return [ImageWindows(windows, tuple(sorted(shared[windows]))) for windows in shared if windows]
