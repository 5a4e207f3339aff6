"""Boxes, units, integer helpers, the pack's logger, and values as error messages show them.

Imports the standard library only.
"""

from __future__ import annotations

import logging
import reprlib
from typing import Any, NamedTuple

COMFYUI_PACKAGES = ("comfy", "comfy_api", "comfy_execution", "comfy_extras")
OWN_PACKAGE = __name__.rpartition(".")[0].replace("\\", "/")
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
    def extent(self) -> int:
        """The number of cells, px or units in it."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of this box in a tensor [..., y, x]: `tensor[(..., *box.slices)]`."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def info(message: str, *args: object) -> None:
    """Log an INFO line that says which pack it comes from; `args` fill in `message`."""
    LOG.info(PREFIX + message, *args)


def warn(message: str, *args: object) -> None:
    """Log a WARNING line that says which pack it comes from; `args` fill in `message`."""
    LOG.warning(PREFIX + message, *args)


def name_module(thing: Any) -> str:
    """Return the module of a class or function; of a pack's, which is a path, the last part."""
    return _read_module(thing).rpartition("/")[2]


def comes_with_comfyui(thing: Any) -> bool:
    """Tell whether a class or function is ComfyUI's, or this pack's own.

    ComfyUI names the modules of packs, and those of its own extra nodes, by their path.
    """
    module = _read_module(thing)
    if module.startswith(OWN_PACKAGE):
        return True
    if "/" in module:
        return "/comfy_extras/" in module
    return module.partition(".")[0] in COMFYUI_PACKAGES


def _read_module(thing: Any) -> str:
    return (getattr(thing, "__module__", None) or "").replace("\\", "/")


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def round_down(value: int, unit: int) -> int:
    """Return the largest multiple of `unit` that is not above `value`."""
    return value // unit * unit


def round_up(value: int, unit: int) -> int:
    """Return the smallest multiple of `unit` that is not below `value`."""
    return ceil_div(value, unit) * unit


def count_latent_frames(frames: int, frames_per_latent: int) -> int:
    """Return the latent frames of a clip: `count_latent_frames(10, 4)` is 3, of its first 9."""
    return 1 + (frames - 1) // frames_per_latent


def cells_from_px(px: int, px_per_cell: int, unit: int = 1) -> int:
    """Return the latent cells that `px` image px need, rounded up to a multiple of `unit` cells."""
    return round_up(ceil_div(px, px_per_cell), unit)


def format_seconds(seconds: float) -> str:
    """Return a duration to read: "12 s" or "3 min 20 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_value(value: Any) -> str:
    """Return a value as an error message shows it; a long or deep one is shortened."""
    # Python refuses to write out an integer of thousands of digits.
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"a number of {value.bit_length()} bits"
    return SHOWN.repr(value)
