"""The pack as the package `quadtree_pack`; its folder is on no path, since nodes.py and utils.py are ComfyUI names too."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def register_comfyui() -> None:
    """The real ComfyUI of COMFYUI_PATH, on the CPU, as the tests set it up; the pack must be registered."""
    importlib.import_module("quadtree_pack.tests.comfy.conftest")


def register_pack() -> None:
    package = ModuleType("quadtree_pack")
    package.__path__ = [str(ROOT)]
    sys.modules["quadtree_pack"] = package
