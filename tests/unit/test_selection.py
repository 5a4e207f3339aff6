"""Tiles are given up by what they are worth and what their windows cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.sampling.model import ROUGH, ROUGH_SETTINGS
from quadtree_pack.windows.planning import PlanSearch
from quadtree_pack.windows.selection import GRADES, TileGrid, grade_tiles, rank_tiles

UNITS_PER_TILE = 4


def lay_grid(rows, columns):
    """Return the grid of tiles of 4 x 4 units of 32 px."""
    lines = [np.arange(count * UNITS_PER_TILE) // UNITS_PER_TILE for count in (rows, columns)]
    tiling = ROUGH.choose_tiling(ROUGH_SETTINGS, *(len(line) for line in lines))
    return TileGrid(*lines, tiling=tiling)


def make_detail(rows, columns, seed):
    """Return detail in a few clusters, over a little everywhere."""
    generator = np.random.default_rng(seed)
    detail = generator.random((rows, columns)) ** 4
    for _ in range(2):
        row, column = generator.integers(rows), generator.integers(columns)
        detail[row : row + 5, column : column + 5] += generator.random() * 5
    return detail


def predict_cost(grid, chosen):
    active = chosen[np.ix_(grid.rows, grid.columns)]
    return PlanSearch(active, grid.tiling, (), ()).find_cheapest().cost


@given(st.integers(1, 32), st.integers(1, 32), st.integers(0, 100), st.floats(0.01, 1))
@settings(max_examples=40, deadline=None)
def test_tiles_below_a_rank_hold_at_least_that_share_of_the_detail(rows, columns, seed, share):
    detail = make_detail(rows, columns, seed)
    ranks = rank_tiles(detail, [lay_grid(rows, columns)])
    chosen = ranks < share
    assert detail[chosen].sum() >= (share - 1e-9) * detail.sum()
    for rank in np.unique(ranks):
        assert detail[ranks < rank].sum() >= (rank - 1e-9) * detail.sum()


def test_tiles_without_detail_are_given_up_first():
    detail = make_detail(24, 24, 0)
    detail[10:] = 0
    ranks = rank_tiles(detail, [lay_grid(24, 24)])
    assert (ranks[10:] == 1).all()
    assert (rank_tiles(np.zeros((24, 24)), [lay_grid(24, 24)]) == 1).all()


def test_an_island_goes_before_the_same_detail_beside_others():
    detail = np.zeros((32, 32))
    detail[2:9, 2:9] = 1.0
    detail[9, 5] = detail[28, 28] = 1.2
    ranks = rank_tiles(detail, [lay_grid(32, 32)])
    assert ranks[28, 28] > ranks[9, 5]


@pytest.mark.parametrize("seed", range(6))
def test_windows_make_the_choice_cheaper_than_detail_alone(seed):
    detail = make_detail(32, 32, seed)
    grid = lay_grid(32, 32)
    chosen = rank_tiles(detail, [grid]) < 0.8
    order = detail.ravel().argsort()[::-1]
    enough = int((detail.ravel()[order].cumsum() < detail[chosen].sum()).sum()) + 1
    by_detail = np.zeros(detail.size, dtype=bool)
    by_detail[order[:enough]] = True
    cost = predict_cost(grid, chosen)
    assert cost <= predict_cost(grid, by_detail.reshape(detail.shape))


@pytest.mark.parametrize("seed", range(4))
def test_grades_rise_with_coverage_and_never_fall_below_the_ranks(seed):
    detail = make_detail(32, 24, seed)
    grid = lay_grid(32, 24)
    ranks = rank_tiles(detail, [grid])
    for coverage in (0.3, 0.8, 0.95, 1.0):
        grades = grade_tiles(detail, ranks, grid, coverage)
        assert set(np.unique(grades)) <= set(range(len(GRADES) + 1))
        for number, share in enumerate(GRADES, 1):
            assert (grades[ranks < coverage * share] >= number).all()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_refined_inside_a_window_that_runs_anyway_costs_nothing(seed):
    detail = make_detail(32, 32, seed)
    grid = lay_grid(32, 32)
    ranks = rank_tiles(detail, [grid])
    grades = grade_tiles(detail, ranks, grid, 0.9)
    for number, share in enumerate(GRADES, 1):
        before = predict_cost(grid, ranks < 0.9 * share)
        assert predict_cost(grid, grades >= number) <= 1.001 * before
