"""How windows are blended: shares add up to 1 and, where a method promises it, change without a jump."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.testing.plans import TILINGS, TRANSFORMER, plan_of, random_cells
from quadtree_pack.windows.blending import METHODS, shares
from quadtree_pack.windows.planning import Tiling

SIZE = (96, 120)
EVERYTHING = torch.ones(SIZE, dtype=torch.bool)


def shares_of(method, tiling, active=EVERYTHING, turns=1):
    """Windows, and the share of each as [windows, H, W] with zeros outside."""
    windows = plan_of(tiling, active, turns)
    dense = torch.zeros(len(windows), *active.shape, dtype=torch.float64)
    margin = tiling.overlap * tiling.unit // 2
    for index, share in enumerate(shares(windows, tuple(active.shape), METHODS[method], margin)):
        dense[(index, *windows[index].box.slices)] = share
    return windows, dense


@pytest.mark.parametrize("method", METHODS)
@given(
    TILINGS,
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from([0.05, 0.4, 1.1]),
    st.integers(1, 3),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_shares_add_up_to_one_at_every_active_cell(
    method, tiling, height, width, share, turns, seed
):
    active = random_cells(height, width, share, seed)
    windows, dense = shares_of(method, tiling, active, turns)
    assert (dense >= 0).all()
    if len(windows):
        assert torch.allclose(
            dense.sum(0)[active], torch.ones(int(active.sum()), dtype=torch.float64)
        )
        alone = active & ((dense > 0).sum(0) == 1)
        assert (dense.sum(0)[alone] == 1).all()


@pytest.mark.parametrize(
    ("method", "moving", "largest"),
    [("Shifted Feather", True, 0.25), ("Mixture of Diffusers", False, 0.25)],
)
@pytest.mark.parametrize("turns", range(1, 6))
def test_shares_change_without_a_jump(method, moving, largest, turns):
    """From one cell to the next the blend moves by a fraction, where an edge without overlap moves by 1."""
    _, dense = shares_of(method, Tiling(2, 20, 10, 4, moving, TRANSFORMER), turns=turns)
    assert dense.diff(dim=1).abs().max() <= largest and dense.diff(dim=2).abs().max() <= largest
    _, edges = shares_of("SpotDiffusion", Tiling(2, 20, 10, 0, True, TRANSFORMER), turns=turns)
    assert edges.diff(dim=2).abs().max() == 1


def test_the_feather_is_a_linear_ramp_across_the_overlap():
    _, dense = shares_of("Shifted Feather", Tiling(2, 40, 10, 4, False, TRANSFORMER))
    row = dense[0, 0]
    (ramp,) = torch.where((row > 0) & (row < 1))
    assert len(ramp) == 8 and torch.allclose(
        row[ramp], torch.arange(7.5, 0, -1, dtype=torch.float64) / 8
    )


@pytest.mark.parametrize("overlap", [2, 4, 8])
@pytest.mark.parametrize("core", [8, 30, 500])
def test_gaussians_of_any_two_lengths_are_equal_where_their_cores_meet_and_begin_without_a_jump(
    core, overlap
):
    margin, meet = overlap // 2, core
    cells = torch.arange(meet - margin, meet + margin, dtype=torch.float64) + 0.5
    left = METHODS["Mixture of Diffusers"].weight(
        cells, slice(0, meet + margin), slice(0, meet), 2000, margin
    )
    right = METHODS["Mixture of Diffusers"].weight(
        cells, slice(meet - margin, meet + 50), slice(meet, meet + 50 - margin), 2000, margin
    )
    share = right / (left + right)
    assert (share.diff() > 0).all()
    assert (
        share[0] < 0.6 / overlap and 1 - share[-1] < 0.6 / overlap
    )  # a linear ramp begins with 0.5 / overlap
    assert share[margin - 1] < 0.5 < share[margin]
