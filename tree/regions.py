"""What the user painted over a quadtree: rectangles that are kept, fully regenerated, or left to the tree again.

As JSON in a widget's value: `{"size": [1024, 768], "regions": [["keep", 0.25, 0.5, 0.5, 0.75], ["full", 0, 0, 0.25, 0.5]]}`,
a word and x0 y0 x1 y1 as shares of the image's width and height, the later over the earlier. `size` is that of the image it
was painted on; on an image of another aspect the regions are ignored. A bare list of regions fits every image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..utils import ceil_div, shown

DENOISE = {"keep": 0.0, "full": 1.0, "auto": -1.0}
MOST_REGIONS = 20_000
SAME_ASPECT = 0.02  # relative; a resize to whole px changes it a little


class Region(NamedTuple):
    """`what` is one of DENOISE; the edges are shares of the image's width and height in 0..1."""

    what: str
    x0: float
    y0: float
    x1: float
    y1: float


class Painting(NamedTuple):
    """Regions, and the size in px of the image they were painted on, or None where they fit any."""

    regions: tuple[Region, ...] = ()
    size: tuple[int, int] | None = None

    @classmethod
    def from_json(cls, text: str) -> Painting:
        """What a text holds; ValueError that says which part is none. An empty text holds nothing."""
        if not isinstance(text, str):
            raise ValueError(
                f"regions is {type(text).__name__}, not a text; see the help page of Quadtree Visualizer."
            )
        if not text.strip():
            return cls()
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"regions is not valid JSON: {str(error)[:120]}. Clear it, or paint in the panel."
            ) from None
        data = {"regions": data} if isinstance(data, list) else data
        if not isinstance(data, dict) or not isinstance(data.get("regions"), list):
            raise ValueError(
                'regions must be JSON like {"regions": [["keep", 0.25, 0.5, 0.5, 0.75]]}.'
            )
        if len(data["regions"]) > MOST_REGIONS:
            raise ValueError(
                f"regions holds {len(data['regions'])} of them; at most {MOST_REGIONS} fit."
            )
        return cls(tuple(map(_region, data["regions"])), _size(data.get("size")))

    def on(self, width: int, height: int) -> tuple[Region, ...] | None:
        """The regions on an image of this size; None where they were painted on one of another aspect."""
        if (
            self.size is None
            or abs(self.size[0] * height / (self.size[1] * width) - 1) <= SAME_ASPECT
        ):
            return self.regions
        return None


def _region(value: Any) -> Region:
    if (
        isinstance(value, list)
        and len(value) == 5
        and isinstance(value[0], str)
        and value[0] in DENOISE
    ):
        numbers = [
            edge
            for edge in value[1:]
            if isinstance(edge, (int, float)) and not isinstance(edge, bool)
        ]
        if (
            len(numbers) == 4
            and 0 <= numbers[0] < numbers[2] <= 1
            and 0 <= numbers[1] < numbers[3] <= 1
        ):
            return Region(value[0], *map(float, numbers))
    raise ValueError(
        f"{shown(value)} in regions is not a region. A region is keep, full or auto and then x0, y0, x1, y1 as shares of "
        'the image in 0..1, such as ["keep", 0.25, 0.5, 0.5, 0.75].'
    )


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if (
        isinstance(value, list)
        and len(value) == 2
        and all(type(side) is int and 0 < side <= 1 << 20 for side in value)
    ):
        return value[0], value[1]
    raise ValueError(f"size in regions is {shown(value)}; it must be [width, height] in px.")


def paint_regions(regions: Sequence[Region], width: int, height: int, side: int) -> Tensor | None:
    """Return the painted denoise on blocks of `side` px, float64 [rows, columns], by their centres.

    It is -1 where nothing is painted; None stands for no regions at all.
    """
    if not regions:
        return None
    # A byte each, because many large regions write it over and over.
    grid = torch.full(
        (ceil_div(height, side), ceil_div(width, side)), int(DENOISE["auto"]), dtype=torch.int8
    )
    for region in regions:
        rows, columns = (
            _blocks(region.y0, region.y1, height, side),
            _blocks(region.x0, region.x1, width, side),
        )
        grid[rows, columns] = int(DENOISE[region.what])
    return grid.double()


def _blocks(start: float, end: float, length: int, side: int) -> slice:
    """Blocks whose centre lies in start..end; the last one's is that of its part inside the image."""
    blocks = ceil_div(length, side)

    def first_from(share: float) -> int:
        px = round(share * length, 3)  # a share of a third must find the block that starts there
        if px > ((blocks - 1) * side + length) / 2:
            return blocks
        return min(blocks - 1, max(0, math.ceil(px / side - 0.5)))

    return slice(first_from(start), first_from(end))
