"""The server's queue with a cluster of two nodes on loopback: interrupted, cancelled, unloaded."""

import shutil
import time

import psutil
import pytest
import torch
from quadtree_pack import demo
from quadtree_pack.demo.folders import prepare_base
from quadtree_pack.testing import cluster as loopback
from quadtree_pack.testing import trouble
from quadtree_pack.testing.demo import (
    finished,
    latent_of,
    post,
    prompt_for,
    queue,
    running_server,
)

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

READY_S = 240.0  # for two more ComfyUIs to start, on a busy machine
END_S = 30.0  # for a worker to see that its ComfyUI is gone
WORKER_WINDOW_S, WINDOW_HERE_S = 0.2, 1.2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("head")


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Start two nodes; return the folder in which orders to their workers are left."""
    folder = tmp_path_factory.mktemp("cluster")
    bases = [folder / "first", folder / "second"]
    for one in bases:
        prepare_base(one)
    with loopback.running_cluster(bases):
        yield folder


@pytest.fixture(scope="module")
def running(base, machines):
    loopback.prepare_worker(base)
    with running_server(base) as server:
        yield server


@pytest.fixture
def orders(machines, running):
    """Return what leaves orders to a process; calls are noted."""

    def order(pid, what, content=""):
        (machines / f"{pid}.{what}").write_text(str(content))

    (machines / trouble.CALLS).mkdir()
    order(running.process.pid, "slow")  # so that workers take part
    yield order
    shutil.rmtree(machines / trouble.CALLS)
    for left in machines.glob("*.*"):
        left.unlink()


def make_prompt(running, folder, *, seed, steps=2, shared=True):
    """Return the demo's prompt on its photo, enlarged, whose windows a cluster shares."""
    changes = {
        "KSampler": {"steps": steps, "seed": seed},
        "ImageScaleBy": {"scale_by": 2.0},
        "QuadtreeDiffusion": {"tile_batch_size": 1},
    }
    prompt = prompt_for(running, changes)
    inputs = prompt[demo.find_node(prompt, "QuadtreeDiffusion")]["inputs"]
    trouble_inputs = {"model": inputs["model"], "folder": str(folder)}
    prompt["trouble"] = {"class_type": "TinyTrouble", "inputs": trouble_inputs}
    inputs["model"] = ["trouble", 0]
    if shared:
        cluster = {"model": ["trouble", 0], "workers": 0}
        prompt["cluster"] = {"class_type": "QuadtreeCluster", "inputs": cluster}
        inputs["model"] = ["cluster", 0]
    return prompt


def list_worker_calls(running, folder):
    """Return when each worker began its calls, by the number of its process."""
    calls = trouble.list_calls(folder)
    return {pid: times for pid, times in calls.items() if pid != running.process.pid}


def await_workers(running, folder, since_s):
    """Wait until both workers evaluate windows; return the numbers of their processes."""
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s:
        calls = list_worker_calls(running, folder)
        busy = {pid for pid, times in calls.items() if times[-1] > since_s}
        if len(busy) == 2:
            return busy
        time.sleep(0.05)
    raise AssertionError(calls)


def await_call_here(running, folder):
    """Wait until this machine begins a window."""
    since_s, end_s = time.time(), time.monotonic() + READY_S
    while trouble.list_calls(folder)[running.process.pid][-1] < since_s:
        assert time.monotonic() < end_s
        time.sleep(0.05)


def was_interrupted(running, prompt_id):
    messages = finished(running, prompt_id)["status"]["messages"]
    return "execution_interrupted" in [event for event, _ in messages]


def run(running, base, prompt):
    """Return the latent of a prompt."""
    return latent_of(finished(running, queue(running, prompt))["outputs"], base)


def assert_shared_as_alone(running, base, folder, seed):
    """Run a prompt with the cluster, and without it: the workers take part, and change nothing."""
    began_s = time.time()
    together = run(running, base, make_prompt(running, folder, seed=seed))
    await_workers(running, folder, began_s)
    alone = run(running, base, make_prompt(running, folder, seed=seed, shared=False))
    assert torch.equal(together, alone)


def test_an_interrupt_ends_the_work_on_all_workers_within_a_window(running, base, machines, orders):
    """Though this machine is still at a window that takes as long as many of theirs."""
    began_s = time.time()
    interrupted = queue(running, make_prompt(running, machines, seed=1, steps=100))
    workers = await_workers(running, machines, began_s)
    for worker in workers:
        orders(worker, "slow", WORKER_WINDOW_S)
    orders(running.process.pid, "slow", WINDOW_HERE_S)
    await_call_here(running, machines)
    await_workers(running, machines, time.time() - WORKER_WINDOW_S)
    post(running, "/interrupt", {})
    stopped_s = time.time()
    assert was_interrupted(running, interrupted)
    assert time.time() - stopped_s < 2 * WINDOW_HERE_S
    time.sleep(3 * WORKER_WINDOW_S)
    for times in list_worker_calls(running, machines).values():
        assert sum(at > stopped_s for at in times) <= 1
    for worker in workers:
        (machines / f"{worker}.slow").unlink()
    orders(running.process.pid, "slow")
    assert_shared_as_alone(running, base, machines, seed=1)
    assert set(list_worker_calls(running, machines)) == workers  # the same processes


def test_prompts_taken_from_the_queue_never_reach_the_workers(running, base, machines, orders):
    """One is deleted and the others are cleared, while the workers are at another prompt."""
    began_s = time.time()
    at_work = queue(running, make_prompt(running, machines, seed=2, steps=100))
    await_workers(running, machines, began_s)
    pending = [queue(running, make_prompt(running, machines, seed=seed)) for seed in (3, 4, 5)]
    post(running, "/queue", {"delete": pending[:1]})
    left = demo.get_json(f"{running.url}/queue")["queue_pending"]
    assert [entry[1] for entry in left] == pending[1:]
    post(running, "/queue", {"clear": True})
    await_workers(running, machines, time.time())  # they are still at the first
    post(running, "/interrupt", {"prompt_id": at_work})
    assert was_interrupted(running, at_work)
    stopped_s = time.time()
    time.sleep(1)
    for times in list_worker_calls(running, machines).values():
        assert sum(at > stopped_s for at in times) <= 1
    assert not any(demo.get_json(f"{running.url}/history/{one}") for one in pending)
    assert_shared_as_alone(running, base, machines, seed=3)


def test_workers_keep_a_model_between_runs_and_free_it_when_comfyui_does(
    running, base, machines, orders
):
    began_s = time.time()
    first = queue(running, make_prompt(running, machines, seed=6, steps=100))
    workers = await_workers(running, machines, began_s)
    post(running, "/interrupt", {})
    assert was_interrupted(running, first)
    freed = machines / trouble.FREED
    freed.mkdir()
    run(running, base, make_prompt(running, machines, seed=7))
    time.sleep(1)
    assert not list(freed.iterdir())
    post(running, "/free", {"unload_models": True, "free_memory": True})
    end_s = time.monotonic() + END_S
    while not workers <= {int(path.name) for path in freed.iterdir()}:
        assert time.monotonic() < end_s
        time.sleep(0.1)
    shutil.rmtree(freed)
    assert_shared_as_alone(running, base, machines, seed=8)
    assert set(list_worker_calls(running, machines)) == workers  # the same processes


def test_a_key_for_paid_nodes_stays_on_this_machine(running, machines, orders):
    keys = machines / trouble.KEYS
    keys.mkdir()
    prompt = make_prompt(running, f"{machines}/.", seed=1)  # another text, so all patch anew
    body = {"prompt": prompt, "extra_data": {"api_key_comfy_org": "secret"}}
    finished(running, post(running, "/prompt", body)["prompt_id"])
    end_s = time.monotonic() + READY_S
    while len(list(keys.iterdir())) < 3:
        assert time.monotonic() < end_s
        time.sleep(0.1)
    found = {int(path.name): path.read_text() for path in keys.iterdir()}
    shutil.rmtree(keys)
    assert found.pop(running.process.pid) == "secret"
    assert set(found.values()) == {"None"}


def test_the_end_of_comfyui_ends_its_workers_and_leaves_the_nodes(running, machines, orders):
    began_s = time.time()
    queue(running, make_prompt(running, machines, seed=9, steps=100))
    workers = [psutil.Process(pid) for pid in await_workers(running, machines, began_s)]
    nodes = [worker.parent() for worker in workers]
    running.process.terminate()
    _, alive = psutil.wait_procs([psutil.Process(running.process.pid), *workers], END_S)
    assert not alive and all(node.is_running() for node in nodes)
