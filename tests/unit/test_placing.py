"""Which part of an image a latent shows."""

import pytest
import torch
import torch.nn.functional as F
from quadtree_pack.sampling.placing import WHOLE, Part, locate
from quadtree_pack.testing.photos import photo
from quadtree_pack.tree.detail import BlockSums

CHANNELS = 16


@pytest.fixture(scope="module", params=["coffee", "astronaut"])
def picture(request):
    return photo(request.param, 1024)


def encode(picture):
    """Return a latent [C, h, w] as a linear VAE would make it: colors and what else there is."""
    cells = F.pixel_unshuffle(picture.movedim(-1, 0)[None], 8)[0]
    mix = torch.randn(CHANNELS, len(cells), generator=torch.Generator().manual_seed(0))
    return torch.einsum("cd,dhw->chw", mix, cells)


def luma_of(picture):
    return BlockSums.of_image(picture).luma


def resize(picture, factor):
    size = [8 * round(side * factor / 8) for side in picture.shape[:2]]
    image = F.interpolate(picture.movedim(-1, 0)[None], size, mode="bicubic", antialias=True)
    return image[0].movedim(0, -1).clamp(0, 1)


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize(
    "corner_and_side", [(96, 200, 320, 320), (240, 512, 256, 448)], ids=["square", "wide"]
)
def test_a_crop_is_found_wherever_it_lies_and_however_it_was_resized(
    picture, scale, corner_and_side
):
    y, x, height, width = corner_and_side
    crop = resize(picture[y : y + height, x : x + width], scale)
    latent = encode(crop)
    found = locate(latent, luma_of(picture), 8 * latent.shape[-1])
    rows, columns = picture.shape[:2]
    sides = columns, rows, columns, rows
    expected = Part(x / columns, y / rows, width / columns, height / rows)
    for value, right, length in zip(found, expected, sides, strict=True):
        assert abs(value - right) * length <= 10  # px: a cell, and what rounding adds


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_whole_picture_is_no_crop_of_itself(picture, scale):
    latent = encode(resize(picture, scale))
    assert locate(latent, luma_of(picture), 8 * latent.shape[-1]) == WHOLE


@pytest.mark.parametrize("other", ["another picture", "noise", "empty", "mirrored"])
def test_what_shows_no_part_of_the_picture_is_not_told(picture, other):
    torch.manual_seed(0)
    latent = {
        "another picture": lambda: encode(photo("chelsea", 512)),
        "noise": lambda: torch.randn(CHANNELS, 64, 64),
        "empty": lambda: torch.zeros(CHANNELS, 64, 64),
        "mirrored": lambda: encode(picture.flip(1)),
    }[other]()
    assert locate(latent, luma_of(picture), 8 * latent.shape[-1]) is None


def test_a_crop_that_noise_hides_is_not_told(picture):
    latent = encode(picture[96:416, 200:520])
    torch.manual_seed(0)
    hidden = latent + 3 * torch.randn_like(latent)
    assert locate(latent, luma_of(picture), 320) is not None
    assert locate(hidden, luma_of(picture), 320) is None


def test_an_even_image_has_no_parts_to_tell():
    luma = torch.full((64, 64), 0.5)
    assert locate(torch.randn(CHANNELS, 40, 40), luma, 320) is None
