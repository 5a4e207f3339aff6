"""Fine detail: found where a refine has something to add, and nowhere else."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.testing.photos import WAYS_TO_ENLARGE, enlarge_as_users_do, sample_photo
from quadtree_pack.tree import octaves
from quadtree_pack.tree.blocks import LUMA
from quadtree_pack.tree.detail import BlockSums
from quadtree_pack.tree.octaves import RANKED, measure_fine_detail, sum_octaves

SIDE = 32


@pytest.fixture
def photo():
    return sample_photo("coffee")


def measure(image, side=SIDE):
    sums = BlockSums.of_image(image, octaves=True)
    return measure_fine_detail(sums.octaves, sums.px, side)


def round_to_8_bits(image):
    return (image.clamp(0, 1) * 255).round() / 255


def make_noise(height, width, sigma, seed=0):
    """Grey with noise of standard deviation `sigma` of 255, the same in R, G and B."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(height, width, 1, generator=generator) * sigma / 255
    return round_to_8_bits(0.5 + noise).expand(-1, -1, 3)


def naive_sums(image):
    """The definition: whole picture, one octave after the other, in float64."""
    height, width = image.shape[:2]
    luma = (image.double() * torch.tensor(LUMA, dtype=torch.float64)).sum(-1)[None, None]
    right, below = -width % 8 + 8, -height % 8 + 8
    plane = F.pad(luma, (8, right, 8, below), mode="replicate")
    blocks = F.avg_pool2d(plane[..., 8:-8, 8:-8], 8)
    kernel = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]]).double()[None, None]
    found = []
    for octave in range(RANKED):
        square = F.conv2d(plane, kernel, padding=1).square()
        sums = F.avg_pool2d(square, 8 >> octave) * (8 >> octave) ** 2
        found.append(sums[0, 0, 1:-1, 1:-1])
        plane = F.avg_pool2d(plane, 2)
    coarsest = F.pad(blocks, (1, 1, 1, 1), mode="replicate")
    found.append(F.conv2d(coarsest, kernel).square()[0, 0])
    return torch.stack(found, -1)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_octaves_are_sums_of_the_squared_laplacian_by_their_definition(height, width, seed):
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(sum_octaves(image), naive_sums(image), rtol=1e-4, atol=1e-5)


def test_bands_of_rows_give_the_sums_of_the_whole(monkeypatch):
    image = torch.rand(83, 61, 3)
    whole = sum_octaves(image)
    monkeypatch.setattr(octaves, "BAND_BYTES", 1)
    assert torch.allclose(sum_octaves(image), whole, rtol=1e-5)


@pytest.mark.parametrize("steepness", [0.02, 0.3, 1.0])
def test_a_smooth_gradient_has_no_detail(steepness):
    ramp = torch.linspace(0, steepness, 512)[None, :, None].expand(384, -1, 3)
    assert measure(round_to_8_bits(ramp)).sum() == 0


@pytest.mark.parametrize("sigma", [1, 4, 8])
@pytest.mark.parametrize("side", [8, 16, 40])
def test_grain_alone_has_no_detail(sigma, side):
    assert measure(make_noise(400, 400, sigma), side).sum() == 0


def test_texture_stands_out_of_grain():
    image = make_noise(512, 512, 4).clone()
    image[128:256, 128:256] += 0.2 * torch.rand(128, 128, 1) - 0.1
    detail = measure(image.clamp(0, 1))
    assert detail[4:8, 4:8].sum() > 0.95


def test_a_thin_line_is_found():
    image = torch.full((512, 512, 3), 0.5)
    image[200] = 0.6
    detail = measure(round_to_8_bits(image))
    assert detail[200 // SIDE].sum() == pytest.approx(1)


def enlarge(image, factor):
    """Reduce by a factor and enlarge again, both bicubic; the image is [H, W, 3]."""
    planes = image.permute(2, 0, 1)[None]
    options = {"mode": "bicubic", "antialias": True}
    small = F.interpolate(planes, scale_factor=1 / factor, **options)
    large = F.interpolate(small, size=planes.shape[-2:], **options)
    return round_to_8_bits(large[0].permute(1, 2, 0))


def rank_correlation(one, other):
    ranks = [values.ravel().argsort().argsort().double() for values in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", ["coffee", "astronaut", "chelsea", "rocket"])
def test_ranks_are_nearer_to_what_was_lost_than_those_of_energy(name, factor, monkeypatch):
    image = sample_photo(name)
    height, width = (side - side % (4 * SIDE) for side in image.shape[:2])
    sharp = image[:height, :width]
    soft = enlarge(sharp, factor)
    change = ((sharp - soft) @ torch.tensor(LUMA)).square()
    lost = F.avg_pool2d(change[None], SIDE)[0]
    found = rank_correlation(measure(soft), lost)
    monkeypatch.setattr(octaves, "SHARPNESS", (0, 0, 0))
    monkeypatch.setattr(octaves, "EVENNESS", (0, 0))
    assert found > rank_correlation(measure(soft), lost)


def test_a_blurred_edge_counts_less_than_its_energy(monkeypatch):
    image = torch.full((512, 512, 3), 0.5)
    image[:, 128:] = 0.6
    image[:, 379:390] = 0.7 - 0.1 * torch.linspace(0, torch.pi, 11).cos()[:, None]
    image[:, 390:] = 0.8

    def compare_edges():
        left, right = measure(image).sum(0).chunk(2)
        return float(right.sum() / left.sum())

    found = compare_edges()
    monkeypatch.setattr(octaves, "SHARPNESS", (0, 0, 0))
    assert found < 0.8 * compare_edges()


def test_texture_counts_more_and_a_single_line_less_than_by_their_energy(monkeypatch):
    image = torch.full((512, 512, 3), 0.5)
    generator = torch.Generator().manual_seed(0)
    image[64:96, 64:96] += 0.1 * torch.rand(32, 32, 1, generator=generator)
    image[320:352, 335] = 0.7

    def compare_tiles():
        detail = measure(image)
        return float(detail[2, 2] / detail[10, 10])

    found = compare_tiles()
    monkeypatch.setattr(octaves, "EVENNESS", (0, 0))
    assert found > 1.2 * compare_tiles()


def test_strong_texture_all_over_has_equal_detail_everywhere():
    detail = measure(make_noise(512, 512, 50))
    assert detail.min() > 0.5 * detail.mean()


@pytest.mark.parametrize("value", [1e20, -1e20, 3e38])
def test_values_whose_squares_are_too_large_are_refused(value):
    image = torch.rand(64, 64, 3)
    image[20, 30, 1] = value
    with pytest.raises(ValueError, match="far outside of 0 to 1"):
        sum_octaves(image)


def test_an_empty_picture_has_no_detail():
    assert measure(torch.full((300, 200, 3), 0.3)).sum() == 0


@given(st.integers(0, 100), st.sampled_from([(0,), (1,), (0, 1)]))
@settings(max_examples=10, deadline=None)
def test_a_mirrored_picture_has_mirrored_detail(seed, axes):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(128, 192, 3, generator=generator)
    mirrored = measure(image.flip(axes))
    assert torch.allclose(mirrored.flip(axes), measure(image), rtol=1e-4)


def test_brighter_pictures_have_the_same_detail(photo):
    darker = photo * 0.8
    assert torch.allclose(measure(darker + 0.1), measure(darker), atol=1e-5)


@pytest.mark.parametrize("name", ["coffee", "astronaut", "chelsea", "rocket"])
@pytest.mark.parametrize("way", WAYS_TO_ENLARGE)
def test_an_enlarged_picture_has_its_detail_in_the_same_places(name, way):
    small = sample_photo(name)[:288, :384]
    found = [
        measure(enlarge_as_users_do(small, way, factor), round(16 * factor))
        for factor in (1, 1.5, 2, 3, 4)
    ]
    for other in found[1:]:
        assert rank_correlation(found[0], other) > 0.84
