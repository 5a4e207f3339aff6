"""Computes the image and the mask that reach Quadtree Visualizer, as a run would, for the preview.

Only nodes whose result depends on files and their own widgets are applied: those that load, resize,
crop, turn, sharpen, blend or convert. Anything else is computed during the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..tree.detail import LARGEST_PX
from .files import RequestError, resolve_path
from .workflow import Link, Node, Workflow

# The input through which each node gets the image, by the node's id: those of ComfyUI, and of
# KJNodes, Essentials and rgthree where they are installed.
IMAGE_INPUTS = {
    "ResizeImageMaskNode": "input",
    **dict.fromkeys(
        (
            *("ImageScale", "ImageScaleBy", "ImageScaleToTotalPixels", "ImageScaleToMaxDimension"),
            *("ImageCrop", "ImageFlip", "ImageRotate", "ImageInvert"),
            *("ImageSharpen", "ImageBlur", "ImageQuantize"),
            *("ImageResizeKJ", "ImageResizeKJv2", "ImagePass", "GetImageSizeAndCount"),
            *("ImageResize+", "ImageCrop+", "ImageFlip+"),
            *("ImageRemoveAlpha+", "ImageDesaturate+", "ImageCASharpening+"),
            *("Image Resize (rgthree)", "Image Inset Crop (rgthree)"),
        ),
        "image",
    ),
}
LATENT_NODES = ("LatentUpscale", "LatentUpscaleBy", "LatentCrop", "LatentRotate")
BY_PIXELS = ("lanczos", "bislerp")  # methods to resize that need the pixels themselves
# Nodes that load a file, by its input's name, and those that combine images and masks.
LOADERS = {
    **{"LoadImage": "image", "LoadImageMask": "image", "LoadImageOutput": "image"},
    "LoadVideo": "file",
}
FRAMES_OF = "GetVideoComponents"
VIDEO_NODES = ("Video Slice", FRAMES_OF)
COMBINERS = {
    *["InvertMask", "GrowMask", "FeatherMask", "ThresholdMask", "CropMask", "MaskComposite"],
    *["MaskToImage", "ImageToMask", "JoinImageWithAlpha", "SplitImageWithAlpha"],
    *["ImageBlend", "ImageCompositeMasked"],
}
ONLY_BY_RUN = "This image is computed during the run. Queue the workflow once."
MOST_PX = 8192 * 8192  # of a preview's image; a run has no such limit
MOST_GROWN_PX = 1 << 29  # px times steps of GrowMask, which takes 8 ns for each


class PassingError(ValueError):
    """A message for the user about why a node cannot be applied before the run."""


class Applier:
    """Computes outputs of a workflow; each node is applied once.

    `clip` asks for all images of a file, as the frames of a clip; else its first one is enough.
    """

    def __init__(self, workflow: Workflow, *, clip: bool = False) -> None:
        self.workflow, self.clip = workflow, clip
        self.known: dict[Link, Callable[[], Tensor]] = {}  # outputs that need no node to be applied
        self.outputs: dict[str, Any] = {}  # by node; None while it is being computed

    def compute(self, link: Link | None) -> Tensor:
        """Return the images or masks that a link gives, see `clip`.

        Raises PassingError where only a run can compute them, and RequestError for a file that is
        missing or cannot be read.
        """
        found = self._take(link)
        if not isinstance(found, Tensor) or found.ndim not in (2, 3, 4) or not len(found):
            kind = self.workflow.nodes[link.node].kind if link else "This input"
            raise PassingError(f"{kind} gives no image. Queue the workflow once.")
        return found

    def _take(self, link: Link | None) -> Any:
        """Return what a link gives; None where it gives nothing."""
        node = link and self.workflow.nodes.get(link.node)
        if link is None or node is None:
            raise PassingError(ONLY_BY_RUN)
        if link in self.known:
            return self.known[link]()
        if node.number not in self.outputs:
            self.outputs[node.number] = None
            self.outputs[node.number] = self._apply(node)
        made = self.outputs[node.number]
        return made[link.slot] if made is not None and link.slot < len(made) else None

    def _apply(self, node: Node) -> Sequence[Any]:
        """Return the outputs of a node."""
        import nodes  # ComfyUI's own

        kind, node_class = node.kind, nodes.NODE_CLASS_MAPPINGS.get(node.kind)
        known = kind in LOADERS or kind in IMAGE_INPUTS or kind in COMBINERS or kind in VIDEO_NODES
        if not known or node_class is None:
            raise PassingError(f"{kind} is computed during the run. Queue the workflow once.")
        plain = _select_inputs(node_class, _nest(node.plain()))
        if kind in LOADERS:
            return self._load(node, node_class, plain)
        if kind in VIDEO_NODES:
            return self._apply_to_video(node, node_class, plain)
        linked = [name for name, value in node.inputs.items() if isinstance(value, list)]
        images = {name: self.compute(node.link(name)) for name in linked}
        try:
            _check_size(kind, node_class, plain, images)
            _check_growth(kind, plain, images)
            return _call(node_class, {**plain, **images})
        except PassingError:
            raise
        except Exception as error:  # of another pack's node, or of values that do not fit
            raise PassingError(f"{kind} cannot be applied before the run: {error}") from None

    def _load(self, node: Node, node_class: Any, plain: dict[str, Any]) -> Sequence[Any]:
        """Return the outputs of a node that loads a file; RequestError if it cannot."""
        name = node.value(LOADERS[node.kind])
        if name == "":  # as in a template
            raise PassingError("No file is chosen in the node that loads it.")
        resolve_path(name)
        try:
            outputs = _call(node_class, plain)
        except Exception:  # of any decoder; its message may contain a path
            raise RequestError("This file cannot be read as an image.", 415) from None
        first_only = not self.clip and node.kind != "LoadVideo"  # which has read nothing yet
        return [one[:1] for one in outputs] if first_only else outputs

    def _apply_to_video(self, node: Node, node_class: Any, plain: dict[str, Any]) -> Sequence[Any]:
        """Return the outputs of a node that shortens a video or gives its frames.

        Raises PassingError for too many frames, and RequestError for a file that cannot be read.
        """
        video = self._take(node.link("video"))
        try:
            if node.kind != FRAMES_OF:
                return _call(node_class, {**plain, "video": video})
            if not self.clip:
                frame_s = 1 / float(video.get_frame_rate())
                video = video.as_trimmed(0, frame_s, strict_duration=False)
            count, (width, height) = video.get_frame_count(), video.get_dimensions()
            if count * width * height <= MOST_PX:
                return [video.get_components().images]
        except Exception:  # of any decoder; its message may contain a path
            raise RequestError("This file cannot be read as a video.", 415) from None
        raise PassingError(
            f"The video has {count} frames of {width} x {height} px, too many for the preview. "
            "Queue the workflow once."
        )


def _check_size(
    kind: str, node_class: Any, plain: dict[str, Any], images: dict[str, Tensor]
) -> None:
    """Raise PassingError where a node would make an image too large for the preview."""
    image = images.get(IMAGE_INPUTS.get(kind, ""))
    if image is None:
        return
    height, width = _predict(kind, node_class, plain, *image.shape[1:3])
    if not 0 < len(image) * height * width <= MOST_PX or max(height, width) > LARGEST_PX:
        made = "an image" if len(image) == 1 else f"{len(image)} images"
        raise PassingError(
            f"{kind} makes {made} of {width} x {height} px, too large for the preview. Queue the "
            "workflow once."
        )


def _check_growth(kind: str, plain: dict[str, Any], images: dict[str, Tensor]) -> None:
    """Raise PassingError where Grow Mask, which grows px by px, would take too long."""
    if kind == "GrowMask" and abs(plain["expand"]) * images["mask"].numel() > MOST_GROWN_PX:
        raise PassingError(
            f"{kind} by {plain['expand']} px takes too long for the preview. Queue the workflow "
            "once."
        )


def is_input(kind: str, name: str) -> bool:
    """Tell whether a node's class has an input of this name; an unknown class has any."""
    import nodes  # ComfyUI's own

    return kind not in nodes.NODE_CLASS_MAPPINGS or name.partition(".")[0] in list_inputs(kind)


def list_inputs(kind: str) -> dict[str, Any]:
    """Return the inputs of a node's class, each with its type first; none of an unknown class."""
    import nodes  # ComfyUI's own

    node_class = nodes.NODE_CLASS_MAPPINGS.get(kind)
    return _list_inputs(node_class) if node_class else {}


def _list_inputs(node_class: Any) -> dict[str, Any]:
    kinds = node_class.INPUT_TYPES()
    return {**kinds.get("required", {}), **kinds.get("optional", {})}


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
    known = _list_inputs(node_class)
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
    """Return values that resize to the same size by a method that needs no pixels."""
    return {name: "bilinear" if one in BY_PIXELS else one for name, one in values.items()}


def _predict(
    node: str, node_class: Any, values: dict[str, Any], height: int, width: int
) -> tuple[int, int]:
    """Return the height and width that the node would make, without computing a pixel.

    A node that looks at pixels, such as one that chooses colours, counts as one that keeps the
    size.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes long to import

    # On the device "meta" ComfyUI's nodes would run, but not those that move their result to the
    # CPU, as KJNodes' do.
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(1, height, width, 3)
        try:
            made = _call(node_class, {**_use_simple_methods(values), IMAGE_INPUTS[node]: image})
        except (RuntimeError, NotImplementedError):
            return height, width
    return made[0].shape[1], made[0].shape[2]


def _call(node_class: Any, values: dict[str, Any]) -> Sequence[Any]:
    """Return the outputs of a node, whichever of ComfyUI's two interfaces it has.

    What ComfyUI hands to a node beside its inputs, such as its id, is None.
    """
    if hasattr(node_class, "define_schema"):
        output = node_class.execute(**values)
        return getattr(output, "args", output)
    hidden = dict.fromkeys(node_class.INPUT_TYPES().get("hidden", ()))
    output = getattr(node_class(), node_class.FUNCTION)(**hidden, **values)
    return output["result"] if isinstance(output, dict) else output
