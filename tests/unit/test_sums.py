"""The sum of a step's windows: what holds the cells, and every window by its weight."""

import pytest
import torch
from quadtree_pack.sampling.sums import WindowSum
from quadtree_pack.utils import Box

CONDS, IMAGES, CHANNELS, HEIGHT, WIDTH = 2, 3, 4, 12, 10
BOXES = [Box(0, 6, 5, 9), Box(3, 2, 10, 7), Box(0, 0, 4, 4)]  # no window reaches the last rows


def draw(*shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("images", [None, (2,), (0, 2)])
@pytest.mark.parametrize("conds", [(0, 1), (1,), (0,)])
@pytest.mark.parametrize("weights", [1, IMAGES])
def test_windows_are_added_to_what_is_left_of_the_base_everywhere(images, conds, weights):
    base = draw(CONDS, IMAGES, CHANNELS, HEIGHT, WIDTH, seed=0)
    model_weight = draw(weights, 1, HEIGHT, WIDTH, seed=1)
    of_window = images or range(IMAGES)
    rows = min(weights, len(of_window))
    expected = base * (1 - model_weight)
    total = WindowSum(base, model_weight)
    for seed, box in enumerate(BOXES, 2):
        part = draw(len(conds), len(of_window), CHANNELS, box.height, box.width, seed=seed)
        weight = draw(rows, 1, box.height, box.width, seed=seed + 10)
        total.add(part.flatten(0, 1), weight, box, conds=conds, images=images)
        for i, cond in enumerate(conds):
            for j, image in enumerate(of_window):
                target = expected[(cond, image, slice(None), *box.slices)]
                target += part[i, j] * weight[j % rows]
    torch.testing.assert_close(total.finish(), expected.flatten(0, 1))
