"""Windows for several: they cover what is active as ever, and keep all shares busy."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from quadtree_pack.sampling.board import deal
from quadtree_pack.sampling.model import TRANSFORMER_COST, UNET_COST, Geometry, Settings
from quadtree_pack.sampling.run import create_run
from quadtree_pack.testing.plans import TILINGS, plan_of, random_cells
from quadtree_pack.utils import Box
from quadtree_pack.windows.cutting import AxisCutter
from quadtree_pack.windows.planning import Planner
from quadtree_pack.windows.shapes import batch_windows
from quadtree_pack.windows.sharing import (
    choose_batch,
    choose_stretch,
    list_limits,
    predict_makespan,
)
from quadtree_pack.windows.strips import ActiveField
from quadtree_pack.windows.tiling import Window

COSTS = st.lists(st.floats(0.5, 20), max_size=30)


@given(COSTS, st.integers(1, 9))
def test_the_makespan_is_that_of_batches_dealt_as_in_a_run(costs, shares):
    dealt = deal(costs, [1.0] * shares)
    last = max(sum(costs[number] for number in numbers) for numbers in dealt)
    assert predict_makespan(costs, shares) == pytest.approx(last)


def create(cost=TRANSFORMER_COST, shares=1, height=700, width=1024, **settings):
    geometry = Geometry(px_per_cell=8, unit=2, native_px=1024, cost=cost)
    run = create_run(None, Settings(**settings), geometry, torch.ones(1, height, width))
    if shares > 1:
        run.expect_helpers(shares)
    run.start([4.0, 3.0, 2.0, 1.0, 0.0])
    return run


def busy_share(run, shares):
    """Return for what share of a step's time so many equal machines would be busy, on the mean."""
    busy = []
    for step in range(4):
        costs = [
            run.tiling.cost.predict_window(box.height * box.width, run.tiling.batch)
            for box, _ in run.layouts.windows(step)
        ]
        busy.append(sum(costs) / shares / predict_makespan(costs, shares))
    return float(np.mean(busy))


@pytest.mark.parametrize("method", ["Shifted Feather", "MultiDiffusion"])
@pytest.mark.parametrize(
    ("shares", "height", "width"),
    [(4, 700, 1024), (8, 512, 512), (8, 700, 1024), (32, 700, 1024), (64, 1368, 2048)],
)
def test_windows_cut_for_many_keep_them_busy(shares, height, width, method):
    run = create(shares=shares, height=height, width=width, method=method)
    assert busy_share(run, shares) > 0.93
    assert busy_share(create(method=method), 32) < 0.85


@pytest.mark.parametrize(
    ("shares", "height", "width"), [(8, 700, 1024), (32, 700, 1024), (64, 1368, 2048)]
)
def test_windows_cut_for_many_move_from_step_to_step(shares, height, width):
    """The cut that is shared best would stay where it is."""
    run = create(shares=shares, height=height, width=width)
    for step in range(3):
        before, after = (set(run.layouts.windows(number)) for number in (step, step + 1))
        assert len(before & after) < len(after) / 2


@examples(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(200, 600), st.integers(200, 600), st.integers(0, 99))
def test_windows_cut_for_many_are_done_no_later_than_those_for_one(shares, height, width, seed):
    tiling = replace(create().tiling, cost=replace(TRANSFORMER_COST, per_shape=0))
    active = random_cells(height, width, 0.5, seed)

    def predict(shares_cut_for):
        windows = plan_of(replace(tiling, shares=shares_cut_for), active)
        costs = [tiling.cost.predict_window(box.extent, tiling.batch) for box, _ in windows]
        return predict_makespan(costs, shares)

    # Limits are steps of 8%, and a plan for one may lie between two.
    assert predict(shares) <= 1.1 * predict(1)


@examples(max_examples=60, deadline=None)
@given(
    TILINGS,
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0.05, 0.5, 1.1]),
    st.integers(0, 99),
)
def test_a_strip_is_the_cheapest_within_its_limit(tiling, height, width, share, seed):
    active = random_cells(height, width, share, seed).numpy()
    tiling = replace(tiling, shares=3)
    cutter = AxisCutter(width, tiling, (), choose_stretch((height, width), tiling))

    def find_strips(tiling, cuts):
        field, across = ActiveField(active, tiling), SimpleNamespace(find_cuts=cuts)
        return field.find_strips(0, height, inner_low=False, inner_high=False, across=across)

    cuts = []
    strips = find_strips(tiling, lambda *span: cuts.extend(cutter.find_cuts(*span)) or cuts)
    ways = [find_strips(replace(tiling, shares=1), lambda *span, cut=cut: [cut])[0] for cut in cuts]
    cheapest_dearest = min((way.costs.max() for way in ways), default=0)
    for limit, strip in zip(list_limits(tiling), strips, strict=True):
        most = max(limit, cheapest_dearest)
        within = [way.cost for way in ways if way.costs.max() <= most]
        assert strip.cost == pytest.approx(min(within, default=0))
        assert strip.costs.max(initial=0) <= most


@pytest.mark.parametrize("shares", [2, 8, 32])
def test_windows_cut_for_many_cost_little_more(shares):
    def total(run):
        cells = [
            box.height * box.width for step in range(4) for box, _ in run.layouts.windows(step)
        ]
        return sum(run.tiling.cost.predict_window(count, run.tiling.batch) for count in cells)

    assert total(create(shares=shares)) < 1.05 * total(create())


def test_a_latent_that_one_window_can_hold_keeps_it():
    run = create(shares=8, height=150, width=180)
    assert len(run.layouts.windows(0)) == 1


def test_shares_of_one_change_no_plan():
    tiling = create().tiling
    active = np.ones((350, 512), dtype=bool)
    plain = Planner((700, 1024), tiling).plan_run([active] * 3)
    assert Planner((700, 1024), replace(tiling, shares=1)).plan_run([active] * 3) == plain


@examples(max_examples=40, deadline=None)
@given(
    TILINGS,
    st.integers(2, 9),
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from([0.05, 0.4, 1.1]),
    st.integers(0, 99),
)
def test_windows_for_many_answer_for_every_active_cell_once(
    tiling, shares, height, width, share, seed
):
    active = random_cells(height, width, share, seed)
    cores = torch.zeros(height, width)
    tiling = replace(tiling, shares=shares)
    for box, core in plan_of(tiling, active, 2):
        cores[core.y0 : core.y1, core.x0 : core.x1] += 1
        longest, shortest = tiling.tile * tiling.unit, (tiling.smallest - 1) * tiling.unit
        assert max(box.height, box.width) <= longest
        assert min(box.height, box.width) >= min(shortest, height, width)
    assert cores.max() <= 1 and cores[active].eq(1).all()


@pytest.mark.parametrize("shares", [8, 16])
def test_windows_of_light_models_are_cut_for_the_calls_that_hold_them(shares):
    """Calls are dear beside their windows, so windows that are cut to be shared singly end late."""

    def predict(tiling):
        steps = [np.ones((350, 512), dtype=bool)] * 4
        windows = Planner((700, 1024), tiling).plan_run(steps)[0]
        numbers = batch_windows(windows, choose_batch(windows, tiling, 4))
        sizes = [(windows[batch[0]].box.extent, len(batch)) for batch in numbers]
        costs = [UNET_COST.predict_shape(cells, count=size, batch=size) for cells, size in sizes]
        return predict_makespan(costs, shares)

    tiling = create(cost=UNET_COST, shares=shares, method="MultiDiffusion").tiling
    assert predict(tiling) < 0.97 * predict(replace(tiling, together=1))


def equal_windows(count):
    box = Box(0, 0, 128, 128)
    return [Window(box=box, core=box)] * count


@pytest.mark.parametrize(
    ("count", "shares", "batch"),
    [(48, 1, 4), (48, 8, 3), (64, 8, 4), (8, 8, 1), (12, 8, 2), (3, 8, 1)],
)
def test_light_models_get_as_many_windows_per_call_as_keep_all_busy(count, shares, batch):
    tiling = replace(create(cost=UNET_COST).tiling, shares=shares)
    assert choose_batch(equal_windows(count), tiling, 4) == batch


def test_a_run_evaluates_the_same_batches_whoever_takes_part():
    run = create(cost=UNET_COST, shares=8)
    windows = run.layouts.windows(0)
    assert run.choose_batch(windows) == choose_batch(windows, run.tiling, 4)
    assert create(cost=TRANSFORMER_COST, shares=8).choose_batch(windows) == 1
    assert create(cost=UNET_COST).choose_batch(windows) == 4
