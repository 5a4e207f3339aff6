"""The regions that a user paints over a quadtree, as JSON in a widget's value.

    {"size": [1024, 768], "regions": [["keep", 0.25, 0.5, 0.5, 0.75], ["full", 0, 0, 0.25, 0.5],
     ["value", 0.5, 0, 1, 0.25, 0.4]]}

A region is a rectangle that is kept ("keep"), fully regenerated ("full"), given a denoise in 0..1,
which is its last number ("value"), or left to the tree again ("auto"), with its x0, y0, x1 and y1
as shares of the image's width and height. Where regions overlap, the later one counts. `size` is
that of the image they were painted on: on an image of another aspect they are ignored. A bare list
of regions fits every image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..utils import ceil_div, format_value
from .blocks import GRID_PX

DENOISE = {"keep": 0.0, "full": 1.0, "auto": -1.0}  # -1: as if nothing was painted
MOST_REGIONS = 20_000  # `paint_regions` numbers them in 15 bits
MOST_PX = 1 << 20
SAME_ASPECT = 0.02  # relative difference; a resize to whole px changes the aspect a little


class Region(NamedTuple):
    """A rectangle; its edges are shares of the image's sides in 0..1.

    `what` is one of DENOISE, or "value", to which the denoise `value` in 0..1 belongs.
    """

    what: str
    x0: float
    y0: float
    x1: float
    y1: float
    value: float | None = None

    @property
    def denoise(self) -> float:
        """The denoise in 0..1; -1 stands for that of the tree."""
        return DENOISE[self.what] if self.value is None else self.value


class Painting(NamedTuple):
    """Regions, and the size in px of the image they were painted on, or None where they fit any."""

    regions: tuple[Region, ...] = ()
    size: tuple[int, int] | None = None

    @classmethod
    def from_json(cls, text: str) -> Painting:
        """Read the regions of a text; an empty one holds none.

        Raises ValueError for anything else, and says which part of the text is wrong.
        """
        if not isinstance(text, str):
            raise ValueError(
                f"regions is {type(text).__name__}, not text; see the help page of Quadtree "
                "Visualizer."
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
                f"regions holds {len(data['regions'])} regions; at most {MOST_REGIONS} are allowed."
            )
        return cls(tuple(map(_read_region, data["regions"])), _read_size(data.get("size")))

    def select_regions(self, width: int, height: int) -> tuple[Region, ...] | None:
        """Return the regions for an image of this size in px; None if its aspect is another."""
        if self.size is None:
            return self.regions
        difference = abs(self.size[0] * height / (self.size[1] * width) - 1)
        return self.regions if difference <= SAME_ASPECT else None


def _read_region(value: Any) -> Region:
    """Return [what, x0, y0, x1, y1] as a region, with "value" a denoise behind it.

    Raises ValueError for anything else.
    """
    if isinstance(value, list) and value and isinstance(value[0], str):
        what, *numbers = value
        known = 4 if what in DENOISE else 5 if what == "value" else 0
        if len(numbers) == known and all(map(_is_share, numbers)):
            x0, y0, x1, y1, *rest = map(float, numbers)
            if x0 < x1 and y0 < y1:
                return Region(what, x0, y0, x1, y1, *rest)
    raise ValueError(
        f"{format_value(value)} in regions is not a region. A region is keep, full or auto and "
        "then x0, y0, x1, y1 as shares of the image in 0..1, such as "
        '["keep", 0.25, 0.5, 0.5, 0.75], or value with a denoise in 0..1 at the end, such as '
        '["value", 0.25, 0.5, 0.5, 0.75, 0.4].'
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _read_size(value: Any) -> tuple[int, int] | None:
    """Return [width, height] as a tuple, and None as it is; raise ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(map(_is_side, value)):
        return value[0], value[1]
    raise ValueError(f"size in regions is {format_value(value)}; it must be [width, height] in px.")


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_PX


def paint_regions(regions: Sequence[Region], width: int, height: int, side: int) -> Tensor | None:
    """Return the painted denoise on blocks of `side` px, float64 [rows, columns], by their centres.

    It is -1 where nothing is painted; None stands for no regions at all.
    """
    if not regions:
        return None
    shape = ceil_div(height, side), ceil_div(width, side)
    # The number of its region per block, in two bytes: many large regions write it over and over.
    grid = torch.zeros(shape, dtype=torch.int16)
    for number, region in enumerate(regions, start=1):
        rows = _find_blocks(region.y0, region.y1, height, side)
        columns = _find_blocks(region.x0, region.x1, width, side)
        grid[rows, columns] = number
    denoise = [DENOISE["auto"], *(region.denoise for region in regions)]
    return torch.tensor(denoise, dtype=torch.float64)[grid.int()]


def mark_painted(regions: Sequence[Region], width: int, height: int) -> Tensor:
    """Return where regions are painted to be refined: 1 in a mask [1, height, width], else 0.

    What is painted to be kept, with a denoise of 0, does not count.
    """
    painted = paint_regions(regions, width, height, GRID_PX)
    if painted is None:
        return torch.zeros(1, height, width)
    marked = (painted > 0).float()
    marked = marked.repeat_interleave(GRID_PX, 0).repeat_interleave(GRID_PX, 1)
    return marked[None, :height, :width]


def _find_blocks(start: float, end: float, length: int, side: int) -> slice:
    """Return the blocks of one axis whose centres lie in start..end, shares of `length` px.

    The last block's centre is that of its part inside the image.
    """
    blocks = ceil_div(length, side)

    def first_from(share: float) -> int:
        px = round(share * length, 3)  # a third must find the block that starts at a third
        if px > ((blocks - 1) * side + length) / 2:
            return blocks
        return min(blocks - 1, max(0, math.ceil(px / side - 0.5)))

    return slice(first_from(start), first_from(end))
