"""The live preview: `POST /quadtree/preview` answers with the tree that the node would build.

A request holds the workflow around the node, from which its image and mask are computed as a run
would; else they are those of an earlier run of the node, or the image that a node before it shows.
The sums of the last few images are kept, so a moved slider costs milliseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, overload

import torch

from ..quadtree import Quadtree
from ..tree.blocks import GRID_PX
from ..tree.clips import ClipSums
from ..tree.detail import BlockSums
from ..tree.masks import MASK_MODES
from ..tree.regions import Painting, mark_painted
from ..utils import LOG, PREFIX, ceil_div, warn
from .building import build_tree, find_curve, find_smallest_side
from .clips import BATCHES, CLIPS, IMAGES, join_frames
from .files import RequestError, resolve_path
from .frames import LARGEST_CLIP, FrameTree, KeptClip, build_for_frame
from .inputs import check_choice, check_visualizer_inputs
from .passing import LOADERS, ONLY_BY_RUN, Applier, PassingError, is_input
from .pictures import PictureFile, save_picture, save_veil
from .price import estimate_price
from .steps import describe_steps
from .workflow import Link, Node, Workflow

T = TypeVar("T")
ROUTE = "/quadtree/preview"
MOST_TILES = 20_000  # sent, the largest of a tree; the tree itself is built whole
KEPT_IMAGES = 16
KEPT_MASKS = 2
PAINTED = 3  # the number of the node's output of what is painted
KEPT_SHOWN = 64  # pictures that nodes show, of which it is known what led to them
LARGEST_REQUEST = 4 << 20  # bytes
FAILED = "The preview failed; the log of ComfyUI says why."


class Kept(NamedTuple):
    """What is kept of an image: its sums, and the file of a picture for the panel.

    `token` changes with its pixels. `images` counts those of the run; `clip` is what is kept of
    them where it took them for the frames of a clip.
    """

    sums: BlockSums
    picture: PictureFile
    token: str
    images: int = 1
    clip: KeptClip | None = None


class ImageCache:
    """What is kept of the last `size` images.

    Requests for the same image at the same time wait for one of them to read it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: OrderedDict[Any, Any] = OrderedDict()
        self.locks: dict[Any, threading.Lock] = {}
        self.lock = threading.Lock()

    def put(self, key: Any, kept: Any) -> None:
        """Keep something under a key, in the place of what was."""
        with self.lock:
            self.entries.pop(key, None)
        self.get(key, lambda: kept)

    @overload
    def get(self, key: Any) -> Any: ...
    @overload
    def get(self, key: Any, read: Callable[[], T]) -> T: ...
    def get(self, key: Any, read: Callable[[], Any] | None = None) -> Any:
        """Return what is kept of a key; where nothing is, `read` it, or return None."""
        with self.lock:
            busy = self.locks.setdefault(key, threading.Lock())
        try:
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
        finally:
            with self.lock:
                self.locks.pop(key, None)
        return found


KEPT = ImageCache(KEPT_IMAGES)
RUNS = ImageCache(KEPT_IMAGES)  # of runs, which only a run can make again
MASKS = ImageCache(KEPT_MASKS)  # in full size
CLIP = ImageCache(1)  # the sums of the last clip, which are large
SHOWN = ImageCache(KEPT_SHOWN)  # what led to pictures that nodes show when they were first seen


def keep_for_preview(
    images: torch.Tensor, sums: BlockSums, hidden: Any = None, clip: ClipSums | None = None
) -> dict[str, list]:
    """Keep the sums of a run's images [B, H, W, C] and save a small picture of the first.

    Where the images are those of a `clip`, its sums are kept, too, and pictures of more frames.

    `hidden` holds the prompt that is being executed and the node's id: as long as nothing before
    the node changes, this is its image. Returns a key for later previews of the same image.

    No run fails for its panel: what goes wrong is logged, and nothing is returned.
    """
    key = uuid.uuid4().hex
    try:
        frames = KeptClip.of_frames(images, key) if clip else None
        kept = Kept(sums, save_picture(images[0], key), key, len(images), frames)
        if clip and clip.bytes <= LARGEST_CLIP:
            CLIP.put(key, clip)
        RUNS.put(("run", key), kept)
        _keep_signed(kept, hidden)
    except Exception as error:  # of a full disk, or of another pack's node
        warn("the panel does not show this run: %s", error)
        return {}
    return {"quadtree_run": [{"key": key}]}


def _keep_signed(kept: Kept, hidden: Any) -> None:
    """Keep the image of a run under what leads to its node, to find it without its key."""
    node = Workflow.find_executed(hidden)
    link = node and node.link("image")
    if node and link:
        signed = kept, node.workflow.sign(link, is_input, seeds=True)
        RUNS.put(("signed", node.workflow.sign(link, is_input)), signed)


class Source(NamedTuple):
    """What is kept of an image, and where it comes from.

    `origin` is "live" where it is what a run would get now, "run" for that of the last run while
    nothing before the node has changed, "reseeded" where only random seeds have, "shown" for what
    a node before it shows, and "stale" for what is of before a change.
    """

    kept: Kept
    origin: str


def find_source(request: dict[str, Any], node: Node | None, applier: Applier, batch: str) -> Source:
    """Return the image that reaches a node, the best of what is known.

    Raises RequestError where nothing is known, and PassingError with the reason why only a run can
    compute it.
    """
    key = request.get("run")
    if node is None or "image" not in node.inputs:
        return Source(_recall_run(key), "run")
    link = node.link("image")  # None where a switch waits for the run
    try:
        return Source(_compute_live(applier, link, batch), "live")
    except PassingError as error:
        shown = request.get("shown")
        is_current = bool(shown) and _is_current(shown, applier.workflow, link)
        if signed := _find_signed(applier.workflow, link):
            return signed
        if is_current:
            return Source(_read_shown(shown), "shown")
        if RUNS.get(("run", str(key))):
            return Source(_recall_run(key), "stale")
        if shown:
            return Source(_read_shown(shown), "stale")
        raise error


def _find_signed(workflow: Workflow, link: Link | None) -> Source | None:
    """Return the image of an earlier run in which the same led to a link, but for seeds."""
    signed = link and RUNS.get(("signed", workflow.sign(link, is_input)))
    if not link or not signed:
        return None
    kept, seeds = signed
    return Source(kept, "run" if seeds == workflow.sign(link, is_input, seeds=True) else "reseeded")


def _is_current(shown: Any, workflow: Workflow, link: Link | None) -> bool:
    """Tell whether the same leads to a link as when the picture that its node shows was new."""
    signature = link and workflow.sign(link, is_input)
    return SHOWN.get(_sign_pixels(*_load_shown(shown)), lambda: (signature,)) == (signature,)


def _recall_run(key: Any) -> Kept:
    kept = RUNS.get(("run", key)) if isinstance(key, str) else None
    if kept is None:
        raise RequestError("This run's image is no longer kept. Queue the workflow once.", 404)
    return kept


def _compute_live(applier: Applier, link: Link | None, batch: str = IMAGES) -> Kept:
    """Return what is kept of the images of a link, which are computed if they are new."""
    if link is None:
        raise PassingError(ONLY_BY_RUN)
    token = _sign_pixels(applier, link)
    return KEPT.get(("live", token, batch), lambda: _keep(applier.compute(link), token, batch))


def _sign_pixels(applier: Applier, link: Link) -> str:
    """Return a text that changes with what leads to a link, the files that it names included."""
    told: list[Any] = [applier.workflow.sign(link, is_input)]
    for node in applier.workflow.nodes.values():
        if node.kind in LOADERS:
            told += _read_state(node.value(LOADERS[node.kind]))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _read_state(name: Any) -> list[int]:
    """Return the time and size of an image file; nothing of one that cannot be used."""
    try:
        state = resolve_path(name).stat()
    except RequestError:
        return []
    return [state.st_mtime_ns, state.st_size]


def _read_shown(name: Any) -> Kept:
    """Return what is kept of a picture that a node shows, named as Load Image names files."""
    return _compute_live(*_load_shown(name))


def _load_shown(name: Any) -> tuple[Applier, Link]:
    shown = Workflow({"shown": {"class_type": "LoadImage", "inputs": {"image": name}}})
    return Applier(shown), Link("shown", 0)


def _keep(images: torch.Tensor, token: str, batch: str) -> Kept:
    """Return what is kept of the first of some images, or of all frames of a clip."""
    picture = save_picture(images[0], token)
    if batch == IMAGES or len(images) == 1:
        return Kept(BlockSums.of_image(images[0], edges=True, octaves=True), picture, token)
    clip = CLIP.get(token, lambda: ClipSums.of_frames(images))
    frames = KeptClip.of_frames(images, token)
    return Kept(join_frames(clip, batch), picture, token, len(images), frames)


class KnownMask(NamedTuple):
    """A mask [h, w], and the file of a picture that darkens what it keeps."""

    mask: torch.Tensor
    picture: PictureFile


def find_mask(node: Node | None, applier: Applier, image: Kept) -> KnownMask | None:
    """Return the mask that reaches a node; None where there is none, or only a run has it."""
    link = None if node is None else node.link("mask")
    if link is None:
        return None
    token = f"{image.token}_{_sign_pixels(applier, link)}"

    def read() -> KnownMask:
        mask = applier.compute(link)
        mask = (mask[0] if mask.ndim == 3 else mask).float().clamp(0, 1)
        return KnownMask(mask, save_veil(mask, image.sums.width, image.sums.height, token))

    try:
        return MASKS.get(token, read)
    except (PassingError, RequestError):
        return None


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
    mode = check_choice("mask_mode", request.get("mask_mode", "multiply"), MASK_MODES)
    workflow = Workflow.of_request(request.get("workflow") or {})
    node = workflow.nodes.get(str(request.get("node")))
    batch = check_choice("batch", request.get("batch", IMAGES), BATCHES)
    applier = Applier(workflow, clip=batch in CLIPS)
    try:
        kept, origin = find_source(request, node, applier, batch)
    except PassingError as error:
        return {"unknown": str(error)}
    mask = find_mask(node, applier, kept)
    regions = painting.select_regions(kept.sums.width, kept.sums.height)
    options = {"regions": regions or (), "mask_mode": mode, **limits}
    if node is not None:
        size = kept.sums.width, kept.sums.height
        applier.known[Link(node.number, PAINTED)] = lambda: mark_painted(regions or (), *size)
    tree, trees, found = build_shown_tree(request, kept, batch, mask and mask.mask, options)
    answer = describe_tree(tree)
    answer["block"] = find_smallest_side(kept.sums, **limits)
    answer["coverage_curve"] = find_curve(kept.sums, **limits)
    answer |= {"found": found, "origin": origin}
    answer |= describe_frame(request, kept, batch)
    answer["mask"] = mask and mask.picture
    answer["notice"] = (
        None if regions is not None else "painted on an image of another shape: regions ignored"
    )
    if request.get("cost"):
        answer |= describe_price(trees, applier, str(request.get("node")))
    if request.get("steps"):
        denoise = _mean_denoise(tree, len(answer["denoise"]))
        leaves = tree.leaves[: len(denoise)]
        node_id = str(request.get("node"))
        answer["plan"] = describe_steps(trees, leaves, denoise, applier, node_id)
    return answer


def build_shown_tree(
    request: dict[str, Any],
    kept: Kept,
    batch: str,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> FrameTree:
    """Build the tree of what is kept; that of the frame that is asked for, where frames are."""
    clip = CLIP.get(kept.token) if kept.clip and batch in CLIPS else None
    if clip is None or kept.clip is None:
        tree, choice = build_tree(kept.sums, mask=mask, **options)
        return FrameTree(tree, (tree,), choice and choice.found)
    frame = kept.clip.shown[kept.clip.choose(request.get("frame", 0))]
    return build_for_frame(clip, batch, frame, mask, **options)


def describe_frame(request: dict[str, Any], kept: Kept, batch: str) -> dict[str, Any]:
    """Return the picture of the frame that is asked for, and which frames there are."""
    is_clip = batch in CLIPS
    answer: dict[str, Any] = {"images": kept.images}
    answer["other_batch"] = kept.images > 1 and is_clip != (kept.clip is not None)
    if kept.clip is None or not is_clip:
        return {**answer, "picture": kept.picture, "frames": None}
    place = kept.clip.choose(request.get("frame", 0))
    frames = {"shown": kept.clip.shown, "count": kept.images}
    return {**answer, "picture": kept.clip.pictures[place], "frames": frames}


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
        "denoise": [round(1000 * value) for value in _mean_denoise(tree, len(sent))],
        "detail": [round(10 * leaf.detail) for leaf in sent],
    }


def _mean_denoise(tree: Quadtree, count: int) -> list[float]:
    """Return the mean denoise of the first leaves, with the mask applied."""
    leaves = tree.leaves[:count]
    if tree.mask is None:
        return [leaf.denoise for leaf in leaves]
    height, width = ceil_div(tree.height, GRID_PX), ceil_div(tree.width, GRID_PX)
    sums = torch.zeros(height + 1, width + 1, dtype=torch.float64)
    sums[1:, 1:] = tree.denoise_map(height, width).cumsum(0).cumsum(1)
    means = []
    for leaf in leaves:
        left, top, side = (length // GRID_PX for length in (leaf.x0, leaf.y0, leaf.side))
        right, bottom = min(width, left + side), min(height, top + side)
        total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        means.append(float(total) / ((right - left) * (bottom - top)))
    return means


def describe_price(trees: Sequence[Quadtree], applier: Applier, node: str) -> dict[str, Any]:
    """Return the price of the runs with a node's trees, or why they would end with an error."""
    try:
        price = estimate_price(trees, applier, node)
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
        except (ValueError, RecursionError):  # of its text, or of a number in it
            return web.json_response({"error": "The request is not valid JSON."}, status=400)
        try:
            return web.json_response(await asyncio.to_thread(answer_request, body))
        except (ValueError, OverflowError) as error:
            return web.json_response({"error": str(error)}, status=getattr(error, "status", 400))
        except Exception:  # its message may contain a path
            LOG.exception("%sthe preview failed.", PREFIX)
            return web.json_response({"error": FAILED}, status=500)
