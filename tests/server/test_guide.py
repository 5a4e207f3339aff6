"""Every workflow that the README and the guide draw as chains of nodes.

It is wired from the drawing and run on the real server.
"""

import pytest
from quadtree_pack import demo
from quadtree_pack.testing.api import get, with_tiny_model
from quadtree_pack.testing.documents import DOCUMENTS, workflows

DRAWN = {
    f"{name}-{number}": links
    for name, text in DOCUMENTS.items()
    for number, links in enumerate(workflows(text), 1)
}
# Where several types would fit between two nodes, the first of these is meant.
LINKED = ("QUADTREE", "MODEL", "LATENT", "IMAGE", "MASK", "CONDITIONING", "VAE", "CLIP")
TINY = {"class_type": "TinyRefinerLoader", "inputs": {}}
UNSAID = {
    "VAE": ["tiny", 1],
    "CONDITIONING": ["tiny", 2],
}  # what a reader takes from the checkpoint and the prompts


@pytest.fixture(scope="module")
def nodes(running):
    """The server's nodes by the name that the browser shows."""
    return {
        info["display_name"] or name: {**info, "name": name}
        for name, info in get(running, "/object_info").items()
    }


def inputs_of(node):
    return {**node["input"]["required"], **node["input"].get("optional", {})}


def default_of(kind, *options):
    options = options[0] if options else {}
    choices = kind if isinstance(kind, list) else options.get("options")
    return choices[0] if choices else options.get("default")


def wire(prompt, nodes, source, target, wanted):
    """Link two nodes of the prompt.

    The target's input is the one that is named, or the first free one of a type of the source.
    """
    offered, asked, taken = (
        nodes[source]["output"],
        inputs_of(nodes[target]),
        prompt[target]["inputs"],
    )
    for kind in LINKED:
        for name, (expected, *_) in asked.items():
            if expected == kind and kind in offered and wanted in ("", name) and name not in taken:
                taken[name] = [source, offered.index(kind)]
                return
    raise AssertionError(
        f"{source} has nothing that {target} still takes{' as ' + wanted if wanted else ''}"
    )


def prompt_of(links, nodes):
    names = dict.fromkeys(name for source, target, _ in links for name in (source, target))
    prompt = {name: {"class_type": nodes[name]["name"], "inputs": {}} for name in names}
    for link in links:
        wire(prompt, nodes, *link)
    for name, node in prompt.items():
        for key, (kind, *options) in nodes[name]["input"]["required"].items():
            if key not in node["inputs"]:
                value = (
                    UNSAID.get(kind)
                    if isinstance(kind, str) and kind in LINKED
                    else default_of(kind, *options)
                )
                assert value is not None or kind not in LINKED, (
                    f"nothing says what {name} gets as {key}"
                )
                node["inputs"][key] = value
    prompt["Load Image"]["inputs"]["image"] = "example.png"
    return prompt


@pytest.mark.parametrize("links", DRAWN.values(), ids=DRAWN)
def test_a_drawn_workflow_runs(links, nodes, running):
    prompt = with_tiny_model({**prompt_of(links, nodes), "tiny": TINY})
    drawn = {nodes[name]["name"] for source, target, _ in links for name in (source, target)} - {
        "CheckpointLoaderSimple"
    }
    assert {node["class_type"] for node in prompt.values()} == {*drawn, "TinyRefinerLoader"}
    assert demo.run_prompt(running.url, prompt).outputs
