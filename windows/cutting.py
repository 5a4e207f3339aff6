"""Ways to cut one axis into pieces, ranked by a rough estimate of their cost. All is in units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from ..utils import ceil_div
from .tiling import Tiling

# After a change of these numbers, `python dev.py bench plan` shows what runs cost and planning
# takes.
CANDIDATES = 40  # ways to cut an axis that are looked at closely
OF_A_NUMBER = 8  # of those, with the same number of pieces, where several share the windows
MORE_PIECES = 3  # pieces of equal length, beyond the fewest that will do, that are tried
MORE_UNEVEN_PIECES = 2  # the same where one piece has a length of its own
TYPICAL_QUARTERS = (
    3  # of a tile: the other side of a window, which is not known when a cut is priced
)
UNEVEN_RANGE = (
    4  # the common length of uneven pieces is within a tile / UNEVEN_RANGE of the even one
)
UNEVEN_STEPS = 32  # and is tried in steps of a tile / UNEVEN_STEPS
# A border on one of the last step's counts as this share of the cost. At 0 a lattice would not move
# where an even cut is cheapest. The moving costs 0.6% of the model's time on the photos of `bench
# plan`.
PRICE_OF_STAYING = 0.005
DEARER_IF_SHARED = 2  # times that price: even cuts, which would stay, are shared best
DEARER_WITHOUT_OVERLAP = 10  # times that price: nothing but the moving hides a border there
FADING = 0.7  # how much less a border counts with every step that it is older
REPELLING_RANGE = (
    8  # a border is repelled by recent ones that are nearer than a tile / REPELLING_RANGE
)
FAR_AWAY = 1 << 30  # beyond any latent


class Cut(NamedTuple):
    """One way to cut an axis: its borders, and the factor that recent borders put on its cost."""

    borders: tuple[int, ...]
    penalty: float


class AxisCutter:
    """Finds ways to cut an axis of `length` units during one plan.

    `recent` holds the borders of each of the last steps, the last step's at the end. `stretch` is
    how many times the fewest pieces are tried, and some more than that; 0: the fewest only.
    """

    def __init__(
        self, length: int, tiling: Tiling, recent: Sequence[Sequence[int]], stretch: float
    ) -> None:
        self.length = length
        self.tiling = tiling
        self.stretch = stretch
        self.penalties = compute_penalties(length, recent, tiling)
        self.prices = price_lengths(tiling)
        self.known: dict[tuple[int, int], list[Cut]] = {}

    def find_cuts(self, start: int, end: int) -> list[Cut]:
        """Return the most promising ways to cut the units start..end, the best first."""
        if (start, end) not in self.known:
            cuts = [cut for _, cut in sorted(self._price_cuts(start, end))]
            several = self.tiling.shares > 1
            self.known[start, end] = _take_of_each(cuts) if several else cuts[:CANDIDATES]
        return self.known[start, end]

    def _price_cuts(self, start: int, end: int) -> Iterator[tuple[float, Cut]]:
        """Yield a rough cost and the cut, for all ways to cut the active units start..end.

        Windows reach beyond the active units by half an overlap. `low`..`high` is all that they
        cover, and the lengths of the pieces are counted without the overlap.
        """
        context = self.tiling.margin + self.tiling.shared
        low, high = max(0, start - context), min(self.length, end + context)
        span = max(0, high - low - self.tiling.overlap)
        for lengths in self._divide(span):
            borders = tuple(accumulate(lengths[:-1], initial=low + self.tiling.margin))[1:]
            if borders and not start <= borders[0] <= borders[-1] < end:
                continue
            penalty = 1.0
            if borders:
                penalty = sum(map(self.penalties.__getitem__, borders)) / len(borders)
            price = sum(map(self.prices.__getitem__, lengths))
            yield penalty * price, Cut(borders, penalty)

    def _divide(self, span: int) -> set[tuple[int, ...]]:
        """Return the ways to divide `span` units into pieces, each a tuple of lengths."""
        tiling = self.tiling
        longest = max(1, tiling.tile - tiling.overlap)
        fewest = max(1, ceil_div(span, longest))
        more = more_uneven = min(fewest, round((self.stretch - 1) * fewest)) + MORE_PIECES
        if not self.stretch:
            more = 0
        if tiling.shares == 1:
            more_uneven = MORE_UNEVEN_PIECES
        ways = {divide_evenly(span, count) for count in range(fewest, fewest + more + 1)}
        if tiling.moving and fewest > 1:
            for count in range(fewest, fewest + more_uneven + 1):
                ways.update(divide_unevenly(span, count, longest, tiling))
        return ways


def _take_of_each(cuts: Sequence[Cut]) -> list[Cut]:
    """Return the first few cuts with each number of pieces.

    Which number several share best is not known when a cut is priced.
    """
    counts: Counter[int] = Counter()
    taken = []
    for cut in cuts:
        counts[len(cut.borders)] += 1
        if counts[len(cut.borders)] <= OF_A_NUMBER:
            taken.append(cut)
    return taken


def price_lengths(tiling: Tiling) -> list[float]:
    """Return the rough cost of a window for each length of a piece, from 0 to a tile."""
    lengths = np.arange(tiling.tile + 1)
    side_cells = np.maximum(lengths + tiling.overlap, tiling.smallest) * tiling.unit
    other_side_cells = tiling.tile * tiling.unit * TYPICAL_QUARTERS // 4
    return tiling.cost.predict_window(side_cells * other_side_cells, tiling.batch).tolist()


def divide_evenly(span: int, count: int) -> tuple[int, ...]:
    """Divide `span` units into `count` pieces whose lengths differ by 1 at most."""
    ends = [index * span // count for index in range(count + 1)]
    return tuple(end - start for start, end in pairwise(ends))


def divide_unevenly(
    span: int, count: int, longest: int, tiling: Tiling
) -> Iterator[tuple[int, ...]]:
    """Yield ways to divide `span` into pieces of one length and one of another, at any place.

    So borders move far, while windows still have two shapes at most.
    """
    shortest = max(1, tiling.smallest - tiling.overlap)
    even = span // count
    reach = tiling.tile // UNEVEN_RANGE
    step = max(1, tiling.tile // UNEVEN_STEPS)
    for common in range(max(1, even - reach), min(longest, even + reach) + 1, step):
        rest = span - (count - 1) * common
        if not shortest <= rest <= longest:
            continue
        for place in range(count):
            yield (common,) * place + (rest,) + (common,) * (count - 1 - place)


def compute_penalties(length: int, recent: Sequence[Sequence[int]], tiling: Tiling) -> list[float]:
    """Return the factor on the cost of a border at each place, 0 to `length`.

    It is 1 away from all recent borders, and rises to 1 + the price of staying on a border of the
    last step. `recent` holds the borders of each step, the last step's at the end; older ones count
    less.
    """
    price = PRICE_OF_STAYING * (1 if tiling.overlap else DEARER_WITHOUT_OVERLAP)
    if tiling.shares > 1:
        price *= DEARER_IF_SHARED
    places = np.arange(length + 1)
    nearness = np.zeros(length + 1)
    for age, borders in enumerate(reversed(recent)):
        distances = np.abs(np.subtract.outer(places, np.array([*borders, FAR_AWAY])))
        nearest = distances.min(1)
        near = np.maximum(0.0, 1 - REPELLING_RANGE * nearest / tiling.tile) ** 2
        nearness = np.maximum(nearness, FADING**age * near)
    return (1 + price * nearness).tolist()
