"""What saved workflows rely on: the nodes' ids, inputs and outputs stay as they were published.

schemas.json is the published state. `python dev.py test tests/comfy/test_schemas.py
--update-schemas` adds what is new; what would break a saved workflow is never written there.
"""

import asyncio
import copy
import json
from pathlib import Path

import pytest
from quadtree_pack.nodes import QuadtreeExtension

GOLDEN = Path(__file__).with_name("schemas.json")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
UPDATE = "python dev.py test tests/comfy/test_schemas.py --update-schemas"


# --- The nodes as the server tells them to the browser --------------------------------------------


def schemas():
    nodes = asyncio.run(QuadtreeExtension().get_node_list())
    return {
        info.name: schema_of(info)
        for info in (node.GET_SCHEMA().get_v1_info(node) for node in nodes)
    }


def schema_of(info):
    """Return inputs in the order of a saved workflow: required ones, then optional ones."""
    inputs = [
        input_of(name, group == "optional", *entry)
        for group in ("required", "optional")
        for name, entry in info.input.get(group, {}).items()
    ]
    outputs = [
        {"name": name, "type": kind}
        for name, kind in zip(info.output_name, info.output, strict=True)
    ]
    return {"inputs": inputs, "outputs": outputs, "runs_without_a_consumer": bool(info.output_node)}


def input_of(name, optional, kind, options=None):
    options = options or {}
    entry = {
        "name": name,
        "type": kind,
        "optional": optional,
        "widget": kind in WIDGETS and not options.get("forceInput"),
    }
    kept = ["options", "min", "max"]
    kept += (
        ["default"] if optional else []
    )  # what a workflow gets that was saved before there was this input
    return entry | {key: options[key] for key in kept if key in options}


# --- What would break -----------------------------------------------------------------------------


def breaks(old, new):
    """Return a line for each way in which a workflow saved with `old` would break with `new`."""
    gone = [f"{node} is gone: its id was removed or renamed" for node in old if node not in new]
    return gone + [
        f"{node}: {line}"
        for node in old
        if node in new
        for line in node_breaks(old[node], new[node])
    ]


def node_breaks(old, new):
    names = [entry["name"] for entry in old["inputs"]]
    found = [
        line
        for entry in old["inputs"]
        for line in input_breaks(entry, named(new["inputs"], entry["name"]))
    ]
    found += order_breaks(names, [entry["name"] for entry in new["inputs"]])
    found += [
        f"the new input {entry['name']} is required, which no saved workflow can give"
        for entry in new["inputs"]
        if entry["name"] not in names and not entry["optional"]
    ]
    for place, entry in enumerate(old["outputs"]):
        now = new["outputs"][place] if place < len(new["outputs"]) else None
        if now != entry:
            found.append(f"output {place} was {told(entry)} and is {told(now) if now else 'gone'}")
    if old["runs_without_a_consumer"] and not new["runs_without_a_consumer"]:
        found.append("it no longer runs where nothing is connected to its outputs")
    return found


def named(entries, name):
    return next((entry for entry in entries if entry["name"] == name), None)


def told(entry):
    return f"{entry['name']} ({entry['type']})"


def input_breaks(old, new):
    name = old["name"]
    if new is None:
        return [f"input {name} is gone: it was removed or renamed"]
    found = (
        [f"input {name} was {old['type']} and is {new['type']}"]
        if old["type"] != new["type"]
        else []
    )
    if old["optional"] and not new["optional"]:
        found.append(f"input {name} was optional and is required")
    if old["widget"] != new["widget"]:
        found.append(f"input {name} {'lost its' if old['widget'] else 'got a'} widget")
    if lost := [
        choice for choice in old.get("options", ()) if choice not in new.get("options", ())
    ]:
        found.append(f"input {name} lost the choice {', '.join(map(str, lost))}")
    if narrower(old, new):
        ranges = [f"{entry.get('min')} to {entry.get('max')}" for entry in (old, new)]
        found.append(f"input {name} took {ranges[0]} and takes only {ranges[1]}")
    # A saved workflow holds the values of all required inputs, which no default replaces.
    if old["optional"] and "default" in old and old["default"] != new.get("default"):
        found.append(
            f"input {name} defaulted to {old['default']!r} and now to {new.get('default')!r}: "
            "other pictures"
        )
    return found


def narrower(old, new):
    lowest, highest = float("-inf"), float("inf")
    return new.get("min", lowest) > old.get("min", lowest) or new.get("max", highest) < old.get(
        "max", highest
    )


def order_breaks(old, new):
    """A saved workflow stores widget values and links by place."""
    kept = [name for name in old if name in new]
    return [
        f"input {name} moved from place {kept.index(name)} to {new.index(name)}"
        for name in kept
        if kept.index(name) != new.index(name)
    ]


def complaint(old, new):
    """What to do about the difference; empty where there is none."""
    if broken := breaks(old, new):
        lines = "\n".join(f"  - {line}" for line in broken)
        return (
            f"Workflows that people have saved would break:\n{lines}\n"
            "Put these back as they were. New inputs are optional and come after all others, new "
            "outputs likewise."
        )
    return (
        ""
        if old == new
        else f"The nodes have grown; saved workflows still load. Write the new state down: {UPDATE}"
    )


# --- The tests ------------------------------------------------------------------------------------


def test_workflows_saved_with_the_published_nodes_still_fit(request):
    published, current = json.loads(GOLDEN.read_text(encoding="utf-8")), schemas()
    if request.config.getoption("--update-schemas") and not breaks(published, current):
        GOLDEN.write_text(json.dumps(current, indent=1) + "\n", encoding="utf-8")
        published = current
    if problem := complaint(published, current):
        pytest.fail(problem, pytrace=False)


def change(path, value):
    """A change of one entry, by its path; a callable value gets the old one."""

    def apply(nodes):
        *way, last = path
        for key in way:
            nodes = nodes[key]
        nodes[last] = value(nodes[last]) if callable(value) else value

    return apply


def swapped(entries):
    return [entries[1], entries[0], *entries[2:]]


def renamed(entries):
    return [entries[0] | {"name": "other"}, *entries[1:]]


NEW_INPUT = {"name": "new", "type": "INT", "optional": True, "widget": True}
INPUTS, OUTPUTS = ("QuadtreeDiffusion", "inputs"), ("QuadtreeVisualizer", "outputs")
METHOD, THRESHOLD, MASK, DENOISE_BY = 2, 1, 7, 9
BREAKING = {
    "a node is gone": (lambda nodes: nodes.pop("QuadtreeInfo"), "QuadtreeInfo is gone"),
    "an input is gone": (change(INPUTS, lambda entries: entries[1:]), "input model is gone"),
    "an input is renamed": (
        change(INPUTS, renamed),
        "input model is gone: it was removed or renamed",
    ),
    "inputs change places": (change(INPUTS, swapped), "input quadtree moved from place 1 to 0"),
    "a new input comes first": (
        change(INPUTS, lambda entries: [NEW_INPUT, *entries]),
        "input model moved from place 0 to 1",
    ),
    "a new input is required": (
        change(INPUTS, lambda entries: [*entries, NEW_INPUT | {"optional": False}]),
        "the new input new is required",
    ),
    "an input changes its type": (
        change((*INPUTS, 0, "type"), "LATENT"),
        "input model was MODEL and is LATENT",
    ),
    "an input becomes required": (
        change(("QuadtreeVisualizer", "inputs", MASK, "optional"), False),
        "input mask was optional and is required",
    ),
    "a widget becomes a socket": (
        change((*INPUTS, METHOD, "widget"), False),
        "input method lost its widget",
    ),
    "a choice is gone": (
        change((*INPUTS, METHOD, "options"), lambda choices: choices[1:]),
        "input method lost the choice Shifted Feather",
    ),
    "a range is narrower": (
        change(("QuadtreeVisualizer", "inputs", THRESHOLD, "max"), 100.0),
        "input content_threshold took 0.0 to 200.0 and takes only 0.0 to 100.0",
    ),
    "a later input gets another default": (
        change(("QuadtreeVisualizer", "inputs", DENOISE_BY, "default"), "depth"),
        "input denoise_by defaulted to 'area' and now to 'depth'",
    ),
    "an output is gone": (
        change(OUTPUTS, lambda entries: entries[:-1]),
        "output 3 was painted (MASK) and is gone",
    ),
    "outputs change places": (
        change(OUTPUTS, swapped),
        "output 0 was image (IMAGE) and is quadtree (QUADTREE)",
    ),
    "a node no longer runs alone": (
        change(("QuadtreeVisualizer", "runs_without_a_consumer"), False),
        "it no longer runs where nothing is connected",
    ),
}
GROWING = {
    "a new node": lambda nodes: nodes.update(QuadtreeNew=nodes["QuadtreeInfo"]),
    "an optional input at the end": change(INPUTS, lambda entries: [*entries, NEW_INPUT]),
    "an output at the end": change(
        OUTPUTS, lambda entries: [*entries, {"name": "new", "type": "INT"}]
    ),
    "another choice": change((*INPUTS, METHOD, "options"), lambda choices: [*choices, "New"]),
    "a wider range": change(("QuadtreeVisualizer", "inputs", THRESHOLD, "max"), 400.0),
}


def changed(apply):
    nodes = copy.deepcopy(schemas())
    apply(nodes)
    return nodes


@pytest.mark.parametrize(("apply", "said"), BREAKING.values(), ids=BREAKING)
def test_a_change_that_breaks_saved_workflows_is_told(apply, said):
    told_of = complaint(schemas(), changed(apply))
    assert "would break" in told_of and said in told_of and UPDATE not in told_of


@pytest.mark.parametrize("apply", GROWING.values(), ids=GROWING)
def test_what_is_only_new_needs_the_one_command(apply):
    assert complaint(schemas(), changed(apply)).endswith(UPDATE)
