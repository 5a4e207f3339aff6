"""The workers of the cluster, and what takes part in a run.

The workers outlive a run, so that models stay loaded: there is one `Crew` for this process. A
`Cluster` is what Quadtree Cluster sets on a model; a `ClusterRun` is its part in one run.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.controlnet import ControlLora, ControlNet
from torch import Tensor

import nodes

from ..sampling.board import Board, Hand
from ..sampling.conditioning import crop_entries, cropper_of
from ..sampling.control import DeferredControl
from ..sampling.parallel import HERE, TEAM, Task, move_value
from ..sampling.protocols import ModelCall, ModelFunction, Options
from ..sampling.remaking import has_gligen
from ..sampling.run import Run
from ..utils import info, warn
from .branch import Prompt, cut_branch, cut_control_branches
from .identity import (
    Identity,
    digest,
    digest_weight_patches,
    get_versions,
    identify,
    identify_control,
    list_patches,
)
from .job import Job, SentControl
from .joining import is_named, join
from .packing import Packed, UnsendableError, digest_of, pack, pack_array
from .places import count_local, find_places
from .remote import ClosedError, LostError, Remote, say
from .rounding import find_dtype

SHARED_BYTES = 32_768  # what is larger, and the same for all windows, is sent once per run
# Of the transformer options only these are of a call; the others are the worker's own.
CALL_OPTIONS = ("cond_or_uncond", "uuids", "sigmas", "sample_sigmas")
# What else can be done about what cannot be sent.
WAYS_OUT = {
    "LoRA by hooks": "Load LoRA before Quadtree Cluster goes to workers, for the whole picture",
}
JOIN_TIMEOUT_S = 10.0  # for a thread to see that its run has ended


class Crew:
    """The workers of this process, started as they are asked for."""

    def __init__(self) -> None:
        self.ray: Any = None
        self.remotes: list[Remote] = []
        self.local = 0  # workers that a cluster which was started here has room for
        self.asked = 0  # how often a model was asked for
        self.lock = threading.RLock()  # one run at a time has the workers

    def enlist(self, wanted: int) -> list[Remote]:
        """Return the workers, so many at most, or all (0).

        Those that are missing are started, and others are stopped, which frees their memory.
        """
        if not self._join(wanted):
            return []
        known = {remote.place[:2]: remote for remote in self.remotes}
        self.remotes = []
        names = {place: remote.name for place, remote in known.items()}
        for place in find_places(self.ray, names):
            remote = known.pop(place[:2], None) or Remote(self.ray, place, get_versions())
            self.remotes.append(remote)
        for gone in known.values():
            gone.stop()
        enlisted = self.remotes[: wanted or None]
        for surplus in self.remotes[len(enlisted) :]:
            surplus.stop()
        for remote in enlisted:
            if remote.actor is None:
                remote.start()
        return enlisted

    def _join(self, wanted: int) -> bool:
        """Join the cluster, unless that was done; return whether there is one."""
        local = 0 if is_named() else count_local(wanted)
        if self.ray is not None and self.ray.is_initialized():
            if is_named() or local <= self.local:
                return True
            self.dismiss()  # the one that was started here has too few
        if not local and not is_named():
            return False
        self.ray, self.remotes, self.local = join(local), [], local
        return True

    def release(self, number: int) -> None:
        """Let the workers free the model that was asked for so often, where it is the latest.

        A finalizer calls this, maybe in the middle of a run, or of what Ray does: it only starts a
        thread.
        """

        def release() -> None:
            with self.lock:
                if number == self.asked:
                    for remote in self.remotes:
                        remote.forget()

        threading.Thread(target=release, daemon=True).start()

    def dismiss(self) -> None:
        """End all workers, and leave the cluster."""
        with self.lock:
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
    too. `workers` is how many take part, and for how many windows are cut; 0: all, and windows as
    for one machine. Fewer, or none, make the same of the same windows. `show` is told in words who
    did what. ValueError where the cluster cannot be joined. Workers get ready while this machine
    goes on.
    """
    branch = cut_branch(prompt, node_id)
    controls = cut_control_branches(prompt, _list_outputs)
    with CREW.lock:
        remotes = CREW.enlist(workers)
        for remote in remotes:
            remote.build(branch, controls)
        CREW.asked += 1
        number = CREW.asked
    model = model.clone()
    if not remotes:
        warn(
            "no other machine and no other GPU takes part, so this machine works alone; "
            "docs/cluster.md shows how to name a cluster."
        )
    elif len(remotes) < workers:
        info("%d of %d workers are there; the result is the same.", len(remotes), workers)
    model.model_options[TEAM] = cluster = Cluster(
        remotes,
        (branch, controls),
        identify(model) if remotes else {},
        model.patches_uuid,
        show,
        shares=1 + workers,
    )
    # Workers keep the model for as long as ComfyUI does.
    weakref.finalize(cluster, CREW.release, number).atexit = False
    return model


def _list_outputs(class_type: str) -> Sequence[str]:
    kind = nodes.NODE_CLASS_MAPPINGS.get(class_type)
    return getattr(kind, "RETURN_TYPES", None) or ()


class Cluster:
    """What Quadtree Cluster sets on a model: the workers, and the model that they have."""

    def __init__(
        self,
        remotes: list[Remote],
        made_by: tuple[Prompt, list[Prompt]],
        identity: Identity,
        patches_uuid: uuid.UUID,
        show: Callable[[str], None] | None,
        *,
        shares: int = 1,
    ) -> None:
        self.remotes, self.identity, self.patches_uuid = remotes, identity, patches_uuid
        self.shares = shares  # for how many windows are cut, this machine among them
        self.made_by = made_by  # the branches of the model and of the ControlNets
        self.show = show

    def __deepcopy__(self, memo: dict[int, object]) -> Cluster:
        """Return the cluster itself: deep-copying model options must share the workers."""
        return self

    def without_workers(self) -> Cluster:
        """Return what makes this machine evaluate the same windows alone."""
        made = (self.made_by, self.identity, self.patches_uuid, self.show)
        return Cluster([], *made, shares=self.shares)

    @contextlib.contextmanager
    def join_run(self, run: Run, patcher: Any) -> Iterator[ClusterRun | None]:
        """Let the workers take part in a run of this model; None where none can.

        The run's windows are the same, whoever takes part.
        """
        run.expect_helpers(self.shares)
        if not self.remotes:
            yield None
            return
        with CREW.lock:  # machines come and go between runs
            self.remotes = CREW.enlist(self.shares - 1) or self.remotes
        if self._is_patched(patcher):
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

    def _is_patched(self, patcher: Any) -> bool:
        """Tell whether a node after Quadtree Cluster patched the model."""
        if digest(list_patches(patcher)) != self.identity["patches"]:
            return True
        # LoRA by hooks leave another id, too, and the same patches.
        is_other = patcher.patches_uuid != self.patches_uuid
        return is_other and digest_weight_patches(patcher) != self.identity["loras"]


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
        self._ready: set[str] = set()  # the names of the workers that had the model in time
        self._digests: dict[Any, str] = {}  # of ControlNets, by their networks
        self._threads = [
            threading.Thread(
                target=self._serve, args=(remote,), name=f"quadtree {remote.name}", daemon=True
            )
            for remote in cluster.remotes
        ]
        for thread in self._threads:
            thread.start()

    def __deepcopy__(self, memo: dict[int, object]) -> ClusterRun:
        """Return itself: deep-copying model options must share the run."""
        return self

    def close(self) -> None:
        """End the threads, and let the workers forget the run."""
        with self._changed:
            self._closed = True
            self._job = None
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)
        for remote in self.cluster.remotes:
            try:
                remote.end_run()
            except CREW.ray.exceptions.RayError as error:
                self.run.note(f"worker {remote.name} cannot be reached ({say(error)})")
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
            if hand.name in {remote.name for remote in self.cluster.remotes} - self._ready:
                words += ", not ready in time"
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
        left = ("transformer_options", "control")
        entries = {key: value for key, value in call["c"].items() if key not in left}
        here: ModelCall = move_value({**call, "c": entries}, torch.device("cpu"))
        try:
            controls = self._pack_controls(call["c"].get("control"))
            message = self._pack_call(call, here, task)
        except UnsendableError as error:
            self.note_unsendable(str(error))
            return
        except CREW.ray.exceptions.RayError as error:
            self.note_unsendable(f"a step's data ({say(error)})")
            return
        dtype = find_dtype(self.model, call, self.run.plan.inner)
        with self._changed:
            self._job = Job(board, task, here, message, controls, dtype, self.model)
            self._changed.notify_all()

    def finish(self) -> None:
        """Take the board back; what workers still evaluate of it is dropped."""
        with self._changed:
            self._job = None

    def note_unsendable(self, what: str) -> None:
        """Note, once, what keeps a call on this machine."""
        if what not in self._unsendable:
            self._unsendable.add(what)
            way_out = f"; {WAYS_OUT[what]}" if what in WAYS_OUT else ""
            words = f"{what} cannot be sent to workers, so this machine evaluates it alone"
            self.run.note(words + way_out)

    # ---- what is sent

    def _pack_controls(self, control: Any) -> list[SentControl]:
        """Return what workers need to know of the ControlNets of a call."""
        if control is None:
            return []
        hints = control.list_hints() if isinstance(control, DeferredControl) else None
        if hints is None:
            raise UnsendableError("a control other than a ControlNet of ComfyUI")
        sent = []
        for link, hint in hints:
            network = link.control_model
            if network not in self._digests:
                self._digests[network] = identify_control(link)
            if isinstance(link, ControlLora) or not self._digests[network]:
                raise UnsendableError("a Control-LoRA")
            if type(link).pre_run is not ControlNet.pre_run:
                raise UnsendableError("a ControlNet that takes weights from the model")
            settings = {
                "strength": link.strength,
                "strength_type": link.strength_type.name,
                "extra_args": link.extra_args,
            }
            pack(settings)
            sent.append(SentControl(self._digests[network], settings, hint.cpu()))
        return sent

    def _pack_call(self, call: ModelCall, here: ModelCall, task: Task) -> dict[str, Any]:
        """Return what all batches of a call have in common; UnsendableError where it cannot go."""
        first = crop_entries(here, cropper_of(here, task.boxes[0][:1], task.unit), task.memory)
        whole = {
            key: value for key, value in here["c"].items() if _is_same(first["c"].get(key), value)
        }
        options = call["c"]["transformer_options"]
        if has_gligen(options):
            raise UnsendableError("GLIGEN boxes")
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
            # This machine may be at a window of its own for long before it ends the run.
            return self._closed or comfy.model_management.processing_interrupted()

        awaited = None  # what it has to answer, where it is lost
        try:
            remote.require(*self.cluster.made_by)
            while not self._closed:
                try:
                    if awaited is not None:
                        remote.await_answer(awaited, is_closed)
                    remote.await_model(self.cluster.identity, is_closed)
                    if awaited is not None:
                        remote.log_return()
                    awaited = None
                    self._ready.add(remote.name)
                    self._serve_steps(remote, is_closed)
                except LostError as lost:
                    if awaited is None or lost.awaited is None:
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
            remote.work_through(job, self._hand_of(remote), is_closed)
            job = self._await_job(job)

    def _await_job(self, latest: Job | None) -> Job | None:
        """Return the next step to take part in; None once the run has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._job not in (None, latest))
            return None if self._closed else self._job

    def _hand_of(self, remote: Remote) -> Hand:
        return self.run.get_hand(remote.name)


def _is_same(cropped: Any, value: Any) -> bool:
    """Tell whether cropping left a value as it was: it is the same for all windows."""
    if isinstance(value, (list, tuple)):
        return (
            type(cropped) is type(value)
            and len(cropped) == len(value)
            and all(map(_is_same, cropped, value))
        )
    if isinstance(value, Tensor) and isinstance(cropped, Tensor):
        return torch.equal(cropped, value)
    return cropped is value
