"""Finds the threshold at which a run costs the share of the full model cost that the user wants."""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

from torch import Tensor

from ..quadtree import Quadtree, build_quadtree
from ..sampling.cost import estimate_rough_cost
from ..sampling.model import ROUGH_PX, TYPICAL_STEPS
from ..tree.detail import BlockSums
from ..tree.masks import Mask
from ..tree.raster import centre_blocks, rasterize
from ..tree.subdivision import Subdivision
from ..utils import ceil_div
from ..velocity import count_free_steps

LOWEST = 0.05  # smallest budget, as a share of the full cost
# Thresholds are multiples of 1 / PER_UNIT, so that the one digit that the user sees is exact.
PER_UNIT = 10
DIGITS = {"content_threshold": 1, "coverage": 2}  # of what is found
SCANNED = 32  # thresholds that are tried first where the cost does not fall steadily
ROUNDS = 3  # estimates with a plan of the windows, at most
# An estimate this far from the budget, as a share of the full cost, has met it; the search ends
# when it is within a quarter of that.
NEAR = 0.02


class Choice(NamedTuple):
    """The value of the node's input `name` that was found, and its estimated cost.

    `cost` and `budget`, the cost that was asked for, are shares of the full model cost.
    """

    name: str
    value: float
    cost: float
    budget: float

    @property
    def found(self) -> str:
        """The input and its value, with the digits that were used."""
        return f"{self.name} {self.value:.{DIGITS[self.name]}f}"

    def text(self) -> str:
        """Return a line for the user."""
        found = f"{self.found} for about {100 * self.cost:.0f}% of the full model cost"
        if abs(self.cost - self.budget) <= NEAR:
            return found
        return (
            f"{found}, the nearest to {100 * self.budget:.0f}% that was found: min_denoise and "
            "max_denoise limit the cost, and a smaller max_tile_size gives finer steps"
        )


def build_for_cost(
    sums: BlockSums,
    budget: float,
    *,
    content_threshold: float,
    mask: Tensor | None = None,
    mask_mode: str = "multiply",
    **limits: Any,
) -> tuple[Quadtree, Choice | None]:
    """Build the quadtree whose run costs `budget`, LOWEST..1, and return how that was chosen.

    For a budget of 0 the tree is built at `content_threshold`, and the choice is None. The other
    arguments are those of `build_quadtree`.
    """
    choice = None
    if budget:
        limit = None if mask is None else Mask.from_tensor(mask, mask_mode)
        choice = choose_threshold(sums, budget, limit, **limits)
        content_threshold = choice.value
    tree = build_quadtree(
        sums, content_threshold=content_threshold, mask=mask, mask_mode=mask_mode, **limits
    )
    return tree, choice


def choose_threshold(
    sums: BlockSums, budget: float, mask: Mask | None = None, **limits: Any
) -> Choice:
    """Return the threshold whose estimated cost is nearest to `budget`.

    `limits` are the arguments of `Subdivision`. The share of the image that may change falls as the
    threshold rises (or rises, where `invert` keeps detail), so it can be bisected without a plan of
    the windows. A plan at the threshold found says how much more the windows cost than that share;
    the next round looks for the share that costs `budget` with as much overhead.
    """
    coarse = CoarseMaps(sums, mask, **limits)
    overhead = 1.0
    met: dict[float, float] = {}
    for _ in range(ROUNDS):
        threshold = coarse.find_threshold(budget / overhead)
        if threshold in met:
            break
        met[threshold], share = coarse.estimate_cost(threshold)
        if abs(met[threshold] - budget) <= NEAR / 4 or share == 0:
            break
        overhead = met[threshold] / share
    if all(abs(cost - budget) > NEAR for cost in met.values()):
        # The budget may be out of reach: then one of the ends is the nearest.
        met |= {end: coarse.estimate_cost(end)[0] for end in (0.0, coarse.most / PER_UNIT)}
    threshold = min(met, key=lambda threshold: abs(met[threshold] - budget))
    return Choice("content_threshold", threshold, met[threshold], budget)


def measure_active_share(denoise: Tensor) -> float:
    """Return the share of cells and steps in which a cell may change, of a run of TYPICAL_STEPS.

    `denoise` is [H, W] in 0..1.
    """
    return float(count_free_steps(denoise, TYPICAL_STEPS).ceil().mean()) / TYPICAL_STEPS


class CoarseMaps:
    """Denoise maps of an image with cells of ROUGH_PX, at any threshold, and their costs."""

    def __init__(self, sums: BlockSums, mask: Mask | None, **limits: Any) -> None:
        self.subdivision = Subdivision(sums, **limits)
        self.size = ceil_div(sums.height, ROUGH_PX), ceil_div(sums.width, ROUGH_PX)
        self.mask = mask
        self.frames = sums.frames
        most_detail = max(float(detail.max()) for detail in self.subdivision.details)
        self.most = ceil(most_detail * PER_UNIT)  # in tenths; above it nothing is halved
        self.shares: dict[int, float] = {}  # by threshold in tenths

    def estimate_cost(self, threshold: float) -> tuple[float, float]:
        """Return the estimated cost at a threshold, and the active share."""
        denoise = self.map_denoise(threshold)
        cost = estimate_rough_cost(denoise, TYPICAL_STEPS, self.frames)
        return cost, measure_active_share(denoise)

    def map_denoise(self, threshold: float) -> Tensor:
        """Return the denoise of the leaf at each cell's centre with the mask applied, [H, W]."""
        width, height = self.subdivision.size
        leaves = self.subdivision.find_leaves(threshold)
        root_px = self.subdivision.sides[0]
        grid, side = rasterize(leaves, leaves.denoise, width, height, root_px)
        rows = centre_blocks(self.size[0], height, side)
        columns = centre_blocks(self.size[1], width, side)
        values = grid[rows][:, columns]
        return values if self.mask is None else self.mask.apply(values)

    def find_threshold(self, share: float) -> float:
        """Return the threshold whose active share is nearest to `share`, among all tried so far.

        The share moves in steps, so that the last one a bisection tries need not be the nearest.
        """
        low, high = 0, self.most
        if self.subdivision.rule.needs_spread:
            # The denoise depends on the spread of all leaves, so the share may rise and fall: scan
            # for the nearest, and bisect around it.
            step = ceil(self.most / SCANNED) or 1
            scanned = range(0, self.most + step, step)
            best = min(scanned, key=lambda tenths: abs(self.measure_share(tenths) - share))
            low, high = max(low, best - step), min(high, best + step)
        for tenths in (low, high):
            self.measure_share(tenths)
        while high - low > 1:
            middle = (low + high) // 2
            if (self.measure_share(middle) > share) != self.subdivision.invert:
                low = middle
            else:
                high = middle
        return min(self.shares, key=lambda tenths: abs(self.shares[tenths] - share)) / PER_UNIT

    def measure_share(self, tenths: int) -> float:
        """Return the active share at a threshold of `tenths` / PER_UNIT."""
        if tenths not in self.shares:
            self.shares[tenths] = measure_active_share(self.map_denoise(tenths / PER_UNIT))
        return self.shares[tenths]
