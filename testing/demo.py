"""The demo as a library: how tests start a real server, queue prompts and read what came."""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from quadtree_pack import demo
from torch import Tensor

POLL_S = 0.1


@contextlib.contextmanager
def running_server(base: Path, *options: str) -> Iterator[demo.Server]:
    """Start the ComfyUI of COMFYUI_PATH with the demo's packs on a free port.

    `base` is its base directory, with inputs, outputs and user data; `options` are main.py's.
    """
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    with demo.running_server(base, comfyui, demo.find_free_port(), *options) as server:
        yield server


def prompt_for(
    running: demo.Server,
    changes: Mapping[str, dict[str, Any]] | None = None,
    workflow: dict[str, Any] | None = None,
) -> demo.Prompt:
    """Return the demo's workflow up to its refined latent, on the small photo in 2 steps.

    `changes` are other values of inputs, by the type of the node.
    """
    if workflow is None:
        workflow = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    prompt = demo.prompt_from_workflow(workflow, demo.get_json(f"{running.url}/object_info"))
    wanted = demo.find_node(prompt, "SaveLatent", filename_prefix="quadtree/after")
    prompt = demo.select_needed(prompt, wanted)
    small = {"KSampler": {"steps": 2}, "ImageScaleBy": {"scale_by": 1.0}}
    for node, values in (*small.items(), *(changes or {}).items()):
        prompt[demo.find_node(prompt, node)]["inputs"].update(values)
    return prompt


def post(running: demo.Server, route: str, body: Any) -> Any:
    """Return the server's answer to a JSON body; None where it is empty."""
    request = urllib.request.Request(
        running.url + route, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def queue(running: demo.Server, prompt: demo.Prompt) -> str:
    """Queue a prompt and return its id."""
    return post(running, "/prompt", {"prompt": prompt})["prompt_id"]


def finished(running: demo.Server, prompt_id: str) -> dict[str, Any]:
    """Return what the history tells of a prompt, once it has ended."""
    while True:
        history = demo.get_json(f"{running.url}/history/{prompt_id}")
        if prompt_id in history:
            return history[prompt_id]
        time.sleep(POLL_S)


def latent_of(outputs: dict[str, dict[str, Any]], base: Path) -> Tensor:
    """Return the latent that a run saved."""
    (place,) = (latent for output in outputs.values() for latent in output.get("latents", ()))
    path = base / "output" / place["subfolder"] / place["filename"]
    return safetensors.torch.load_file(path)["latent_tensor"]
