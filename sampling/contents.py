"""What patches and wrappers of other packs hold: all they reach, and copies with other tensors.

Packs keep things wherever they like: in an object's attributes, in the closure or the defaults of
a function, in dicts and lists. What ComfyUI's own objects hold has rules of its own, and is left
alone, as are networks.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..utils import comes_with_comfyui

MOST_DEPTH = 8  # of what a patch holds within what it holds
NUMBERS = "biuf"  # the kinds of numpy's arrays that hold numbers


class Found(NamedTuple):
    """Something that a patch holds: whose it is, under which name, and itself."""

    owner: str
    name: str
    value: Any


def find_tensors(value: Any) -> list[Found]:
    """Return every tensor of two or more dimensions that a value reaches, numpy's arrays as one."""
    found = []
    for one in _walk(Found("", "", value), 0, set()):
        if _is_array(one.value):
            one = one._replace(value=_view_array(one.value))
        if isinstance(one.value, Tensor) and one.value.ndim >= 2:
            found.append(one)
    return found


def reaches(value: Any, target: object) -> bool:
    """Tell whether a value is the target, or holds it in whatever way."""
    return any(found.value is target for found in _walk(Found("", "", value), 0, set()))


def name_owner(value: Any) -> str:
    """Return what a patch is called, or "" for a mere container."""
    if isinstance(value, types.MethodType):
        return type(value.__self__).__name__
    if isinstance(value, types.FunctionType):
        return value.__qualname__.split(".")[0]
    return type(value).__name__ if _is_object(value) else ""


def replace_tensors(value: Any, replace: Callable[[str, Tensor], Tensor]) -> Any:
    """Return a value with what `replace` makes of each tensor in it; the same if that is the same.

    What holds a replaced tensor is copied, with the dicts, lists and sets beside it: patches keep
    there what they make of it.
    """
    return _Rebuilder(replace).rebuild("", value)


def _walk(held: Found, depth: int, seen: set[int]) -> Iterator[Found]:
    """Yield a patch, or a part of it, and everything that it reaches."""
    owner, name, value = held
    yield held
    if not isinstance(value, Tensor) and depth <= MOST_DEPTH and id(value) not in seen:
        seen.add(id(value))
        owner = name_owner(value) or owner
        for part_name, part in _parts(name, value):
            yield from _walk(Found(owner, part_name, part), depth + 1, seen)


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
        defaults = value.__defaults__ or ()
        arguments = value.__code__.co_varnames[: value.__code__.co_argcount]
        yield from zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
        yield from (value.__kwdefaults__ or {}).items()
        yield from _filled_cells(value)
    elif _is_object(value):
        yield from _attributes(value).items()


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
    """Tell whether a value is an object of another pack, whose attributes may hold something."""
    kind = type(value)
    if isinstance(value, (type, types.ModuleType, super)):
        return False
    if isinstance(value, torch.nn.Module) and kind.__module__.split(".")[0] == "torch":
        return False  # layers hold weights
    return hasattr(value, "__dict__") and not comes_with_comfyui(kind)


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object; of a network without its layers and their weights."""
    attributes = vars(value)
    if not isinstance(value, torch.nn.Module):
        return attributes
    return {
        name: part for name, part in attributes.items() if name not in ("_modules", "_parameters")
    }


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS


def _view_array(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value))


class _Rebuilder:
    """Replaces tensors in whatever holds them."""

    def __init__(self, replace: Callable[[str, Tensor], Tensor]) -> None:
        self.replace = replace
        self.rebuilt: dict[int, Any] = {}

    def rebuild(self, name: str, value: Any, depth: int = 0) -> Any:
        if isinstance(value, Tensor):
            return self.replace(name, value)
        if _is_array(value):
            given = _view_array(value)
            replaced = self.replace(name, given)
            return value if replaced is given else replaced.numpy()
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
        if not any(changed):
            return value
        return _with_parts(value, [self._take_along(part) for part in after])

    def _take_along(self, part: Any) -> Any:
        """Return a copy of a container beside what was replaced, the same for all that hold it."""
        if type(part) in (dict, list, set) and self.rebuilt.get(id(part)) is part:
            self.rebuilt[id(part)] = copy(part)
        return self.rebuilt.get(id(part), part)


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
        return _with_contents(value, parts)
    same = copy(value)
    vars(same).update(zip(_attributes(value), parts, strict=True))
    return same


def _with_contents(function: types.FunctionType, contents: list[Any]) -> types.FunctionType:
    """Return a copy of a function whose defaults and filled cells hold these contents."""
    remaining = iter(contents)
    defaults = tuple(next(remaining) for _ in function.__defaults__ or ())
    keywords = {name: next(remaining) for name in function.__kwdefaults__ or {}}
    cells = []
    for cell in function.__closure__ or ():
        cells.append(types.CellType(next(remaining)) if _is_filled(cell) else cell)
    same = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        defaults,
        tuple(cells),
    )
    same.__kwdefaults__ = keywords
    same.__qualname__ = function.__qualname__
    vars(same).update(vars(function))
    return same
