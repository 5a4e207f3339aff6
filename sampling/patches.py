"""Masks and pictures inside the patches of other nodes: masks are cut, other pictures reported.

A patch of attention (IP-Adapter with a mask, regional prompts, attention couples) holds a mask of
the whole image and resizes it to what it sees; in a window it would squeeze all of it in. Packs
keep their masks wherever they like: in an object's attributes, in the closure of a function, in
dicts and lists. So everything that a patch can reach is walked, and a patch that reaches a mask is
replaced by a copy that holds the window's part of it.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import Box, comes_with_comfyui
from .cropping import SHORTEST_PICTURE, Grid, crop, grid_of
from .protocols import Options

MASK_PX_PER_CELL = 8  # masks are resized to so many px per cell, where they are no whole multiple
ASPECT_TOLERANCE = 0.02
MOST_DEPTH = 8  # of what a patch holds within what it holds


class Found(NamedTuple):
    """Something that a patch holds: whose it is, under which name, and itself."""

    owner: str
    name: str
    value: Any


class PatchCutter:
    """Cuts what patches hold to one window, or finds it.

    `canvas` is (rows, columns) of the latent's cells, `text_tokens` the length of the prompt: a
    mask of that size is between words. `resized` is `RunMemory.resized_masks`.
    """

    def __init__(
        self, canvas: Grid, text_tokens: int, resized: dict[int, tuple[Tensor, Tensor]]
    ) -> None:
        self.canvas = canvas
        self.text_tokens = text_tokens
        self.resized = resized

    def find_masks(self, options: Options) -> list[Found]:
        """Return the masks that `cut` would cut."""
        return [found for found in find_tensors(options) if self._is_mask(found)]

    def find_unknown(self, patches: Any) -> list[Found]:
        """Return what looks like a picture over the canvas and is no mask that `cut` would cut."""
        found = find_tensors(patches)
        return [one for one in found if not self._is_mask(one) and self._lies_on_canvas(one)]

    def cut(self, options: Options, box: Box) -> Options:
        """Return the options with every mask cut to a box of the canvas; the same if none is."""
        result: Options = _Rebuilder(lambda name, value: self._cut(name, value, box)).rebuild(
            "", options
        )
        return result

    def _cut(self, name: str, value: Tensor, box: Box) -> Tensor:
        if not self._is_mask(Found("", name, value)):
            return value
        rows, columns = self.canvas
        height, width = grid_of(value)
        finer = height // rows
        if not finer or (height, width) != (finer * rows, finer * columns):
            finer = MASK_PX_PER_CELL
            value = self._resize(value, finer)
        return crop(value, Box(*(edge * finer for edge in box)))

    def _resize(self, mask: Tensor, finer: int) -> Tensor:
        """Return [..., h, w] at `finer` times the canvas' resolution, kept for the run."""
        if id(mask) not in self.resized:
            size = [finer * side for side in self.canvas]
            planes = mask.reshape(1, -1, *mask.shape[-2:]).float()
            resized = F.interpolate(planes, size=size, mode="nearest-exact").to(mask.dtype)
            # The mask itself is kept, too, or another might get its identity.
            self.resized[id(mask)] = mask, resized.reshape(*mask.shape[:-2], *size)
        return self.resized[id(mask)][1]

    def _is_mask(self, found: Found) -> bool:
        """Tell by its name and size whether a tensor is a mask over the canvas.

        A mask is stretched to the canvas whatever its own aspect. One of two dimensions may also be
        of words [rows, tokens], so it has to have the canvas' aspect.
        """
        name, mask = found.name.lower(), found.value
        if "mask" not in name or "text" in name or mask.ndim < 2:
            return False
        grid = grid_of(mask)
        if min(grid) < SHORTEST_PICTURE or grid == (self.text_tokens, self.text_tokens):
            return False
        return mask.ndim > 2 or self._has_its_aspect(grid)

    def _lies_on_canvas(self, found: Found) -> bool:
        grid = grid_of(found.value)
        return found.value.ndim > 2 and min(grid) >= SHORTEST_PICTURE and self._has_its_aspect(grid)

    def _has_its_aspect(self, grid: Grid) -> bool:
        ratio = grid[0] * self.canvas[1] / (grid[1] * self.canvas[0])
        return abs(ratio - 1) <= ASPECT_TOLERANCE


def find_tensors(value: Any) -> list[Found]:
    """Return every tensor of two or more dimensions that a value reaches."""
    found = _walk(Found("", "", value), 0, set())
    return [one for one in found if isinstance(one.value, Tensor) and one.value.ndim >= 2]


def reaches(value: Any, target: object) -> bool:
    """Tell whether a value is the target, or holds it in whatever way."""
    return any(found.value is target for found in _walk(Found("", "", value), 0, set()))


def _walk(held: Found, depth: int, seen: set[int]) -> Iterator[Found]:
    """Yield a patch, or a part of it, and everything that it reaches."""
    owner, name, value = held
    yield held
    if not isinstance(value, Tensor) and depth <= MOST_DEPTH and id(value) not in seen:
        seen.add(id(value))
        owner = name_owner(value) or owner
        for part_name, part in _parts(name, value):
            yield from _walk(Found(owner, part_name, part), depth + 1, seen)


def name_owner(value: Any) -> str:
    """Return what a patch is called, or "" for a mere container."""
    if isinstance(value, types.MethodType):
        return type(value.__self__).__name__
    if isinstance(value, types.FunctionType):
        return value.__qualname__.split(".")[0]
    return type(value).__name__ if _is_object(value) else ""


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value holds, each part with its name; parts without one inherit `name`."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key if isinstance(key, str) else name, part
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield name, part
    elif isinstance(value, functools.partial):
        yield name, value.func
        yield from _parts(name, value.args)
        yield from _parts(name, value.keywords)
    elif isinstance(value, types.MethodType):
        yield name, value.__self__
    elif isinstance(value, types.FunctionType):
        yield from _filled_cells(value)
    elif _is_object(value):
        yield from vars(value).items()


def _filled_cells(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if _is_filled(cell):
            yield name, cell.cell_contents


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # its variable has no value yet
        return False
    return True


def _is_object(value: Any) -> bool:
    """Tell whether a value is an object of another pack, whose attributes may hold masks.

    What ComfyUI's own objects hold has rules of its own.
    """
    if isinstance(value, (type, types.ModuleType, super, torch.nn.Module)):
        return False
    return hasattr(value, "__dict__") and not comes_with_comfyui(type(value))


class _Rebuilder:
    """Replaces tensors in whatever holds them, and copies only what holds a replaced one."""

    def __init__(self, replace: Callable[[str, Tensor], Tensor]) -> None:
        self.replace = replace
        self.rebuilt: dict[int, Any] = {}

    def rebuild(self, name: str, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Tensor):
            return self.replace(name, value)
        if depth > MOST_DEPTH:
            return value
        if id(value) not in self.rebuilt:
            self.rebuilt[id(value)] = value  # of a cycle, the original is kept
            self.rebuilt[id(value)] = self._rebuild(name, value, depth + 1)
        return self.rebuilt[id(value)]

    def _rebuild(self, name: str, value: Any, depth: int) -> Any:
        before = list(_parts(name, value))
        after = [self.rebuild(part_name, part, depth) for part_name, part in before]
        changed = [new is not old for new, (_, old) in zip(after, before, strict=True)]
        return _with_parts(value, after) if any(changed) else value


def _with_parts(value: Any, parts: list[Any]) -> Any:
    """Return a copy of a value that holds these parts, in the order of `_parts`."""
    if isinstance(value, dict):
        same = copy(value)
        same.update(zip(value, parts, strict=True))
        return same
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*parts)
    if isinstance(value, (list, tuple)):
        return type(value)(parts)
    if isinstance(value, functools.partial):
        function, *values = parts
        args = values[: len(value.args)]
        keywords = dict(zip(value.keywords, values[len(value.args) :], strict=True))
        return functools.partial(function, *args, **keywords)
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, parts[0])
    if isinstance(value, types.FunctionType):
        return _with_cells(value, parts)
    same = copy(value)
    vars(same).update(zip(vars(value), parts, strict=True))
    return same


def _with_cells(function: types.FunctionType, contents: list[Any]) -> types.FunctionType:
    """Return a copy of a function whose filled cells hold these contents."""
    remaining = iter(contents)
    cells = []
    for cell in function.__closure__ or ():
        cells.append(types.CellType(next(remaining)) if _is_filled(cell) else cell)
    same = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells),
    )
    same.__kwdefaults__ = function.__kwdefaults__
    same.__qualname__ = function.__qualname__
    vars(same).update(vars(function))
    return same
