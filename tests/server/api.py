"""What the tests ask a running server."""

import json
import urllib.parse
import urllib.request

from quadtree_pack.tests.demo import demo

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
