"""Graphs of nodes from other public packs around ours; the packs themselves are not part of this
project.

A graph is chosen by the id of its node, among the nodes that are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.samplers

import nodes as core

from .neighbours import Graph, sampled


@dataclass(frozen=True)
class Neighbour:
    """A node of another pack, and the graph that it stands in.

    `mixes` tells that a cell of its result depends on the whole window, so that windows may show.
    """

    make: Callable[[], Graph]
    sample: Callable = sampled
    mixes: bool = False


def call(node_id: str, *, output: int = 0, **inputs: Any) -> Any:
    """Return an output of a node that is loaded; inputs that are not given have their defaults."""
    kind = core.NODE_CLASS_MAPPINGS[node_id]
    values = {**default_inputs(kind), **inputs}
    result = getattr(kind(), kind.FUNCTION)(**values)
    if isinstance(result, dict):
        result = result["result"]
    return getattr(result, "args", result)[output]


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


def on_model(node_id: str, **inputs: Any) -> Callable[[Any], Any]:
    return lambda model: call(node_id, model=model, **inputs)


def patched_by(node_id: str, family: str = "sd15", **inputs: Any) -> Callable[[], Graph]:
    return lambda: Graph(on_model(node_id, **inputs), family=family, steps=6)


def sampled_by(node_id: str, family: str = "flux", **inputs: Any) -> Callable[[], Graph]:
    """A node that makes samplers out of samplers."""

    def make() -> Graph:
        euler = comfy.samplers.sampler_object("euler")
        sampler = call(node_id, sampler=euler, **inputs)
        return Graph(sampler=sampler, family=family, steps=10)

    return make


# By the node's id. Its inputs are those at which it does something to the tiny models.
NEIGHBOURS: dict[str, Neighbour] = {
    "DetailDaemonSamplerNode": Neighbour(
        sampled_by("DetailDaemonSamplerNode", detail_amount=2.0, cfg_scale_override=2.0)
    ),
    "LyingSigmaSampler": Neighbour(sampled_by("LyingSigmaSampler")),
    "TeaCache": Neighbour(
        patched_by("TeaCache", "flux", rel_l1_thresh=0.4, cache_device="cpu"), mixes=True
    ),
    "ApplyFBCacheOnModel": Neighbour(
        patched_by("ApplyFBCacheOnModel", residual_diff_threshold=0.3), mixes=True
    ),
}


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


def neighbours_of(pack: str) -> dict[str, Neighbour]:
    """Return the graphs of a pack's nodes.

    A pack that is not in the table gets one for each node that needs a model and nothing else.
    """
    known = {
        node_id: neighbour
        for node_id, neighbour in NEIGHBOURS.items()
        if pack_of(core.NODE_CLASS_MAPPINGS.get(node_id)) == pack
    }
    return known or {node_id: Neighbour(patched_by(node_id)) for node_id in model_nodes(pack)}
