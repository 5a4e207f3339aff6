"""A Ray cluster on loopback for tests and the demo: a base directory for workers, with tiny models.

The workers start a ComfyUI of their own on the CPU, with this pack and a node that loads a tiny
model.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from quadtree_pack.cluster.joining import SEND_DIRECTLY
from quadtree_pack.demo.folders import link_folder

from .registration import ROOT

PACK = "comfyui-quadtree-diffusion"
NODE = {"resources": {"comfyui": 1}, "object_store_memory": 100_000_000, "num_cpus": 1}
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


@contextlib.contextmanager
def running_cluster(bases: Sequence[Path]) -> Iterator[Any]:
    """Start a cluster with a node for each base directory; RAY_ADDRESS names it meanwhile."""
    need_ray()
    if sys.platform == "win32":
        pytest.skip("Ray has no clusters of several nodes on Windows")
    saved = dict(os.environ)
    os.environ.update(
        SEND_DIRECTLY,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN="5f2d" * 16,
        RAY_USAGE_STATS_ENABLED="0",
    )
    _read_environment()
    head = {**NODE, "env_vars": worker_env(bases[0]), "include_dashboard": False}
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args=head
    )
    try:
        for base in bases[1:]:
            cluster.add_node(**NODE, env_vars=worker_env(base))
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(saved)


def _read_environment() -> None:
    """Let Ray, which reads its environment once, read it again."""
    raylet = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


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
