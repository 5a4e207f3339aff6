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


def with_tiny_model(prompt):
    """The same prompt with the demo's model, two steps, and no upscale model."""
    stand_ins = {
        ("CheckpointLoaderSimple", 0): ["tiny", 0],
        ("CheckpointLoaderSimple", 2): ["tiny", 1],
        ("UNETLoader", 0): ["tiny", 0],
        ("VAELoader", 0): ["tiny", 1],
        ("CLIPTextEncode", 0): ["tiny", 2],
    }
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                continue
            source = prompt[value[0]]
            value = (
                source["inputs"]["image"]
                if source["class_type"] == "ImageUpscaleWithModel"
                else value
            )
            node["inputs"][name] = stand_ins.get((source["class_type"], value[1]), value)
    prompt["tiny"] = {"class_type": "TinyRefinerLoader", "inputs": {}}
    prompt[demo.find_node(prompt, "KSampler")]["inputs"]["steps"] = 2
    return demo.select_needed(prompt, demo.find_node(prompt, "SaveImage"))
