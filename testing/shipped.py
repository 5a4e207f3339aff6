"""The workflows that the pack ships, and the prompts that they make."""

import json

from quadtree_pack import demo

EXAMPLES = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in demo.ROOT.glob("example_workflows/*.json")
}
BLUEPRINT = json.loads(
    (demo.ROOT / "subgraphs" / "Quadtree Upscale.json").read_text(encoding="utf-8")
)
INPUTS, OUTPUTS = -10, -20  # where a subgraph's links come from and go to


def inner_graph():
    """The graph inside the blueprint, its links as the root graph of a workflow writes them."""
    definition = BLUEPRINT["definitions"]["subgraphs"][0]
    ends = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [[link[end] for end in ends] for link in definition["links"]]
    return {**definition, "links": links}


def open_blueprint(object_info, **given):
    """The prompt of the blueprint with its own values, an example image and the tiny model."""
    host, graph = BLUEPRINT["nodes"][0], inner_graph()
    names = [slot["name"] for slot in host["inputs"] if "widget" in slot]
    values = dict(zip(names, host["widgets_values"], strict=True))
    values |= {"image": ["load", 0], "model": ["tiny", 0], "vae": ["tiny", 1]}
    values |= {"positive": ["tiny", 2], "negative": ["tiny", 2], **given}
    # A node that the prompt leaves out, so that its links can be told.
    outside = {"id": INPUTS, "type": "Note"}
    prompt = demo.prompt_from_workflow({**graph, "nodes": [*graph["nodes"], outside]}, object_info)
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == str(INPUTS):
                node["inputs"][name] = values[graph["inputs"][value[1]]["name"]]
    ((_, decoder, *_),) = (link for link in graph["links"] if link[3] == OUTPUTS)
    saved = {"images": [str(decoder), 0], "filename_prefix": "blueprint"}
    return prompt | {
        "load": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "tiny": {"class_type": "TinyRefinerLoader", "inputs": {}},
        "save": {"class_type": "SaveImage", "inputs": saved},
    }
