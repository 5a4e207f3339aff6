"""The workers of the cluster, and what takes part in a run.

The workers outlive a run, so that models stay loaded: there is one `Crew` for this process. A
`Cluster` is what Quadtree Cluster sets on a model; a `ClusterRun` is its part in one run.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from torch import Tensor

from ..sampling.board import Board, Hand
from ..sampling.conditioning import crop_entries
from ..sampling.parallel import HERE, TEAM, Task, move_value
from ..sampling.protocols import ModelCall, ModelFunction, Options
from ..sampling.run import Run
from ..utils import info, warn
from . import actor
from .branch import Prompt, cut_branch
from .identity import Identity, digest, get_versions, identify, list_patches
from .joining import ADDRESS, RESOURCE, join
from .packing import Packed, UnsendableError, digest_of, pack, pack_array
from .remote import ClosedError, LostError, Place, Remote

SHARED_BYTES = 32_768  # what is larger, and the same for all windows, is sent once per run
# Of the transformer options only these are of a call; the others are the worker's own.
CALL_OPTIONS = ("cond_or_uncond", "uuids", "sigmas", "sample_sigmas")
JOIN_TIMEOUT_S = 10.0  # for a thread to see that its run has ended


# A step to take part in: its batches, twice, and the message that they have in common.
Job = tuple[Board[Tensor], Task, dict[str, Any]]


class Crew:
    """The workers of this process, started as they are asked for."""

    def __init__(self) -> None:
        self.ray: Any = None
        self.remotes: list[Remote] = []
        self.lock = threading.RLock()  # one run at a time has the workers

    def enlist(self, wanted: int) -> list[Remote]:
        """Return the workers, so many at most, or all (0); those that are missing are started."""
        first = self.ray is None or not self.ray.is_initialized()
        if first:
            self.ray, self.remotes = join(_count_local(wanted)), []
        known = {remote.name: remote for remote in self.remotes}
        versions = get_versions()
        for place in find_places(self.ray)[: wanted or None]:
            if place.name not in known:
                known[place.name] = Remote(self.ray, place, versions)
                known[place.name].start()
        self.remotes = list(known.values())
        return self.remotes[: wanted or None]

    def dismiss(self) -> None:
        """End all workers, and leave the cluster."""
        for remote in self.remotes:
            remote.stop()
        self.remotes = []
        if self.ray is not None:
            self.ray.shutdown()
        self.ray = None


CREW = Crew()  # of this process, as ComfyUI's own list of loaded models is


def attach_cluster(
    model: Any,
    prompt: Prompt,
    node_id: str,
    workers: int = 0,
    show: Callable[[str], None] | None = None,
) -> Any:
    """Return a clone of a model whose windows are shared with the workers of the cluster.

    `prompt` and `node_id` tell how the model input of the node is made, so that workers make it,
    too. `workers` is how many take part; 0: all. `show` is told in words who did what. ValueError
    where the cluster cannot be joined. Workers get ready while this machine goes on.
    """
    branch = cut_branch(prompt, node_id)
    remotes = CREW.enlist(workers)
    for remote in remotes:
        remote.build(branch)
    if not remotes:
        warn("the cluster has no workers, so this machine works alone; see docs/cluster.md.")
    model = model.clone()
    model.model_options[TEAM] = Cluster(remotes, identify(model), model.patches_uuid, show)
    return model


class Cluster:
    """What Quadtree Cluster sets on a model: the workers, and the model that they have."""

    def __init__(
        self,
        remotes: list[Remote],
        identity: Identity,
        patches_uuid: uuid.UUID,
        show: Callable[[str], None] | None,
    ) -> None:
        self.remotes, self.identity, self.patches_uuid = remotes, identity, patches_uuid
        self.show = show

    @contextlib.contextmanager
    def join_run(self, run: Run, patcher: Any) -> Iterator[ClusterRun | None]:
        """Let the workers take part in a run of this model; None where they have another one."""
        patched = digest(list_patches(patcher)) != self.identity["patches"]
        if patched or patcher.patches_uuid != self.patches_uuid:
            run.note(
                "a node after Quadtree Cluster patches the model, which workers do not see, so "
                "this machine works alone; put Quadtree Cluster after that node"
            )
            yield None
            return
        with CREW.lock:
            joined = ClusterRun(run, self, patcher.model)
            try:
                yield joined
            finally:
                joined.close()


class ClusterRun:
    """The workers' part in one run: a thread for each, which ends with the run."""

    has_this_device = False

    def __init__(self, run: Run, cluster: Cluster, model: Any) -> None:
        self.run, self.cluster, self.model = run, cluster, model
        self.number = uuid.uuid4().hex
        self.shared: dict[str, Any] = {}  # references to what was sent, by its digest
        self._job: Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._lock = threading.Lock()
        self._unsendable: set[str] = set()
        self._threads = [
            threading.Thread(target=self._serve, args=(remote,), name=f"quadtree {remote.name}")
            for remote in cluster.remotes
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads, and let the workers forget the run."""
        with self._changed:
            self._closed = True
            self._job = None
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)
        for remote in self.cluster.remotes:
            remote.end_run()
        self.shared.clear()
        told = self.tell_shares()
        info("%s", told)
        if self.cluster.show is not None:
            self.cluster.show(told)

    def tell_shares(self) -> str:
        """Say in words who evaluated how many windows, how fast, and for what share of the time."""
        here = self.run.get_hand(HERE)
        for remote in self.cluster.remotes:
            self._hand_of(remote)
        parts = []
        for hand in self.run.hands:
            words = f"{hand.name}: {hand.windows} windows"
            if hand is not here and hand.speed and here.speed:
                words += f", {hand.speed / here.speed:.2f} times as fast"
            if hand.windows and self.run.shared_s:
                words += f", busy for {min(1, hand.busy_s / self.run.shared_s):.0%} of the time"
            parts.append(words)
        return "; ".join(parts)

    # ---- a team, see sampling/parallel.py

    def prepare(self, sigma: Tensor, model_options: Options) -> Options:
        return model_options

    def owns(self, apply_model: ModelFunction) -> bool:
        return apply_model == self.model.apply_model

    def start(self, board: Board[Tensor], task: Task) -> None:
        """Let the workers take batches, unless the call holds what cannot be sent."""
        call = task.call
        if call["c"].get("control") is not None:
            self._note_unsendable("a ControlNet")
            return
        entries = {key: value for key, value in call["c"].items() if key != "transformer_options"}
        here: ModelCall = move_value({**call, "c": entries}, torch.device("cpu"))
        try:
            message = self._pack_call(call, here, task)
        except UnsendableError as error:
            self._note_unsendable(f"a conditioning entry of type {error}")
            return
        with self._changed:
            self._job = board, _task_on_cpu(task, here), message
            self._changed.notify_all()

    def finish(self) -> None:
        """Take the board back; what workers still evaluate of it is dropped."""
        with self._changed:
            self._job = None

    def _note_unsendable(self, what: str) -> None:
        if what not in self._unsendable:
            self._unsendable.add(what)
            self.run.note(f"{what} cannot be sent to workers, so this machine evaluates it alone")

    # ---- what is sent

    def _pack_call(self, call: ModelCall, here: ModelCall, task: Task) -> dict[str, Any]:
        """Return what all batches of a call have in common; UnsendableError where it cannot go."""
        first = crop_entries(here, task.boxes[0][:1], unit=task.unit, memory=task.memory)
        whole = {
            key: value for key, value in here["c"].items() if _is_same(first["c"].get(key), value)
        }
        options = call["c"]["transformer_options"]
        sent = {key: options[key] for key in CALL_OPTIONS if key in options}
        sent["uuids"] = [str(cond_id) for cond_id in sent.get("uuids", ())]
        pack({key: value for key, value in first["c"].items() if key not in whole})
        return {
            "run": self.number,
            "canvas": tuple(call["input"].shape),
            "conds": list(call["cond_or_uncond"]),
            "unit": task.unit,
            "options": pack(move_value(sent, torch.device("cpu"))),
            "whole": pack(whole, self._pack_shared),
        }

    def _pack_shared(self, value: Tensor) -> Packed:
        """Return a tensor that is the same for all windows; a large one is sent once per run."""
        packed = pack_array(value)
        if packed[1][2].nbytes < SHARED_BYTES:
            return packed
        digest = digest_of(packed)
        with self._lock:
            if digest not in self.shared:
                self.shared[digest] = CREW.ray.put(packed)
        return "shared", (digest, [self.shared[digest]])

    # ---- a worker's thread

    def _serve(self, remote: Remote) -> None:
        """Let a worker take part in every step, until the run ends or it is left out for good."""

        def is_closed() -> bool:
            return self._closed

        awaited = None
        try:
            while not self._closed:
                try:
                    if awaited is not None:
                        remote.await_answer(awaited, is_closed)
                        remote.log_return()
                    remote.await_model(self.cluster.identity, is_closed)
                    self._serve_steps(remote, is_closed)
                except LostError as lost:
                    self._note_lost(remote, lost)
                    if lost.awaited is None:
                        return
                    awaited = lost.awaited
        except ClosedError:
            pass
        except Exception as error:
            self.run.note(f"worker {remote.name} is left out: {error}")

    def _note_lost(self, remote: Remote, lost: LostError) -> None:
        words = f"worker {remote.name} {lost}"
        if words not in self.run.notes:
            self.run.note(words)

    def _serve_steps(self, remote: Remote, is_closed: Callable[[], bool]) -> None:
        """Let a worker that is ready take part in every step, until the run ends."""
        job = self._await_job(None)
        while job is not None:
            board, task, message = job
            pack_batch = functools.partial(_pack_batch, task, message)
            remote.work_through(board, self._hand_of(remote), task, pack_batch, is_closed)
            job = self._await_job(job)

    def _await_job(self, latest: Job | None) -> Job | None:
        """Return the next step to take part in; None once the run has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._job not in (None, latest))
            return None if self._closed else self._job

    def _hand_of(self, remote: Remote) -> Hand:
        return self.run.get_hand(remote.name)


def _task_on_cpu(task: Task, here: ModelCall) -> Task:
    """Return a task whose windows are cropped on the CPU."""
    moved = Task(**{**vars(task), "call": here})
    moved.__dict__["device"] = task.device
    return moved


def _pack_batch(task: Task, message: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the message about one batch of windows."""
    boxes = task.boxes[number]
    cropped = crop_entries(task.call, boxes, unit=task.unit, memory=task.memory)
    whole = {key[1] for key, _ in message["whole"][1]}
    cut = {key: value for key, value in cropped["c"].items() if key not in whole}
    return {
        **message,
        "boxes": [tuple(box) for box in boxes],
        "input": pack(cropped["input"]),
        "timestep": pack(cropped["timestep"]),
        "cut": pack(cut),
    }


def _is_same(cropped: Any, value: Any) -> bool:
    """Tell whether cropping left a value as it was: it is the same for all windows."""
    if isinstance(value, (list, tuple)):
        return (
            type(cropped) is type(value)
            and len(cropped) == len(value)
            and all(map(_is_same, cropped, value))
        )
    return cropped is value


def find_places(ray: Any) -> list[Place]:
    """Return where workers can run: on each node of the cluster as many as it offers."""
    local = not os.environ.get(ADDRESS, "").strip()
    facts = describe_head() if local else {}
    facts["threads"] = torch.get_num_threads()
    start = _make_starter(ray)
    places: list[Place] = []
    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]),
        key=lambda node: (node["NodeManagerHostname"], node["NodeID"]),
    )
    for node in nodes:
        offered = int(node["Resources"].get(RESOURCE, 0))
        gpus = int(node["Resources"].get("GPU", 0))
        for number in range(offered):
            name = _name_place(node, number, [place.name for place in places])
            device = _choose_local_device(number) if local else None
            starter = start(node["NodeID"], 1 if gpus >= offered and not local else 0)
            places.append(Place(name, starter, {**facts, "device": device}))
    return places


def _name_place(node: dict[str, Any], number: int, taken: list[str]) -> str:
    """Return a name for messages: the machine's, and a number where it has several workers."""
    name = node["NodeManagerHostname"]
    while (numbered := f"{name}-{number + 1}") in taken:
        number += 1
    return numbered


def _make_starter(ray: Any) -> Callable[[str, int], Callable[[], Any]]:
    """Return what makes, for a node and a number of GPUs, a function that starts an actor."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # after `join`

    ray.cloudpickle.register_pickle_by_value(actor)
    kind = ray.remote(actor.Actor)

    def make(node_id: str, gpus: int) -> Callable[[], Any]:
        options = {
            "num_cpus": 0,
            "num_gpus": gpus,
            "resources": {RESOURCE: 1},
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        return lambda: kind.options(**options).remote()

    return make


# ---- a cluster on this machine alone


def describe_head() -> dict[str, Any]:
    """Return where this ComfyUI lies and how it was started, for workers on the same machine."""
    options = os.environ.get("COMFYUI_OPTIONS")
    if options is not None:
        words = shlex.split(options)
    else:
        words = sys.argv[1:] if Path(sys.argv[0]).name == "main.py" else []
    folder = Path(comfy.model_management.__file__).parent.parent
    base = Path(folder_paths.base_path)
    if base != folder and "--base-directory" not in words:
        words = [*words, "--base-directory", str(base)]
    return {"folder": str(folder), "options": words}


def _count_local(wanted: int) -> int:
    """Return how many workers this machine has room for beside ComfyUI itself.

    On a CPU, one or as many as are wanted, for trials; else one for each further GPU.
    """
    if comfy.model_management.get_torch_device().type == "cpu":
        return max(1, wanted)
    return max(0, len(comfy.model_management.get_all_torch_devices()) - 1)


def _choose_local_device(number: int) -> str | None:
    """Return the name of a GPU beside ComfyUI's own for a worker on this machine."""
    here = comfy.model_management.get_torch_device()
    if here.type != "cuda":
        return None
    others = [index for index in range(torch.cuda.device_count()) if index != (here.index or 0)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    return names[others[number % len(others)]]
