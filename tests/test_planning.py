"""Windows as properties: what is active is covered, nothing is too large, nothing lies off the model's grid."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.planning import Tiling, even_borders, moving_borders, plan_windows, radical_inverse, units_with

TILINGS = st.builds(
    lambda unit, tile, overlap, smallest, moving: Tiling(unit, tile, min(tile, smallest), overlap * (1 + unit % 2), moving),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(4, 40),
    st.integers(0, 1),
    st.integers(1, 12),
    st.booleans(),
)
TURNS = st.integers(0, 30)


def random_cells(height, width, share, seed):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(height // 7 + 1, width // 7 + 1, generator=generator) < share
    return coarse.repeat_interleave(7, 0).repeat_interleave(7, 1)[:height, :width]


@given(TILINGS, st.integers(1, 200), st.integers(1, 200), st.sampled_from([0.0, 0.05, 0.4, 1.1]), TURNS, st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_a_plan_answers_for_every_active_cell_once(tiling, height, width, share, turn, seed):
    active = random_cells(height, width, share, seed)
    windows = plan_windows(units_with(active, tiling.unit), (height, width), tiling, turn)
    cores = torch.zeros(height, width)
    for window in windows:
        box, core = window.box, window.core
        assert 0 <= box.x0 <= core.x0 < core.x1 <= box.x1 <= width
        assert 0 <= box.y0 <= core.y0 < core.y1 <= box.y1 <= height
        assert box.x0 % tiling.unit == 0 and box.y0 % tiling.unit == 0
        assert box.x1 % tiling.unit == 0 or box.x1 == width
        assert box.y1 % tiling.unit == 0 or box.y1 == height
        assert max(box.width, box.height) <= tiling.tile * tiling.unit
        half = tiling.overlap * tiling.unit // 2
        assert box.x0 <= max(0, core.x0 - half) and box.x1 >= min(width, core.x1 + half)
        assert box.y0 <= max(0, core.y0 - half) and box.y1 >= min(height, core.y1 + half)
        assert active[core.slices].any() or tiling.overlap % 2  # half a unit of a core may hold only the calm half
        cores[core.slices] += 1
    assert cores.max() <= 1 and (cores[active] == 1).all()


def test_calm_cells_cost_nothing():
    assert plan_windows(torch.zeros(5, 5, dtype=torch.bool), (40, 40), Tiling(8, 4, 2, 1, True)) == ()


@given(st.integers(1, 300), st.integers(4, 40), st.integers(0, 2))
def test_a_fixed_lattice_has_the_fewest_pieces_and_equal_ones(length, tile, overlap):
    borders = even_borders(length, Tiling(2, tile, 1, overlap, False))
    pieces = [high - low for low, high in pairwise(borders)]
    fewest = max(1, -(-(length - overlap) // (tile - overlap)))
    assert len(pieces) == (1 if length <= tile else fewest)
    assert sum(pieces) == 2 * length
    windows = [piece + overlap * (2 - (index == 0) - (index == len(pieces) - 1)) for index, piece in enumerate(pieces)]
    assert max(windows) <= 2 * tile and max(windows) - min(windows) <= 2


@given(st.integers(41, 300), st.integers(4, 40), st.integers(0, 1))
def test_a_moving_lattice_does_not_stand_still(length, tile, overlap):
    tiling = Tiling(2, tile, 1, overlap, True)
    places = {moving_borders(length, tiling, radical_inverse(turn + 1, 2))[1] for turn in range(8)}
    assert len(places) >= min(8, tiling.piece // 2)


@pytest.mark.parametrize(("base", "start"), [(2, [0.5, 0.25, 0.75, 0.125]), (3, [1 / 3, 2 / 3, 1 / 9, 4 / 9])])
def test_the_radical_inverse_is_halton_s(base, start):
    assert [radical_inverse(index + 1, base) for index in range(4)] == pytest.approx(start)
