"""What the tree decides: whether it refines where an enlarged picture has lost detail.

Each picture is reduced by 2 or 4 and enlarged to its own size again, both bicubic, and the tree
sees the enlarged picture alone. *Lost detail* is the squared difference of the luma between the
original and the enlarged picture: what a refine should bring back. A node that is placed and not
touched should keep much of the area, with little of the lost detail in it.

The constants of the tree were found on half of the pictures; the first tables are of the other
half. Costs and disturbances, which take the longest, are those of the first SAMPLED pictures only.

trees: the tree of the defaults, after x2 and x4, that of the first release's defaults, and equal
blocks that deliver as much as the defaults: what a choice without windows in mind would cost
- kept: share of the area with denoise 0
- lost: share of the lost detail in it
- delivered: mean denoise, weighted by lost detail, over the largest denoise
- dark: share of the lost detail of the darkest quarter of the picture in what is kept
- cost 1024, 2048, 4096: evaluated cells over those of one uniform denoise of the largest, for an
  image of that longest side in px, at 20 steps
- tiles: leaves of the tree

rankings: tiles of the default size, in the order of a score. 5% and 10% are the area that is kept
where the calmest tiles with so much of the lost detail are given up; correlation is
Spearman's of the ranks, with the lost detail.

disturbances: by how much the kept area changes if the enlarged picture gets grain of 4 levels of
255, the compression of JPEG at quality 60, or a gradient of 0.1 from left to right.

Contact sheets of all default trees are written to benchmarks/output/decide-trees-*.jpg.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from multiprocessing import get_context

import torch
from PIL import Image
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.sampling.cost import Sampling, estimate_cost
from quadtree_pack.sampling.model import TYPICAL, TYPICAL_STEPS, Settings
from quadtree_pack.tree.blocks import GRID_PX, pool_sums
from quadtree_pack.tree.detail import DETAIL_METRICS, BlockSums
from quadtree_pack.tree.merging import merge_tiles
from quadtree_pack.tree.octaves import measure_fine_detail
from quadtree_pack.tree.subdivision import choose_tile_sizes
from quadtree_pack.ui.building import build_tree
from scipy.stats import spearmanr
from torch import Tensor

from . import decide_report as report
from .decide_pictures import (
    DISTURBANCES,
    Picture,
    as_tensor,
    enlarge,
    find_pictures,
    measure_luma,
    sum_blocks,
    sum_lost_detail,
)

FACTORS = (2, 4)
SAMPLED = 150  # pictures of which costs and disturbances are measured
MIN_DENOISE, MAX_DENOISE = 0.2, 0.8
FIRST_RELEASE = {"content_threshold": 25.0, "min_tile_px": 64, "max_tile_px": 1024}
DEFAULT = report.DEFAULT
CASES = (  # a tree's name, the factor by which the picture was enlarged, and the node's inputs
    (DEFAULT, 2, {}),
    ("defaults, x4", 4, {}),
    ("first release, x2", 2, FIRST_RELEASE),
)
LONGEST_PX = (1024, 2048, 4096)  # of the images whose cost is estimated
BLOCKS = 16  # along the longest side: of 256 px in an image of 4096 px
BLOCK_DENOISE = (0.8, 0.6, 0.4)  # of the thirds of the refined blocks, those with most detail first
REAL_OCTAVE = 1  # the finest that an enlargement by 2 has left
GIVEN_UP = (0.05, 0.1)  # shares of the lost detail
DARKEST = 0.25  # share of the area
PROGRESS_EVERY = 20  # pictures

Task = tuple[Picture, bool]  # and whether it is among the SAMPLED


def run(pictures: int | None = None) -> list[dict]:
    """Measure the first `pictures` by hash, or all; print, draw and return a row for each."""
    chosen = find_pictures()[:pictures]
    tasks = [(picture, number < SAMPLED) for number, picture in enumerate(chosen)]
    rows, sheets = [], []
    for row, drawn in measure_all(tasks):
        rows.append(row)
        sheets.append(drawn)
        if len(rows) % PROGRESS_EVERY == 0:
            print(f"{len(rows)} of {len(tasks)} pictures", flush=True)
    report.print_tables(rows)
    targets = report.check_targets(rows)
    for path in report.draw(rows, sheets, in_docs=pictures is None):
        print(f"(drawn in {path})")
    return [*rows, *targets]


def measure_all(tasks: Sequence[Task]) -> Iterator[tuple[dict, Image.Image]]:
    """Yield what `measure` returns of each task, in order; every core has a process."""
    # By this name a new process can import it before the pack is registered there.
    from testing.registration import register_pack

    with get_context("spawn").Pool(os.cpu_count(), initializer=register_pack) as pool:
        yield from pool.imap(measure, tasks)


def measure(task: Task) -> tuple[dict, Image.Image]:
    """Return a picture's row, and the default tree drawn over it."""
    torch.set_num_threads(1)
    picture, sampled = task
    sharp = picture.load()
    dark = find_darkest(sum_blocks(measure_luma(sharp)))
    row: dict = {"picture": picture.name, "held_out": picture.held_out, "rankings": {}}
    judged = row["trees"] = {}
    trees = {}
    seen = {factor: look(sharp, factor) for factor in FACTORS}
    for name, factor, options in CASES:
        lost, sums = seen[factor]
        trees[name], _ = build_tree(sums, **options)
        judged[name] = judge_tree(trees[name], lost, dark)
        if sampled and factor == FACTORS[0]:
            judged[name].update(estimate_costs(trees[name]))
    if sampled:
        lost, sums = seen[FACTORS[0]]
        blocks = build_blocks(sums, lost, judged[DEFAULT]["delivered"])
        judged[report.BLOCKS] = {**judge_tree(blocks, lost, dark), **estimate_costs(blocks)}
    for factor, (lost, sums) in seen.items():
        row["rankings"][f"x{factor}"] = judge_rankings(sums, lost)
    enlarged = enlarge(sharp, FACTORS[0])
    if sampled:
        row["drift"] = measure_drift(enlarged, judged[DEFAULT]["kept"])
    return row, report.draw_tree(enlarged, trees[DEFAULT])


def look(sharp: Image.Image, factor: int) -> tuple[Tensor, BlockSums]:
    """Return the lost detail of each block, and what a tree sees of the enlarged picture."""
    enlarged = enlarge(sharp, factor)
    sums = BlockSums.of_image(as_tensor(enlarged), edges=True, octaves=True)
    return sum_lost_detail(sharp, enlarged), sums


# --- Trees ----------------------------------------------------------------------------------------


def judge_tree(tree: Quadtree, lost: Tensor, dark: Tensor) -> dict[str, float]:
    """Return what a tree keeps and delivers; `lost` and `dark` are [rows, columns] of blocks."""
    denoise = tree.denoise_map(*lost.shape)
    kept = denoise == 0
    return {
        "kept": float(kept.double().mean()),
        "lost": share_in(lost, kept),
        "delivered": share_in(lost, denoise / MAX_DENOISE),
        "dark": share_in(lost * dark, kept),
        "tiles": float(len(tree.leaves)),
    }


def build_blocks(sums: BlockSums, lost: Tensor, delivered: float) -> Quadtree:
    """Return the tree of the fewest equal blocks that deliver so much, the busiest first."""
    longest = max(sums.width, sums.height)
    side = max(1, round(longest / BLOCKS / GRID_PX)) * GRID_PX
    assert sums.octaves is not None
    detail = pool_sums(sums.octaves, side // GRID_PX)[..., REAL_OCTAVE]
    order = detail.flatten().argsort(descending=True)

    def build(count: int) -> Quadtree:
        denoise = torch.zeros(detail.numel(), dtype=torch.float64)
        for value, blocks in zip(BLOCK_DENOISE, order[:count].tensor_split(3), strict=True):
            denoise[blocks] = value
        leaves = merge_tiles(denoise.view_as(detail), detail, sums.width, sums.height, [side])
        return Quadtree(sums.width, sums.height, side, leaves)

    def delivers(count: int) -> bool:
        denoise = build(count).denoise_map(*lost.shape)
        return share_in(lost, denoise / MAX_DENOISE) >= delivered

    counts = range(len(order))
    return build(bisect_left(counts, True, key=delivers))


def share_in(values: Tensor, weights: Tensor) -> float:
    """Return the sum of the weighted values over that of all; 0 where all are 0."""
    return float((values * weights).sum() / values.sum().clamp_min(1e-12))


def find_darkest(luma: Tensor) -> Tensor:
    """Return the darkest quarter of the blocks, bool [rows, columns]."""
    dark = torch.zeros(luma.numel(), dtype=torch.bool)
    dark[luma.flatten().argsort(stable=True)[: round(DARKEST * luma.numel())]] = True
    return dark.view_as(luma)


def estimate_costs(tree: Quadtree) -> dict[str, float]:
    costs = {}
    longest = max(tree.width, tree.height)
    for px in LONGEST_PX:
        width, height = (
            round(side * px / longest / TYPICAL.px_per_cell) for side in (tree.width, tree.height)
        )
        cost = estimate_cost(
            [tree],
            Settings(),
            TYPICAL,
            sampling=Sampling(steps=TYPICAL_STEPS),
            height=height,
            width=width,
        )
        costs[f"cost {px}"] = cost / MAX_DENOISE
    return costs


def measure_drift(enlarged: Image.Image, kept: float) -> dict[str, float]:
    """Return the change of the kept area by each disturbance."""
    drift = {}
    for name, disturb in DISTURBANCES.items():
        sums = BlockSums.of_image(as_tensor(disturb(enlarged)), octaves=True)
        tree, _ = build_tree(sums)
        denoise = tree.denoise_map(*sums.px.shape)
        drift[name] = float((denoise == 0).double().mean()) - kept
    return drift


# --- Rankings -------------------------------------------------------------------------------------


def judge_rankings(sums: BlockSums, lost: Tensor) -> dict[str, dict[str, float]]:
    """Return for each score what its ranking of the default tiles is worth."""
    side, _ = choose_tile_sizes(sums.width, sums.height, 0, 0)
    lost = pool_sums(lost[..., None], side // GRID_PX)[..., 0]
    px = pool_sums(sums.px[..., None], side // GRID_PX)[..., 0]
    judged = {}
    for name, score in score_tiles(sums, side, lost / px).items():
        judged[name] = {
            f"{share:.0%}": find_kept_area(score, lost, px, share) for share in GIVEN_UP
        }
        judged[name]["correlation"] = correlate(score, lost / px)
    return judged


def score_tiles(sums: BlockSums, side: int, lost: Tensor) -> dict[str, Tensor]:
    """Return the scores of tiles of `side` px by name; `lost` is their mean lost detail."""
    tiles = pool_sums(sums.sums, side // GRID_PX)
    px = pool_sums(sums.px[..., None], side // GRID_PX)[..., 0]
    assert sums.octaves is not None
    return {
        "random": torch.rand(px.shape, generator=torch.Generator().manual_seed(0)),
        **{name: metric(tiles) for name, metric in DETAIL_METRICS.items()},
        "fine detail": measure_fine_detail(sums.octaves, sums.px, side) / px,
        "lost detail": lost,
    }


def find_kept_area(score: Tensor, lost: Tensor, px: Tensor, share: float) -> float:
    """Return the share of the area in the tiles of the lowest scores that hold `share` of `lost`.

    All are [rows, columns]; `px` is the area of each tile.
    """
    order = score.flatten().argsort(stable=True)
    given_up = lost.flatten()[order].cumsum(0)
    fits = given_up <= share * lost.sum()
    return float(px.flatten()[order][fits].sum() / px.sum())


def correlate(score: Tensor, lost: Tensor) -> float:
    """Return Spearman's rank correlation; 0 where one of both is the same everywhere."""
    if score.min() == score.max() or lost.min() == lost.max():
        return 0.0
    return float(spearmanr(score.flatten().numpy(), lost.flatten().numpy()).statistic)
