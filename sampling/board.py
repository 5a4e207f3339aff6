"""The batches of one step, handed out to whoever is free: the dearest first, stragglers twice.

A *hand* is whatever evaluates batches: a device of this process, or a worker of a cluster. Hands
take batches from a `Board` and deliver the results, each from its own thread. Which hand evaluates
a batch changes nothing in the result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

Result = TypeVar("Result")

POLL_S = 0.05  # a hand without a batch looks again, since a straggler tells nobody that it is one
# While there are more batches than this for each hand, the next is the dearest, whoever asks.
CROWD = 3
REMEMBERED_SPEEDS = 3
STRAGGLES = 1.5  # a batch is given to a second hand that would be done so many times sooner


class Hand:
    """One that evaluates batches, and how fast it was; `speed` is in predicted cost per second.

    A hand is known for as long as a run.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.windows = 0
        self.busy_s = 0.0
        self.first_speed: float | None = None
        self._speeds: list[float] = []

    @property
    def speed(self) -> float | None:
        """Return the best of the latest speeds, which a hiccup does not change; None: unknown."""
        return max(self._speeds, default=None)

    def note(self, cost: float, windows: int, seconds: float) -> None:
        """Note a batch that was evaluated. The first tells little: a device warms up in it."""
        self.windows += windows
        self.busy_s += seconds
        speed = cost / max(seconds, 1e-6)
        if self.first_speed is None:
            self.first_speed = speed
        else:
            self._speeds = [*self._speeds, speed][-REMEMBERED_SPEEDS:]


class Board(Generic[Result]):
    """The batches of one step, with the predicted cost and the number of windows of each.

    `report` is told, once for each batch, who evaluated it, its number and its result.
    """

    def __init__(
        self,
        costs: Sequence[float],
        windows: Sequence[int],
        report: Callable[[Hand, int, Result], None] = lambda hand, number, result: None,
    ) -> None:
        self.costs, self.windows, self.report = costs, windows, report
        self._todo = sorted(range(len(costs)), key=lambda number: -costs[number])
        self._given: dict[Hand, list[int]] = {}  # in the order in which each hand evaluates them
        self._since: dict[Hand, float] = {}  # when the first of them was begun
        self._results: dict[int, Result] = {}
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    @property
    def over(self) -> bool:
        """Tell whether nothing is to be evaluated any more."""
        return self._closed or self._error is not None or len(self._results) == len(self.costs)

    def take(
        self, hand: Hand, *, wait: bool = True, look: Callable[[], None] = lambda: None
    ) -> int | None:
        """Return the number of the batch that the hand evaluates next; None if there is none.

        With `wait`, returns None only once the board is over; `look` is called while it waits, and
        may raise. Without, a hand asks for more than it is at: one of unknown speed gets nothing.
        """
        if not wait and hand.first_speed is None:
            return None
        with self._changed:
            self._given.setdefault(hand, [])
            while not self.over:
                number = self._choose(hand)
                if number is not None:
                    if not self._given[hand]:
                        self._since[hand] = time.monotonic()
                    self._given[hand].append(number)
                    return number
                if not wait:
                    break
                look()
                self._changed.wait(POLL_S)
        return None

    def deliver(self, hand: Hand, number: int, result: Result) -> bool:
        """Note the result of a batch; return False where another hand had it sooner."""
        with self._changed:
            now = time.monotonic()
            seconds = now - self._since.get(hand, now)
            self._since[hand] = now
            if number in self._given.get(hand, ()):
                self._given[hand].remove(number)
            is_first = number not in self._results and not self.over
            hand.note(self.costs[number], self.windows[number] if is_first else 0, seconds)
            if is_first:
                self._results[number] = result
                self.report(hand, number, result)
            self._changed.notify_all()
            return is_first

    def leave(self, hand: Hand) -> None:
        """Give back what the hand has not delivered; it takes part again when it takes a batch."""
        with self._changed:
            held = self._given.pop(hand, [])
            elsewhere = {number for numbers in self._given.values() for number in numbers}
            for number in held:
                if number not in elsewhere and number not in self._results:
                    self._todo.append(number)
            self._todo.sort(key=lambda number: -self.costs[number])
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End the step with an error: nobody gets another batch."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def close(self) -> None:
        """End the step: nobody gets another batch."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until the board is over, for so long at most; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.over, seconds)

    def collect(self) -> list[Result]:
        """Return the results in the order of the batches; raises what `fail` was given."""
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                # The error would hold this frame, and so all results: memory that a retry needs.
                self._results.clear()
                del error
        return [self._results[number] for number in range(len(self.costs))]

    # ---- who is given what

    def _choose(self, hand: Hand) -> int | None:
        if not self._todo:
            return self._choose_straggler(hand)
        chosen = 0
        if len(self._todo) <= CROWD * len(self._given):
            hands = list(self._given)
            costs = [self.costs[number] for number in self._todo]
            speeds = [self._speed_of(one) for one in hands]
            dealt = deal_in_turn(costs, speeds, [self._busy_s(one) for one in hands])
            mine = hands.index(hand)
            first = next((number for number, due in dealt if due == mine), None)
            if first is None:
                return None  # others are done with all of it sooner
            chosen = first
        return self._todo.pop(chosen)

    def _choose_straggler(self, hand: Hand) -> int | None:
        """Return a batch of another hand that this one would be done with sooner."""
        if self._given[hand]:
            return None
        held = [number for numbers in self._given.values() for number in numbers]
        late = []
        for other, numbers in self._given.items():
            for place, number in enumerate(numbers):
                ready_s = self._busy_s(other, upto=place + 1)
                mine_s = self.costs[number] / self._speed_of(hand)
                is_single = held.count(number) == 1 and number not in self._results
                if is_single and ready_s > STRAGGLES * mine_s:
                    late.append((ready_s, number))
        return max(late)[1] if late else None

    def _speed_of(self, hand: Hand) -> float:
        """Return a hand's speed; where it is not known, the mean of the known ones."""
        if hand.speed is not None:
            return hand.speed
        known = [one.speed for one in self._given if one.speed is not None]
        known = known or [one.first_speed for one in self._given if one.first_speed is not None]
        return sum(known) / len(known) if known else 1.0

    def _busy_s(self, hand: Hand, upto: int | None = None) -> float:
        """Return for how many seconds a hand will need for what it was given.

        A hand that is late is expected to need as long again.
        """
        numbers = self._given[hand][:upto]
        if not numbers:
            return 0.0
        first, *rest = (self.costs[number] / self._speed_of(hand) for number in numbers)
        elapsed = time.monotonic() - self._since[hand]
        return (first - elapsed if elapsed < first else elapsed) + sum(rest)


def deal(
    costs: Sequence[float], speeds: Sequence[float], busy: Sequence[float] | None = None
) -> list[list[int]]:
    """Return the numbers of the costs for each speed, as `deal_in_turn` deals them."""
    dealt: list[list[int]] = [[] for _ in speeds]
    for number, due in deal_in_turn(costs, speeds, busy):
        dealt[due].append(number)
    return dealt


def deal_in_turn(
    costs: Sequence[float], speeds: Sequence[float], busy: Sequence[float] | None = None
) -> Iterator[tuple[int, int]]:
    """Yield the number of a cost and that of the speed which it goes to.

    The most expensive batch comes first, and each goes to whoever would be done with it first.
    `busy` tells for how long each is not free yet.
    """
    done = [0.0] * len(speeds) if busy is None else list(busy)
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        ends = [at + costs[number] / speed for at, speed in zip(done, speeds, strict=True)]
        due = min(range(len(ends)), key=ends.__getitem__)
        done[due] = ends[due]
        yield number, due
