"""The demo's program as a module: how tests start a real server, queue prompts and read what came."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .registration import ROOT


def _load():
    spec = importlib.util.spec_from_file_location("quadtree_demo_run", ROOT / "demo" / "run.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo = _load()


@contextlib.contextmanager
def running(base: Path) -> Iterator[Any]:
    """The ComfyUI of COMFYUI_PATH with the demo's packs on a free port; its user data lies in `base`."""
    with demo.running(base, Path(os.environ["COMFYUI_PATH"]).resolve(), demo.free_port()) as server:
        yield server
