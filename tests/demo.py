"""The demo's program as a module: how tests start a real server, queue prompts and read what came."""

import importlib.util
import sys

from quadtree_pack.tests.conftest import ROOT


def _load():
    spec = importlib.util.spec_from_file_location("quadtree_demo_run", ROOT / "demo" / "run.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo = _load()
