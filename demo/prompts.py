"""Turns the workflow that the browser opens into the prompt that ComfyUI's API takes."""

from __future__ import annotations

import copy
from typing import Any

Prompt = dict[str, dict[str, Any]]  # node id -> {"class_type": ..., "inputs": {...}}
Origin = tuple[int, int]  # node id, output slot

MUTED, BYPASSED = 2, 4  # litegraph's modes
VIRTUAL = ("Note", "MarkdownNote")  # nodes that exist in the browser only
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
SEEDS = ("seed", "noise_seed")


def prompt_from_workflow(workflow: dict, object_info: dict) -> Prompt:
    """Return the prompt that the browser would send for this workflow.

    `object_info` is the server's answer to GET /object_info. A node type that it does not list
    raises ValueError.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    prompt = {}
    for node in nodes.values():
        if node.get("mode", 0) in (MUTED, BYPASSED) or node["type"] in (*VIRTUAL, "Reroute"):
            continue
        if node["type"] not in object_info:
            raise ValueError(
                f"The server does not know the node {node['type']!r} (id {node['id']})."
            )
        inputs = read_widget_values(node, object_info[node["type"]])
        for slot in node.get("inputs", ()):
            if slot.get("link") is None:
                continue
            inputs.pop(slot["name"], None)
            source = resolve_link(links[slot["link"]], nodes, links)
            if source is not None:
                inputs[slot["name"]] = [str(source[0]), source[1]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def read_widget_values(node: dict, info: dict) -> dict[str, Any]:
    """Return the values of a node's widgets by input name.

    A workflow stores them by position, in schema order. An input that is newer than the file has
    no value there and stays out; one that only shows something has none either, and is empty.
    """
    stored = list(node.get("widgets_values") or ())
    named = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            if options.get("socketless"):
                named[name] = ""
                continue
            is_socket = isinstance(kind, str) and kind not in WIDGET_TYPES
            if is_socket or options.get("forceInput"):
                continue
            if stored:
                named[name] = stored.pop(0)
            has_control = options.get("control_after_generate") or (kind == "INT" and name in SEEDS)
            if has_control and stored:
                stored.pop(0)  # the browser's own "fixed", "randomize" ... after each seed
    return named


def resolve_link(origin: Origin, nodes: dict[int, dict], links: dict[int, Origin]) -> Origin | None:
    """Return the node id and output slot that really feed a link.

    Reroutes and bypassed nodes pass their input on; behind a muted node there is nothing: None.
    """
    while True:
        node_id, slot = origin
        node = nodes[node_id]
        if node.get("mode", 0) == MUTED:
            return None
        if node["type"] != "Reroute" and node.get("mode", 0) != BYPASSED:
            return origin
        passed_on = find_passed_input(node, slot)
        if passed_on is None or passed_on.get("link") is None:
            return None
        origin = links[passed_on["link"]]


def find_passed_input(node: dict, slot: int) -> dict | None:
    """Return the input that a reroute or a bypassed node passes on to an output slot.

    The input in the same place has precedence; None where no input has the output's type.
    """
    inputs = node.get("inputs", [])
    wanted = node["outputs"][slot]["type"]
    for candidate in (*inputs[slot : slot + 1], *inputs):
        if node["type"] == "Reroute" or candidate["type"] == wanted:
            return candidate
    return None


def bypass(workflow: dict, node_type: str) -> dict:
    """Return a copy of the workflow with all nodes of this type bypassed, as by Ctrl+B."""
    changed = copy.deepcopy(workflow)
    for node in changed["nodes"]:
        if node["type"] == node_type:
            node["mode"] = BYPASSED
    return changed


def remove_node(prompt: Prompt, class_type: str, *, through: str) -> Prompt:
    """Return the prompt without the only node of this class.

    What used the node's first output gets what its input `through` gets.
    """
    removed = find_node(prompt, class_type)
    source = prompt[removed]["inputs"][through]
    rest = {}
    for node_id, node in prompt.items():
        if node_id == removed:
            continue
        inputs = {}
        for name, value in node["inputs"].items():
            inputs[name] = source if value == [removed, 0] else value
        rest[node_id] = {**node, "inputs": inputs}
    return rest


def find_node(prompt: Prompt, class_type: str, **inputs: str) -> str:
    """Return the id of the only node of this class whose inputs have these values."""
    found = []
    for node_id, node in prompt.items():
        values = {name: str(value) for name, value in node["inputs"].items()}
        if node["class_type"] == class_type and inputs.items() <= values.items():
            found.append(node_id)
    if len(found) != 1:
        raise ValueError(
            f"The workflow has {len(found)} {class_type} nodes with {inputs}; it must have one."
        )
    return found[0]


def select_needed(prompt: Prompt, node_id: str) -> Prompt:
    """Return the part of the prompt that this node depends on, itself included."""
    needed: Prompt = {}
    pending = [node_id]
    while pending:
        current = pending.pop()
        needed[current] = prompt[current]
        for value in prompt[current]["inputs"].values():
            if isinstance(value, list):
                pending.append(value[0])
    return needed
