"""A few large crops that together hold all that is refined."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.tree.crops import choose_crops
from quadtree_pack.utils import Box


def cells(height, width, *boxes):
    refined = torch.zeros(height, width, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        refined[y0:y1, x0:x1] = True
    return refined


def coverage(refined, crops):
    count = torch.zeros(refined.shape, dtype=torch.int)
    for crop in crops:
        count[crop.slices] += 1
    return count


CASES = {
    "a full square is quartered": (cells(64, 64, (0, 0, 64, 64)), 4, [32 * 32] * 4),
    "a wide picture is cut across": (cells(32, 64, (0, 0, 64, 32)), 2, [32 * 32] * 2),
    "two things get a crop each, without what lies between": (
        cells(64, 64, (0, 0, 20, 20), (40, 40, 64, 64)),
        2,
        [20 * 20, 24 * 24],
    ),
    "one thing in a corner gets its box": (cells(64, 64, (48, 0, 64, 16)), 6, [16 * 16]),
    "nothing refined is one crop of everything": (cells(40, 64), 6, [40 * 64]),
}


@pytest.mark.parametrize(("refined", "most", "areas"), CASES.values(), ids=list(CASES))
def test_crops_lie_where_a_reader_would_lay_them(refined, most, areas):
    crops = choose_crops(refined, most, 0.25)
    assert [crop.width * crop.height for crop in crops] == areas


def test_crops_come_in_reading_order():
    crops = choose_crops(cells(64, 64, (0, 0, 64, 64)), 4, 0.25)
    assert crops == [Box(0, 0, 32, 32), Box(32, 0, 64, 32), Box(0, 32, 32, 64), Box(32, 32, 64, 64)]


@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    most=st.integers(1, 9),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    least=st.sampled_from([0.05, 0.3, 2.0]),
)
@settings(max_examples=60, deadline=None)
def test_every_refined_cell_lies_in_one_crop(height, width, most, seed, share, least):
    noise = torch.rand(height, width, generator=torch.Generator().manual_seed(seed))
    refined = noise < share
    crops = choose_crops(refined, most, least)
    count = coverage(refined, crops)
    assert 1 <= len(crops) <= most
    assert count.max() <= 1 and count[refined].eq(1).all()


def test_no_cut_leaves_less_than_the_least_share():
    everything = cells(64, 64, (0, 0, 64, 64))
    assert len(choose_crops(everything, 9, 0.6)) == 1
    for crop in choose_crops(everything, 64, 0.2):
        assert min(crop.width, crop.height) >= 0.2 * 64 - 1
