"""Workers that die, hang, lack memory or are out of reach while a real cluster's run goes on."""

from __future__ import annotations

import logging
import random
import shutil
import time

import comfy.model_management
import psutil
import pytest
import torch
from quadtree_pack.cluster import crew, remote
from quadtree_pack.sampling.parallel import HERE
from quadtree_pack.testing import cluster as loopback
from quadtree_pack.testing import trouble
from quadtree_pack.testing.shared_runs import (
    READY_S,
    RUN,
    assert_no_thread_left,
    count_actors,
    count_references,
    find_process,
    make,
    make_flux_and_its_result,
    sample_until_all_take_part,
    share,
    windows,
)
from quadtree_pack.testing.support import half_kept, patched
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample

HANG_S = 3.0  # of a window that nobody waits for

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def nothing_is_loaded_before_a_test():
    comfy.model_management.unload_all_models()


FAULTS = ["hang"] * 10 + ["stop"] * 8 + ["oom"] * 7 + ["die"] * 5
FAULTY_STEPS = 60


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
    alone = patched(entry, half_kept(32, 40), batch=1)  # no call of it is slow
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    short = sample(entry, entry.latent(), model=alone, **RUN)
    long = {**RUN, "steps": FAULTY_STEPS}
    expected = sample(entry, entry.latent(), model=alone, **long)
    sample_until_all_take_part(entry, entry.latent(), together, told, short)
    references = count_references()
    with monkeypatch.context() as impatient:
        impatient.setattr(remote, "PATIENCE_S", 1.0)
        impatient.setattr(remote, "FIRST_PATIENCE_S", 1.0)
        saboteur = Saboteur(machines, crew.CREW.remotes, orders)
        result = sample(entry, entry.latent(), model=together, callback=saboteur, **long)
    assert torch.equal(result, expected)
    assert len(FAULTS) == 30 and not saboteur.faults
    saboteur.asked.clear()  # references of its own
    assert_no_thread_left()
    living = {find_process(worker) for worker in crew.CREW.remotes}
    assert count_actors() == 2
    assert {path.suffix for path in machines.glob("*.*")} == {".slow"}  # all were carried out
    assert all(not psutil.pid_exists(process) for process in saboteur.processes - living)
    assert count_references() <= references
    sample_until_all_take_part(entry, entry.latent(), together, told, short)


def find_machine(worker):
    """Return the processes of a worker and of its machine's part of the cluster."""
    process = psutil.Process(find_process(worker))
    return [process, process.parent()]


def choose_worker_elsewhere():
    """Return a worker on another node than this process."""
    here = crew.CREW.ray.get_runtime_context().get_node_id()
    return next(worker for worker in crew.CREW.remotes if worker.place.node_id != here)


def await_words(caplog, words):
    end_s = time.monotonic() + READY_S
    while words not in caplog.text:
        assert time.monotonic() < end_s, caplog.text
        time.sleep(0.05)


def warnings_about(caplog, name):
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and name in record.getMessage()
    ]


@pytest.mark.parametrize("whole", [False, True], ids=["process", "machine"])
def test_a_worker_that_does_not_answer_is_left_out_and_taken_back_in_the_run(
    machines, orders, monkeypatch, caplog, whole
):
    """It stands still, as one looks whose network is gone: it neither answers nor ends."""
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    sample_until_all_take_part(entry, latent, together, told, expected)
    worker = choose_worker_elsewhere()
    stopped = find_machine(worker)[: 2 if whole else 1]
    (machines / trouble.CALLS).mkdir()

    def interfere(step, *_):
        if step == 0:
            for process in stopped:
                process.suspend()
        elif step == 2:
            time.sleep(1.5)  # it has a batch of step 1 or 2
        elif step == 4:
            await_words(caplog, "has not answered")
            impatient.undo()  # a busy machine may need a second for a window
            for process in stopped:
                process.resume()
            await_words(caplog, f"{worker.name} answers again")
            times.append(time.time())

    times = []
    long = {**RUN, "steps": 12}
    alone = patched(entry, half_kept(32, 40), batch=1)
    with caplog.at_level(logging.INFO), monkeypatch.context() as impatient:
        impatient.setattr(remote, "PATIENCE_S", 1.0)
        impatient.setattr(remote, "FIRST_PATIENCE_S", 1.0)
        result = sample(entry, latent, model=together, callback=interfere, **long)
    assert torch.equal(result, sample(entry, latent, model=alone, **long))
    assert len(warnings_about(caplog, worker.name)) == 1
    assert trouble.list_calls(machines)[stopped[0].pid][-1] > times[0]
    shutil.rmtree(machines / trouble.CALLS)
    assert_no_thread_left()


def test_with_no_worker_left_this_machine_finishes_alone(machines, orders, monkeypatch, caplog):
    """All stand still in one run, each with a batch, and come back only after it."""
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    sample_until_all_take_part(entry, latent, together, told, expected)
    monkeypatch.setattr(remote, "PATIENCE_S", 1.0)
    monkeypatch.setattr(remote, "FIRST_PATIENCE_S", 1.0)
    stopped = [psutil.Process(find_process(worker)) for worker in crew.CREW.remotes]

    def interfere(step, *_):
        if step == 0:
            for process in stopped:
                process.suspend()

    caplog.clear()
    long = {**RUN, "steps": 12}
    alone = patched(entry, half_kept(32, 40), batch=1)
    try:
        result = sample(entry, latent, model=together, callback=interfere, **long)
        assert_no_thread_left()
    finally:
        for process in stopped:
            process.resume()
    assert torch.equal(result, sample(entry, latent, model=alone, **long))
    for worker in crew.CREW.remotes:
        (warning,) = warnings_about(caplog, worker.name)
        assert "its windows go to others" in warning
    assert windows(told)[HERE] > sum(windows(told).values()) / 2
    sample_until_all_take_part(entry, latent, together, told, expected)


@pytest.mark.parametrize("kind", ["oom", "memory"])
def test_a_worker_out_of_memory_gives_its_window_back_and_takes_part_again(
    machines, orders, caplog, kind
):
    """Of its device, or of its machine."""
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    sample_until_all_take_part(entry, latent, together, told, expected)
    for worker in crew.CREW.remotes:
        orders(find_process(worker), kind)
    caplog.clear()
    sample_until_all_take_part(entry, latent, together, told, expected)
    assert {path.suffix for path in machines.glob("*.*")} == {".slow"}  # both were carried out
    for worker in crew.CREW.remotes:
        (warning,) = warnings_about(caplog, worker.name)
        assert "ran out of memory; its windows go to others" in warning


def test_an_interrupt_ends_the_run_at_once_and_the_next_one_is_clean(machines, orders):
    entry, told = entry_of("flux"), []
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    for worker in crew.CREW.remotes:
        orders(crew.CREW.ray.get(worker.actor.ping.remote()), "hang", HANG_S)

    def interrupt(step, *_):
        comfy.model_management.interrupt_current_processing()

    start_s = time.monotonic()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(entry, latent, model=together, callback=interrupt, **RUN)
    assert time.monotonic() - start_s < HANG_S
    assert_no_thread_left()
    assert torch.equal(sample(entry, latent, model=together, **RUN), expected)


def test_a_machine_that_is_lost_in_a_step_is_left_out_and_taken_in_once_it_is_back(
    machines, loopback_cluster, bases, orders, caplog
):
    """Its power fails: its part of the cluster and its worker end without a word."""
    entry, told = entry_of("flux"), []
    node = loopback_cluster.add_node(**loopback.NODE, env_vars=loopback.worker_env(bases[1]))
    model, prompt, latent, expected = make_flux_and_its_result(machines, entry)
    together = patched(entry, half_kept(32, 40), model=share(model, prompt, told), batch=1)
    sample_until_all_take_part(entry, latent, together, told, expected)
    (lost,) = (one for one in crew.CREW.remotes if one.place.node_id == node.node_id)
    processes = find_machine(lost)

    def interfere(step, *_):
        if step == 0:
            orders(processes[0].pid, "hang", 30)
        elif step == 2:
            for process in processes:
                process.kill()
        elif step > 2 and not warnings_about(caplog, lost.name):
            time.sleep(0.2)  # Ray needs about two seconds to see it

    long = {**RUN, "steps": 30}
    result = sample(entry, latent, model=together, callback=interfere, **long)
    alone = patched(entry, half_kept(32, 40), batch=1)
    assert torch.equal(result, sample(entry, latent, model=alone, **long))
    assert_no_thread_left()
    (warning,) = warnings_about(caplog, lost.name)
    assert "its windows go to others" in warning
    loopback_cluster.remove_node(node, allow_graceful=False)
    node = loopback_cluster.add_node(**loopback.NODE, env_vars=loopback.worker_env(bases[1]))
    end_s = time.monotonic() + READY_S
    while not evaluated_on(node, told):  # by a model that ComfyUI has cached
        assert time.monotonic() < end_s
        assert torch.equal(sample(entry, latent, model=together, **RUN), expected)


def evaluated_on(node, told):
    """Tell whether the worker on a node evaluated windows of the latest run."""
    names = [one.name for one in crew.CREW.remotes if one.place.node_id == node.node_id]
    return any(windows(told).get(name) for name in names)
