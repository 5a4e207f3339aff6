"""Units, boxes, integer helpers, the pack's logger and its number checks. Imports the standard library only."""

from __future__ import annotations

import logging
import reprlib
from typing import Any, NamedTuple

LOG = logging.getLogger("quadtree_diffusion")
SHOWN = reprlib.Repr()
SHOWN.maxstring = SHOWN.maxother = 120
PREFIX = "Quadtree: "  # ComfyUI's console prints the bare message, so the message says whose it is


class Box(NamedTuple):
    """Half-open rectangle x0 <= x < x1, y0 <= y < y1, in whatever unit its name says."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of this box in the trailing [y, x] dimensions of a tensor: `tensor[(..., *box.slices)]`."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def info(message: str, *args: object) -> None:
    LOG.info(PREFIX + message, *args)


def warn(message: str, *args: object) -> None:
    LOG.warning(PREFIX + message, *args)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def round_down(value: int, unit: int) -> int:
    return value // unit * unit


def round_up(value: int, unit: int) -> int:
    return ceil_div(value, unit) * unit


def cells_from_px(px: int, px_per_cell: int, unit: int = 1) -> int:
    """Whole latent cells in `px` image px, rounded up to a multiple of `unit` cells; 0 stays 0."""
    return round_up(ceil_div(px, px_per_cell), unit)


def shown(value: Any) -> str:
    """A value as an error message shows it; a long or deep one in part."""
    if (
        isinstance(value, int) and value.bit_length() > 1000
    ):  # Python itself writes out no number of thousands of digits
        return f"a number of {value.bit_length()} bits"
    return SHOWN.repr(value)
