import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.quadtree import build_quadtree
from quadtree_pack.testing.photos import sample_photo
from quadtree_pack.tree import detail
from quadtree_pack.tree.detail import BlockSums, detail_by_both, detail_by_color, detail_by_edges
from skimage.filters import scharr


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 3, 4]), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_edges_are_the_mean_gradient_of_the_luma_in_any_bands(height, width, channels, seed):
    image = torch.rand(height, width, channels, generator=torch.Generator().manual_seed(seed))
    weights = torch.tensor(detail.LUMA)
    luma = image[..., 0] if channels == 1 else image[..., :3] @ weights
    expected = 2**0.5 * torch.from_numpy(scharr(luma.double().numpy())).sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detail, "BAND_BYTES", 1)  # bands of one row of cells
        in_bands = BlockSums.of_image(image, edges=True).sums
    assert torch.equal(in_bands, BlockSums.of_image(image, edges=True).sums)
    assert in_bands[..., 5].sum() == pytest.approx(float(expected), rel=1e-5)
    assert in_bands[..., 4].sum() == height * width


def test_a_hard_step_from_black_to_white_has_the_whole_gradient_on_both_sides():
    image = torch.zeros(16, 16, 1)
    image[:, 8:] = 1
    edges = BlockSums.of_image(image, edges=True).sums[..., 5]
    assert edges.flatten().tolist() == pytest.approx(
        [8.0] * 4
    )  # 8 rows of one px each, left and right of the step


def test_a_smooth_ramp_has_colour_detail_and_hardly_an_edge():
    ramp = torch.linspace(0, 1, 512).expand(64, -1)[..., None]
    whole = BlockSums.of_image(ramp, edges=True).sums.sum((0, 1))
    assert detail_by_color(whole) > 100 and detail_by_edges(whole) < 5
    assert detail_by_both(whole) == detail_by_color(whole)


def test_one_threshold_splits_photos_about_as_often_by_edges_as_by_color():
    ratios = []
    for name in ("astronaut", "coffee", "rocket", "hubble_deep_field", "chelsea"):
        color, edges = (
            len(
                build_quadtree(
                    sample_photo(name), detail_metric=metric, min_tile_px=16, max_tile_px=256
                ).leaves
            )
            for metric in ("color", "edges")
        )
        ratios.append(edges / color)
    assert 0.7 < sorted(ratios)[2] < 1.4, ratios


@pytest.mark.parametrize("metric", ["edges", "both"])
def test_sums_without_edges_are_refused_where_edges_are_asked_for(metric):
    cells = BlockSums.of_image(torch.rand(16, 16, 3))
    with pytest.raises(ValueError, match=f"no edges, which detail_metric '{metric}' needs"):
        build_quadtree(cells, detail_metric=metric)


def test_by_both_a_leaf_is_split_where_either_measure_splits_it():
    image = sample_photo("coffee")
    trees = {
        metric: build_quadtree(image, detail_metric=metric, max_tile_px=256)
        for metric in ("color", "edges", "both")
    }
    detail_at = {
        metric: {leaf[:5]: leaf.detail for leaf in tree.leaves} for metric, tree in trees.items()
    }
    for box, value in detail_at["both"].items():
        assert value == max(detail_at[metric].get(box, 0) for metric in trees)
    assert len(trees["both"].leaves) >= max(len(trees["color"].leaves), len(trees["edges"].leaves))
