"""Reads the part of a workflow that the browser sends: nodes as in a prompt of ComfyUI's API.

`{id: {"class_type": ..., "inputs": {name: value or [id, slot]}}}`. Nothing is executed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

MOST_NODES = 2048  # the browser's limit, too
SEEDS = ("seed", "noise_seed", "control_after_generate")
LONGEST_TEXT = 512  # characters; of longer texts the browser sends the beginning


class Link(NamedTuple):
    """The output of a node: its id, and the number of the output."""

    node: str
    slot: int


def _first_connected(inputs: Mapping[str, Any]) -> str | None:
    names = (name for name, value in inputs.items() if isinstance(value, list))
    return next(names, None)


def _by_boolean(inputs: Mapping[str, Any]) -> str | None:
    chosen = inputs.get("switch", inputs.get("boolean"))
    return None if not isinstance(chosen, bool) else f"on_{chosen}".lower()


def _by_number(prefix: str, name: str = "select") -> Callable[[Mapping[str, Any]], str | None]:
    return lambda inputs: f"{prefix}{inputs.get(name)}"


# The input that a switch passes on, by the id of its node: of core, KJNodes, rgthree and the Impact
# Pack.
SWITCHES: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "ComfySwitchNode": _by_boolean,
    "ComfySoftSwitchNode": _by_boolean,
    "LazySwitchKJ": _by_boolean,
    "Any Switch (rgthree)": _first_connected,
    "ImpactSwitch": _by_number("input"),
    "LatentSwitch": _by_number("input"),
    "SEGSSwitch": _by_number("input"),
    "ImpactConditionalBranch": lambda inputs: "tt_value" if inputs.get("cond") else "ff_value",
}


class Node:
    """One node; `inputs` holds plain values and links."""

    def __init__(self, workflow: Workflow, number: str, kind: str, inputs: dict[str, Any]) -> None:
        self.workflow = workflow
        self.number = number
        self.kind = kind
        self.inputs = inputs

    def value(self, name: str, default: Any = None) -> Any:
        """Return the plain value of an input; `default` where it is linked or missing."""
        found = self.inputs.get(name, default)
        return default if isinstance(found, list) else found

    def plain(self) -> dict[str, Any]:
        """Return the inputs that are not linked."""
        return {name: one for name, one in self.inputs.items() if not isinstance(one, list)}

    def number_of(self, name: str) -> float | None:
        """Return the value of an input if it is a number."""
        found = self.value(name)
        is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
        return found if is_number else None

    def link(self, *names: str) -> Link | None:
        """Return what the first linked input of these names is fed by, through switches."""
        for name in names:
            if isinstance(self.inputs.get(name), list):
                return self.workflow.trace(Link(*self.inputs[name]))
        return None

    def origin(self, *names: str) -> Node | None:
        """Return the node that feeds the first linked input of these names."""
        link = self.link(*names)
        return link and self.workflow.nodes.get(link.node)


class Workflow:
    """The nodes that were sent, by id. Raises ValueError for anything else.

    Inputs that are neither plain values nor links are left out.
    """

    def __init__(self, sent: Any) -> None:
        if not isinstance(sent, dict):
            raise ValueError("workflow must be an object of nodes by id.")
        self.nodes: dict[str, Node] = {}
        for number, node in sent.items():
            self.nodes[number] = Node(self, number, *_read_node(node))

    @classmethod
    def of_prompt(cls, prompt: Any) -> Workflow:
        """Return the nodes of a prompt that is executed; what else it may hold is left out.

        Links to nodes that hold one value become that value, as the browser sends it.
        """
        entries = prompt.items() if isinstance(prompt, dict) else ()
        workflow = cls({number: node for number, node in entries if _is_node(node)})
        for node in workflow.nodes.values():
            node.inputs = {name: workflow._read_primitive(one) for name, one in node.inputs.items()}
        return workflow

    def _read_primitive(self, value: Any) -> Any:
        """Return what a link to Int, Float, String or Boolean leads to; anything else as it is."""
        for _ in range(len(self.nodes)):  # a ring of them ends
            origin = self.nodes.get(value[0]) if isinstance(value, list) else None
            if origin is None or not origin.kind.startswith("Primitive"):
                return value
            value = origin.inputs.get("value")
        return value

    @classmethod
    def find_executed(cls, hidden: Any) -> Node | None:
        """Return the node that is executed, in its prompt; None where `hidden` does not hold both.

        `hidden` is what a node's class has of them, `prompt` and `unique_id`.
        """
        workflow = cls.of_prompt(getattr(hidden, "prompt", None))
        return workflow.nodes.get(getattr(hidden, "unique_id", None) or "")

    @classmethod
    def of_request(cls, sent: Any) -> Workflow:
        """Return what a browser sent, which is limited; the prompt of a run is not."""
        if isinstance(sent, dict) and len(sent) > MOST_NODES:
            raise ValueError(f"workflow must be an object of at most {MOST_NODES} nodes.")
        return cls(sent)

    def trace(self, link: Link) -> Link | None:
        """Return the output that a link leads to through switches; None where that is unknown."""
        for _ in range(len(self.nodes) + 1):  # switches in a ring end
            node = self.nodes.get(link.node)
            if node is None or node.kind not in SWITCHES:
                return link
            passed = node.inputs.get(SWITCHES[node.kind](node.inputs) or "")
            if not isinstance(passed, list):
                return None
            link = Link(*passed)
        return None

    def sign(self, link: Link, is_input: Callable[[str, str], bool], *, seeds: bool = False) -> str:
        """Return a text that changes when anything that leads to a link does.

        `is_input` tells whether a node's class has an input of a name: the browser also sends its
        own widgets. Random seeds count only with `seeds`.
        """
        told: dict[str, Any] = {}
        pending = [link.node]
        while pending:
            node = self.nodes.get(pending.pop())
            if node is None or node.number in told:
                continue
            inputs = {
                name: one[:LONGEST_TEXT] if isinstance(one, str) else one
                for name, one in node.inputs.items()
                if (seeds or name not in SEEDS) and is_input(node.kind, name)
            }
            told[node.number] = [node.kind, inputs]
            pending += [one[0] for one in inputs.values() if isinstance(one, list)]
        text = json.dumps([link, told], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def walk(self, node: Node | None, *names: str) -> Iterator[Node]:
        """Yield a node and those that feed it through inputs of these names, in turn."""
        seen: set[str] = set()
        while node is not None and node.number not in seen:
            seen.add(node.number)
            yield node
            node = node.origin(*names)


def _read_node(sent: Any) -> tuple[str, dict[str, Any]]:
    """Return the class and the inputs of a node that was sent."""
    if not _is_node(sent):
        raise ValueError(
            'Each node of workflow must be {"class_type": ..., "inputs": {name: value or '
            "[id, slot]}}."
        )
    kind, inputs = sent["class_type"], sent["inputs"]
    return kind, {name: value for name, value in inputs.items() if _is_input(value)}


def _is_node(sent: Any) -> bool:
    return (
        isinstance(sent, dict)
        and isinstance(sent.get("class_type"), str)
        and isinstance(sent.get("inputs"), dict)
    )


def _is_input(value: Any) -> bool:
    if isinstance(value, list):
        return (
            len(value) == 2
            and isinstance(value[0], str)
            and type(value[1]) is int  # True is no slot
            and value[1] >= 0
        )
    return isinstance(value, (str, int, float, bool))
