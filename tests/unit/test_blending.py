"""Blending: shares add up to 1 and, where a method promises it, change without a jump."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.testing.plans import TILINGS, TRANSFORMER, plan_of, random_cells
from quadtree_pack.windows.blending import METHODS, Span, compute_shares
from quadtree_pack.windows.tiling import Tiling

SIZE = (96, 120)
EVERYTHING = torch.ones(SIZE, dtype=torch.bool)


def plan_and_share(method, tiling, active=EVERYTHING, turns=1):
    """Return the windows of a plan over the active cells, and the share of each in its cells."""
    windows = plan_of(tiling, active, turns)
    margin = tiling.overlap * tiling.unit // 2
    return windows, compute_shares(windows, tuple(active.shape), METHODS[method], margin)


def dense_shares(method, tiling, turns=1):
    """Return the shares of the windows over everything as [windows, H, W], with zeros outside."""
    windows, shares = plan_and_share(method, tiling, turns=turns)
    dense = torch.zeros(len(windows), *SIZE, dtype=torch.float64)
    for number, (window, share) in enumerate(zip(windows, shares, strict=True)):
        dense[(number, *window.box.slices)] = share
    return dense


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
    windows, shares = plan_and_share(method, tiling, active, turns)
    total = torch.zeros(height, width, dtype=torch.float64)
    covering = torch.zeros(height, width)
    for window, each in zip(windows, shares, strict=True):
        assert (each >= 0).all()
        total[window.box.slices] += each
        covering[window.box.slices] += each > 0
    assert torch.allclose(total[active], torch.ones_like(total[active]))
    assert (total[active & (covering == 1)] == 1).all()


@pytest.mark.parametrize(
    ("method", "moving", "largest"),
    [("Shifted Feather", True, 0.25), ("Mixture of Diffusers", False, 0.25)],
)
@pytest.mark.parametrize("turns", range(1, 6))
def test_shares_change_without_a_jump(method, moving, largest, turns):
    """From cell to cell a share changes by a fraction, and by 1 at an edge without overlap."""
    dense = dense_shares(
        method,
        Tiling(unit=2, tile=20, smallest=10, overlap=4, moving=moving, cost=TRANSFORMER),
        turns=turns,
    )
    assert dense.diff(dim=1).abs().max() <= largest and dense.diff(dim=2).abs().max() <= largest
    edges = dense_shares(
        "SpotDiffusion",
        Tiling(unit=2, tile=20, smallest=10, overlap=0, moving=True, cost=TRANSFORMER),
        turns=turns,
    )
    assert edges.diff(dim=2).abs().max() == 1


def test_the_feather_is_a_linear_ramp_across_the_overlap():
    dense = dense_shares(
        "Shifted Feather",
        Tiling(unit=2, tile=40, smallest=10, overlap=4, moving=False, cost=TRANSFORMER),
    )
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
    left = METHODS["Mixture of Diffusers"].weigh(
        cells, Span(slice(0, meet + margin), slice(0, meet), 2000, margin)
    )
    right = METHODS["Mixture of Diffusers"].weigh(
        cells, Span(slice(meet - margin, meet + 50), slice(meet, meet + 50 - margin), 2000, margin)
    )
    share = right / (left + right)
    assert (share.diff() > 0).all()
    assert (
        share[0] < 0.6 / overlap and 1 - share[-1] < 0.6 / overlap
    )  # a linear ramp begins with 0.5 / overlap
    assert share[margin - 1] < 0.5 < share[margin]
