"""How fast a run goes: the seconds that it has left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

SETTLED_S = 1.0  # seconds after which the pace of a run is taken for steady


class Mark(NamedTuple):
    """The share of a run that is done, 0 to 1, at a time in seconds."""

    share: float
    at_s: float


@dataclass(slots=True)
class Pace:
    """Estimates the time left from the pace since the first model call.

    The first call is left out: it loads weights, and chooses or compiles kernels.
    """

    first: Mark | None = field(default=None)

    def estimate_left(self, share: float, at_s: float) -> float | None:
        """Return the seconds left when `share` of the run is done; None while too early to tell."""
        if self.first is None:
            self.first = Mark(share, at_s)
        seconds, gained = at_s - self.first.at_s, share - self.first.share
        if seconds < SETTLED_S or gained <= 0:
            return None
        return max(0.0, 1 - share) * seconds / gained
