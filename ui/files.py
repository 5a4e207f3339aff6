"""Finds the image files that a request names, inside ComfyUI's folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from PIL import Image, ImageOps


class RequestError(ValueError):
    """A message for the user about what is wrong with a request, and its HTTP status."""

    def __init__(self, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.status = status


def resolve_path(name: Any) -> Path:
    """Return the real path of an image file inside ComfyUI's folders.

    Raises RequestError for anything else.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise RequestError("image must be the name of a file, as Load Image shows it.")
    try:
        real = Path(folder_paths.get_annotated_filepath(name)).resolve()
        base = folder_paths.annotated_filepath(name)[1] or folder_paths.get_input_directory()
        inside, exists = real.is_relative_to(Path(base).resolve()), real.is_file()
    except (ValueError, OSError):  # outside of ComfyUI's folders, or not a valid file name
        inside = exists = False
    if not inside:
        raise RequestError("This file lies outside of ComfyUI's folders.")
    if not exists:
        raise RequestError("This file is missing. Choose another in the node that loads it.", 404)
    return real


def read_size(name: Any) -> tuple[int, int] | None:
    """Return the height and width of an image file in px, upright; None if it cannot be read."""
    try:
        with Image.open(resolve_path(name)) as image:
            return ImageOps.exif_transpose(image).size[::-1]
    except (RequestError, OSError):
        return None
