"""Queues a prompt on a running server, follows it to its end, and finds what it saved."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DemoError
from .prompts import Prompt

REQUEST_LIMIT_S = 30
Show = Callable[[str], None]


@dataclass
class Run:
    """What the server reported about one prompt.

    `outputs` is by node id, as in the server's history. `seconds` is by node id, for the nodes
    that were executed and not taken from the cache.
    """

    outputs: dict[str, dict] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def get_json(url: str) -> Any:
    """Return the server's answer, past any proxy: the server is on this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=REQUEST_LIMIT_S) as answer:
        return json.load(answer)


def run_prompt(url: str, prompt: Prompt, show: Show = lambda _: None) -> Run:
    """Queue the prompt and wait for its end; `show` gets a short text for every news.

    DemoError where the server refuses the prompt, a node fails or the run is interrupted.
    """
    return asyncio.run(queue_and_follow(url, prompt, show))


async def queue_and_follow(url: str, prompt: Prompt, show: Show) -> Run:
    import aiohttp  # ComfyUI's own requirement

    run, client = Run(), uuid.uuid4().hex
    async with (
        aiohttp.ClientSession(url) as session,
        session.ws_connect("/ws", params={"clientId": client}) as messages,
    ):
        async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as answer:
            queued = await answer.json()
        if "prompt_id" not in queued or queued.get("node_errors"):
            raise DemoError(f"ComfyUI refused the workflow: {describe_refusal(queued)}")
        await follow(messages, prompt, queued["prompt_id"], run, show)
        async with session.get(f"/history/{queued['prompt_id']}") as answer:
            run.outputs = (await answer.json())[queued["prompt_id"]]["outputs"]
    return run


async def follow(messages: Any, prompt: Prompt, prompt_id: str, run: Run, show: Show) -> None:
    """Read the server's messages until this prompt has ended, and note each node's seconds."""
    import aiohttp

    current, since = None, time.monotonic()
    async for message in messages:
        if message.type != aiohttp.WSMsgType.TEXT:
            continue  # a preview picture
        event = json.loads(message.data)
        data = event.get("data") or {}
        if data.get("prompt_id") != prompt_id:
            continue
        raise_failure(event["type"], data)
        if event["type"] == "executing":
            if current is not None:
                run.seconds[current] = time.monotonic() - since
            current, since = data["node"], time.monotonic()
            if current is None:
                return  # the last message, sent once the history holds the outputs
            show(prompt[current]["class_type"])
        elif event["type"] == "progress":
            show(f"step {data['value']} of {data['max']}")
    raise DemoError("The server closed the connection during the run.")


def raise_failure(event_type: str, data: dict) -> None:
    if event_type == "execution_error":
        raise DemoError(f"{data['node_type']} failed: {data['exception_message'].strip()}")
    if event_type == "execution_interrupted":
        raise DemoError("The run was interrupted.")


def describe_refusal(answer: dict) -> str:
    """Return the reasons in the server's answer to a prompt that it did not accept."""
    reasons = []
    for node in (answer.get("node_errors") or {}).values():
        for error in node["errors"]:
            reasons.append(f"{node['class_type']}: {error['message']} ({error['details']})")
    return "; ".join(reasons) or str((answer.get("error") or {}).get("message", answer))


def find_files(run: Run, prompt: Prompt, base: Path) -> dict[str, Path]:
    """Return the paths of the run's pictures and latents.

    Their keys are "picture before", "latent before" ...: the kind and the file name's prefix.
    """
    kinds = (("SaveImage", "images", "picture"), ("SaveLatent", "latents", "latent"))
    paths = {}
    for class_type, key, kind in kinds:
        for node_id, node in prompt.items():
            if node["class_type"] == class_type and node_id in run.outputs:
                saved = run.outputs[node_id][key][0]
                name = node["inputs"]["filename_prefix"].rpartition("/")[2]
                paths[f"{kind} {name}"] = base / "output" / saved["subfolder"] / saved["filename"]
    return paths
