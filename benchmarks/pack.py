"""The pack as the package `quadtree_pack`; its folder is on no path, since nodes.py and utils.py are ComfyUI names too."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def register_pack() -> None:
    package = ModuleType("quadtree_pack")
    package.__path__ = [str(ROOT)]
    sys.modules["quadtree_pack"] = package
