"""Numbers about trees and the cost of a run with them, also as a table to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from ..quadtree import FrameTrees, Quadtree, count_clip_frames
from ..sampling.cost import estimate_typical_cost
from ..sampling.model import TYPICAL
from ..utils import ceil_div

BARS = 10  # of the histogram of denoise
BAR_LENGTH = 30  # in characters, of a bar that stands for the whole image


@dataclass(frozen=True, slots=True)
class Facts:
    """Numbers about one tree or several.

    `size` is width and height in px, and `frames` counts those of a clip, 1 of images; `sides`
    counts the leaves of all trees by their side in px. The rest are means over the trees:
    `histogram`, the share of the image's area in each tenth of denoise; `kept`, the share with
    denoise 0; `denoise`; and `cost`, the share of the full model cost that a run of `steps` steps
    takes.
    """

    size: tuple[int, int]
    frames: int
    trees: int
    tiles: int
    sides: dict[int, int]
    histogram: tuple[float, ...]
    kept: float
    denoise: float
    cost: float
    steps: int

    def text(self) -> str:
        """Return the numbers as lines for the user."""
        width, height = self.size
        several = f", {self.trees} trees" if self.trees > 1 else ""
        clip = f", {self.frames} frames" if self.frames > 1 else ""
        lines = [f"{width} x {height} px{clip}, {self.tiles} tiles{several}", "", "side px   tiles"]
        lines += [
            f"{side:>7} {count:>7}" for side, count in sorted(self.sides.items(), reverse=True)
        ]
        lines += ["", "denoise    share of the image"]
        for number, share in enumerate(self.histogram):
            low, high = number / BARS, (number + 1) / BARS
            bar = "#" * round(BAR_LENGTH * share)
            lines.append(f"{low:.1f}-{high:.1f} {100 * share:>6.1f}% {bar}".rstrip())
        lines += ["", f"kept: {100 * self.kept:.1f}% of the image, mean denoise {self.denoise:.2f}"]
        lines.append(
            f"cost: about {100 * self.cost:.0f}% of the full model cost at {self.steps} steps"
        )
        return "\n".join(lines)


def gather_facts(trees: Sequence[Quadtree], steps: int) -> Facts:
    """Return the numbers about these trees, of one size; the cost is that of a typical model.

    A model evaluates a window in all frames of a clip or in none, so the trees of its frames have
    one cost together.
    """
    cell = TYPICAL.px_per_cell
    runs: Sequence[Quadtree | FrameTrees] = [trees] if isinstance(trees, FrameTrees) else trees
    maps = [
        tree.denoise_map(ceil_div(tree.height, cell), ceil_div(tree.width, cell)) for tree in trees
    ]
    histograms = [cells.clamp(0, 1).histc(BARS, 0, 1) / cells.numel() for cells in maps]
    sides = Counter(leaf.side for tree in trees for leaf in tree.leaves)
    return Facts(
        size=(trees[0].width, trees[0].height),
        frames=count_clip_frames(trees),
        trees=len(trees),
        tiles=sum(sides.values()),
        sides=dict(sides),
        histogram=tuple(mean(float(one[number]) for one in histograms) for number in range(BARS)),
        kept=mean(float((cells == 0).double().mean()) for cells in maps),
        denoise=mean(float(cells.mean()) for cells in maps),
        cost=mean(estimate_typical_cost(each, steps) for each in runs),
        steps=steps,
    )
