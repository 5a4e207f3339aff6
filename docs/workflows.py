"""Writes a workflow as ComfyUI's browser saves it, from nodes that are named and linked in Python.

The inputs, outputs and default values of the nodes are those that the server tells, so that a
workflow is written anew after a node has grown.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from quadtree_pack.demo.prompts import SEEDS, WIDGET_TYPES

GAP_PX, PADDING_PX, TITLE_PX, GROUP_GAP_PX = 50, 20, 80, 60
SLOT_PX, WIDGET_PX, FRAME_PX = 24, 28, 34  # heights in a node, as Nodes 2.0 has them
ANY = "*"  # the kind of an input that takes every other
OWN_PACK, CORE = "quadtree-diffusion", "comfy-core"
GROUP_COLOR = "#3f789e"
COLORS = {  # node, and its background
    "note": ("#432", "#653"),
    "positive": ("#232", "#353"),
    "negative": ("#322", "#533"),
    "own": ("#223", "#335"),
}


@dataclass(frozen=True)
class Model:
    """A file that the browser offers to download into a folder of `models`."""

    url: str
    directory: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Output:
    """An output of a node, to be given to an input of another."""

    node: int
    slot: int
    kind: str


@dataclass(frozen=True)
class Column:
    """Nodes of one width below each other, in groups."""

    x: int
    width: int


COLUMNS = (Column(0, 340), Column(440, 400), Column(940, 340), Column(1380, 620))


@dataclass
class Workflow:
    """A workflow that grows node by node; `info` is the server's answer to GET /object_info."""

    name: str
    info: dict[str, dict]
    nodes: list[dict] = field(default_factory=list)
    links: list[list] = field(default_factory=list)
    groups: list[dict] = field(default_factory=list)
    column: Column = COLUMNS[0]
    heights: dict[Column, int] = field(default_factory=dict)

    def note(self, title: str, text: str) -> None:
        """Write a note above the workflow."""
        node = self._place("MarkdownNote", (0, -230), (840, 170), [], [])
        node.update(title=title, properties={}, widgets_values=[text], **_colored("note"))

    def group(self, column: int, title: str) -> None:
        """Begin a group of nodes, at the top of a column or below the groups it has."""
        self.column = COLUMNS[column]
        top = self.heights.get(self.column, -GROUP_GAP_PX) + GROUP_GAP_PX
        box = [self.column.x - PADDING_PX, top, self.column.width + 2 * PADDING_PX, 0]
        number = len(self.groups) + 1
        group = {"id": number, "title": f"{number}. {title}", "bounding": box}
        self.groups.append({**group, "color": GROUP_COLOR, "font_size": 24, "flags": {}})
        self.heights[self.column] = top + TITLE_PX - GAP_PX

    def add(
        self, kind: str, *, title: str = "", color: str = "", height: int = 0, **given: Any
    ) -> tuple[Output, ...]:
        """Add a node below the last one, and return its outputs.

        `given` are its inputs by name: an Output to link, a Model or a value; the others keep
        their defaults. Raises ValueError for a name that the node does not have.
        """
        entries = list_inputs(self.info[kind])
        if unknown := given.keys() - {entry.name for entry in entries}:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}.")
        sockets = [entry for entry in entries if not entry.is_widget]
        widgets = [entry for entry in entries if entry.is_widget]
        outputs = list(zip(self.info[kind]["output_name"], self.info[kind]["output"], strict=True))
        room = max(len(sockets), len(outputs)) * SLOT_PX + len(widgets) * WIDGET_PX + FRAME_PX
        top = self.heights[self.column] + GAP_PX
        size = (self.column.width, height or room)
        node = self._place(kind, (self.column.x, top), size, [], outputs)
        for entry in (*sockets, *widgets):
            value = given.get(entry.name)
            link = self._link(value, node, entry) if isinstance(value, Output) else None
            node["inputs"].append({**entry.slot, "link": link})
        self._finish(node, widgets, given)
        if title:
            node["title"] = title
        if color:
            node.update(_colored(color))
        self.heights[self.column] = top + size[1]
        box = self.groups[-1]["bounding"]
        box[3] = self.heights[self.column] + PADDING_PX - box[1]
        return tuple(Output(node["id"], slot, type_) for slot, (_, type_) in enumerate(outputs))

    def as_dict(self) -> dict:
        """Return the workflow as a file holds it."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "definitions": {"subgraphs": []},
            "config": {},
            "extra": {"workflowRendererVersion": "LG"},
            "version": 0.4,
        }

    def _place(
        self,
        kind: str,
        pos: tuple[int, int],
        size: tuple[int, int],
        inputs: list,
        outputs: list[tuple[str, str]],
    ) -> dict:
        node = {
            "id": len(self.nodes) + 1,
            "type": kind,
            "pos": list(pos),
            "size": list(size),
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "inputs": inputs,
            "outputs": [{"name": name, "type": type_, "links": []} for name, type_ in outputs],
        }
        self.nodes.append(node)
        return node

    def _link(self, source: Output, node: dict, entry: Entry) -> int:
        if entry.kind not in (source.kind, ANY):
            raise ValueError(f"{node['type']}.{entry.name} takes {entry.kind}, not {source.kind}.")
        number = len(self.links) + 1
        target = [node["id"], len(node["inputs"])]
        self.links.append([number, source.node, source.slot, *target, source.kind])
        self.nodes[source.node - 1]["outputs"][source.slot]["links"].append(number)
        return number

    def _finish(self, node: dict, widgets: list[Entry], given: dict[str, Any]) -> None:
        """Write the values of a node's widgets and the files that they name."""
        values, models = [], []
        for entry in widgets:
            value = given.get(entry.name, entry.default)
            if isinstance(value, Model):
                models.append({"name": value.name, "url": value.url, "directory": value.directory})
                value = value.name
            values.append(entry.default if isinstance(value, Output) else value)
            values += entry.following
        pack = OWN_PACK if node["type"].startswith("Quadtree") else CORE
        node["properties"] = {"Node name for S&R": node["type"], "cnr_id": pack}
        if models:
            node["properties"]["models"] = models
        node["widgets_values"] = values


@dataclass(frozen=True)
class Entry:
    """An input of a node as the server describes it."""

    name: str
    kind: str
    is_widget: bool
    is_optional: bool
    default: Any
    following: tuple[str, ...]  # values that the browser saves after this one

    @property
    def slot(self) -> dict:
        slot: dict[str, Any] = {"name": self.name, "type": self.kind}
        if self.is_optional:
            slot["shape"] = 7
        if self.is_widget:
            slot["widget"] = {"name": self.name}
        return slot


def list_inputs(info: dict) -> list[Entry]:
    """Return a node's inputs in the order of its schema, without those that have no slot."""
    entries = []
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            if options.get("socketless"):
                continue
            choices = kind if isinstance(kind, list) else options.get("options", ())
            kind = "COMBO" if isinstance(kind, list) else kind
            entry = Entry(
                name=name,
                kind=kind,
                is_widget=kind in WIDGET_TYPES and not options.get("forceInput"),
                is_optional=group == "optional",
                default=options.get("default", _first(choices)),
                following=_list_following(name, kind, options),
            )
            entries.append(entry)
    return entries


def _first(choices: Any) -> Any:
    """Return the first choice; of a dynamic one, its key."""
    first = next(iter(choices), "")
    return first["key"] if isinstance(first, dict) else first


def _list_following(name: str, kind: str, options: dict) -> tuple[str, ...]:
    if options.get("control_after_generate") or (kind == "INT" and name in SEEDS):
        return ("fixed",)
    return ("image",) if {"image_upload", "video_upload"} & options.keys() else ()


def _colored(color: str) -> dict[str, str]:
    return dict(zip(("color", "bgcolor"), COLORS[color], strict=True))
