"""Makes the pack and ComfyUI importable, for benchmarks and tests alike."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "quadtree_pack"
ROOMS = ("tree", "windows", "sampling", "image", "ui", "cluster")


def pack_files() -> list[Path]:
    """Return every Python file that users get: the modules at the top, and those of each room."""
    top = [path for path in ROOT.glob("*.py") if path.name != "dev.py"]
    return sorted([*top, *(path for room in ROOMS for path in (ROOT / room).glob("*.py"))])


def register_pack() -> None:
    """The pack as a package; its folder is on no path, since nodes.py and utils.py are names of
    ComfyUI's own modules."""
    if PACKAGE not in sys.modules:
        package = sys.modules[PACKAGE] = ModuleType(PACKAGE)
        package.__path__ = [str(ROOT)]


def register_comfyui(*options: str) -> None:
    """The ComfyUI of COMFYUI_PATH, with the options of its command line; it reads them when it is
    first imported."""
    comfyui = os.environ.get("COMFYUI_PATH", "")
    if not (Path(comfyui) / "comfy").is_dir():
        sys.exit("COMFYUI_PATH names no ComfyUI; start tests and benchmarks by `python dev.py`.")
    sys.path.insert(0, comfyui)
    arguments, sys.argv = sys.argv, [sys.argv[0], *options]
    importlib.import_module("comfy.options").enable_args_parsing()
    importlib.import_module("comfy.model_management")
    sys.argv = arguments
