"""The threshold at which a run costs what the user wants it to cost: "make it cost 40%"."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .detail import CellSums
from .quadtree import MASK_MODES, Mask, Quadtree, Subdivision, build_quadtree, centre_blocks, painted
from .run import ROUGH_PX, TYPICAL_STEPS, rough_cost
from .utils import ceil_div
from .velocity import free_steps

LOWEST = 0.05  # of the full cost
HIGHEST_THRESHOLD = 256.0  # no image has more detail; a threshold of 0 halves all that is not one colour
HALVINGS = 10  # of the range of thresholds: to a quarter of a unit
ROUNDS = 3
NEAR = 0.02  # of the full cost: an estimate this far from the budget has met it, and one a quarter as far is not improved


class Choice(NamedTuple):
    """The threshold that was found, the estimated share of the full model cost, and the share that was asked for."""

    threshold: float
    cost: float
    budget: float

    def text(self) -> str:
        """For the user."""
        found = f"content_threshold {self.threshold:.1f} for about {100 * self.cost:.0f}% of the full model cost"
        if abs(self.cost - self.budget) <= NEAR:
            return found
        return (
            f"{found}, the nearest to {100 * self.budget:.0f}% that was found: min_denoise and max_denoise set "
            "the ends, a smaller max_tile_size gives finer steps"
        )


def build_for_cost(
    cells: CellSums, budget: float, *, content_threshold: float, mask: Tensor | None, mask_mode: str, **limits: Any
) -> tuple[Quadtree, Choice | None]:
    """`build_quadtree` at the threshold whose run costs `budget` (LOWEST..1) of the full; at `content_threshold` for 0."""
    choice = None
    if budget:
        choice = threshold_for(cells, budget, None if mask is None else Mask.from_tensor(mask, mask_mode), **limits)
        content_threshold = choice.threshold
    return build_quadtree(cells, content_threshold=content_threshold, mask=mask, mask_mode=mask_mode, **limits), choice


def threshold_for(cells: CellSums, budget: float, mask: Mask | None = None, **limits: Any) -> Choice:
    """The threshold with the estimated cost nearest to `budget`; `limits` are those of `Subdivision`.

    The share of the image that may change falls as the threshold rises (or rises, where `invert` keeps the detail) and is
    halved in on, which takes no plan. What windows cost beyond it, a plan tells, and the search goes on with that.
    """
    coarse = CoarseMaps(cells, mask, **limits)
    overhead = 1.0
    met: list[Choice] = []
    for _ in range(ROUNDS):
        threshold = coarse.threshold_of(budget / overhead)
        if any(choice.threshold == threshold for choice in met):
            break
        denoise = coarse.denoise(threshold)
        cost, share = rough_cost(denoise, TYPICAL_STEPS), active_share(denoise)
        met.append(Choice(threshold, cost, budget))
        if abs(cost - budget) <= NEAR / 4 or share == 0:
            break
        overhead = cost / share
    return min(met, key=lambda choice: abs(choice.cost - budget))


def active_share(denoise: Tensor) -> float:
    """Share of all cells and steps, in a run of TYPICAL_STEPS, in which a cell of this denoise [H, W] may change."""
    return float(free_steps(denoise, TYPICAL_STEPS).ceil().mean()) / TYPICAL_STEPS


class CoarseMaps:
    """Denoise per ROUGH_PX cell of an image at any threshold."""

    def __init__(self, cells: CellSums, mask: Mask | None, **limits: Any) -> None:
        self.subdivision = Subdivision(cells, **limits)
        self.size = ceil_div(cells.height, ROUGH_PX), ceil_div(cells.width, ROUGH_PX)
        self.mask = mask and (MASK_MODES[mask.mode], mask.resampled(*self.size))
        self.shares = {end: active_share(self.denoise(end)) for end in (0.0, HIGHEST_THRESHOLD)}

    def denoise(self, threshold: float) -> Tensor:
        """[H, W] float64: that of the leaf at each cell's centre, after the mask has had its say."""
        width, height = self.subdivision.size
        groups = ((group.side, group.x0, group.y0, group.denoise) for group in self.subdivision.groups(threshold))
        grid, side = painted(groups, width, height, self.subdivision.sides[0])
        rows, columns = (centre_blocks(*axis, side) for axis in zip(self.size, (height, width), strict=True))
        values = grid[rows][:, columns]
        return values if self.mask is None else self.mask[0](values, self.mask[1])

    def threshold_of(self, share: float) -> float:
        """The threshold whose active share is nearest to `share`, by bisection; the share moves in steps."""
        low, high = 0.0, HIGHEST_THRESHOLD
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if middle not in self.shares:
                self.shares[middle] = active_share(self.denoise(middle))
            if (self.shares[middle] > share) != self.subdivision.invert:
                low = middle
            else:
                high = middle
        return min(self.shares, key=lambda threshold: abs(self.shares[threshold] - share))
