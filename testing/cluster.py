"""A Ray cluster on loopback for tests and the demo: a base directory for workers, with tiny models.

The workers start a ComfyUI of their own on the CPU, with this pack and a node that loads a tiny
model.
"""

from __future__ import annotations

import importlib
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from quadtree_pack.demo.folders import link_folder

from .registration import ROOT

PACK = "comfyui-quadtree-diffusion"
NODES = f"""
import importlib.util

path = {str(ROOT)!r} + "/testing/registration.py"
spec = importlib.util.spec_from_file_location("quadtree_registration", path)
registration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(registration)
registration.register_pack()
from quadtree_pack.testing.tiny_nodes import NODE_CLASS_MAPPINGS
"""


def need_ray() -> None:
    """Skip a test where ray is missing; in CI, which installs it, let it fail instead."""
    if os.environ.get("CI"):
        importlib.import_module("ray.cluster_utils")
    else:
        pytest.importorskip("ray.cluster_utils")


def prepare_worker(base: Path) -> str:
    """Fill a base directory; return the options that a worker's ComfyUI starts with."""
    for name in ("custom_nodes/tiny_models", "input", "output", "models/loras"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link_folder(base / "custom_nodes" / PACK, ROOT)
    (base / "custom_nodes/tiny_models/__init__.py").write_text(NODES, encoding="utf-8")
    return shlex.join(["--cpu", "--base-directory", str(base)])


def worker_env(base: Path) -> dict[str, str]:
    """Return the environment of a node whose workers start in this base directory."""
    return {
        "COMFYUI_PATH": os.environ["COMFYUI_PATH"],
        "COMFYUI_OPTIONS": prepare_worker(base),
        "OMP_WAIT_POLICY": "passive",
        # Ray's own 15 lets workers starve where other tests keep the cores busy.
        "RAY_worker_niceness": "0",
    }


def chain(*steps: tuple[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a prompt of nodes, each with the model of the one before; the last is the cluster."""
    prompt: dict[str, dict[str, Any]] = {}
    for number, (kind, inputs) in enumerate([*steps, ("QuadtreeCluster", {"workers": 0})]):
        linked = {"model": [str(number - 1), 0]} if number else {}
        prompt[str(number)] = {"class_type": kind, "inputs": {**linked, **inputs}}
    return prompt
