"""The part of this machine in a cluster, tested without one."""

from __future__ import annotations

import copy
import os
import types

import pytest
import torch
from comfy.controlnet import ControlNetSD35
from quadtree_pack.cluster import crew, joining, rounding
from quadtree_pack.sampling.model import TRANSFORMER_COST, Geometry, Settings
from quadtree_pack.sampling.parallel import TEAM, Task
from quadtree_pack.sampling.run import create_run
from quadtree_pack.testing import cluster as loopback
from quadtree_pack.testing.support import half_kept, patched
from quadtree_pack.testing.tiny_models import ZOO, entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.testing.tiny_nodes import in_bf16

# Families whose windows travel in half precision, and those that divide x or read it elsewhere.
HALVED = ("flux", "flux2", "qwen_image", "sd3", "z_image", "wan21_t2v", "hunyuan_video")
WHOLE = ("sd15", "ltxv", "cascade_c")


def attach_without_workers(monkeypatch, workers):
    monkeypatch.setattr(crew.CREW, "enlist", lambda _: [])
    prompt = loopback.chain(("TinyModel", {"family": "flux"}))
    (last,) = (key for key, node in prompt.items() if node["class_type"] == "QuadtreeCluster")
    return crew.attach_cluster(entry_of("flux").model, prompt, last, workers)


@pytest.mark.parametrize("batch", [1, 4])
def test_without_a_worker_this_machine_gives_the_same_alone(monkeypatch, caplog, batch):
    entry = entry_of("flux")
    alone = patched(entry, half_kept(32, 40), batch=batch, overlap_px=0)
    shared = attach_without_workers(monkeypatch, 0)
    assert "works alone" in caplog.text
    together = patched(entry, half_kept(32, 40), model=shared, batch=batch, overlap_px=0)
    run = {"steps": 3, "cfg": 3.0}
    expected = sample(entry, entry.latent(), model=alone, **run)
    assert torch.equal(sample(entry, entry.latent(), model=together, **run), expected)


def test_windows_are_cut_for_the_workers_that_are_chosen_though_none_is_there(monkeypatch):
    cluster = attach_without_workers(monkeypatch, 7).model_options[TEAM]
    for team in (cluster, cluster.without_workers()):
        run = create_run(None, Settings(), entry_geometry(), torch.ones(1, 512, 512))
        with team.join_run(run, None) as joined:
            assert joined is None and run.tiling.shares == 8


def entry_geometry():
    return Geometry(px_per_cell=8, unit=2, native_px=1024, cost=TRANSFORMER_COST)


class FakeRay:
    def __init__(self, workers):
        self.workers, self.ended = workers, False

    def is_initialized(self):
        return not self.ended

    def shutdown(self):
        self.ended = True


def test_a_cluster_of_this_machine_is_started_again_for_more_workers(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(crew, "join", FakeRay)
    monkeypatch.setattr(crew, "find_places", lambda ray, names: [])
    monkeypatch.setattr(crew, "count_local", lambda wanted: max(1, wanted))
    own = crew.Crew()
    joined = []
    for wanted in (1, 0, 3, 2):
        own.enlist(wanted)
        joined.append(own.ray)
    first, same, more, enough = joined
    assert first is same and more is enough
    assert first.ended and not more.ended and (first.workers, more.workers) == (1, 3)


def test_a_copy_of_the_model_options_shares_the_workers():
    cluster = crew.Cluster([], ({}, []), {}, None, None)
    assert copy.deepcopy({TEAM: cluster})[TEAM] is cluster


def make_run(notes):
    run = types.SimpleNamespace(note=notes.append)
    return crew.ClusterRun(run, crew.Cluster([], ({}, []), {}, None, None), None)


def test_a_controlnet_that_takes_weights_from_the_model_is_not_sent(monkeypatch):
    """ControlNetSD35 does so in its `pre_run`, which workers do not call."""
    link = object.__new__(ControlNetSD35)
    link.control_model = "network"
    held = types.new_class("Held")
    held.list_hints = lambda _: [(link, torch.zeros(1))]
    monkeypatch.setattr(crew, "DeferredControl", held)
    monkeypatch.setattr(crew, "identify_control", lambda _: "digest")
    with pytest.raises(crew.UnsendableError, match="weights from the model"):
        make_run([])._pack_controls(held())


def test_a_failure_of_ray_s_own_keeps_the_step_here_with_a_note(monkeypatch):
    notes, call = [], {"input": torch.zeros(1), "c": {}}
    errors = types.SimpleNamespace(RayError=MemoryError)
    monkeypatch.setattr(crew.CREW, "ray", types.SimpleNamespace(exceptions=errors))

    def fail(*_):
        raise MemoryError("the object store is full")

    monkeypatch.setattr(crew.ClusterRun, "_pack_call", fail)
    joined = make_run(notes)
    for _ in range(2):
        joined.start(None, Task(call, [], [], [], 1, None, None, None))
    assert joined._job is None and len(notes) == 1 and "the object store is full" in notes[0]


def test_a_cluster_is_started_here_with_a_token_or_not_at_all(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match="Set it to token"):
        joining._require_token_here()
    monkeypatch.delenv("RAY_AUTH_MODE")
    joining._require_token_here()
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize("answer", [0, 3])
def test_a_cluster_started_here_that_answers_without_a_token_is_ended(monkeypatch, answer):
    ended = []
    context = types.SimpleNamespace(gcs_address="127.0.0.1:1")
    ray = types.SimpleNamespace(
        get_runtime_context=lambda: context, shutdown=lambda: ended.append(True)
    )
    monkeypatch.setattr(joining, "_probe", lambda _: answer)
    if answer == 0:
        with pytest.raises(ValueError, match="takes no token"):
            joining._refuse_open_here(ray)
    else:
        joining._refuse_open_here(ray)
    assert ended == [True] * (answer == 0)


def test_a_ray_without_tokens_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    old = types.SimpleNamespace(exceptions=types.SimpleNamespace(), __version__="2.40")
    monkeypatch.setattr(joining, "import_ray", lambda: old)
    with pytest.raises(ValueError, match="knows no tokens"):
        joining.join(1)


@pytest.mark.parametrize("family", [*HALVED, *WHOLE])
def test_an_estimate_of_rounded_windows_is_that_of_the_model(family):
    """Its network gets them rounded anyway, and this machine makes the rest of what it gives."""
    entry, dtypes = entry_of(family), []

    def compare(apply_model, call):
        expected = apply_model(call["input"], call["timestep"], **call["c"])
        model = apply_model.__self__
        dtypes.append(rounding.find_dtype(model, call, None))
        if dtypes[-1] is not None:
            rounded = {**call, "input": call["input"].to(dtypes[-1])}
            made = rounding.evaluate_network(model, rounded)
            assert made.dtype in rounding.HALVES
            estimate = rounding.make_estimate(model, made, call["input"], call["timestep"])
            assert torch.equal(estimate, expected)
        return expected

    model = in_bf16(ZOO[family]().model)
    model.set_model_unet_function_wrapper(compare)
    sample(entry, entry.latent(), model=model, steps=2, cfg=3.0)
    assert set(dtypes) == {torch.bfloat16 if family in HALVED else None}
