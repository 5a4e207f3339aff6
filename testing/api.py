"""What the tests ask a running server."""

import json
import urllib.parse
import urllib.request

from quadtree_pack import demo

PACK = "comfyui-quadtree-diffusion"


def fetch(running, path):
    """The bytes that the server answers."""
    with urllib.request.urlopen(running.url + urllib.parse.quote(path)) as answer:
        return answer.read()


def get(running, path):
    return json.loads(fetch(running, path))


def short_prompt(running, **visualizer):
    """The demo's workflow with two steps, and other values of the visualizer."""
    workflow = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    prompt = demo.prompt_from_workflow(workflow, get(running, "/object_info"))
    prompt[demo.find_node(prompt, "KSampler")]["inputs"]["steps"] = 2
    prompt[demo.find_node(prompt, "QuadtreeVisualizer")]["inputs"].update(visualizer)
    return prompt


# What stands in for an output of a node whose file is not here: an output of the demo's model, or
# the input of the same node that the output passes on.
TINY_MODEL, TINY_VAE, TINY_PROMPT = (["tiny", slot] for slot in range(3))
STAND_INS = {
    ("CheckpointLoaderSimple", 0): TINY_MODEL,
    ("CheckpointLoaderSimple", 2): TINY_VAE,
    ("UNETLoader", 0): TINY_MODEL,
    ("VAELoader", 0): TINY_VAE,
    ("CLIPTextEncode", 0): TINY_PROMPT,
    ("SeedVR2Conditioning", 0): TINY_PROMPT,
    ("SeedVR2Conditioning", 1): TINY_PROMPT,
    ("SeedVR2Preprocess", 0): "resized_images",
    ("ImageUpscaleWithModel", 0): "image",
    ("LoraLoaderModelOnly", 0): "model",
    ("ModelSamplingAuraFlow", 0): "model",
    ("ModelSamplingSD3", 0): "model",
    ("ControlNetApplyAdvanced", 0): "positive",
    ("ControlNetApplyAdvanced", 1): "negative",
}
SHOWS = ("SaveImage", "SaveVideo", "ImageCompare", "PreviewAny")


def with_tiny_model(prompt):
    """The same prompt with the demo's model, two steps, and no upscale model."""

    def stand_in(link):
        if link[0] not in prompt:  # it has got its stand-in already
            return link
        source = prompt[link[0]]
        found = STAND_INS.get((source["class_type"], link[1]), link)
        return stand_in(source["inputs"][found]) if isinstance(found, str) else found

    for node in prompt.values():
        links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
        node["inputs"] |= {name: stand_in(link) for name, link in links.items()}
        if node["class_type"] == "LoadVideo":  # of which a user selects the file
            node["inputs"]["file"] = "example.mp4"
    prompt["tiny"] = {"class_type": "TinyRefinerLoader", "inputs": {}}
    prompt[demo.find_node(prompt, "KSampler")]["inputs"]["steps"] = 2
    ends = [number for number, node in prompt.items() if node["class_type"] in SHOWS]
    return {
        number: node for end in ends for number, node in demo.select_needed(prompt, end).items()
    }
