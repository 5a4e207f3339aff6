"""dev.py as a module: how tests run its commands."""

import importlib.util
import sys
from pathlib import Path

DEV = Path(__file__).resolve().parents[1] / "dev.py"


def _load():
    spec = importlib.util.spec_from_file_location("quadtree_dev", DEV)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(
        spec
    )  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


dev = _load()
