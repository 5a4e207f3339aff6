"""A graph of every node that the panel sees through: its id, and its inputs but for the image."""

from __future__ import annotations

from typing import Any

SIDES: dict[str, Any] = {"width": 600, "height": 320}
LANCZOS: dict[str, Any] = {"upscale_method": "lanczos"}
KJ_V2: dict[str, Any] = {
    **{"keep_proportion": "stretch", "pad_color": "0, 0, 0", "crop_position": "center"},
    **{"divisible_by": 2, "device": "cpu"},
}
ESSENTIALS: dict[str, Any] = {
    **{"interpolation": "lanczos", "method": "stretch", "condition": "always"},
    "multiple_of": 0,
}
THROUGH: list[tuple[str, dict[str, Any]]] = [
    ("ImageScaleBy", {"upscale_method": "lanczos", "scale_by": 1.5}),
    ("ImageScale", {"upscale_method": "bicubic", "width": 512, "height": 0, "crop": "disabled"}),
    ("ImageScale", {"upscale_method": "area", "width": 320, "height": 320, "crop": "center"}),
    (
        "ResizeImageMaskNode",
        {
            "resize_type": "scale by multiplier",
            "resize_type.multiplier": 0.7,
            "scale_method": "area",
        },
    ),
    ("ImageSharpen", {"sharpen_radius": 1, "sigma": 1.0, "alpha": 1.0}),
    ("ImageCrop", {"width": 300, "height": 200, "x": 20, "y": 30}),
    ("ImageRotate", {"rotation": "90 degrees"}),
    ("ImageFlip", {"flip_method": "x-axis: vertically"}),
    ("ImageBlur", {"blur_radius": 2, "sigma": 1.5}),
    ("ImageQuantize", {"colors": 16, "dither": "none"}),
    ("ImageScaleToTotalPixels", {**LANCZOS, "megapixels": 0.3, "resolution_steps": 1}),
    ("ImageScaleToMaxDimension", {**LANCZOS, "largest_size": 700}),
    # Of KJNodes, Essentials and rgthree: stand_ins.py stands in for them.
    ("ImageResizeKJ", {**SIDES, **LANCZOS, "keep_proportion": False, "divisible_by": 2}),
    ("ImageResizeKJv2", {**SIDES, **LANCZOS, **KJ_V2}),
    ("ImagePass", {}),
    ("GetImageSizeAndCount", {}),
    ("ImageResize+", {**SIDES, **ESSENTIALS}),
    ("ImageCrop+", {**SIDES, "position": "bottom-right", "x_offset": 0, "y_offset": 0}),
    ("ImageFlip+", {"axis": "xy"}),
    ("ImageRemoveAlpha+", {}),
    ("ImageDesaturate+", {"factor": 0.5, "method": "average"}),
    ("ImageCASharpening+", {"amount": 0.8}),
    (
        "Image Resize (rgthree)",
        {"measurement": "pixels", **SIDES, "fit": "crop", "method": "lanczos"},
    ),
    (
        "Image Inset Crop (rgthree)",
        {"measurement": "Pixels", "left": 8, "right": 16, "top": 24, "bottom": 0},
    ),
]
