"""One worker as this machine sees it: it starts, it evaluates windows, it may fail and come back.

Every wait is short and looks whether the run has ended, since a worker may never answer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ..sampling.board import Hand
from ..utils import info
from .branch import Prompt
from .identity import Identity, compare
from .job import Job

POLL_S = 0.1
IN_FLIGHT = 2  # batches on a worker: it computes one while the next one travels
# A worker that needs longer than this for a batch is taken for hung; the first batch loads the
# model.
PATIENCE_S = 60.0
FIRST_PATIENCE_S = 900.0
SLOWER = 20.0  # than expected: a hung worker, where that is longer than PATIENCE_S
MOST_ATTEMPTS = 3  # of a worker that ends or lacks memory, until it has evaluated a batch
RETRY_S = 5.0  # between attempts to reach a worker


class LostError(Exception):
    """A worker takes no part for now; the text says why. `awaited` is what it has to answer."""

    def __init__(self, words: str, awaited: Any = None) -> None:
        super().__init__(words)
        self.awaited = awaited


class ClosedError(Exception):
    """The run has ended."""


class Owed(NamedTuple):
    """An answer that a worker owes, since when, and for how long it may."""

    awaited: Any
    since_s: float
    patience_s: float


class Place(NamedTuple):
    """Where a worker runs: which of a node's, a name for messages, and how Ray starts it there."""

    node_id: str
    number: int
    name: str
    start: Callable[[], Any]  # returns an actor's handle
    facts: dict[str, Any]  # see `Actor.boot`


class Remote:
    """A worker: its actor, what it was asked last, and whether it takes part."""

    def __init__(self, ray: Any, place: Place, versions: Identity) -> None:
        self.ray, self.place, self.versions = ray, place, versions
        self.actor: Any = None
        self.attempts = 0  # since it evaluated a batch
        self._booting: Any = None
        self._building: Any = None
        self._branches: tuple[Prompt, list[Prompt]] | None = None
        self._owed: Owed | None = None  # the batch that it is at

    @property
    def name(self) -> str:
        return self.place.name

    def start(self) -> None:
        """Let an actor start at the worker's place; returns at once."""
        self.stop()
        self.attempts += 1
        self.actor = self.place.start()
        self._booting = self.actor.boot.remote(self.place.facts)
        self._building = None
        if self._branches is not None:
            self.build(*self._branches)

    def stop(self) -> None:
        """End the actor."""
        if self.actor is not None:
            self.ray.kill(self.actor)
        self.actor = self._booting = self._building = self._owed = None

    def build(self, branch: Prompt, controls: list[Prompt]) -> None:
        """Let the worker build the model of a prompt's branch; returns at once.

        `controls` are the branches of the ControlNets that it may need later.
        """
        self._branches = branch, controls
        if self.actor is None:
            self.start()
        else:
            self._building = self.actor.build.remote(branch, controls)

    def require(self, branch: Prompt, controls: list[Prompt]) -> None:
        """Let the worker build the model of these branches, unless it was asked for it last."""
        if self.actor is None or self._branches != (branch, controls):
            self.build(branch, controls)

    def forget(self) -> None:
        """Let the worker free its model; returns at once."""
        self._branches = None
        if self.actor is not None:
            self.actor.forget.remote()

    def end_run(self) -> None:
        """Let the worker forget the run; returns at once."""
        self._owed = None
        if self.actor is not None:
            self.actor.end_run.remote()

    # ---- for the thread of a run

    def await_model(self, identity: Identity, is_closed: Callable[[], bool]) -> None:
        """Wait until the worker has the model; LostError, for good, where it has another one."""
        try:
            versions = self._ask(_owe_first(self._booting), is_closed)
            self._refuse_different(versions, self.versions)
        except LostError as lost:
            if lost.awaited is None:
                self.stop()  # the next run starts a new one, which finds what was mended
            raise
        try:
            found = self._ask(_owe_first(self._building), is_closed)
            self._refuse_different(found, identity)
        except LostError as lost:
            if lost.awaited is None:
                self.forget()  # the next run builds again, from the files of then
            raise

    def _refuse_different(self, there: Identity, here: Identity) -> None:
        words = compare(there, here)
        if words:
            raise LostError(f"is left out: {words}")

    def await_answer(self, awaited: Any, is_closed: Callable[[], bool]) -> None:
        """Wait, for as long as the run lasts, until a lost worker answers; restart a dead one."""
        while True:
            try:
                self._wait(awaited, None, is_closed)
                self.ray.get(awaited)
                return
            except self.ray.exceptions.ActorDiedError:
                if self.attempts >= MOST_ATTEMPTS:
                    raise LostError("ends again and again, so it is not started again") from None
                self.start()
                awaited = self._booting
            except self.ray.exceptions.ActorUnavailableError:
                self._sleep(RETRY_S, is_closed)
                awaited = self.actor.ping.remote()
            except self.ray.exceptions.RayError:
                self._sleep(RETRY_S, is_closed)  # its node may be gone, or full
                return

    def work_through(self, job: Job, hand: Hand, is_closed: Callable[[], bool]) -> None:
        """Evaluate what the board hands out; LostError where the worker cannot go on.

        A worker that is still at a batch of an earlier step gets none before it has answered.
        """
        board = job.board
        flying: deque[tuple[int, Any]] = deque()

        def is_over() -> bool:
            return board.over or is_closed()

        def owe_first() -> Owed:
            number, awaited = flying[0]
            patience_s = _choose_patience(hand, job.task.costs[number])
            return Owed(awaited, time.monotonic(), patience_s)

        try:
            if self._owed is not None:
                self._await_owed(self._owed, is_over)
            while not is_over():
                self._send(flying, job, hand)
                if not flying:
                    return
                answer = self._await_owed(owe_first(), is_over)
                number, _ = flying.popleft()
                result = job.unpack_result(number, answer)
                self.attempts = 1
                board.deliver(hand, number, result)
            if flying:
                self._owed = owe_first()
        except ClosedError:
            pass
        except Exception:
            board.leave(hand)
            raise
        finally:
            for _, awaited in list(flying)[1:]:  # it has not begun these
                self.ray.cancel(awaited)

    def _send(self, flying: deque[tuple[int, Any]], job: Job, hand: Hand) -> None:
        """Send the worker batches, as many as it may have at once."""
        while len(flying) < IN_FLIGHT:
            number = job.board.take(hand, wait=not flying)
            if number is None:
                return
            flying.append((number, self.actor.evaluate.remote(job.pack_batch(number))))

    def _await_owed(self, owed: Owed, is_over: Callable[[], bool]) -> Any:
        """Return what the worker makes of the batch that it is at, or remember that it is at it."""
        self._owed = None
        try:
            return self._ask(owed, is_over)
        except ClosedError:
            self._owed = owed
            raise

    def _ask(self, owed: Owed, is_closed: Callable[[], bool]) -> Any:
        """Return what the worker answers; LostError in words where it does not, or cannot."""
        awaited, since_s, patience_s = owed
        try:
            if not self._wait(awaited, since_s + patience_s, is_closed):
                words = f"has not answered for {patience_s:.0f} s; its windows go to others"
                raise LostError(words, awaited)
            kind, answer = self.ray.get(awaited)
        except self.ray.exceptions.ActorDiedError as error:
            raise LostError(f"ended ({say(error)}); its windows go to others", awaited) from None
        except self.ray.exceptions.ActorUnschedulableError:
            raise LostError("is left out: its machine has left the cluster") from None
        except self.ray.exceptions.RayError as error:
            # Of the network Ray says much that helps nobody.
            unavailable = isinstance(error, self.ray.exceptions.ActorUnavailableError)
            why = "" if unavailable else f" ({say(error)})"
            words = f"cannot be reached{why}; its windows go to others"
            raise LostError(words, self.actor.ping.remote()) from None
        if kind == "oom":
            raise self._note_lack_of_memory()
        if kind != "ok":
            raise LostError(f"is left out: {answer}")
        return answer

    def _note_lack_of_memory(self) -> LostError:
        """Return what to raise: the worker has freed its memory, and may have enough now."""
        if self.attempts >= MOST_ATTEMPTS:
            return LostError("runs out of memory again and again and is left out of this run")
        self.attempts += 1
        return LostError("ran out of memory; its windows go to others", self.actor.ping.remote())

    def _wait(self, awaited: Any, end_s: float | None, is_closed: Callable[[], bool]) -> bool:
        """Wait for an answer; return whether it came. ClosedError once the run has ended."""
        while True:
            ready, _ = self.ray.wait([awaited], timeout=POLL_S)
            if ready:
                return True
            if end_s is not None and time.monotonic() >= end_s:
                return False
            if is_closed():
                raise ClosedError

    def _sleep(self, seconds: float, is_closed: Callable[[], bool]) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            if is_closed():
                raise ClosedError
            time.sleep(POLL_S)

    def log_return(self) -> None:
        info("worker %s answers again and takes part.", self.name)


def _owe_first(awaited: Any) -> Owed:
    """Return what a worker owes that has just been asked to get ready."""
    return Owed(awaited, time.monotonic(), FIRST_PATIENCE_S)


def _choose_patience(hand: Hand, cost: float) -> float:
    """Return for how many seconds to wait for a batch."""
    speed = hand.speed
    if speed is None:
        return FIRST_PATIENCE_S
    return max(PATIENCE_S, SLOWER * cost / speed)


def say(error: Exception) -> str:
    """Return the first line of what Ray says."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
