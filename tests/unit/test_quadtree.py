"""The tree against a naive recursive reference, and the promises of its denoise map."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.quadtree import Quadtree, build_quadtree
from quadtree_pack.testing.pictures import patchwork
from quadtree_pack.testing.trees import is_sound
from quadtree_pack.tree.detail import DETAIL_METRICS, detail_by_color
from quadtree_pack.tree.leaves import Leaf
from quadtree_pack.tree.subdivision import list_sides, rank_by_area, rank_by_depth
from quadtree_pack.utils import Box


def detail_of(region):
    """Return the detail of [h, w, 3] in 0..1 by its definition, in 0..255 units.

    It is the square root of the summed variance of R, G and B.
    """
    px = region.reshape(-1, 3).double() * 255
    return float(px.var(0, unbiased=False).sum().sqrt())


def naive_leaves(image, threshold, min_tile, max_tile, low, high):
    """The definition of the tree, one region at a time."""
    height, width = image.shape[:2]
    reference = min(max_tile, max(width, height))
    leaves = []

    def visit(x, y, side):
        if x >= width or y >= height:
            return
        region = image[y : y + side, x : x + side]
        detail = detail_of(region)
        if detail > threshold and side // 2 >= min_tile:
            for dy in (0, side // 2):
                for dx in (0, side // 2):
                    visit(x + dx, y + dy, side // 2)
            return
        box = Box(x, y, min(x + side, width), min(y + side, height))
        leaves.append(
            (box, side, detail, low + (high - low) * (1 - min(1, (side / reference) ** 2)))
        )

    for y in range(0, height, max_tile):
        for x in range(0, width, max_tile):
            visit(x, y, max_tile)
    return leaves


def tree_of(image, **options):
    return build_quadtree(image, **{"min_tile_px": 16, "max_tile_px": 64, **options})


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 1000),
    st.sampled_from([(8, 64), (16, 64), (32, 128), (64, 64), (8, 512), (8, 1 << 16)]),
)
@settings(max_examples=40, deadline=None)
def test_the_tree_equals_a_naive_recursion_leaf_for_leaf(height, width, seed, limits):
    image = patchwork(height, width, seed)
    tree = build_quadtree(image, content_threshold=20, min_tile_px=limits[0], max_tile_px=limits[1])
    expected = sorted(naive_leaves(image, 20, *limits, 0.2, 0.8))
    found = sorted(tree.leaves)
    assert [(leaf.box, leaf.side) for leaf in found] == [leaf[:2] for leaf in expected]
    assert [leaf.detail for leaf in found] == pytest.approx(
        [leaf[2] for leaf in expected], abs=1e-5
    )
    assert [leaf.denoise for leaf in found] == pytest.approx(
        [leaf[3] for leaf in expected], abs=1e-12
    )


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_px_is_covered_once(height, width, seed):
    assert is_sound(tree_of(patchwork(height, width, seed)))


def test_a_busy_and_a_flat_image_of_one_size_get_different_denoise():
    busy, flat = tree_of(torch.rand(128, 128, 3)), tree_of(torch.full((128, 128, 3), 0.5))
    assert {leaf.denoise for leaf in flat.leaves} == {0.2}
    assert min(leaf.denoise for leaf in busy.leaves) > 0.7


def test_a_flat_bright_image_has_no_detail():
    tree = build_quadtree(torch.full((512, 512, 3), 0.9999), content_threshold=1, min_tile_px=8)
    assert len(tree.leaves) == 1 and tree.leaves[0].detail < 1e-3


@pytest.mark.parametrize(
    ("limits", "sides"),
    [
        ((64, 1024), [1024, 512, 256, 128, 64]),
        ((64, 1000), [960, 480, 240, 120]),
        ((64, 64), [64]),
        ((20, 100), [96, 48, 24]),
        ((8, 8), [8]),
    ],
)
def test_sides_halve_on_the_grid_within_the_limits(limits, sides):
    assert list_sides(*limits) == sides


def test_denoise_runs_from_min_at_the_reference_to_max_at_zero_side():
    assert [rank_by_area(side, largest=1024) for side in (1024, 512, 0)] == [0, 0.75, 1]
    by_depth = [rank_by_depth(side, largest=1024, smallest=64) for side in (1024, 256, 64, 2048)]
    assert by_depth == [0, 0.5, 1, 0]
    assert rank_by_depth(64, largest=64, smallest=64) == 0


def test_an_image_smaller_than_a_tile_is_measured_against_its_longer_side():
    tree = build_quadtree(torch.full((256, 512, 3), 0.5), max_tile_px=1024)
    assert tree.leaves == (Leaf(0, 0, 512, 256, 1024, tree.leaves[0].detail, 0.2),)


def test_roots_far_larger_than_the_image_take_no_memory(monkeypatch):
    levels = []
    monkeypatch.setitem(
        DETAIL_METRICS,
        "color",
        lambda sums: levels.append(sums[..., 0].numel()) or detail_by_color(sums),
    )
    tree = build_quadtree(torch.rand(50, 67, 3), min_tile_px=8, max_tile_px=1 << 16)
    assert len(levels) == 14 and max(levels) == len(tree.leaves) == 7 * 9
    assert tree.side_grid()[0].shape == (7, 9)


def test_alpha_is_not_looked_at_and_gray_counts_as_three_channels():
    gray = patchwork(64, 64, 1)[..., :1]
    colour = gray.expand(-1, -1, 3)
    with_alpha = torch.cat([colour, torch.rand(64, 64, 1)], -1)
    assert tree_of(gray) == tree_of(colour) == tree_of(with_alpha)


# ---- the denoise map


def test_without_feather_each_cell_has_its_leaf_s_denoise():
    tree = tree_of(patchwork(192, 256, 3))
    cells = tree.denoise_map(192 // 8, 256 // 8)
    for leaf in tree.leaves:
        x0, y0, x1, y1 = (edge // 8 for edge in leaf.box)
        assert (cells[y0:y1, x0:x1] == leaf.denoise).all()


@given(
    st.integers(8, 200),
    st.integers(8, 200),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(0, 12),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_no_cell_is_raised_above_its_own_leaf(height, width, rows, columns, feather, seed):
    tree = tree_of(patchwork(height, width, seed), min_denoise=0.0)
    cells = tree.denoise_map(rows, columns, feather)
    leaf_at = torch.zeros(height, width, dtype=torch.float64)
    for leaf in tree.leaves:
        leaf_at[leaf.box.slices] = leaf.denoise
    own = leaf_at[[(2 * y + 1) * height // (2 * rows) for y in range(rows)]]
    own = own[:, [(2 * x + 1) * width // (2 * columns) for x in range(columns)]]
    assert (cells <= own + 1e-12).all() and (cells >= -1e-12).all()
    assert (cells[own == 0] == 0).all()


def test_the_feather_rises_in_equal_steps_on_the_high_side_only():
    leaves = (Leaf(0, 0, 64, 64, 64, 0.0, 0.0), Leaf(64, 0, 128, 64, 64, 9.0, 1.0))
    row = Quadtree.from_leaves(128, 64, 64, leaves).denoise_map(8, 16, 4)[4]
    assert row.tolist() == pytest.approx([0.0] * 8 + [0.2, 0.4, 0.6, 0.8] + [1.0] * 4)


def test_a_feather_wider_than_the_map_is_one_as_wide_as_the_map():
    tree = tree_of(patchwork(64, 96, 1), min_denoise=0.0)
    assert torch.equal(tree.denoise_map(16, 24, 1 << 16), tree.denoise_map(16, 24, 48))


def test_a_tree_of_a_small_image_fits_its_upscale():
    tree = tree_of(patchwork(128, 192, 5))
    small = tree.denoise_map(16, 24)
    assert torch.equal(
        tree.denoise_map(64, 96), small.repeat_interleave(4, 0).repeat_interleave(4, 1)
    )


def test_a_uniform_tree_gives_exactly_its_denoise_with_any_feather():
    tree = build_quadtree(torch.full((100, 140, 3), 0.5), min_denoise=0.8, max_denoise=0.8)
    assert (tree.denoise_map(13, 18, 5) == 0.8).all()


def test_the_mask_limits_the_map_and_keeps_its_own_sharp_edge():
    mask = torch.zeros(128, 192)
    mask[:, 96:] = 1
    tree = tree_of(torch.rand(128, 192, 3), mask=mask, min_denoise=0.5, max_denoise=0.5)
    cells = tree.denoise_map(16, 24, 4)
    assert (cells[:, :12] == 0).all() and (cells[:, 12:] == 0.5).all()


def test_a_tree_of_a_rounded_half_fits_the_whole():
    tree_of(patchwork(198, 300, 0)).check_fits(397, 599, "image", "px")
    with pytest.raises(ValueError, match="another aspect"):
        tree_of(patchwork(198, 300, 0)).check_fits(397, 612, "image", "px")


def test_skipped_leaves_are_kept():
    tree = tree_of(patchwork(128, 128, 2)).keep_below(32)
    assert {leaf.denoise for leaf in tree.leaves if leaf.side < 32} == {0.0}
    assert all(leaf.denoise > 0 for leaf in tree.leaves if leaf.side >= 32)


@pytest.mark.parametrize(
    ("rows", "columns", "fits"),
    [(16, 24, True), (33, 50, True), (128, 192, True), (24, 16, False), (16, 20, False)],
)
def test_only_latents_of_the_image_s_aspect_fit(rows, columns, fits):
    tree = tree_of(patchwork(128, 192, 0))
    if fits:
        tree.check_fits(rows, columns)
    else:
        with pytest.raises(ValueError, match="192 x 128 px"):
            tree.check_fits(rows, columns)


# ---- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_denoise": 0.9, "max_denoise": 0.1}, "min_denoise is 0.9"),
        ({"min_denoise": float("nan")}, "min_denoise is nan"),
        ({"min_tile_px": 128, "max_tile_px": 64}, "min_tile_size is 128 px"),
        ({"mask": torch.full((4, 4), float("nan"))}, "mask holds NaN"),
    ],
)
def test_contradictions_are_refused_with_what_came(options, words):
    with pytest.raises(ValueError, match=words):
        tree_of(torch.rand(64, 64, 3), **options)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(0, 8, 3),
        torch.zeros(8, 8),
        torch.zeros(8, 8, 2),
        torch.full((64, 64, 3), float("nan")),
    ],
)
def test_an_unusable_image_is_refused(image):
    with pytest.raises(ValueError, match=r"image (has shape|holds NaN)"):
        build_quadtree(image)


def test_a_tree_is_a_value():
    tree = tree_of(patchwork(64, 64, 0))
    assert hash(tree) == hash(replace(tree)) and tree == replace(tree)
    with pytest.raises(AttributeError):
        tree.width = 3


# ---- other ways from detail to denoise


def test_by_detail_a_large_busy_leaf_is_not_kept():
    image = torch.full((128, 256, 3), 0.5)
    image[:, 128:] += 0.1 * torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0))
    limits = {
        "min_tile_px": 64,
        "max_tile_px": 128,
        "content_threshold": 200,
        "min_denoise": 0.1,
        "max_denoise": 0.9,
    }
    calm, busy = build_quadtree(image, denoise_by="detail", **limits).leaves
    assert (calm.denoise, busy.denoise) == pytest.approx((0.1, 0.9))
    by_area = build_quadtree(image, **limits).leaves
    assert by_area[0].denoise == by_area[1].denoise


@given(st.integers(0, 50), st.sampled_from(["area", "depth", "detail"]))
@settings(max_examples=15, deadline=None)
def test_denoise_stays_in_its_limits_and_inverted_adds_up(seed, denoise_by):
    image = patchwork(120, 200, seed)
    tree = tree_of(image, denoise_by=denoise_by, min_denoise=0.2, max_denoise=0.7)
    turned = tree_of(image, denoise_by=denoise_by, min_denoise=0.2, max_denoise=0.7, invert=True)
    assert [leaf[:6] for leaf in tree.leaves] == [leaf[:6] for leaf in turned.leaves]
    for leaf, other in zip(tree.leaves, turned.leaves, strict=True):
        assert (
            0.2 - 1e-9 <= leaf.denoise <= 0.7 + 1e-9
            and leaf.denoise + other.denoise == pytest.approx(0.9)
        )
    by_detail = sorted(tree.leaves, key=lambda leaf: leaf.detail)
    if denoise_by == "detail":
        assert [leaf.denoise for leaf in by_detail] == sorted(leaf.denoise for leaf in tree.leaves)


@pytest.mark.parametrize("mode", ["multiply", "limit", "at least", "replace"])
def test_a_mask_joins_the_leaves_as_its_mode_says(mode):
    image = patchwork(128, 192, 4)
    mask = torch.rand(16, 24, generator=torch.Generator().manual_seed(1))
    plain = tree_of(image).denoise_map(16, 24)
    found = tree_of(image, mask=mask, mask_mode=mode).denoise_map(16, 24)
    levels = (mask * 255).round().double() / 255
    expected = {
        "multiply": plain * levels,
        "limit": torch.minimum(plain, levels),
        "at least": torch.maximum(plain, levels),
        "replace": levels,
    }[mode]
    assert torch.allclose(found, expected, atol=1e-9)
    skipped = tree_of(image, mask=mask, mask_mode=mode).keep_below(32)
    small = (
        tree_of(image).side_grid()[0].repeat_interleave(2, 0).repeat_interleave(2, 1)[:16, :24] < 32
    )
    assert skipped.denoise_map(16, 24)[small].eq(0).all() and small.any()
