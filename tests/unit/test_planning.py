"""Planning: windows cover what is active, fit the model and its grid, and are cheap."""

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from quadtree_pack.sampling.model import TRANSFORMER_COST, UNET_COST, Geometry, Settings
from quadtree_pack.sampling.run import create_run
from quadtree_pack.testing.plans import TILINGS, TRANSFORMER, plan_of, random_cells
from quadtree_pack.utils import Box, ceil_div
from quadtree_pack.windows.blending import METHODS
from quadtree_pack.windows.cutting import compute_penalties
from quadtree_pack.windows.planning import FINALISTS, Planner, mark_active_units
from quadtree_pack.windows.shapes import share_shapes
from quadtree_pack.windows.tiling import (
    Cost,
    HalfUnitBox,
    PlannedWindow,
    Tiling,
    UnitBox,
    Window,
    to_cells,
)


def cost_of(windows, tiling):
    shapes = Counter((window.box.height, window.box.width) for window in windows)
    return sum(
        tiling.cost.predict_shape(height * width, count=count, batch=tiling.batch)
        for (height, width), count in shapes.items()
    )


@given(
    TILINGS,
    st.integers(1, 600),
    st.integers(1, 600),
    st.sampled_from([0.0, 0.05, 0.4, 1.1]),
    st.integers(1, 3),
    st.integers(0, 99),
)
@examples(max_examples=150, deadline=None)
def test_a_plan_answers_for_every_active_cell_once(tiling, height, width, share, turns, seed):
    active = random_cells(height, width, share, seed)
    cores = torch.zeros(height, width)
    for window in plan_of(tiling, active, turns):
        box, core = window.box, window.core
        assert 0 <= box.x0 <= core.x0 < core.x1 <= box.x1 <= width
        assert 0 <= box.y0 <= core.y0 < core.y1 <= box.y1 <= height
        assert box.x0 % tiling.unit == 0 and box.y0 % tiling.unit == 0
        assert box.x1 % tiling.unit == 0 or box.x1 == width
        assert box.y1 % tiling.unit == 0 or box.y1 == height
        assert max(box.width, box.height) <= tiling.tile * tiling.unit
        assert box.width >= min(tiling.smallest * tiling.unit, width) - tiling.unit + 1
        assert box.height >= min(tiling.smallest * tiling.unit, height) - tiling.unit + 1
        half = tiling.overlap * tiling.unit // 2
        assert box.x0 <= max(0, core.x0 - half) and box.x1 >= min(width, core.x1 + half)
        assert box.y0 <= max(0, core.y0 - half) and box.y1 >= min(height, core.y1 + half)
        cores[core.slices] += 1
    assert cores.max() <= 1 and (cores[active] == 1).all()


@given(TILINGS, st.integers(1, 60), st.integers(1, 60), st.booleans(), st.integers(0, 99))
@examples(max_examples=80, deadline=None)
def test_steps_share_shapes_where_that_is_cheaper_for_the_run(tiling, rows, columns, same, seed):
    height, width = rows * tiling.unit, columns * tiling.unit

    def plan_run(per_shape):
        dear = replace(tiling, cost=replace(tiling.cost, per_shape=per_shape))
        return Planner((height, width), dear).plan_run(units)

    actives = [random_cells(height, width, 0.3, seed + step * (not same)) for step in range(4)]
    units = [mark_active_units(active, tiling.unit) for active in actives]
    free, dear = plan_run(0), plan_run(20_000)
    for active, before, now in zip(actives, free, dear, strict=True):
        assert [window.core for window in now] == [window.core for window in before]
        cores = torch.zeros(height, width, dtype=torch.bool)
        for old, new in zip(before, now, strict=True):
            assert new.box.x0 <= old.box.x0 <= old.box.x1 <= new.box.x1 <= width
            assert new.box.y0 <= old.box.y0 <= old.box.y1 <= new.box.y1 <= height
            assert max(new.box.width, new.box.height) <= tiling.tile * tiling.unit
            cores[new.core.slices] = True
        assert cores[active].all()
    assert len(shapes_of(dear)) <= len(shapes_of(free))
    assert price_run(dear, tiling, 20_000) <= price_run(free, tiling, 20_000) * (1 + 1e-9)


def shapes_of(steps):
    return {(window.box.height, window.box.width) for windows in steps for window in windows}


def price_run(steps, tiling, per_shape):
    """What the planner predicts for the windows of a run, if all batches were full."""
    total = per_shape * len(shapes_of(steps))
    for windows in steps:
        for window in windows:
            cells = window.box.height * window.box.width
            total += tiling.cost.predict_window(cells, tiling.batch)
    return total


@pytest.mark.parametrize(("tile", "overlap"), [(2, 1), (3, 1), (4, 1), (6, 3), (8, 3), (10, 5)])
def test_a_border_s_own_unit_at_the_end_of_what_is_active_stays_within_the_tile(tile, overlap):
    tiling = Tiling(unit=2, tile=tile, smallest=1, overlap=overlap, moving=True, cost=TRANSFORMER)
    for bits in ("110", "01111011001100", "0111111111100000", "1" * 30 + "0"):
        active = torch.tensor([bit == "1" for bit in bits]).repeat_interleave(2)[None].expand(2, -1)
        planner = Planner(tuple(active.shape), tiling)
        for _ in range(5):
            windows = planner.plan(mark_active_units(active, 2))
            cores = torch.zeros(active.shape)
            for window in windows:
                assert window.box.width <= 2 * tile
                cores[window.core.slices] += 1
            assert cores.max() <= 1 and (cores[active] == 1).all()


@pytest.mark.parametrize(
    ("overlap", "boxes", "cores"),
    [  # ends in cells, counted by hand; a border lies in the middle of an overlap
        (0, [(0, 8), (8, 16)], [(0, 8), (8, 16)]),
        (2, [(0, 10), (6, 16)], [(0, 8), (8, 16)]),
        (1, [(0, 8), (6, 16)], [(0, 7), (7, 16)]),
        (3, [(0, 10), (4, 16)], [(0, 7), (7, 16)]),
    ],
)
def test_windows_overlap_as_the_tiling_says(overlap, boxes, cores):
    tiling = Tiling(
        unit=2, tile=6, smallest=1, overlap=overlap, moving=False, cost=TRANSFORMER, batch=1
    )
    windows = plan_of(tiling, torch.ones(2, 16, dtype=torch.bool))
    assert [(window.box.x0, window.box.x1) for window in windows] == boxes
    assert [(window.core.x0, window.core.x1) for window in windows] == cores


def test_a_planned_window_ends_with_the_latent_where_its_last_unit_does_not():
    planned = PlannedWindow(UnitBox(Box(1, 0, 4, 2)), HalfUnitBox(Box(3, 0, 8, 4)))
    window = to_cells(planned, unit=4, size=(7, 15))
    assert window == Window(box=Box(4, 0, 15, 7), core=Box(6, 0, 15, 7))


def test_an_overlap_as_large_as_the_tile_is_no_matter_in_one_window():
    (window,) = plan_of(
        Tiling(unit=2, tile=8, smallest=4, overlap=8, moving=True, cost=TRANSFORMER),
        torch.ones(16, 16, dtype=torch.bool),
    )
    assert window.box == (0, 0, 16, 16)


def test_calm_cells_cost_nothing():
    assert (
        plan_of(
            Tiling(unit=8, tile=4, smallest=2, overlap=1, moving=True, cost=TRANSFORMER),
            torch.zeros(40, 40, dtype=torch.bool),
        )
        == ()
    )


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
@examples(deadline=None)
def test_an_image_that_fits_a_window_is_not_cut(height, width, moving):
    active = torch.ones(2 * height, 2 * width, dtype=torch.bool)
    (window,) = plan_of(
        Tiling(unit=2, tile=40, smallest=10, overlap=4, moving=moving, cost=TRANSFORMER),
        active,
        turns=2,
    )
    assert window.box == window.core == (0, 0, 2 * width, 2 * height)


@pytest.mark.parametrize("seed", range(6))
def test_one_strip_is_as_cheap_as_the_best_of_all_ways_to_cut_it(seed):
    """Compare with all sets of borders of a line of units, windows trimmed to what is active."""
    tiling = Tiling(unit=16, tile=8, smallest=2, overlap=0, moving=False, cost=TRANSFORMER)
    active = torch.rand(16, generator=torch.Generator().manual_seed(seed)) < 0.7
    active[[0, -1]] = True

    def price(borders):
        total = 0.0
        for low, high in zip((0, *borders), (*borders, len(active)), strict=True):
            (inside,) = torch.where(active[low:high])
            if len(inside):
                length = max(int(inside[-1] - inside[0]) + 1, tiling.smallest)
                total += (
                    np.inf
                    if length > tiling.tile
                    else float(TRANSFORMER.predict_window(length * 16 * 32, 1))
                )
        return total

    best = min(
        price(borders)
        for count in range(6)
        for borders in combinations(range(1, len(active)), count)
    )
    cells = active.repeat_interleave(16)[None].expand(32, -1)
    assert cost_of(plan_of(tiling, cells), tiling) <= 1.1 * best


@pytest.mark.parametrize("seed", range(4))
def test_a_plan_is_about_as_cheap_as_the_best_of_all_strips_and_pieces(seed):
    """Compare with all borders down and, in every strip, across: 7 x 7 units, windows up to 4."""
    tiling = Tiling(unit=16, tile=4, smallest=2, overlap=0, moving=False, cost=TRANSFORMER)
    active = random_cells(49, 49, 0.6, seed)[::7, ::7]

    def ways(length):
        return [
            (0, *cut, length)
            for count in range(length)
            for cut in combinations(range(1, length), count)
        ]

    @cache
    def piece(y0, y1, x0, x1):
        rows, columns = torch.where(active[y0:y1, x0:x1])
        if not len(rows):
            return 0.0
        sides = [
            max(int(where.max() - where.min()) + 1, tiling.smallest) for where in (rows, columns)
        ]
        return (
            np.inf
            if max(sides) > tiling.tile
            else float(TRANSFORMER.predict_window(sides[0] * sides[1] * 256, 1))
        )

    @cache
    def strip(y0, y1):
        return min(sum(piece(y0, y1, *ends) for ends in pairwise(cut)) for cut in ways(7))

    best = min(sum(strip(*ends) for ends in pairwise(cut)) for cut in ways(7))
    cells = active.repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert cost_of(plan_of(tiling, cells), tiling) <= 1.15 * best


@pytest.mark.parametrize(
    ("size", "overlap", "floor"),
    [((512, 512), 0, 0.97), ((342, 512), 0, 0.97), ((512, 512), 4, 0.85), ((342, 512), 4, 0.85)],
)
def test_a_full_4k_canvas_costs_hardly_more_than_its_cells(size, overlap, floor):
    """Against the cheapest cost per cell there is, also while the lattice moves."""
    tiling = Tiling(
        unit=2, tile=96, smallest=32, overlap=overlap, moving=True, cost=TRANSFORMER, batch=4
    )
    cells = np.arange(1000, 40_000)
    cheapest = float((TRANSFORMER.predict_window(cells, 4) / cells).min())
    planner = Planner(size, tiling)
    units = mark_active_units(torch.ones(size, dtype=torch.bool), 2)
    costs = [cost_of(planner.plan(units), tiling) for _ in range(8)]
    assert size[0] * size[1] * cheapest / np.mean(costs) > floor


def test_a_moving_lattice_may_stand_still_for_some_steps():
    tiling = Tiling(
        unit=2, tile=48, smallest=16, overlap=2, moving=True, standing=3, cost=TRANSFORMER
    )
    everything = np.ones((120, 160), dtype=bool)
    plans = Planner((240, 320), tiling).plan_run([everything] * 8)
    moves = [step for step in range(1, 8) if plans[step] != plans[step - 1]]
    assert moves == [3, 6]
    other = everything.copy()
    other[:60] = False
    plans = Planner((240, 320), tiling).plan_run([other, *[everything] * 5])
    assert [step for step in range(1, 6) if plans[step] != plans[step - 1]] == [1, 4]


def test_a_moving_lattice_keeps_away_from_its_recent_borders():
    tiling = Tiling(unit=2, tile=48, smallest=16, overlap=2, moving=True, cost=TRANSFORMER, batch=4)
    planner = Planner((400, 400), tiling)
    units = mark_active_units(torch.ones(400, 400, dtype=torch.bool), 2)
    plans = [{window.core.x0 for window in planner.plan(units)} - {0} for _ in range(8)]
    moves = [
        np.mean([min(abs(x - border) for border in before) for x in now])
        for before, now in pairwise(plans)
    ]
    assert np.mean(moves) >= 8 and np.count_nonzero(moves) >= len(moves) - 1


@pytest.mark.parametrize("overlap", [0, 2])
def test_a_moving_lattice_leaves_the_last_step_s_borders_where_every_place_was_used_lately(overlap):
    """Short axes have few places: the oldest borders come again, not the cheapest each step."""
    tiling = Tiling(
        unit=4, tile=8, smallest=4, overlap=overlap, moving=True, cost=TRANSFORMER, batch=4
    )
    planner = Planner((64, 84), tiling)
    units = mark_active_units(torch.ones(64, 84, dtype=torch.bool), 4)
    plans = [{window.core.x0 for window in planner.plan(units)} - {0} for _ in range(12)]
    assert all(before != now for before, now in pairwise(plans))


def test_a_lattice_without_overlap_pays_more_to_move():
    """Nothing else hides its borders: it moves even where that costs more than half a percent."""
    places = range(25)
    bare, soft = (
        compute_penalties(
            24,
            [[8, 16]],
            Tiling(unit=4, tile=8, smallest=4, overlap=overlap, moving=True, cost=TRANSFORMER),
        )
        for overlap in (0, 2)
    )
    assert all(bare[place] >= soft[place] for place in places) and bare[8] > soft[8] > 1 == soft[12]


def test_older_borders_repel_less():
    new, old = (
        compute_penalties(
            24, recent, Tiling(unit=4, tile=8, smallest=4, overlap=2, moving=True, cost=TRANSFORMER)
        )[8]
        for recent in ([[], [8]], [[8], []])
    )
    assert new > old > 1


def test_a_fixed_lattice_stands_still():
    tiling = Tiling(
        unit=2, tile=48, smallest=16, overlap=2, moving=False, cost=TRANSFORMER, batch=4
    )
    active = torch.ones(400, 300, dtype=torch.bool)
    assert plan_of(tiling, active, turns=1) == plan_of(tiling, active, turns=3)


def test_scattered_specks_do_not_stop_the_planner(monkeypatch):
    """Sharing shapes looks at every shape once, and not again after each change.

    A look prices the merges with all other shapes.
    """
    looks = []
    predict_shape = Cost.predict_shape

    def count(self, cells, **options):
        looks.append(1)
        return predict_shape(self, cells, **options)

    monkeypatch.setattr(Cost, "predict_shape", count)
    specks = np.random.default_rng(0).random((512, 512)) < 0.002
    windows = Planner(
        (1024, 1024),
        Tiling(unit=2, tile=64, smallest=32, overlap=4, moving=True, cost=TRANSFORMER, batch=4),
    ).plan(specks)
    assert len(windows) > 50 and len(looks) < 5 * FINALISTS * len(windows)


def test_windows_of_almost_one_shape_share_it_where_calls_are_dear():
    dear = Tiling(
        unit=8,
        tile=12,
        smallest=4,
        overlap=0,
        moving=True,
        cost=Cost(per_call=112_000, per_window=0, quadratic=35_000),
        batch=4,
    )
    active = random_cells(256, 512, 0.8, 5)
    shapes = {(window.box.height, window.box.width) for window in plan_of(dear, active, turns=2)}
    assert len(shapes) <= 2
    assert share_shapes([], (10, 10), dear) == []


def test_how_many_windows_are_evaluated_together_does_not_change_the_plan():
    """Memory decides how many; it must not decide what the picture becomes."""
    specks = (torch.rand(12, 13, generator=torch.Generator().manual_seed(2)) < 0.3).double()
    denoise = specks.repeat_interleave(8, 0).repeat_interleave(8, 1)[None]
    plans = []
    for batch in (0, 1, 2, 8):
        settings = Settings(tile_px=384, overlap_px=0, batch=batch)
        run = create_run(
            None,
            settings,
            Geometry(px_per_cell=8, unit=2, native_px=128, cost=TRANSFORMER),
            denoise,
        )
        run.start([3.0, 2.0, 1.0, 0.0])
        plans.append([run.layouts.windows(step) for step in range(3)])
    assert all(plan == plans[0] for plan in plans)
    assert (
        len({(window.box.height, window.box.width) for windows in plans[0] for window in windows})
        > 3
    )


def plan_all_active(method, cost, unit, height, width, steps=20):
    run = create_run(
        None,
        Settings(method=method, tile_px=512, overlap_px=64),
        Geometry(px_per_cell=8, unit=unit, native_px=1024, cost=cost),
        torch.ones(1, height, width, dtype=torch.float64),
    )
    run.start([float(steps - step) for step in range(steps + 1)])
    return [run.layouts.windows(step) for step in range(steps)]


@pytest.mark.parametrize("unit", [1, 3])
@pytest.mark.parametrize(("tile_px", "overlap_px"), [(224, 96 + 32), (288, 160), (480, 256)])
def test_the_overlap_that_a_refusal_names_is_taken(unit, tile_px, overlap_px):
    geometry = Geometry(px_per_cell=32, unit=unit, native_px=768, cost=TRANSFORMER_COST)
    settings = Settings(method="MultiDiffusion", tile_px=tile_px, overlap_px=overlap_px)
    with pytest.raises(ValueError, match=r"use at most \d+ px") as refused:
        geometry.choose_tiling(settings, 90, 90)
    most = int(re.search(r"at most (\d+) px", str(refused.value))[1])
    geometry.choose_tiling(replace(settings, overlap_px=most), 90, 90)


@pytest.mark.parametrize(
    ("native_px", "unit", "height", "width", "tile_px"),
    [(512, 8, 62, 100, 512), (512, 8, 188, 62, 0), (1024, 4, 238, 62, 1024)],
)
def test_shapes_are_not_shared_where_that_evaluates_more_than_a_grid(
    native_px, unit, height, width, tile_px
):
    geometry = Geometry(px_per_cell=8, unit=unit, native_px=native_px, cost=UNET_COST)
    settings = Settings(method="SpotDiffusion", tile_px=tile_px, overlap_px=0)
    run = create_run(None, settings, geometry, torch.ones(1, height, width, dtype=torch.float64))
    run.start([float(6 - step) for step in range(7)])
    tile = run.tiling.tile * unit
    rows, columns = ceil_div(height, tile), ceil_div(width, tile)
    grid = rows * columns * min(tile, height) * min(tile, width)
    evaluated = [sum(one.box.extent for one in run.layouts.windows(step)) for step in range(6)]
    assert max(evaluated) <= 1.12 * grid


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("cost", "unit", "most"), [(TRANSFORMER_COST, 2, 1.34), (UNET_COST, 4, 1.44)]
)
@pytest.mark.parametrize(
    ("height", "width"), [(128, 128), (128, 192), (160, 160), (192, 256), (144, 216), (256, 256)]
)
def test_small_tiles_evaluate_no_more_than_a_grid_of_them(method, cost, unit, most, height, width):
    plans = plan_all_active(method, cost, unit, height, width)
    tile, overlap = 512 // 8, 64 // 8
    rows, columns = (ceil_div(side - overlap, tile - overlap) for side in (height, width))
    evaluated = [sum(window.box.extent for window in windows) for windows in plans]
    assert max(evaluated) <= rows * columns * tile**2
    assert sum(evaluated) <= most * len(plans) * height * width
