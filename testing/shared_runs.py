"""Runs of tiny models that the workers of a real cluster take part in."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_model_advanced import RescaleCFG
from quadtree_pack.cluster import crew, remote
from quadtree_pack.cluster.branch import Prompt
from quadtree_pack.cluster.identity import Identity
from quadtree_pack.sampling.parallel import HERE, TEAM
from torch import Tensor

import nodes

from . import cluster as loopback
from . import trouble
from .support import half_kept, patched
from .tiny_models import entry_of
from .tiny_models.building import Entry, gauss, sample

RUN = {"steps": 4, "cfg": 3.0, "denoise": 0.8}
MOST_RUNS = 20
READY_S = 240.0  # for two ComfyUIs to start, on a busy machine
LORA, OTHER_LORA = "style.safetensors", "other.safetensors"

PATCHES = {
    "LoraLoaderModelOnly": lambda model, **inputs: nodes.LoraLoaderModelOnly().load_lora_model_only(
        model, **inputs
    )[0],
    "RescaleCFG": lambda model, **inputs: RescaleCFG().patch(model, **inputs)[0],
    "FreeU_V2": lambda model, **inputs: FreeU_V2.execute(model, **inputs).args[0],
}


def write_loras(base: Path, seed: int) -> None:
    """Write two LoRA for the tiny Flux into a base directory: one for all, and one by the seed."""
    flux = entry_of("flux").model
    for name, seed_of in ((LORA, 7), (OTHER_LORA, seed)):
        _write_lora(base / "models/loras" / name, flux, seed_of)


def _write_lora(path: Path, model: Any, seed: int) -> None:
    """Write a LoRA for the first few attention weights of a model."""
    weights = [
        (name, value)
        for name, value in model.model.diffusion_model.named_parameters()
        if value.ndim == 2 and "attn" in name
    ]
    tensors = {}
    for number, (name, value) in enumerate(weights[:6]):
        key = f"diffusion_model.{name.removesuffix('.weight')}"
        tensors[f"{key}.lora_up.weight"] = 0.2 * gauss((value.shape[0], 2), seed + number)
        tensors[f"{key}.lora_down.weight"] = gauss((2, value.shape[1]), seed + 50 + number)
    comfy.utils.save_torch_file(tensors, str(path))


# ---- a model that is shared


def make(folder: Path, family: str, *steps: tuple[str, dict[str, Any]]) -> tuple[Any, Prompt]:
    """Return a model and the prompt that makes it, each by its own way."""
    model = entry_of(family).model
    for kind, inputs in steps:
        model = PATCHES[kind](model, **inputs)
    model = trouble.with_trouble(model, str(folder))
    loader = ("TinyModel", {"family": family})
    return model, loopback.chain(loader, *steps, ("TinyTrouble", {"folder": str(folder)}))


def share(model: Any, prompt: Prompt, told: list[str] | None = None, workers: int = 0) -> Any:
    """Return the model with the cluster; the workers are ready, or are left out for good."""
    show = None if told is None else told.append
    (last,) = (key for key, node in prompt.items() if node["class_type"] == "QuadtreeCluster")
    shared = crew.attach_cluster(model, prompt, last, workers, show)
    cluster = shared.model_options[TEAM]
    for worker in cluster.remotes:
        await_ready(worker, cluster.identity)
    return shared


def await_ready(worker: remote.Remote, identity: Identity) -> str:
    """Wait until a worker has the model; return why it is left out, or an empty text."""
    end_s = time.monotonic() + READY_S
    try:
        worker.await_model(identity, lambda: time.monotonic() > end_s)
    except remote.LostError as lost:
        return str(lost)
    return ""


def make_flux_and_its_result(machines: Path, entry: Entry) -> tuple[Any, Prompt, Tensor, Tensor]:
    """Return a model, its prompt, a latent and what a run on this machine alone makes of it."""
    model, prompt = make(machines, "flux")
    latent = entry.latent()
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    return model, prompt, latent, sample(entry, latent, model=alone, **RUN)


# ---- who took part


def windows(told: list[str]) -> dict[str, int]:
    """Return how many windows each evaluated, from the last line that the node showed."""
    parts = [part.split(": ") for part in told[-1].split("; ")]
    return {name: int(words.split(" ")[0]) for name, words in parts}


def sample_until_all_take_part(
    entry: Entry,
    latent: Tensor,
    model: Any,
    told: list[str],
    expected: Tensor,
    remotes: Sequence[remote.Remote] | None = None,
) -> None:
    """Sample until each worker evaluated a window in some run: a busy machine may favour one.

    `remotes` are the workers, if not all.
    """
    workers = {worker.name for worker in remotes or crew.CREW.remotes}
    for _ in range(MOST_RUNS):
        assert torch.equal(sample(entry, latent, model=model, **RUN), expected)
        workers -= {name for name, count in windows(told).items() if count and name != HERE}
        if not workers:
            return
    raise AssertionError(told)


def find_process(worker: remote.Remote) -> int:
    """Return the number of a worker's process, once it answers; one that was killed is replaced."""
    end_s = time.monotonic() + READY_S
    worker.await_answer(worker.actor.ping.remote(), lambda: time.monotonic() > end_s)
    return crew.CREW.ray.get(worker.actor.ping.remote())


# ---- what is left


def count_actors() -> int:
    states = crew.CREW.ray._private.state.actors().values()
    return [state["State"] for state in states].count("ALIVE")


def count_references() -> int:
    """Return how many objects of the cluster this process holds on to."""
    gc.collect()
    import ray

    return len(ray._private.worker.global_worker.core_worker.get_all_reference_counts())


def assert_no_thread_left() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("quadtree ")]
