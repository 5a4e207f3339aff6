import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.quadtree import build_quadtree
from quadtree_pack.sampling.cost import estimate_rough_cost, estimate_typical_cost
from quadtree_pack.sampling.model import ROUGH_PX, TYPICAL_STEPS
from quadtree_pack.testing.photos import sample_photo
from quadtree_pack.testing.pictures import patchwork
from quadtree_pack.tree.detail import BlockSums
from quadtree_pack.tree.masks import MASK_MODES, Mask
from quadtree_pack.ui.budget import (
    NEAR,
    CoarseMaps,
    build_for_cost,
    choose_threshold,
    measure_active_share,
)
from quadtree_pack.velocity import hold

LIMITS = {"min_tile_px": 32, "max_tile_px": 64, "min_denoise": 0.0, "max_denoise": 0.8}


def naive_share(cells):
    """Cells with some freedom, counted step by step."""
    steps = range(TYPICAL_STEPS)
    return (
        sum(float((hold(cells, step, TYPICAL_STEPS) > 0).double().mean()) for step in steps)
        / TYPICAL_STEPS
    )


@given(
    st.integers(0, 50),
    st.sampled_from(["area", "depth", "detail"]),
    st.booleans(),
    st.integers(0, 120),
    st.sampled_from([None, *MASK_MODES]),
)
@settings(max_examples=40, deadline=None)
def test_the_coarse_map_is_the_tree_s_own_map(seed, denoise_by, invert, threshold, mode):
    image = patchwork(128, 192, seed)
    limits = {**LIMITS, "denoise_by": denoise_by, "invert": invert}
    mask = (
        None if mode is None else torch.rand(20, 30, generator=torch.Generator().manual_seed(seed))
    )
    coarse = CoarseMaps(
        BlockSums.of_image(image), mask if mask is None else Mask.from_tensor(mask, mode), **limits
    )
    mode = mode or "multiply"
    tree = build_quadtree(image, content_threshold=threshold, mask=mask, mask_mode=mode, **limits)
    cells = tree.denoise_map(128 // ROUGH_PX, 192 // ROUGH_PX)
    assert torch.allclose(coarse.map_denoise(threshold), cells, atol=1e-12)
    assert measure_active_share(cells) == pytest.approx(naive_share(cells), abs=1e-9)


def enlarged(name, side):
    """Cell sums of a photo enlarged to side x side px."""
    image = F.interpolate(
        sample_photo(name).permute(2, 0, 1)[None], size=(side, side), mode="bicubic"
    )[0].permute(1, 2, 0)
    return BlockSums.of_image(image.clamp(0, 1), edges=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coffee", "rocket"])
@pytest.mark.parametrize("invert", [False, True], ids=["detail", "inverted"])
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("denoise_by", ["area", "depth", "detail"])
def test_no_other_threshold_comes_much_nearer_to_the_budget(name, invert, masked, denoise_by):
    cells = enlarged(name, 2048)
    limits = {**LIMITS, "max_tile_px": 512, "denoise_by": denoise_by, "invert": invert}
    mask = Mask.from_tensor(torch.linspace(0, 1, 64).expand(64, -1)) if masked else None
    coarse = CoarseMaps(cells, mask, **limits)
    costs = [
        estimate_rough_cost(coarse.map_denoise(threshold), TYPICAL_STEPS)
        for threshold in range(0, 256, 8)
    ]
    for budget in (0.05, 0.3, 0.5, 0.9):
        choice = choose_threshold(cells, budget, mask, **limits)
        assert abs(choice.cost - budget) <= min(abs(cost - budget) for cost in costs) + 2 * NEAR


@pytest.mark.parametrize("metric", ["color", "edges", "both"])
@pytest.mark.parametrize("budget", [0.2, 0.4, 0.6])
def test_what_was_found_costs_what_was_asked_for(metric, budget):
    cells = enlarged("astronaut", 2048)
    limits = {"min_denoise": 0.0, "max_denoise": 0.8, "max_tile_px": 512, "detail_metric": metric}
    tree, choice = build_for_cost(
        cells, budget, content_threshold=25, mask=None, mask_mode="multiply", **limits
    )
    assert tree == build_quadtree(cells, content_threshold=choice.value, **limits)
    assert estimate_typical_cost(tree, TYPICAL_STEPS) == pytest.approx(budget, abs=0.05)
    assert choice.text().startswith(
        f"content_threshold {choice.value:.1f} for about {100 * choice.cost:.0f}%"
    )


def test_an_image_of_hard_edges_has_thresholds_as_high_as_its_detail():
    stripes = torch.zeros(512, 512, 1)
    stripes[:, ::4] = stripes[:, 1::4] = torch.linspace(0, 1, 512)[:, None, None]
    limits = {**LIMITS, "detail_metric": "edges"}
    choice = choose_threshold(BlockSums.of_image(stripes, edges=True), 0.05, **limits)
    assert choice.value > 256 and choice.cost < 0.2


def test_the_threshold_that_is_told_is_the_one_that_was_used():
    cells = enlarged("coffee", 1024)
    for budget in (0.1, 0.3, 0.5, 0.7):
        choice = choose_threshold(cells, budget, **{**LIMITS, "max_tile_px": 256})
        assert float(choice.text().split()[1]) == choice.value


def test_a_budget_that_no_threshold_reaches_gets_the_nearest_and_says_so():
    cells = BlockSums.of_image(patchwork(256, 256, 1))
    choice = choose_threshold(cells, 0.9, **LIMITS)
    assert (
        choice.cost <= 0.8 and "nearest to 90%" in choice.text() and "max_denoise" in choice.text()
    )


def test_without_a_budget_the_threshold_is_the_given_one():
    cells = BlockSums.of_image(patchwork(256, 256, 1))
    tree, choice = build_for_cost(
        cells, 0.0, content_threshold=40, mask=None, mask_mode="multiply", **LIMITS
    )
    assert choice is None and tree == build_quadtree(cells, content_threshold=40, **LIMITS)
