"""Windows on the workers of a real Ray cluster: two nodes on loopback, each with a ComfyUI."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import comfy.model_management
import comfy.utils
import execution
import folder_paths
import psutil
import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_model_advanced import RescaleCFG
from node_helpers import conditioning_set_values
from quadtree_pack.cluster import crew, joining, remote, rounding
from quadtree_pack.cluster.branch import SINK
from quadtree_pack.cluster.worker import Sink
from quadtree_pack.nodes import QuadtreeCluster
from quadtree_pack.sampling.parallel import HERE, TEAM
from quadtree_pack.testing import cluster as loopback
from quadtree_pack.testing import guided, trouble
from quadtree_pack.testing.support import half_kept, patched, tree_of
from quadtree_pack.testing.tiny_controls import (
    FakeVAE,
    hint_image,
    sd15_t2i_adapter,
    with_control,
)
from quadtree_pack.testing.tiny_models import ZOO, entry_of
from quadtree_pack.testing.tiny_models.building import gauss, sample
from quadtree_pack.testing.tiny_nodes import CONTROLS, NODE_CLASS_MAPPINGS, in_bf16

import nodes

RUN = {"steps": 4, "cfg": 3.0, "denoise": 0.8}
MOST_RUNS = 20
READY_S = 240.0  # for two ComfyUIs to start, on a busy machine
LORA, OTHER_LORA = "style.safetensors", "other.safetensors"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def nothing_is_loaded_before_a_test():
    comfy.model_management.unload_all_models()


def write_lora(path, model, seed):
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


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Start two nodes; return the folder in which orders to their workers are left."""
    folder = tmp_path_factory.mktemp("cluster")
    bases = [folder / "first", folder / "second"]
    with loopback.running_cluster(bases):
        flux = entry_of("flux").model
        for base, seed in zip(bases, (1, 2), strict=True):
            write_lora(base / "models/loras" / LORA, flux, 7)
            write_lora(base / "models/loras" / OTHER_LORA, flux, seed)
        # The files of this machine are those of the first node.
        folder_paths.add_model_folder_path("loras", str(bases[0] / "models/loras"), is_default=True)
        yield folder
        crew.CREW.dismiss()


@pytest.fixture
def orders(machines):
    """Return what leaves orders to a process; this one is slow, so that workers take part."""

    def order(pid, what):
        (machines / f"{pid}.{what}").touch()

    order(os.getpid(), "slow")
    yield order
    for left in machines.glob("*.*"):
        left.unlink()


def make(folder, family, *steps):
    """Return a model and the prompt that makes it, each by its own way."""
    model = entry_of(family).model
    for kind, inputs in steps:
        model = HEAD[kind](model, **inputs)
    model = trouble.with_trouble(model, str(folder))
    loader = ("TinyModel", {"family": family})
    return model, loopback.chain(loader, *steps, ("TinyTrouble", {"folder": str(folder)}))


HEAD = {
    "LoraLoaderModelOnly": lambda model, **inputs: nodes.LoraLoaderModelOnly().load_lora_model_only(
        model, **inputs
    )[0],
    "RescaleCFG": lambda model, **inputs: RescaleCFG().patch(model, **inputs)[0],
    "FreeU_V2": lambda model, **inputs: FreeU_V2.execute(model, **inputs).args[0],
}


def share(model, prompt, told=None, workers=0):
    """Return the model with the cluster; the workers are ready, or are left out for good."""
    show = None if told is None else told.append
    (last,) = (key for key, node in prompt.items() if node["class_type"] == "QuadtreeCluster")
    shared = crew.attach_cluster(model, prompt, last, workers, show)
    cluster = shared.model_options[TEAM]
    for worker in cluster.remotes:
        await_ready(worker, cluster.identity)
    return shared


def await_ready(worker, identity):
    end_s = time.monotonic() + READY_S
    try:
        worker.await_model(identity, lambda: time.monotonic() > end_s)
    except remote.LostError as lost:
        return str(lost)
    return ""


def windows(told):
    """Return how many windows each evaluated, from the last line that the node showed."""
    parts = [part.split(": ") for part in told[-1].split("; ")]
    return {name: int(words.split(" ")[0]) for name, words in parts}


def sample_until_all_take_part(entry, latent, model, told, expected):
    """Sample until each worker evaluated a window in some run: a busy machine may favour one."""
    seen = set()
    for _ in range(MOST_RUNS):
        assert torch.equal(sample(entry, latent, model=model, **RUN), expected)
        seen |= {name for name, count in windows(told).items() if count and name != HERE}
        if len(seen) == 2:
            return
    raise AssertionError(told)


def own_references():
    """Return how many objects of the cluster this process holds on to."""
    gc.collect()
    import ray

    return len(ray._private.worker.global_worker.core_worker.get_all_reference_counts())


def assert_nothing_left():
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("quadtree ")]


# ---- the same result


@pytest.mark.parametrize(
    ("family", "steps", "batch"),
    [
        ("flux", (), 1),
        ("flux", (("LoraLoaderModelOnly", {"lora_name": LORA, "strength_model": 0.8}),), 2),
        ("sd15", (("FreeU_V2", {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}),), 1),
        ("sd15", (("RescaleCFG", {"multiplier": 0.7}),), 1),
        ("flux_kontext", (), 1),
        ("wan21_t2v", (), 1),
    ],
    ids=["plain", "lora, batch of 2", "patches", "cfg function", "references", "video"],
)
def test_a_run_on_workers_equals_one_on_this_machine(machines, orders, family, steps, batch):
    entry, told = entry_of(family), []
    model, prompt = make(machines, family, *steps)
    latent = entry.latent(batch=batch)
    settings = {"overlap_px": 0, "batch": 1}
    alone = patched(entry, half_kept(32, 40), model=model, **settings)
    expected = sample(entry, latent, model=alone, **RUN)
    shared = share(model, prompt, told)
    together = patched(entry, half_kept(32, 40), model=shared, **settings)
    for _ in range(2):
        references = own_references()
        assert torch.equal(sample(entry, latent, model=together, **RUN), expected)
        assert_nothing_left()
    assert own_references() <= references
    sample_until_all_take_part(entry, latent, together, told, expected)


def test_what_is_the_same_for_all_windows_is_sent_once_in_a_run(machines, orders, monkeypatch):
    entry = entry_of("flux")
    shared = share(*make(machines, "flux"))
    together = patched(entry, half_kept(32, 40), model=shared, overlap_px=0, batch=1)
    monkeypatch.setattr(crew, "SHARED_BYTES", 1)
    sent = []
    put = crew.CREW.ray.put
    monkeypatch.setattr(crew.CREW.ray, "put", lambda value: sent.append(value) or put(value))
    counts = []
    for steps in (2, 4):
        sample(entry, entry.latent(), model=together, steps=steps)
        counts.append(len(sent))
        sent.clear()
    assert counts[0] == counts[1] > 0


def test_an_answer_as_large_as_a_window_comes_with_its_call(machines, orders):
    share(*make(machines, "flux"))
    window, ray = bytes(2_000_000), crew.CREW.ray
    for worker in crew.CREW.remotes:
        ray.get(worker.actor.ask.remote("__setattr__", "left", window))
        answer = worker.actor.ask.remote("__getattribute__", "left")
        assert ray.get(answer) == ("ok", window)
        core = ray._private.worker.global_worker.core_worker
        assert core.object_exists(answer, memory_store_only=True)


@pytest.mark.parametrize("family", ["flux", "sd15", "wan21_t2v"])
def test_windows_of_a_model_in_half_precision_travel_in_it(machines, orders, monkeypatch, family):
    """Those of a flow model: SD 1.5 divides the latent in float32."""
    entry, told, dtypes = entry_of(family), [], set()
    model = trouble.with_trouble(in_bf16(ZOO[family]().model), str(machines))
    loader = ("TinyModel", {"family": family, "halved": True})
    prompt = loopback.chain(loader, ("TinyTrouble", {"folder": str(machines)}))
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    expected = sample(entry, entry.latent(), model=alone, **RUN)

    def note(*args):
        dtypes.add(rounding.find_dtype(*args))
        return rounding.find_dtype(*args)

    monkeypatch.setattr(crew, "find_dtype", note)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    sample_until_all_take_part(entry, entry.latent(), together, told, expected)
    assert dtypes == {None if family == "sd15" else torch.bfloat16}


@pytest.mark.parametrize(("family", "windows_per_call"), [("flux", 2), ("flux", 4), ("sd15", 3)])
def test_windows_that_share_calls_are_the_same_on_workers(
    machines, orders, family, windows_per_call
):
    entry, told = entry_of(family), []
    model, prompt = make(machines, family)
    settings = {"overlap_px": 0, "batch": windows_per_call}
    expected = sample(
        entry,
        entry.latent(),
        model=patched(entry, half_kept(32, 40), model=model, **settings),
        **RUN,
    )
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), **settings)
    sample_until_all_take_part(entry, entry.latent(), together, told, expected)


def test_images_with_a_tree_each_are_the_same_on_workers(machines, orders):
    entry, told = entry_of("flux"), []
    model, prompt = make(machines, "flux")
    latent, other = entry.latent(batch=2), tree_of([[0.8, 0.0, 0.0], [0.0, 0.0, 0.0]], 32, 40)
    trees, settings = (half_kept(32, 40), other), {"overlap_px": 0, "batch": 2}
    expected = sample(entry, latent, model=patched(entry, *trees, model=model, **settings), **RUN)
    together = patched(entry, *trees, model=share(model, prompt, told), **settings)
    sample_until_all_take_part(entry, latent, together, told, expected)


@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_a_number_of_workers_gives_one_result_however_many_there_are(machines, orders, family):
    """Five are asked for, and two, one or none take part."""
    entry, told = entry_of(family), []
    model, prompt = make(machines, family)
    shared = share(model, prompt, told, workers=5)
    cluster = shared.model_options[TEAM]
    alone = shared.clone()
    alone.model_options[TEAM] = cluster.without_workers()
    settings = {"overlap_px": 0, "batch": 3}
    expected = sample(
        entry,
        entry.latent(),
        model=patched(entry, half_kept(32, 40), model=alone, **settings),
        **RUN,
    )
    together = patched(entry, half_kept(32, 40), model=shared, **settings)
    sample_until_all_take_part(entry, entry.latent(), together, told, expected)
    cluster.remotes = cluster.remotes[:1]
    assert torch.equal(sample(entry, entry.latent(), model=together, **RUN), expected)
    assert len(windows(told)) == 2


def count_actors():
    states = crew.CREW.ray._private.state.actors().values()
    return [state["State"] for state in states].count("ALIVE")


def test_workers_beyond_the_chosen_number_are_stopped_and_start_again(machines, orders):
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    both = share(model, prompt, told)
    one = share(model, prompt, told, workers=1)
    end_s = time.monotonic() + 30
    while count_actors() > 1 and time.monotonic() < end_s:
        time.sleep(0.1)
    assert count_actors() == 1
    sample(entry, latent, model=patched(entry, half_kept(32, 40), model=one, batch=1), **RUN)
    assert len(windows(told)) == 2
    orders(os.getpid(), "slow")
    together = patched(entry, half_kept(32, 40), model=both, batch=1)
    end_s = time.monotonic() + READY_S
    seen = set()
    while len(seen) < 3 and time.monotonic() < end_s:
        assert torch.equal(sample(entry, latent, model=together, **RUN), expected)
        seen |= {name for name, count in windows(told).items() if count}
    assert len(seen) == 3 and count_actors() == 2


def test_the_node_finds_its_part_of_a_prompt_that_comfyui_runs(machines, orders, monkeypatch):
    entry, told = entry_of("flux"), []
    _, prompt = make(machines, "flux")
    last = max(prompt, key=int)
    prompt["sink"] = {"class_type": SINK, "inputs": {"value": [last, 0]}}
    for name, kind in {**NODE_CLASS_MAPPINGS, "QuadtreeCluster": QuadtreeCluster}.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, kind)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, SINK, Sink)
    server = types.SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *_: None)
    cache = {"lru": 0, "ram": 0, "ram_inactive": 0}
    executor = execution.PromptExecutor(server, execution.CacheType.CLASSIC, cache)
    valid = asyncio.run(execution.validate_prompt("id", prompt, ["sink"]))
    assert valid[0], valid
    executor.execute(prompt, "id", {}, ["sink"])
    assert Sink.taken, executor.status_messages
    shared = Sink.taken.pop()
    shared.model_options[TEAM].show = told.append
    for worker in crew.CREW.remotes:
        assert await_ready(worker, shared.model_options[TEAM].identity) == ""
    alone = patched(entry, half_kept(32, 40), batch=1)
    expected = sample(entry, entry.latent(), model=alone, **RUN)
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    sample_until_all_take_part(entry, entry.latent(), together, told, expected)


def make_flux_and_its_result(machines, entry):
    """Return a model, its prompt, a latent and what a run on this machine alone makes of it."""
    model, prompt = make(machines, "flux")
    latent = entry.latent()
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    return model, prompt, latent, sample(entry, latent, model=alone, **RUN)


def test_devices_of_this_machine_and_workers_share_a_step(machines, orders):
    """As after core's MultiGPU node; the second device is this CPU."""
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    shared = share(model, prompt, told)
    clone = trouble.with_trouble(ZOO["flux"]().model, str(machines))
    clone.load_device, clone.is_multigpu_base_clone = torch.device("cpu", 1), True
    shared.set_additional_models("multigpu", [clone])
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    for _ in range(MOST_RUNS):
        assert torch.equal(sample(entry, latent, model=together, **RUN), expected)
        counted = windows(told)
        assert len(counted) == 5 and counted[HERE] == 0
        if all(count for name, count in counted.items() if name != HERE):
            break
    else:
        raise AssertionError(told)


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_a_controlnet_is_evaluated_by_the_workers(machines, orders, monkeypatch, caplog, family):
    monkeypatch.setitem(
        nodes.NODE_CLASS_MAPPINGS, "TinyControl", NODE_CLASS_MAPPINGS["TinyControl"]
    )
    told, control = [], CONTROLS[family]()
    vae = None if family == "sd15" else FakeVAE()
    hint = hint_image(256, 320)
    entry = with_control(entry_of(family), control, hint, strength=0.8, end=0.6, vae=vae)
    model, prompt = make(machines, family)
    prompt["control"] = {"class_type": "TinyControl", "inputs": {"kind": family}}
    prompt["missing"] = {"class_type": "TinyControl", "inputs": {"kind": "none of this name"}}
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    expected = sample(entry, entry.latent(), model=alone, **RUN)
    shared = share(model, {key: prompt[key] for key in reversed(prompt)}, told)
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    sample_until_all_take_part(entry, entry.latent(), together, told, expected)
    assert "left out" not in caplog.text  # for the one that is missing


def test_a_control_that_cannot_be_sent_is_evaluated_here_with_a_note(machines, orders, caplog):
    told = []
    entry = with_control(entry_of("sd15"), sd15_t2i_adapter(), hint_image(256, 320))
    model, prompt = make(machines, "sd15")
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    with caplog.at_level(logging.WARNING):
        result = sample(entry, entry.latent(), model=together, **RUN)
    assert torch.equal(result, sample(entry, entry.latent(), model=alone, **RUN))
    assert "cannot be sent to workers" in caplog.text
    assert sum(count for name, count in windows(told).items() if name != HERE) == 0


def half_masks():
    """Return the settings of two prompts, each for its half of the canvas."""
    left = torch.zeros(1, 32, 40)
    left[..., :20] = 1
    return [{"mask": mask, "mask_strength": 1.0} for mask in (left, 1 - left)]


@pytest.mark.parametrize(
    "places",
    [[{"area": (32, 24, 0, 0)}, {"area": (32, 24, 0, 16)}], half_masks()],
    ids=["areas", "masks"],
)
def test_conditioning_for_places_is_sent(machines, orders, places):
    told = []
    model, prompt = make(machines, "sd15")
    shared = share(model, prompt, told)
    entry = copy.copy(entry_of("sd15"))
    left = conditioning_set_values(entry.positive, places[0])
    right = conditioning_set_values(entry.negative, places[1])
    entry.positive = left + right
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    expected = sample(entry, entry.latent(), model=alone, **RUN)
    sample_until_all_take_part(entry, entry.latent(), together, told, expected)


def test_another_prompt_s_conditioning_is_sent_with_its_own_run(machines, orders):
    told = []
    model, prompt = make(machines, "flux")
    alone = patched(entry_of("flux"), half_kept(32, 40), model=model, batch=1)
    together = patched(
        entry_of("flux"), half_kept(32, 40), model=share(model, prompt, told), batch=1
    )
    found = []
    for seed in (11, 31, 11):
        entry = copy.copy(entry_of("flux"))
        entry.positive = entry.make_cond(seed)
        found.append(sample(entry, entry.latent(), model=alone, **RUN))
        sample_until_all_take_part(entry, entry.latent(), together, told, found[-1])
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


def test_guides_of_a_clip_are_sent_with_their_windows(machines, orders):
    told = []
    scene = guided.Scene({}, {"frame": 8, "strength": 0.6, "seed": 1})
    model, prompt = make(machines, "ltxv")
    tree = half_kept(guided.HEIGHT, guided.WIDTH, guided.PX)
    expected = scene.sample(scene.tiled(tree, model, batch=1))
    together = scene.tiled(tree, share(model, prompt, told), batch=1)
    seen = set()
    for _ in range(MOST_RUNS):
        assert torch.equal(scene.sample(together), expected)
        seen |= {name for name, count in windows(told).items() if count}
        if len(seen) == 3:
            return
    raise AssertionError(told)


def test_an_earlier_node_s_model_is_built_again(machines, orders):
    """As with two models in a workflow, or a node whose output ComfyUI has cached."""
    entry, told = entry_of("flux"), []
    model, prompt = make(machines, "flux")
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    expected = sample(entry, entry.latent(), model=alone, **RUN)
    shared = share(model, prompt, told)
    share(*make(machines, "sd15"))
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    sample_until_all_take_part(entry, entry.latent(), together, told, expected)


# ---- what differs, and what cannot be sent


def test_a_worker_with_another_file_is_left_out_until_it_has_this_one(machines, orders):
    entry, told = entry_of("flux"), []
    steps = [("LoraLoaderModelOnly", {"lora_name": OTHER_LORA, "strength_model": 1.0})]
    model, prompt = make(machines, "flux", *steps)
    latent = entry.latent()
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    expected = sample(entry, latent, model=alone, **RUN)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    assert torch.equal(sample(entry, latent, model=together, **RUN), expected)
    counted = sorted(windows(told)[worker.name] for worker in crew.CREW.remotes)
    assert counted[0] == 0 < counted[1], told
    first, second = (machines / name / "models/loras" / OTHER_LORA for name in ("first", "second"))
    shutil.copy(first, second)  # with the file of this machine it takes part, as the node left it
    sample_until_all_take_part(entry, latent, together, told, expected)


def test_a_missing_file_is_named_with_its_worker_and_found_once_it_is_there(machines, orders):
    entry, told = entry_of("flux"), []
    (machines / "second/models/loras" / LORA).rename(machines / "second/gone")
    try:
        steps = [("LoraLoaderModelOnly", {"lora_name": LORA, "strength_model": 0.5})]
        model, prompt = make(machines, "flux", *steps)
        shared = share(model, prompt, told)
        identity = shared.model_options[TEAM].identity
        found = sorted(await_ready(worker, identity) for worker in crew.CREW.remotes)
        assert found[0] == "" and LORA in found[1]
    finally:
        (machines / "second/gone").rename(machines / "second/models/loras" / LORA)
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    expected = sample(entry, entry.latent(), model=alone, **RUN)
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    sample_until_all_take_part(entry, entry.latent(), together, told, expected)


def test_a_worker_of_another_version_is_started_again_when_it_was_updated(machines, orders):
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    identity = share(model, prompt).model_options[TEAM].identity
    worker = crew.CREW.remotes[1]
    versions, worker.versions = worker.versions, {**worker.versions, "torch": "1.0"}
    assert "torch" in await_ready(worker, identity) and worker.actor is None
    worker.versions = versions
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    sample_until_all_take_part(entry, latent, together, told, expected)


def test_a_patch_after_the_cluster_keeps_the_run_here(machines, orders, caplog):
    entry, told = entry_of("flux"), []
    model, prompt = make(machines, "flux")
    shared = trouble.with_trouble(share(model, prompt, told), "elsewhere")
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    with caplog.at_level(logging.WARNING):
        result = sample(entry, entry.latent(), model=together, **RUN)
    assert torch.equal(result, sample(entry, entry.latent(), model=alone, **RUN))
    assert "put Quadtree Cluster after that node" in caplog.text and not told


# ---- faults


FAULTS = ["hang"] * 10 + ["stop"] * 8 + ["oom"] * 7 + ["die"] * 5
FAULTY_STEPS = 120


class Saboteur:
    """Gives each worker its next fault between two steps of a run, once the last one is over.

    Steps wait while there is no worker that could have one, so that all happen in one run.
    """

    def __init__(self, machines, workers, order):
        self.machines, self.workers, self.order = machines, workers, order
        self.faults = random.Random(5).sample(FAULTS, len(FAULTS))
        self.orders = {}  # the file of each worker's latest order
        self.asked = {}  # by worker: its actor, and what that has to answer
        self.processes = set()

    def __call__(self, *_):
        end_s = time.monotonic() + READY_S
        while not any([self.needs_step(worker) for worker in self.workers]):
            assert time.monotonic() < end_s, f"{len(self.faults)} faults are left"
            time.sleep(0.02)

    def needs_step(self, worker):
        """Order a worker's next fault if it can have one; tell whether it needs the next step."""
        if worker.name in self.orders and self.orders[worker.name].exists():
            return True
        process = self.ask(worker)
        if process and worker.attempts == 1 and self.faults:
            self.processes.add(process)
            fault = self.faults.pop()
            self.order(process, fault)
            self.orders[worker.name] = self.machines / f"{process}.{fault}"
        return process is not None  # that a process has ended is noticed in a step

    def ask(self, worker):
        """Return the number of a worker's process; 0 if it has ended, None if it is silent."""
        actor, answer = self.asked.get(worker.name, (None, None))
        if actor is None or actor is not worker.actor:
            actor = worker.actor
            if actor is None:  # it is just started again
                return None
            answer = actor.ping.remote()
            self.asked[worker.name] = actor, answer
        if not crew.CREW.ray.wait([answer], timeout=0)[0]:
            return None
        del self.asked[worker.name]
        try:
            return crew.CREW.ray.get(answer)
        except crew.CREW.ray.exceptions.RayError:
            return 0


def test_thirty_faults_in_one_run_change_nothing_and_leave_nothing(machines, orders, monkeypatch):
    """Seeded: hangs, processes that stand still, lack of memory, and processes that are killed."""
    entry, told = entry_of("flux"), []
    model, prompt = make(machines, "flux")
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    short = sample(entry, entry.latent(), model=alone, **RUN)
    long = {**RUN, "steps": FAULTY_STEPS}
    expected = sample(entry, entry.latent(), model=alone, **long)
    sample_until_all_take_part(entry, entry.latent(), together, told, short)
    references = own_references()
    with monkeypatch.context() as impatient:
        impatient.setattr(remote, "PATIENCE_S", 1.0)
        impatient.setattr(remote, "FIRST_PATIENCE_S", 1.0)
        saboteur = Saboteur(machines, crew.CREW.remotes, orders)
        result = sample(entry, entry.latent(), model=together, callback=saboteur, **long)
    assert torch.equal(result, expected)
    assert len(FAULTS) == 30 and not saboteur.faults
    saboteur.asked.clear()  # references of its own
    assert_nothing_left()
    living = {find_process(worker) for worker in crew.CREW.remotes}
    assert count_actors() == 2
    assert {path.suffix for path in machines.glob("*.*")} == {".slow"}  # all were carried out
    assert all(not psutil.pid_exists(process) for process in saboteur.processes - living)
    assert own_references() <= references
    sample_until_all_take_part(entry, entry.latent(), together, told, short)


def test_a_process_that_stands_still_is_left_out_and_taken_back(machines, orders, monkeypatch):
    """As one looks whose network is gone: it neither answers nor ends."""
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    sample_until_all_take_part(entry, latent, together, told, expected)
    monkeypatch.setattr(remote, "PATIENCE_S", 1.0)
    monkeypatch.setattr(remote, "FIRST_PATIENCE_S", 1.0)
    processes = [find_process(worker) for worker in crew.CREW.remotes]

    def stop(step, *_):
        if step == 1:
            for process in processes:
                os.kill(process, signal.SIGSTOP)

    try:
        assert torch.equal(sample(entry, latent, model=together, callback=stop, **RUN), expected)
        assert_nothing_left()
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
    monkeypatch.undo()
    sample_until_all_take_part(entry, latent, together, told, expected)


def find_process(worker):
    """Return the number of a worker's process, once it answers; one that was killed is replaced."""
    end_s = time.monotonic() + READY_S
    worker.await_answer(worker.actor.ping.remote(), lambda: time.monotonic() > end_s)
    return crew.CREW.ray.get(worker.actor.ping.remote())


def test_an_interrupt_ends_the_run_at_once_and_the_next_one_is_clean(machines, orders):
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    for worker in crew.CREW.remotes:
        orders(crew.CREW.ray.get(worker.actor.ping.remote()), "hang")

    def interrupt(step, *_):
        comfy.model_management.interrupt_current_processing()

    start_s = time.monotonic()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(entry, latent, model=together, callback=interrupt, **RUN)
    assert time.monotonic() - start_s < trouble.HANG_S
    assert_nothing_left()
    assert torch.equal(sample(entry, latent, model=together, **RUN), expected)


# ---- who is let in


OPEN_CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
print("at", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def test_a_cluster_without_a_token_is_refused(machines):
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", OPEN_CLUSTER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True) as is_open:
        address = next(line for line in is_open.stdout if line.startswith("at ")).split()[1]
        with pytest.raises(ValueError, match="takes no token"):
            joining._refuse_open(address)
        is_open.stdin.close()


def test_a_cluster_that_asks_for_the_token_is_not_refused(machines):
    joining._refuse_open(os.environ["RAY_ADDRESS"])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "No Ray cluster answers"),
        ("auto", "name the cluster"),
        ("ray://a:1", "HOST"),
    ],
)
def test_an_address_without_a_cluster_is_refused_in_words(address, words):
    with pytest.raises(ValueError, match=words):
        joining._refuse_open(address)
