"""The threshold at which a run costs what the user wants it to cost: "make it cost 40%"."""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

from torch import Tensor

from ..quadtree import Quadtree, build_quadtree
from ..sampling.model import ROUGH_PX, TYPICAL_STEPS
from ..sampling.run import estimate_rough_cost
from ..tree.detail import CellSums
from ..tree.masks import Mask
from ..tree.raster import centre_blocks, rasterize
from ..tree.subdivision import Subdivision
from ..utils import ceil_div
from ..velocity import free_steps

LOWEST = 0.05  # of the full cost
PER_UNIT = 10  # thresholds that are tried in 0..1: what is told to one digit is then what was used
SCANNED = 32  # thresholds that are looked at where the cost does not fall steadily
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
    cells: CellSums,
    budget: float,
    *,
    content_threshold: float,
    mask: Tensor | None,
    mask_mode: str,
    **limits: Any,
) -> tuple[Quadtree, Choice | None]:
    """`build_quadtree` at the threshold whose run costs `budget` (LOWEST..1) of the full; at `content_threshold` for 0."""
    choice = None
    if budget:
        choice = threshold_for(
            cells, budget, None if mask is None else Mask.from_tensor(mask, mask_mode), **limits
        )
        content_threshold = choice.threshold
    return build_quadtree(
        cells, content_threshold=content_threshold, mask=mask, mask_mode=mask_mode, **limits
    ), choice


def threshold_for(
    cells: CellSums, budget: float, mask: Mask | None = None, **limits: Any
) -> Choice:
    """The threshold with the estimated cost nearest to `budget`; `limits` are those of `Subdivision`.

    The share of the image that may change falls as the threshold rises (or rises, where `invert` keeps the detail) and is
    halved in on, which takes no plan. What windows cost beyond it, a plan tells, and the search goes on with that.
    """
    coarse = CoarseMaps(cells, mask, **limits)
    overhead = 1.0
    met: dict[float, float] = {}
    for _ in range(ROUNDS):
        threshold = coarse.threshold_of(budget / overhead)
        if threshold in met:
            break
        met[threshold], share = coarse.cost(threshold)
        if abs(met[threshold] - budget) <= NEAR / 4 or share == 0:
            break
        overhead = met[threshold] / share
    if all(
        abs(cost - budget) > NEAR for cost in met.values()
    ):  # perhaps out of reach: the ends are what is nearest then
        met |= {end: coarse.cost(end)[0] for end in (0.0, coarse.most / PER_UNIT)}
    threshold = min(met, key=lambda threshold: abs(met[threshold] - budget))
    return Choice(threshold, met[threshold], budget)


def active_share(denoise: Tensor) -> float:
    """Share of all cells and steps, in a run of TYPICAL_STEPS, in which a cell of this denoise [H, W] may change."""
    return float(free_steps(denoise, TYPICAL_STEPS).ceil().mean()) / TYPICAL_STEPS


class CoarseMaps:
    """Denoise per ROUGH_PX cell of an image at any threshold."""

    def __init__(self, cells: CellSums, mask: Mask | None, **limits: Any) -> None:
        self.subdivision = Subdivision(cells, **limits)
        self.size = ceil_div(cells.height, ROUGH_PX), ceil_div(cells.width, ROUGH_PX)
        self.mask = mask
        most_detail = max(float(detail.max()) for detail in self.subdivision.details)
        self.most = ceil(most_detail * PER_UNIT)  # above it nothing is halved
        self.shares: dict[int, float] = {}

    def cost(self, threshold: float) -> tuple[float, float]:
        """The estimated share of the full model cost at a threshold, and the active share."""
        denoise = self.denoise(threshold)
        return estimate_rough_cost(denoise, TYPICAL_STEPS), active_share(denoise)

    def denoise(self, threshold: float) -> Tensor:
        """[H, W] float64: that of the leaf at each cell's centre, after the mask has had its say."""
        width, height = self.subdivision.size
        leaves = self.subdivision.find_leaves(threshold)
        root_px = self.subdivision.sides[0]
        grid, side = rasterize(leaves, leaves.denoise, width, height, root_px)
        rows = centre_blocks(self.size[0], height, side)
        columns = centre_blocks(self.size[1], width, side)
        values = grid[rows][:, columns]
        return values if self.mask is None else self.mask.apply(values)

    def threshold_of(self, share: float) -> float:
        """The threshold whose active share is nearest to `share`, of those that a bisection meets; the share moves in steps."""
        low, high = 0, self.most
        if self.subdivision.rule.needs_spread:
            # The leaves\' denoise follows the spread of all leaves: it may rise and fall.
            step = ceil(self.most / SCANNED) or 1
            best = min(
                range(0, self.most + step, step), key=lambda place: abs(self.share(place) - share)
            )
            low, high = max(low, best - step), min(high, best + step)
        for place in (low, high):
            self.share(place)
        while high - low > 1:
            middle = (low + high) // 2
            if (self.share(middle) > share) != self.subdivision.invert:
                low = middle
            else:
                high = middle
        return min(self.shares, key=lambda place: abs(self.shares[place] - share)) / PER_UNIT

    def share(self, place: int) -> float:
        """The active share at a threshold of `place` / PER_UNIT."""
        if place not in self.shares:
            self.shares[place] = active_share(self.denoise(place / PER_UNIT))
        return self.shares[place]
