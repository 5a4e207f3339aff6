"""Nodes named and called as those of KJNodes, Essentials and rgthree, with the same inputs.

They only stand in for them: what they compute is simpler. A server of tests gets this file as a
pack of its own, so it imports nothing of ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from comfy.utils import common_upscale
from torch import Tensor

INT = ("INT", {"default": 0, "min": 0, "max": 16384})
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
SIDES: dict[str, Any] = {"width": INT, "height": INT}


def resize(image: Tensor, width: int, height: int, method: str = "bilinear") -> Tensor:
    """Return an image [B, H, W, C] at another size; a side of 0 stays as it is."""
    size = (width or image.shape[2], height or image.shape[1])
    return common_upscale(image.movedim(-1, 1), *size, method, "disabled").movedim(1, -1)


class StandIn:
    """A node that takes an image and the inputs named in `inputs`."""

    inputs: ClassVar[dict[str, Any]] = {}
    optional: ClassVar[dict[str, Any]] = {}
    hidden: ClassVar[dict[str, Any]] = {}
    RETURN_TYPES = ("IMAGE", "INT", "INT")
    FUNCTION = "execute"  # a method, while ComfyUI's newer nodes have a class method of that name
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - as ComfyUI names it
        required = {"image": ("IMAGE",), **cls.inputs}
        return {"required": required, "optional": cls.optional, "hidden": cls.hidden}

    def execute(self, image: Tensor, **values: Any) -> Any:
        made = self.change(image, **values)
        return (made, made.shape[2], made.shape[1])

    def change(self, image: Tensor) -> Tensor:
        return image


class ResizeKJ(StandIn):
    inputs: ClassVar = {
        **SIDES,
        "upscale_method": (METHODS,),
        "keep_proportion": ("BOOLEAN", {"default": False}),
        "divisible_by": INT,
    }
    optional: ClassVar = {"get_image_size": ("IMAGE",), "crop": (["disabled", "center", 0],)}

    def change(
        self,
        image: Tensor,
        width: int,
        height: int,
        upscale_method: str,
        keep_proportion: bool,
        divisible_by: int,
        get_image_size: Tensor | None = None,
        crop: str | int = "disabled",
    ) -> Tensor:
        if get_image_size is not None:
            height, width = get_image_size.shape[1:3]
        return resize(image, width, height, upscale_method)


class ResizeKJv2(StandIn):
    """It needs its own id, and moves its image to the CPU."""

    inputs: ClassVar = {
        **SIDES,
        "upscale_method": (METHODS,),
        "keep_proportion": (["stretch", "resize", "crop"],),
        "pad_color": ("STRING", {"default": "0, 0, 0"}),
        "crop_position": (["center", "top"],),
        "divisible_by": INT,
    }
    optional: ClassVar = {"mask": ("MASK",), "device": (["cpu", "gpu"],)}
    hidden: ClassVar = {"unique_id": "UNIQUE_ID"}

    def execute(self, image: Tensor, unique_id: Any, mask: Any = None, **values: Any) -> Any:
        image = image if image.device == torch.device("cpu") else image.to("cpu")
        made = resize(image, values["width"], values["height"], values["upscale_method"])
        return (made.cpu(), made.shape[2], made.shape[1])


class PassWithItsSize(StandIn):
    """It answers with what it shows, and what it puts out."""

    def execute(self, image: Tensor, **values: Any) -> Any:
        return {"ui": {"text": ["1x2x3"]}, "result": (image, image.shape[2], image.shape[1])}


class ResizeEssentials(StandIn):
    inputs: ClassVar = {
        **SIDES,
        "interpolation": (["nearest", *METHODS],),
        "method": (["stretch", "keep proportion", "fill / crop", "pad"],),
        "condition": (["always", "downscale if bigger"],),
        "multiple_of": INT,
    }

    def change(self, image: Tensor, width: int, height: int, **values: Any) -> Tensor:
        return resize(image, width, height)


class CropEssentials(StandIn):
    inputs: ClassVar = {
        **SIDES,
        "position": (["top-left", "bottom-right", "center"],),
        "x_offset": ("INT", {"default": 0, "min": -99999}),
        "y_offset": ("INT", {"default": 0, "min": -99999}),
    }

    def change(self, image: Tensor, width: int, height: int, position: str, **_: Any) -> Tensor:
        return image[:, -height:, -width:] if "bottom" in position else image[:, :height, :width]


class FlipEssentials(StandIn):
    inputs: ClassVar = {"axis": (["x", "y", "xy"],)}

    def change(self, image: Tensor, axis: str) -> Tensor:
        return image.flip([{"y": 1, "x": 2}[one] for one in axis])


class DesaturateEssentials(StandIn):
    inputs: ClassVar = {"factor": ("FLOAT",), "method": (["average"],)}

    def change(self, image: Tensor, factor: float, **_: Any) -> Tensor:
        return image + factor * (image.mean(3, keepdim=True) - image)


class SharpenEssentials(StandIn):
    inputs: ClassVar = {"amount": ("FLOAT",)}

    def change(self, image: Tensor, amount: float) -> Tensor:
        return (image * (1 + amount)).clamp(0, 1)


class ResizeRgthree(StandIn):
    inputs: ClassVar = {
        "measurement": (["pixels", "percentage"],),
        **SIDES,
        "fit": (["crop", "pad", "contain"],),
        "method": (METHODS,),
    }

    def change(self, image: Tensor, width: int, height: int, **values: Any) -> Tensor:
        return resize(image, width, height, values["method"])


class InsetCropRgthree(StandIn):
    inputs: ClassVar = {
        "measurement": (["Pixels", "Percentage"],),
        **{"left": INT, "right": INT, "top": INT, "bottom": INT},
    }

    def change(self, image: Tensor, left: int, right: int, top: int, bottom: int, **_: Any) -> Any:
        height, width = image.shape[1:3]
        return image[:, top : height - bottom, left : width - right]


NODE_CLASS_MAPPINGS = {
    "ImageResizeKJ": ResizeKJ,
    "ImageResizeKJv2": ResizeKJv2,
    "ImagePass": StandIn,
    "GetImageSizeAndCount": PassWithItsSize,
    "ImageResize+": ResizeEssentials,
    "ImageCrop+": CropEssentials,
    "ImageFlip+": FlipEssentials,
    "ImageRemoveAlpha+": StandIn,
    "ImageDesaturate+": DesaturateEssentials,
    "ImageCASharpening+": SharpenEssentials,
    "Image Resize (rgthree)": ResizeRgthree,
    "Image Inset Crop (rgthree)": InsetCropRgthree,
}
