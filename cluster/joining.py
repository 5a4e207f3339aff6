"""Join the Ray cluster that the environment names, or start one on this machine.

The address comes from RAY_ADDRESS alone: a workflow that could name it might lead ComfyUI to a
foreign cluster, whose members can run any code here. A cluster that lets in whoever asks is
refused for the same reason.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import subprocess
import sys
from typing import Any

ADDRESS = "RAY_ADDRESS"
RESOURCE = "comfyui"  # a node of a cluster offers one for each worker that it can run
OBJECT_STORE_BYTES = 200_000_000  # of a cluster that is started here: windows and prompts pass by
# Messages and answers up to this size travel with the call. Larger ones go through Ray's object
# store, which takes 8 ms more between two machines; Ray's own limit, 100 KB, is a fifth of a window
# of Flux. Who has the setting sends so, and each worker is started with it.
SEND_DIRECTLY = {"RAY_max_direct_call_object_size": "8000000"}
REACH_TIMEOUT_S = 10
PROBE_TIMEOUT_S = 60
NEEDED = "ray>=2.52"  # the first with tokens
# Exits with 0 if the cluster answers one that has no token, 3 if it asks for a token, 4 if none
# answers; Python itself exits with 1 where it cannot import this.
PROBE = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=10)
except AuthenticationError:
    sys.exit(3)
except Exception:
    sys.exit(4)
"""


def is_named() -> bool:
    """Tell whether the environment names a cluster."""
    return os.environ.get(ADDRESS, "").strip() not in ("", "local")


def import_ray() -> Any:
    """Return the package ray; ValueError in words where it is missing."""
    # Ray asks its makers' server otherwise, and a ComfyUI should call nobody by itself.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in SEND_DIRECTLY.items():
        os.environ.setdefault(name, value)  # Ray reads it when it is imported
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ValueError(
            "Quadtree Cluster needs the package ray: run `pip install ray` in ComfyUI's Python "
            "environment, on this machine and on every worker, or remove the node."
        ) from None


def join(local_workers: int) -> Any:
    """Return ray, connected to the cluster of RAY_ADDRESS or to a new one on this machine.

    A new one offers `local_workers` workers. ValueError where a cluster cannot be joined, or lets
    in whoever asks.
    """
    if not is_named():
        _require_token_here()
    ray = import_ray()
    if not hasattr(ray.exceptions, "AuthenticationError"):
        raise ValueError(
            f"Ray {ray.__version__} knows no tokens, so anyone who reaches this machine could run "
            f"code in its cluster. Run `pip install '{NEEDED}'`."
        )
    if ray.is_initialized():
        raise ValueError(
            "Another node pack has started Ray in this ComfyUI, and Quadtree Cluster cannot tell "
            "which cluster that is. Start ComfyUI without that pack."
        )
    quiet = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.WARNING}
    if not is_named():
        ray.init(
            address="local",
            resources={RESOURCE: local_workers},
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
        _refuse_open_here(ray)
        return ray
    address = os.environ[ADDRESS].strip()
    _refuse_open(address)
    try:
        ray.init(address=address, **quiet)
    except Exception as error:
        raise ValueError(
            f"Quadtree Cluster cannot join the Ray cluster at {address} ({ADDRESS}): {error}. "
            "This machine has to be one of its nodes: run `ray start` here first, with the "
            "cluster's token (docs/cluster.md)."
        ) from None
    return ray


def _require_token_here() -> None:
    """Refuse to start a cluster that lets in whoever asks; Ray makes a token when it starts one."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() != "token":
        raise ValueError(
            f"RAY_AUTH_MODE is {mode}, so anyone who reaches this machine could run code in the "
            "cluster that Quadtree Cluster starts. Set it to token, or remove it."
        )
    os.environ["RAY_AUTH_MODE"] = "token"  # whatever this version's own choice is


def _refuse_open_here(ray: Any) -> None:
    """End the cluster that was started here if it answers one that has no token."""
    address = ray.get_runtime_context().gcs_address
    if _probe(address) == 0:
        ray.shutdown()
        raise ValueError(
            "The Ray cluster that was started here takes no token, so anyone who reaches this "
            "machine could run code in it, and it was ended. Start ComfyUI with "
            "RAY_AUTH_MODE=token, and without node packs that use Ray."
        )


def _refuse_open(address: str) -> None:
    """Refuse a cluster without token authentication, as one sees who asks it without a token."""
    if "://" in address:
        raise ValueError(
            f"{ADDRESS} is {address}; Quadtree Cluster takes HOST:PORT, the address that "
            "`ray start` gives."
        )
    if address == "auto":
        raise ValueError(
            f"{ADDRESS} is auto; name the cluster, as HOST:PORT, so that it can be asked whether "
            "it wants a token."
        )
    answer = _probe(address)
    if answer == 0:
        raise ValueError(
            f"The Ray cluster at {address} takes no token, so anyone who reaches it can run code "
            "on all its machines. Start it with RAY_AUTH_MODE=token (docs/cluster.md)."
        )
    if answer == 1:
        raise ValueError(
            f"Ray cannot ask the cluster at {address} whether it wants a token: its Python module "
            f"does not load in a process of its own. Run `pip install '{NEEDED}'`."
        )
    if answer != 3:
        raise ValueError(
            f"No Ray cluster answers at {address} ({ADDRESS}). Start it with `ray start --head`, "
            f"or remove {ADDRESS} to work on this machine alone."
        )
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise ValueError(
            f"The Ray cluster at {address} asks for a token. Start ComfyUI with "
            "RAY_AUTH_MODE=token and the cluster's token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
        )


def _probe(address: str) -> int:
    """Return what PROBE exits with. Another process: ray reads its mode once."""
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    host, _, port = address.rpartition(":")
    try:
        # Ray itself would try for a minute.
        socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
    except (OSError, ValueError):
        return 4
    try:
        probed = subprocess.run(
            [sys.executable, "-c", PROBE, address],
            env=env,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 4
    return probed.returncode
