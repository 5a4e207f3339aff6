"""The tree of an untouched node: what it keeps, what it refines, what that costs."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from quadtree_pack.quadtree import build_quadtree
from quadtree_pack.sampling.cost import estimate_rough_cost
from quadtree_pack.sampling.model import ROUGH_PX, TYPICAL_STEPS
from quadtree_pack.testing.photos import (
    WAYS_TO_ENLARGE,
    enlarge_as_users_do,
    photo,
    sample_photo,
)
from quadtree_pack.tree.detail import BlockSums
from quadtree_pack.tree.octaves import measure_fine_detail
from quadtree_pack.tree.regions import Region
from quadtree_pack.ui.building import build_tree, find_curve
from quadtree_pack.utils import ceil_div

SIDE = 1024


@pytest.fixture(scope="module")
def soft():
    """Return sums of a photo that was reduced by 2 and enlarged again, as an upscale is."""
    small = photo("coffee", SIDE // 2).permute(2, 0, 1)[None]
    large = F.interpolate(small, scale_factor=2, mode="bicubic")[0].permute(1, 2, 0)
    return BlockSums.of_image(large.clamp(0, 1), edges=True, octaves=True)


def build(sums, **changes):
    return build_tree(sums, **changes)


def sums_of(image):
    return BlockSums.of_image(image, edges=True, octaves=True)


def map_of(tree):
    """Denoise per block of 8 px."""
    return tree.denoise_map(ceil_div(tree.height, 8), ceil_div(tree.width, 8))


def cost_of(tree):
    cells = ceil_div(tree.height, ROUGH_PX), ceil_div(tree.width, ROUGH_PX)
    return estimate_rough_cost(tree.denoise_map(*cells), TYPICAL_STEPS)


def test_an_untouched_node_keeps_calm_parts_and_refines_the_others(soft):
    tree, choice = build(soft)
    denoise = map_of(tree)
    assert choice is None
    assert 0.3 < float((denoise == 0).double().mean()) < 0.9
    assert denoise.unique().tolist() == pytest.approx([0.0, 0.2, 0.5, 0.8])
    assert len({leaf.side for leaf in tree.leaves}) > 1


@pytest.mark.parametrize("name", ["coffee", "astronaut", "chelsea", "rocket"])
@pytest.mark.parametrize("way", WAYS_TO_ENLARGE)
def test_an_enlarged_picture_is_kept_in_the_same_places(name, way):
    small = sample_photo(name)[:288, :384]
    kept = []
    for factor in (1, 1.5, 2, 3, 4):
        tree, _ = build(sums_of(enlarge_as_users_do(small, way, factor)))
        kept.append(tree.denoise_map(72, 96) == 0)
    for other in kept[1:]:
        assert float((other == kept[0]).double().mean()) > 0.78


@pytest.mark.parametrize("coverage", [0.2, 0.6, 0.95, 1.0])
def test_at_least_the_coverage_of_the_detail_is_refined(soft, coverage):
    tree, _ = build(soft, coverage=coverage)
    side = tree.columns.side.min().item()
    detail = measure_fine_detail(soft.octaves, soft.px, side)
    denoise = tree.denoise_map(*detail.shape)
    assert float(detail[denoise > 0].sum()) >= coverage - 1e-9


def test_more_coverage_refines_more_but_for_what_windows_gave_for_nothing(soft):
    maps = [map_of(build(soft, coverage=percent / 100)[0]) for percent in (0, 30, 60, 90, 95, 100)]
    assert float(maps[0].max()) == 0
    for lower, higher in pairwise(maps):
        assert (higher > 0).double().mean() > (lower > 0).double().mean()
        # With more tiles, windows lie elsewhere: a calm tile inside one may be outside now.
        assert ((lower > 0) & (higher == 0)).double().mean() < 0.02


def test_a_larger_budget_never_costs_less_and_a_budget_is_met(soft):
    costs = []
    for budget in (0.1, 0.2, 0.4, 0.6, 0.8):
        tree, choice = build(soft, budget=budget, min_tile_px=16, min_denoise=0.0)
        costs.append(cost_of(tree))
        assert choice.cost == pytest.approx(costs[-1], abs=1e-9)
        assert choice.found.startswith("coverage ") and choice.text()
        assert tree == build(soft, coverage=choice.value, min_tile_px=16, min_denoise=0.0)[0]
    assert costs == sorted(costs)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=["down", "across", "both"])
def test_a_mirrored_picture_gets_a_mirrored_tree(axes):
    image = photo("rocket", 640)[:384, :624]  # whole tiles of 24 px
    tree, mirrored = (build(sums_of(one))[0] for one in (image, image.flip(axes)))
    same = map_of(mirrored).flip(axes) == map_of(tree)
    assert float(same.double().mean()) > 0.98


def test_an_empty_picture_is_kept_and_a_busy_one_refined():
    empty, _ = build(sums_of(torch.full((512, 768, 3), 0.4)))
    assert float(map_of(empty).max()) == 0
    ramp = torch.linspace(0, 1, 768)[None, :, None].expand(512, -1, 3)
    assert float(map_of(build(sums_of((ramp * 255).round() / 255))[0]).max()) == 0
    busy, _ = build(sums_of(torch.rand(512, 768, 3, generator=torch.Generator().manual_seed(0))))
    assert float((map_of(busy) > 0).double().mean()) > 0.9


@pytest.mark.parametrize("size", [(64, 64), (8, 8), (1, 500), (64, 3000), (720, 1280), (2500, 90)])
def test_pictures_of_every_size_get_a_tree(size):
    image = torch.rand(*size, 3, generator=torch.Generator().manual_seed(0))
    for changes in ({}, {"budget": 0.4}, {"invert": True}, {"content_threshold": 25.0}):
        tree, _ = build(sums_of(image), **changes)
        leaves = tree.leaves
        assert sum(leaf.box.width * leaf.box.height for leaf in leaves) == size[0] * size[1]


def test_automatic_tiles_follow_the_picture_s_size():
    for side, expected in ((64, 8), (1000, 40), (2048, 80), (4096, 160)):
        tree, _ = build(sums_of(torch.zeros(side, side // 2, 3)))
        assert tree.root_px == 8 * expected


def test_inverting_keeps_what_would_be_refined_most(soft):
    plain, inverted = map_of(build(soft)[0]), map_of(build(soft, invert=True)[0])
    assert bool((inverted[plain == plain.max()] == 0).all())
    assert bool((inverted[plain == 0] == inverted.max()).all())


def test_painted_regions_come_last_and_change_nothing_else(soft):
    plain, _ = build(soft)
    regions = (Region("keep", 0, 0, 0.5, 0.5), Region("full", 0.5, 0.5, 1, 1))
    painted, _ = build(soft, regions=regions)
    before, after = map_of(plain), map_of(painted)
    rows, columns = before.shape
    assert float(after[: rows // 2 - 8, : columns // 2 - 8].max()) == 0
    assert float(after[rows // 2 + 8 :, columns // 2 + 8 :].min()) == 1
    assert torch.equal(
        after[rows // 2 + 8 :, : columns // 2 - 8], before[rows // 2 + 8 :, : columns // 2 - 8]
    )


@pytest.mark.parametrize("limits", [{"min_tile_px": 64, "max_tile_px": 1024}])
@pytest.mark.parametrize("rule", ["area", "depth", "detail"])
def test_with_a_threshold_the_tree_is_the_one_of_before(soft, limits, rule):
    options = {"denoise_by": rule, "detail_metric": "both", **limits}
    tree, _ = build(soft, content_threshold=25.0, **options)
    assert tree == build_quadtree(soft, content_threshold=25.0, **options)


def test_limits_that_contradict_each_other_are_refused(soft):
    with pytest.raises(ValueError, match="max_tile_size"):
        build(soft, min_tile_px=64, max_tile_px=32)
    with pytest.raises(ValueError, match="max_denoise"):
        build(soft, min_denoise=0.9)


def test_the_curve_rises_from_none_to_all_of_the_detail(soft):
    """Left of where it reaches a coverage lie about as many tiles as are refined at it."""
    curve = find_curve(soft)
    assert curve[0] == 0 and curve[-1] == 1 and curve == sorted(curve)
    assert curve[len(curve) // 2] > 0.6, "the richest tiles come first"
    place = next(number for number, share in enumerate(curve) if share >= 0.9) / (len(curve) - 1)
    refined = float((map_of(build(soft, coverage=0.9)[0]) > 0).double().mean())
    assert refined == pytest.approx(place, abs=0.15)


def test_there_is_no_curve_without_detail_or_where_no_coverage_decides(soft):
    assert find_curve(sums_of(torch.full((256, 256, 3), 0.5))) is None
    assert find_curve(soft, content_threshold=20.0) is None
    assert find_curve(soft, budget=0.5) is None
