"""The picture of a quadtree over its image: leaves' borders and colors, px by px."""

import time

import pytest
import torch
from quadtree_pack.quadtree import build_quadtree
from quadtree_pack.testing.photos import sample_photo
from quadtree_pack.tree.detail import BlockSums
from quadtree_pack.ui.building import build_tree
from quadtree_pack.ui.overlay import KEEP, LIGHT, REGENERATE, SHADE, TINT, draw_overlay


def draw_px(image, denoise, distance, line_px):
    """Return one px of the overlay, as simply as it can be said."""
    color = torch.tensor(KEEP) + denoise * (torch.tensor(REGENERATE) - torch.tensor(KEEP))
    if distance < line_px:
        return color + LIGHT * (1 - color)
    tinted = image[:3] + TINT * (color - image[:3])
    return tinted * SHADE if line_px > 0 and distance == line_px else tinted


@pytest.mark.parametrize("line_px", [0, 1, 3, 20])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_px_has_the_color_of_its_leaf_and_its_distance_from_the_border(line_px, channels):
    torch.manual_seed(0)
    image = torch.rand(70, 45, channels)
    image[:40, :20] = 0.5
    tree = build_quadtree(image, min_tile_px=8, max_tile_px=32, content_threshold=20.0)
    assert len({leaf.side for leaf in tree.leaves}) > 1
    denoise = tree.denoise_map(70, 45).float()
    drawn = draw_overlay(image, denoise, tree, line_px)
    for leaf in tree.leaves:
        for y in range(leaf.y0, min(leaf.y0 + leaf.side, 70)):
            for x in range(leaf.x0, min(leaf.x0 + leaf.side, 45)):
                expected = draw_px(
                    image[y, x].expand(3) if channels == 1 else image[y, x],
                    denoise[y, x],
                    min(y - leaf.y0, x - leaf.x0),
                    line_px,
                )
                assert torch.allclose(drawn[y, x], expected, atol=1e-6)


def measure_seconds(work):
    """Return the processor time of the fastest of five runs of `work`."""
    seconds = []
    for _ in range(5):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def test_the_overlay_of_a_tall_picture_takes_no_longer_than_its_tree():
    image = sample_photo("coffee")[:, :512].repeat(20, 1, 1)  # 512 x 8000 px

    def build():
        return build_tree(BlockSums.of_image(image, octaves=True))[0]

    tree = build()
    denoise = tree.denoise_map(*image.shape[:2]).float()
    drawing = measure_seconds(lambda: draw_overlay(image, denoise, tree, 2))
    assert drawing < 1.3 * measure_seconds(build)  # it was twice as long
