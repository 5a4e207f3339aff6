"""References: what shows the same picture is told by content, at any size; boxes by shares."""

import pytest
import torch
import torch.nn.functional as F
from quadtree_pack.sampling.cropping import box_by_shares
from quadtree_pack.sampling.references import show_same
from quadtree_pack.testing.photos import photo
from quadtree_pack.utils import Box

SIDE = 512


def encode(picture, width_px):
    """A latent [1, 16, h, w] as a linear VAE makes it of a picture resized to this width."""
    height, width = (
        8 * round(side * width_px / picture.shape[1] / 8) for side in picture.shape[:2]
    )
    image = F.interpolate(
        picture.movedim(-1, 0)[None], (height, width), mode="bicubic", antialias=True
    )
    cells = F.pixel_unshuffle(image.clamp(0, 1), 8)
    mix = torch.randn(16, cells.shape[1], generator=torch.Generator().manual_seed(0))
    return torch.einsum("cd,bdhw->bchw", mix, cells)


@pytest.mark.parametrize("width_px", [SIDE // 4, 200, SIDE // 2, SIDE, 2 * SIDE])
@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_a_picture_is_recognised_at_any_resolution(name, width_px):
    picture = photo(name, SIDE)
    clean = encode(picture, SIDE)
    assert show_same(encode(picture, width_px), clean)
    assert show_same(encode(picture, width_px)[:, :, None], clean[:, :, None])


@pytest.mark.parametrize("width_px", [SIDE // 2, SIDE])
def test_other_pictures_are_not_taken_for_it(width_px):
    picture, other = photo("coffee", SIDE), photo("astronaut", SIDE)
    clean = encode(picture, SIDE)
    for wrong in (other, picture.flip(1), picture.flip(0), picture[100:300, 100:400]):
        assert not show_same(encode(wrong, width_px), clean)
    for empty in (
        torch.zeros(1, 16, 20, 30),
        torch.randn(1, 16, 20, 30),
        clean[:, :8],
        clean[..., :1],
    ):
        assert not show_same(empty, clean)


def test_of_a_batch_all_must_show_their_image():
    pictures = [encode(photo(name, SIDE)[:320, :320], 320) for name in ("coffee", "astronaut")]
    both = torch.cat(pictures)
    assert show_same(F.avg_pool2d(both, 2), both)
    assert not show_same(F.avg_pool2d(both.flip(0), 2), both)
    assert not show_same(pictures[0], both)


@pytest.mark.parametrize(
    ("box", "grid", "unit", "expected"),
    [
        (Box(8, 4, 24, 12), (32, 64), 2, Box(16, 8, 48, 24)),
        (Box(8, 4, 24, 12), (8, 16), 2, Box(4, 2, 12, 6)),
        (Box(0, 0, 16, 8), (10, 20), 2, Box(0, 0, 10, 4)),
        (Box(16, 8, 32, 16), (10, 20), 2, Box(10, 6, 20, 10)),
        (Box(0, 0, 4, 4), (2, 4), 4, Box(0, 0, 4, 2)),
    ],
    ids=["twice as fine", "half as fine", "no whole scale", "to the end", "less than a unit"],
)
def test_a_box_lies_at_its_shares_of_a_grid(box, grid, unit, expected):
    assert box_by_shares(box, canvas=(16, 32), grid=grid, unit=unit) == expected


def test_boxes_of_one_size_are_of_one_size_on_every_grid():
    for grid in [(7, 13), (12, 24), (23, 31), (64, 128)]:
        boxes = [
            box_by_shares(Box(x, y, x + 8, y + 8), canvas=(16, 32), grid=grid, unit=2)
            for y in range(0, 9)
            for x in range(0, 25)
        ]
        assert len({(box.width, box.height) for box in boxes}) == 1
        for box in boxes:
            assert 0 <= box.x0 < box.x1 <= grid[1] and 0 <= box.y0 < box.y1 <= grid[0]
