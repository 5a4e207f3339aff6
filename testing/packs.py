"""Nodes of other packs that are loaded: how they are called, and in which graph each is checked.

The packs themselves are not part of this project.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import nodes as core

from .local_models import HEIGHT, WIDTH
from .neighbours import Graph, sampled


@dataclass(frozen=True)
class Neighbour:
    """A node of another pack, and the graph that it stands in.

    `mixes` tells that a cell of its result depends on the whole window, so that windows may show.
    `needs` names nodes of other packs that stand in the same graph; `cells` is the latent's size,
    and `images` its batch.
    """

    make: Callable[[], Graph]
    sample: Callable = sampled
    mixes: bool = False
    cells: tuple[int, int] = (HEIGHT, WIDTH)
    images: int = 1
    needs: tuple[str, ...] = ()


def call(node_id: str, **inputs: Any) -> Any:
    """Return the first output of a node that is loaded."""
    return call_all(node_id, **inputs)[0]


def call_all(node_id: str, **inputs: Any) -> tuple:
    """Return the outputs of a node that is loaded; inputs that are not given have defaults."""
    kind = core.NODE_CLASS_MAPPINGS[node_id]
    values = {**default_inputs(kind), **inputs}
    result = getattr(kind(), kind.FUNCTION)(**values)
    if isinstance(result, dict):
        result = result["result"]
    return tuple(getattr(result, "args", result))


def default_inputs(kind: Any) -> dict[str, Any]:
    """Return what ComfyUI's frontend would fill in, for the required inputs that are widgets."""
    found = {}
    for name, (type_name, *options) in kind.INPUT_TYPES().get("required", {}).items():
        settings = options[0] if options else {}
        if isinstance(type_name, (list, tuple)) or type_name == "COMBO":
            choices = settings.get("options", type_name)
            found[name] = settings.get("default", next(iter(choices), None))
        elif "default" in settings:
            found[name] = settings["default"]
    return found


def module_beside(node_id: str, name: str) -> ModuleType:
    """Return a module of a node's pack that lies beside the node's own."""
    package = core.NODE_CLASS_MAPPINGS[node_id].__module__.rpartition(".")[0]
    return sys.modules[f"{package}.{name}"]


def patched_by(node_id: str, family: str = "sd15", **inputs: Any) -> Callable[[], Graph]:
    """Return what makes the graph of a node on the model."""

    def patch(model: Any) -> Any:
        return call(node_id, model=model, **inputs)

    return lambda: Graph(patch, family=family, steps=6)


def model_nodes(pack: str) -> list[str]:
    """Return the nodes of a pack that need a model and nothing else, and give a model."""
    return [
        node_id
        for node_id, kind in core.NODE_CLASS_MAPPINGS.items()
        if pack_of(kind) == pack and needs_only_a_model(kind)
    ]


def needs_only_a_model(kind: Any) -> bool:
    required = kind.INPUT_TYPES().get("required", {})
    defaults = default_inputs(kind)
    linked = {name for name in required if defaults.get(name) is None}
    outputs = getattr(kind, "RETURN_TYPES", ())
    return linked == {"model"} and tuple(outputs[:1]) == ("MODEL",)


def pack_of(kind: Any) -> str:
    """Return the folder that a node was loaded from; empty for ComfyUI's own nodes."""
    parent, _, name = getattr(kind, "RELATIVE_PYTHON_MODULE", "").partition(".")
    return name if parent == "custom_nodes" else ""


def neighbours_of(pack: str, table: Mapping[str, Neighbour]) -> dict[str, Neighbour]:
    """Return the graphs of a pack's nodes; a row of the table begins with the node's id.

    A pack that is not in the table gets one for each node that needs a model and nothing else.
    """
    known = {
        name: neighbour
        for name, neighbour in table.items()
        if pack_of(core.NODE_CLASS_MAPPINGS.get(name.split(",")[0])) == pack
        and core.NODE_CLASS_MAPPINGS.keys() >= set(neighbour.needs)
    }
    return known or {node_id: Neighbour(patched_by(node_id)) for node_id in model_nodes(pack)}
