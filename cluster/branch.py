"""The part of a prompt that makes a node's model, for a worker to run. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Prompt = dict[str, dict[str, Any]]  # ComfyUI's API format: nodes by their id

SKIPPED = ("QuadtreeCluster", "QuadtreeDiffusion")  # they change nothing in a window
SINK = "QuadtreeClusterSink"  # the node that a worker adds, which takes what the branch makes
SINK_ID = "quadtree-sink"
CONTROL_TYPE = "CONTROL_NET"  # as ComfyUI calls the type of a ControlNet


def cut_branch(prompt: Prompt, node_id: str, name: str = "model") -> Prompt:
    """Return the nodes that make an input of a node, and a sink behind them.

    This pack's own nodes that pass a model on are left out. ValueError where the prompt does not
    hold the node, as when another node made it while the prompt ran.
    """
    link = prompt.get(node_id, {}).get("inputs", {}).get(name)
    if not _is_link(link, prompt):
        raise ValueError(
            f"Quadtree Cluster does not find itself in the prompt (node {node_id}), so it cannot "
            "tell workers how its model is made. Put it into the workflow itself, not into a node "
            "that is expanded when it runs."
        )
    branch: Prompt = {}
    todo = [_skip(link, prompt)]
    sink = {"class_type": SINK, "inputs": {"value": todo[0]}}
    while todo:
        source = str(todo.pop()[0])
        if source in branch:
            continue
        inputs = dict(prompt[source].get("inputs", {}))
        for key, value in inputs.items():
            if _is_link(value, prompt):
                inputs[key] = _skip(value, prompt)
                todo.append(inputs[key])
        branch[source] = {"class_type": prompt[source]["class_type"], "inputs": inputs}
    return {**branch, SINK_ID: sink}


def cut_control_branches(prompt: Prompt, outputs: Callable[[str], Sequence[str]]) -> list[Prompt]:
    """Return the branch of each ControlNet that a prompt loads.

    `outputs` tells the types of a node's outputs by its class.
    """
    branches = []
    for node_id, node in prompt.items():
        types = list(outputs(node["class_type"]))
        if CONTROL_TYPE in types:
            link = [node_id, types.index(CONTROL_TYPE)]
            asked = {"class_type": SINK, "inputs": {"value": link}}
            branches.append(cut_branch({**prompt, SINK_ID: asked}, SINK_ID, "value"))
    return branches


def _is_link(value: Any, prompt: Prompt) -> bool:
    return isinstance(value, list) and len(value) == 2 and str(value[0]) in prompt


def _skip(link: list, prompt: Prompt) -> list:
    """Return where a link leads once the nodes of SKIPPED are taken out."""
    seen = set()
    while prompt[str(link[0])]["class_type"] in SKIPPED and str(link[0]) not in seen:
        seen.add(str(link[0]))
        further = prompt[str(link[0])]["inputs"].get("model")
        if not _is_link(further, prompt):
            break
        link = further
    return link
