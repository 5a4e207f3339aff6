"""Follows a workflow from a sampler's latent to the image behind it, to tell the latent's size."""

from __future__ import annotations

import re

from ..utils import ceil_div, round_down
from .files import read_size
from .passing import predict_latent_size, predict_size
from .workflow import Link, Node, Workflow

Size = tuple[int, int]  # height and width
LATENT_INPUTS = ("latent_image", "samples", "latent", "latents", "samples_to")
IMAGE_INPUTS = ("pixels", "image", "images", "input", "image1", "destination", "resized_images")
PADS_TO_PX = {"SeedVR2Preprocess": 16}  # nodes that enlarge an image to a multiple of so many px


class SizeFinder:
    """Finds sizes in one workflow; `guessed` tells that a node was taken to keep the size."""

    def __init__(self, workflow: Workflow, px_per_cell: int, known: dict[Link, Size]) -> None:
        """Take the sizes in px that are `known` of some outputs."""
        self.workflow = workflow
        self.px_per_cell = px_per_cell
        self.known = known
        self.guessed = False

    def find_latent(self, link: Link | None) -> Size | None:
        """Return the size of a latent in cells; None where nothing tells it."""
        node = link and self.workflow.nodes.get(link.node)
        if not node:
            return None
        behind = node.link(*LATENT_INPUTS)
        if behind is not None:
            size = self.find_latent(behind)
            return size and self._resize_latent(node, size)
        size = self.find_image(node.link(*IMAGE_INPUTS)) or _written_size(node)
        return size and (
            round_down(size[0], self.px_per_cell) // self.px_per_cell,
            round_down(size[1], self.px_per_cell) // self.px_per_cell,
        )

    def _resize_latent(self, node: Node, size: Size) -> Size:
        predicted = predict_latent_size(node.kind, node.plain(), *size)
        return predicted or size

    def find_image(self, link: Link | None) -> Size | None:
        """Return the size of an image in px; None where nothing tells it."""
        if link is None:
            return None
        if link in self.known:
            return self.known[link]
        node = self.workflow.nodes.get(link.node)
        if node is None:
            return None
        if node.kind.startswith("LoadImage"):
            return read_size(node.value("image"))
        latent = self.find_latent(node.link("samples"))
        if latent is not None:
            return latent[0] * self.px_per_cell, latent[1] * self.px_per_cell
        size = self.find_image(node.link(*IMAGE_INPUTS))
        return self._resize_image(node, size) if size else _written_size(node)

    def _resize_image(self, node: Node, size: Size) -> Size:
        if multiple := PADS_TO_PX.get(node.kind):
            height, width = (ceil_div(side, multiple) * multiple for side in size)
            return height, width
        predicted = predict_size(node.kind, node.plain(), *size)
        if predicted is not None:
            return predicted
        if node.kind == "ImageUpscaleWithModel":
            factor = _read_factor(node.origin("upscale_model"))
            if factor is not None:
                return size[0] * factor, size[1] * factor
        self.guessed = True
        return size


def _written_size(node: Node) -> Size | None:
    """Return the size in the inputs of a node that makes an empty image or latent."""
    height, width = (node.number_of(name) for name in ("height", "width"))
    return (int(height), int(width)) if height and width else None


def _read_factor(loader: Node | None) -> int | None:
    """Return the factor in the name of an upscale model: 4 for RealESRGAN_x4plus."""
    found = re.search(r"(?<![a-z\d])(\d)x|x(\d)", str(loader and loader.value("model_name")), re.I)
    return int(found.group(1) or found.group(2)) if found else None
