"""Windows on the workers of a real Ray cluster: two nodes on loopback, each with a ComfyUI."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import types

import comfy.model_management
import comfy.utils
import execution
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_extras import nodes_hooks
from node_helpers import conditioning_set_values
from quadtree_pack.cluster import crew, joining, rounding
from quadtree_pack.cluster.branch import SINK
from quadtree_pack.cluster.worker import Sink
from quadtree_pack.nodes import QuadtreeCluster
from quadtree_pack.sampling.parallel import HERE, TEAM
from quadtree_pack.testing import cluster as loopback
from quadtree_pack.testing import guided, trouble
from quadtree_pack.testing.features import gligen_for, with_gligen
from quadtree_pack.testing.shared_runs import (
    LORA,
    MOST_RUNS,
    OTHER_LORA,
    PATCHES,
    READY_S,
    RUN,
    assert_no_thread_left,
    await_ready,
    count_actors,
    count_references,
    make,
    make_flux_and_its_result,
    sample_until_all_take_part,
    share,
    windows,
)
from quadtree_pack.testing.support import half_kept, patched, tree_of
from quadtree_pack.testing.tiny_controls import (
    FakeVAE,
    hint_image,
    sd15_control_lora,
    sd15_t2i_adapter,
    with_control,
)
from quadtree_pack.testing.tiny_models import ZOO, entry_of
from quadtree_pack.testing.tiny_models.building import TOKENS, clean_latent, gauss, sample
from quadtree_pack.testing.tiny_nodes import CONTROLS, NODE_CLASS_MAPPINGS, in_bf16

import nodes

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def nothing_is_loaded_before_a_test():
    comfy.model_management.unload_all_models()


CHECKPOINT = "tiny.safetensors"
# A node pack that passes a model on.
PACK = """
class TinyPass:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "go", "tests"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
    go = lambda self, model: (model,)

NODE_CLASS_MAPPINGS = {"TinyPass": TinyPass}
"""


@pytest.fixture(scope="module")
def only_first():
    """Return what gives the first machine a checkpoint and a node pack that the second has not."""

    def fill(base):
        for name in ("models/checkpoints", "custom_nodes/tiny_pass"):
            (base / name).mkdir(parents=True)
        weights = entry_of("flux").model.model.diffusion_model.state_dict()
        comfy.utils.save_torch_file(weights, str(base / "models/checkpoints" / CHECKPOINT))
        (base / "custom_nodes/tiny_pass/__init__.py").write_text(PACK, encoding="utf-8")

    return fill


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
        references = count_references()
        assert torch.equal(sample(entry, latent, model=together, **RUN), expected)
        assert_no_thread_left()
    assert count_references() <= references
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


SHARE = re.compile(
    r".+: (\d+) windows(?:, (\d+\.\d\d) times as fast)?, busy for (\d+)% of the time"
)


def test_the_node_tells_who_did_how_many_windows_how_fast_and_how_busy(machines, orders):
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    for _ in range(MOST_RUNS):
        sample_until_all_take_part(entry, latent, together, told, expected)
        if all(windows(told).values()):
            break
    shares = {part.partition(": ")[0]: SHARE.fullmatch(part) for part in told[-1].split("; ")}
    assert set(shares) == {HERE, *(worker.name for worker in crew.CREW.remotes)}, told[-1]
    assert all(shares.values()), told[-1]
    assert len({sum(windows([line]).values()) for line in told}) == 1  # each is counted once
    for name, share_of in shares.items():
        count, speed, busy = share_of.groups()
        assert int(count) > 0 and 0 <= int(busy) <= 100
        assert speed is None or (name != HERE and float(speed) > 0)
    assert any("times as fast" in line for line in told)  # known from the second window on


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
def test_a_number_of_workers_gives_one_result_however_many_there_are(
    machines, orders, monkeypatch, family
):
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
    monkeypatch.setattr(crew.CREW, "enlist", lambda _: crew.CREW.remotes[:1])
    assert torch.equal(sample(entry, entry.latent(), model=together, **RUN), expected)
    assert len(windows(told)) == 2


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


def with_box(entry):
    """Return an entry whose prompt names what is in a box: GLIGEN's."""
    return with_gligen(entry, gligen_for(entry.model), [(gauss((1, TOKENS), 1), 9, 8, 2, 4)])


def with_control_lora(entry):
    return with_control(entry, sd15_control_lora(), hint_image(256, 320))


@pytest.mark.parametrize(
    ("change", "words"), [(with_box, "GLIGEN boxes"), (with_control_lora, "a Control-LoRA")]
)
def test_what_takes_the_model_s_own_parts_stays_here_with_a_note(
    machines, orders, caplog, change, words
):
    told, plain = [], entry_of("sd15")
    entry = change(plain)
    model, prompt = make(machines, "sd15")
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    expected = sample(entry, entry.latent(), model=alone, **RUN)
    assert not torch.equal(expected, sample(plain, plain.latent(), model=alone, **RUN))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(sample(entry, entry.latent(), model=together, **RUN), expected)
    assert f"{words} cannot be sent to workers, so this machine evaluates it alone" in caplog.text
    assert windows(told)[HERE] > 0
    if change is with_control_lora:  # the negative prompt has it, too
        assert sum(count for name, count in windows(told).items() if name != HERE) == 0


def test_a_video_with_its_audio_stays_here_with_a_note(machines, orders, caplog):
    entry = entry_of("ltx2")
    latent = NestedTensor([clean_latent((1, 128, 2, 16, 24), 5), gauss((1, 8, 10, 16), 6)])
    model, prompt = make(machines, "ltx2")
    settings = {"tile_px": 256, "batch": 1}
    alone = patched(entry, half_kept(16, 24, 32), model=model, **settings)
    together = patched(entry, half_kept(16, 24, 32), model=share(model, prompt), **settings)
    expected = sample(entry, latent, model=alone, **RUN).unbind()
    with caplog.at_level(logging.WARNING):
        found = sample(entry, latent, model=together, **RUN).unbind()
    assert all(map(torch.equal, found, expected))
    assert "a video's audio cannot be sent to workers" in caplog.text


def hook_lora(positive, negative):
    """Return prompts, the first with a LoRA that fades: by nodes of core."""
    (hooks,) = nodes_hooks.CreateHookLora().create_hook(LORA, 0.8, 0.0)
    (frames,) = nodes_hooks.CreateHookKeyframesInterpolated().create_hook_keyframes(
        1.0, 0.5, "linear", 0.0, 1.0, 3, False
    )
    (hooks,) = nodes_hooks.SetHookKeyframes().set_hook_keyframes(hooks, frames)
    properties = nodes_hooks.PairConditioningSetProperties()
    left, _ = properties.set_properties(positive, negative, 1.0, "default", hooks=hooks)
    return left, negative


def test_lora_by_hooks_stay_here_with_a_note_and_the_next_run_is_shared(machines, orders, caplog):
    told, plain = [], entry_of("flux")
    entry = copy.copy(plain)
    entry.positive, entry.negative = hook_lora(plain.positive, plain.negative)
    model, prompt = make(machines, "flux")
    alone = patched(entry, half_kept(32, 40), model=model, batch=1)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    without = sample(plain, plain.latent(), model=alone, **RUN)
    expected = sample(entry, entry.latent(), model=alone, **RUN)
    assert not torch.equal(expected, without)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(sample(entry, entry.latent(), model=together, **RUN), expected)
    (note,) = (record.getMessage() for record in caplog.records if "hooks" in record.getMessage())
    assert "LoRA by hooks cannot be sent" in note and "Load LoRA before Quadtree Cluster" in note
    assert sum(count for name, count in windows(told).items() if name != HERE) == 0
    sample_until_all_take_part(plain, plain.latent(), together, told, without)


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


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([("TinyCheckpoint", {"ckpt_name": CHECKPOINT, "family": "flux"})], CHECKPOINT),
        ([("TinyModel", {"family": "flux"}), ("TinyPass", {})], "Node 'TinyPass' not found"),
    ],
    ids=["checkpoint", "node pack"],
)
def test_a_worker_without_a_checkpoint_or_a_node_pack_says_so_and_is_left_out(
    machines, orders, steps, words
):
    entry, told = entry_of("flux"), []
    model, _, latent, expected = make_flux_and_its_result(machines, entry)
    prompt = loopback.chain(*steps, ("TinyTrouble", {"folder": str(machines)}))
    shared = share(model, prompt, told)
    identity = shared.model_options[TEAM].identity
    found = {worker.name: await_ready(worker, identity) for worker in crew.CREW.remotes}
    able, unable = sorted(found, key=found.get)
    assert found[able] == ""
    assert words in found[unable] and "Give it the same files and node packs" in found[unable]
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    (remote,) = [worker for worker in crew.CREW.remotes if worker.name == able]
    sample_until_all_take_part(entry, latent, together, told, expected, [remote])
    assert windows(told)[unable] == 0


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


LATE = {
    "wrapper": lambda model: trouble.with_trouble(model, "elsewhere"),
    "lora": lambda model: PATCHES["LoraLoaderModelOnly"](model, lora_name=LORA, strength_model=0.8),
}


@pytest.mark.parametrize("late", LATE)
def test_a_patch_after_the_cluster_keeps_the_run_here(machines, orders, caplog, late):
    entry, told = entry_of("flux"), []
    model, prompt = make(machines, "flux")
    shared = LATE[late](share(model, prompt, told))
    alone = patched(entry, half_kept(32, 40), model=LATE[late](model), batch=1)
    together = patched(entry, half_kept(32, 40), model=shared, batch=1)
    with caplog.at_level(logging.WARNING):
        result = sample(entry, entry.latent(), model=together, **RUN)
    assert torch.equal(result, sample(entry, entry.latent(), model=alone, **RUN))
    assert "put Quadtree Cluster after that node" in caplog.text and not told


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
