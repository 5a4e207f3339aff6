"""Where workers can run: on the nodes of a cluster, and beside ComfyUI on this machine."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch

from . import actor
from .joining import RESOURCE, SEND_DIRECTLY, is_named
from .remote import Place


def find_places(ray: Any, names: dict[tuple[str, int], str]) -> list[Place]:
    """Return where workers can run: on each node of the cluster as many as it offers.

    `names` are those that places have already, by node and number.
    """
    local = not is_named()
    facts = describe_head() if local else {}
    facts["threads"] = torch.get_num_threads()
    start = _make_starter(ray)
    places: list[Place] = []
    taken = list(names.values())
    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]),
        key=lambda node: (node["NodeManagerHostname"], node["NodeID"]),
    )
    for node in nodes:
        offered = int(node["Resources"].get(RESOURCE, 0))
        gpus = int(node["Resources"].get("GPU", 0))
        for number in range(offered):
            name = names.get((node["NodeID"], number)) or _name_place(node, number, taken)
            taken.append(name)
            device = _choose_local_device(number) if local else None
            starter = start(node["NodeID"], 1 if gpus >= offered and not local else 0)
            facts_there = {**facts, "device": device}
            places.append(Place(node["NodeID"], number, name, starter, facts_there))
    return places


def _name_place(node: dict[str, Any], number: int, taken: list[str]) -> str:
    """Return a name for messages: the machine's, and a number where it has several workers."""
    name = node["NodeManagerHostname"]
    while (numbered := f"{name}-{number + 1}") in taken:
        number += 1
    return numbered


def _make_starter(ray: Any) -> Callable[[str, int], Callable[[], Any]]:
    """Return what makes, for a node and a number of GPUs, a function that starts an actor."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # after `join`

    ray.cloudpickle.register_pickle_by_value(actor)
    kind = ray.remote(actor.Actor)

    def make(node_id: str, gpus: int) -> Callable[[], Any]:
        options = {
            "num_cpus": 0,
            "num_gpus": gpus,
            "resources": {RESOURCE: 1},
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
            "runtime_env": {"env_vars": SEND_DIRECTLY},
        }
        return lambda: kind.options(**options).remote()

    return make


# ---- a cluster on this machine alone


def describe_head() -> dict[str, Any]:
    """Return where this ComfyUI lies and how it was started, for workers on the same machine."""
    options = os.environ.get("COMFYUI_OPTIONS")
    if options is not None:
        words = shlex.split(options)
    else:
        words = sys.argv[1:] if Path(sys.argv[0]).name == "main.py" else []
    folder = Path(comfy.model_management.__file__).parent.parent
    base = Path(folder_paths.base_path)
    if base != folder and "--base-directory" not in words:
        words = [*words, "--base-directory", str(base)]
    return {"folder": str(folder), "options": words}


def count_local(wanted: int) -> int:
    """Return how many workers this machine has room for beside ComfyUI itself.

    On a CPU, one or as many as are wanted, for trials; else one for each further GPU.
    """
    if comfy.model_management.get_torch_device().type == "cpu":
        return max(1, wanted)
    return max(0, len(comfy.model_management.get_all_torch_devices()) - 1)


def _choose_local_device(number: int) -> str | None:
    """Return the name of a GPU beside ComfyUI's own for a worker on this machine."""
    here = comfy.model_management.get_torch_device()
    if here.type != "cuda":
        return None
    others = [index for index in range(torch.cuda.device_count()) if index != (here.index or 0)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    return names[others[number % len(others)]]
