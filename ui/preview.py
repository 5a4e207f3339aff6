"""The live preview: `POST /quadtree/preview` answers with the tree that the node would build.

A request names an image by its file, as Load Image does, and the nodes that it passes `through`; or
by the key of an earlier run of Quadtree Visualizer. The sums of the last few images are kept, so a
moved slider costs milliseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, overload

import folder_paths
import torch
from PIL import Image

from ..quadtree import Quadtree
from ..tree.detail import BlockSums
from ..tree.regions import Painting
from .building import build_tree
from .files import RequestError, resolve_path
from .inputs import check_visualizer_inputs
from .passing import pass_through
from .price import estimate_price
from .workflow import Workflow

ROUTE = "/quadtree/preview"
MOST_TILES = 20_000  # sent, the largest of a tree; the tree itself is built whole
KEPT_IMAGES = 8
SHOWN_PX = 1024  # longest side of the picture that a run saves for the panel
LARGEST_REQUEST = 4 << 20  # bytes


class Kept(NamedTuple):
    """What is kept of an image: its sums, and the file of a picture where Load Image shows none."""

    sums: BlockSums
    picture: dict[str, str] | None = None


class ImageCache:
    """What is kept of the last `size` images.

    Requests for the same image at the same time wait for one of them to read it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: OrderedDict[Any, Kept] = OrderedDict()
        self.locks: dict[Any, threading.Lock] = {}
        self.lock = threading.Lock()

    @overload
    def get(self, key: Any) -> Kept | None: ...
    @overload
    def get(self, key: Any, read: Callable[[], Kept]) -> Kept: ...
    def get(self, key: Any, read: Callable[[], Kept] | None = None) -> Kept | None:
        """Return what is kept of a key; where nothing is, `read` it, or return None."""
        with self.lock:
            busy = self.locks.setdefault(key, threading.Lock())
        with busy:
            with self.lock:
                found = self.entries.get(key)
            if found is None and read is not None:
                found = read()
            with self.lock:
                if found is not None:
                    self.entries[key] = found
                    self.entries.move_to_end(key)
                while len(self.entries) > self.size:
                    self.entries.popitem(last=False)
                self.locks.pop(key, None)
        return found


IMAGES = ImageCache(KEPT_IMAGES)


def keep_for_preview(image: torch.Tensor, sums: BlockSums) -> dict[str, list]:
    """Keep the sums of a run's image [H, W, C] and save a small picture of it.

    Returns what the node's panel needs: the picture's file, and a key for later previews of the
    same image.
    """
    key = uuid.uuid4().hex
    picture = save_picture(image, key)
    IMAGES.get(("run", key), lambda: Kept(sums, picture))
    return {"quadtree_image": [picture], "quadtree_run": [{"key": key}]}


def save_picture(image: torch.Tensor, key: str) -> dict[str, str]:
    """Save a small picture of an image [H, W, C] for the panel; return its file as ComfyUI does."""
    # Skip px first, or an 8192 px image would be copied whole.
    step = max(1, max(image.shape[:2]) // (2 * SHOWN_PX))
    shown = image[::step, ::step, :3].expand(-1, -1, 3).clamp(0, 1)
    picture = Image.fromarray((shown * 255).round().to(torch.uint8).cpu().numpy())
    picture.thumbnail((SHOWN_PX, SHOWN_PX))
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"quadtree_{key}.jpg"
    picture.save(folder / name, quality=90)
    return {"filename": name, "subfolder": "", "type": "temp"}


class Source(NamedTuple):
    """What is kept of an image, and a token that changes with its pixels."""

    kept: Kept
    token: str


def find_source(request: dict[str, Any]) -> Source:
    """Return the image that a request names by `image` and `through`, or by `run`.

    Raises RequestError where there is none, and PassingError where it passes through a node that
    only a run can compute.
    """
    key = request.get("run")
    if key is not None:
        kept = IMAGES.get(("run", key)) if isinstance(key, str) else None
        if kept is None:
            raise RequestError("This run's image is no longer kept. Queue the workflow once.", 404)
        return Source(kept, key)
    name, through = request.get("image"), request.get("through") or []
    path = resolve_path(name)
    state = path.stat()
    token = f"{state.st_mtime_ns:x}-{state.st_size:x}"
    if through:
        told = json.dumps([token, through], sort_keys=True)
        token = hashlib.sha256(told.encode()).hexdigest()[:32]
    return Source(IMAGES.get((path, token), lambda: _read_image(name, through)), token)


def _read_image(name: Any, through: Any) -> Kept:
    """Return what is kept of an image file that passes through these nodes.

    Raises RequestError for a file that cannot be read.
    """
    import nodes  # ComfyUI's own, so that the pixels are those that Load Image gives to a run

    try:
        image, _ = nodes.NODE_CLASS_MAPPINGS["LoadImage"]().load_image(name)
    except Exception:  # of any decoder; its message may contain a path
        raise RequestError("This file cannot be read as an image.", 415) from None
    passed = pass_through(image[:1], through)[0]
    sums = BlockSums.of_image(passed, edges=True, octaves=True)
    return Kept(sums, save_picture(passed, uuid.uuid4().hex) if through else None)


def answer_request(request: Any) -> dict[str, Any]:
    """Return the answer to a request; raise ValueError where it is wrong."""
    if not isinstance(request, dict):
        raise RequestError("The request must be a JSON object.")
    names = ("content_threshold", "min_tile_size", "max_tile_size", "min_denoise", "max_denoise")
    missing = [name for name in names if name not in request]
    if missing:
        raise RequestError(f"The request lacks {', '.join(missing)}.")
    optional = ("denoise_by", "invert", "detail_metric", "cost_budget", "coverage")
    given = {name: request[name] for name in (*names, *optional) if name in request}
    limits = check_visualizer_inputs(**given)
    painting = Painting.from_json(request.get("regions", ""))
    source = find_source(request)
    sums = source.kept.sums
    regions = painting.select_regions(sums.width, sums.height)
    tree, choice = build_tree(sums, regions=regions or (), **limits)
    answer = describe_tree(tree)
    answer["found"] = choice and choice.found
    answer["token"] = source.token
    answer["picture"] = source.kept.picture
    answer["notice"] = (
        None if regions is not None else "painted on an image of another shape: regions ignored"
    )
    if request.get("cost"):
        workflow = Workflow(request.get("workflow") or {})
        answer |= describe_price(tree, workflow, str(request.get("node")))
    return answer


def describe_tree(tree: Quadtree) -> dict[str, Any]:
    """Return a tree as flat lists of integers, of its largest MOST_TILES leaves.

    `tiles` are x, y and side in px, `denoise` is in thousandths, and `detail` in tenths.
    """
    sent = tree.leaves[:MOST_TILES]
    return {
        "width": tree.width,
        "height": tree.height,
        "count": len(tree.leaves),
        "sides": [tree.leaves[-1].side, tree.leaves[0].side],
        "tiles": [number for leaf in sent for number in (leaf.x0, leaf.y0, leaf.side)],
        "denoise": [round(1000 * leaf.denoise) for leaf in sent],
        "detail": [round(10 * leaf.detail) for leaf in sent],
    }


def describe_price(tree: Quadtree, workflow: Workflow, node: str) -> dict[str, Any]:
    """Return the price of the runs with the tree of a node, or why they would end with an error."""
    try:
        price = estimate_price(tree, workflow, node)
    except ValueError as error:
        return {"problem": str(error)}
    return {
        "cost": price.share,
        "steps": price.steps,
        "cells": price.cells,
        "model": price.model,
        "assumed": price.assumed,
    }


def register() -> None:
    """Add the route to ComfyUI's server, unless another copy of the pack has added it.

    A route that is added twice stops the server from starting.
    """
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None or any(getattr(route, "path", None) == ROUTE for route in server.routes):
        return

    @server.routes.post(ROUTE)
    async def answer(request: web.Request) -> web.Response:
        if (request.content_length or 0) > LARGEST_REQUEST:
            return web.json_response({"error": "The request is too large."}, status=413)
        try:
            body = json.loads(await request.text())
            return web.json_response(await asyncio.to_thread(answer_request, body))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            return web.json_response({"error": "The request is not valid JSON."}, status=400)
        except (ValueError, OverflowError) as error:
            return web.json_response({"error": str(error)}, status=getattr(error, "status", 400))
