"""Applies the nodes between Load Image and Quadtree Visualizer, as a run would, for the preview.

Only nodes whose result depends on the image and their own widgets are applied: those that resize,
crop, turn, sharpen or convert. Anything else is computed during the run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tree.detail import LARGEST_PX

# The input through which each node gets the image, by the node's id. From KJNodes and Essentials as
# well, where they are installed.
IMAGE_INPUTS = {
    "ImageScale": "image",
    "ImageScaleBy": "image",
    "ImageScaleToTotalPixels": "image",
    "ImageScaleToMaxDimension": "image",
    "ResizeImageMaskNode": "input",
    "ImageCrop": "image",
    "ImageFlip": "image",
    "ImageRotate": "image",
    "ImageInvert": "image",
    "ImageSharpen": "image",
    "ImageBlur": "image",
    "ImageQuantize": "image",
    "ImageResizeKJ": "image",
    "ImageResizeKJv2": "image",
    "ImageResize+": "image",
}
LATENT_NODES = ("LatentUpscale", "LatentUpscaleBy", "LatentCrop", "LatentRotate")
METHODS = ("upscale_method", "scale_method", "interpolation")  # inputs that choose how to resize
MOST_PX = 8192 * 8192  # of a preview's image; a run has no such limit
MOST_NODES = 16


class PassingError(ValueError):
    """A message for the user about why a node cannot be applied before the run."""


def pass_through(image: Tensor, steps: Any) -> Tensor:
    """Return an image [B, H, W, C] as nodes make it: `steps` are {"node": id, "inputs": values}.

    Raises PassingError where one of them cannot be applied.
    """
    if not isinstance(steps, list) or len(steps) > MOST_NODES:
        raise PassingError(f"through must be a list of at most {MOST_NODES} nodes.")
    for step in steps:
        node = step.get("node") if isinstance(step, dict) else None
        inputs = step.get("inputs") if isinstance(step, dict) else None
        if not isinstance(node, str) or not isinstance(inputs, dict):
            raise PassingError('Each entry of through must be {"node": ..., "inputs": {...}}.')
        image = _apply(node, inputs, image)
    return image


def _apply(node: str, inputs: dict[str, Any], image: Tensor) -> Tensor:
    import nodes  # ComfyUI's own

    node_class = nodes.NODE_CLASS_MAPPINGS.get(node)
    if node not in IMAGE_INPUTS or node_class is None:
        raise PassingError(f"{node} is computed during the run. Queue the workflow once.")
    try:
        values = _select_inputs(node_class, _nest(inputs))
        height, width = _predict(node, node_class, values, *image.shape[1:3])
        if not 0 < height * width <= MOST_PX or max(height, width) > LARGEST_PX:
            raise PassingError(
                f"{node} makes an image of {width} x {height} px, too large for the preview. Queue "
                "the workflow once."
            )
        return _call(node, node_class, values, image)
    except PassingError:
        raise
    except Exception as error:  # of another pack's node, or of values that do not fit
        raise PassingError(f"{node} cannot be applied before the run: {error}") from None


def _nest(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return inputs as a node gets them: {"a": 1, "a.b": 2} becomes {"a": {"a": 1, "b": 2}}."""
    nested = {name: value for name, value in inputs.items() if "." not in name}
    for name, value in inputs.items():
        outer, dot, inner = name.partition(".")
        if dot:
            if not isinstance(nested.get(outer), dict):
                nested[outer] = {outer: nested.get(outer)}
            nested[outer][inner] = value
    return nested


def _select_inputs(node_class: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the node has inputs for; the browser may send widgets of its own."""
    kinds = node_class.INPUT_TYPES()
    known = {**kinds.get("required", {}), **kinds.get("optional", {})}
    return {name: value for name, value in values.items() if name in known}


def predict_size(
    node: str, inputs: dict[str, Any], height: int, width: int
) -> tuple[int, int] | None:
    """Return the height and width that a node makes of an image of this size.

    None where it is not one of those that can be applied, or its values do not fit.
    """
    import nodes  # ComfyUI's own

    node_class = nodes.NODE_CLASS_MAPPINGS.get(node)
    if node not in IMAGE_INPUTS or node_class is None:
        return None
    try:
        return _predict(node, node_class, _select_inputs(node_class, _nest(inputs)), height, width)
    except Exception:  # of another pack's node, or of values that do not fit
        return None


def predict_latent_size(
    node: str, inputs: dict[str, Any], height: int, width: int
) -> tuple[int, int] | None:
    """Return the height and width in cells that a node makes of a latent of this size.

    None for a node that is not one of LATENT_NODES, or where its values do not fit.
    """
    import nodes  # ComfyUI's own

    if node not in LATENT_NODES:
        return None
    node_class = nodes.NODE_CLASS_MAPPINGS[node]
    values = _use_simple_methods(_select_inputs(node_class, inputs))
    latent = {"samples": torch.empty(1, 4, height, width, device="meta")}
    try:
        made = getattr(node_class(), node_class.FUNCTION)(**{**values, "samples": latent})[0]
    except Exception:  # of values that do not fit
        return None
    return made["samples"].shape[-2:]


def _use_simple_methods(values: dict[str, Any]) -> dict[str, Any]:
    """Return values that resize by a method that needs no pixels."""
    return {name: "bilinear" if name in METHODS else value for name, value in values.items()}


def _predict(
    node: str, node_class: Any, values: dict[str, Any], height: int, width: int
) -> tuple[int, int]:
    """Return the height and width that the node would make, without computing a pixel.

    A node that cannot do that, as some of other packs, counts as one that keeps the size.
    """
    simple = _use_simple_methods(values)
    image = torch.empty(1, height, width, 3, device="meta")
    try:
        made = _call(node, node_class, simple, image).shape
        return made[1], made[2]
    except (RuntimeError, NotImplementedError, TypeError):
        return height, width


def _call(node: str, node_class: Any, values: dict[str, Any], image: Tensor) -> Tensor:
    """Return the first output of a node of either kind, with `image` as its image."""
    values = {**values, IMAGE_INPUTS[node]: image}
    if hasattr(node_class, "execute"):
        output = node_class.execute(**values)
    else:
        output = getattr(node_class(), node_class.FUNCTION)(**values)
    result = getattr(output, "args", output)[0]
    if not isinstance(result, torch.Tensor) or result.ndim != 4:
        raise PassingError(f"{node} gives no image. Queue the workflow once.")
    return result
