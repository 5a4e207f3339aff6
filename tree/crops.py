"""Cuts a picture into a few large crops that together hold all that is refined.

The box around it is halved, and the halves again, each trimmed to what it holds: a k-d tree whose
cuts lie where they leave out the most and divide the rest evenly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from ..utils import Box

GRID = 64  # blocks along the longer side: cuts lie on their borders


def choose_crops(refined: Tensor, most: int, least_share: float) -> list[Box]:
    """Return at most `most` disjoint boxes that hold every refined cell, in reading order.

    `refined` are cells, bool [H, W], and so are the boxes. No cut leaves less than `least_share` of
    the longer side on either side of it. Where nothing is refined, the one box holds everything.
    """
    blocks = _pool(refined)
    (height, width), (rows, columns) = refined.shape, blocks.shape
    least = max(1, round(least_share * max(rows, columns)))
    crops = [_trim(blocks, Box(0, 0, columns, rows))]
    while len(crops) < most:
        # The crop with the most refined blocks is cut first, if it is not too small.
        for crop in sorted(crops, key=lambda crop: -_count(blocks, crop)):
            halves = _halve(blocks, crop, least)
            if halves is not None:
                crops.remove(crop)
                crops += halves
                break
        else:
            break
    in_order = sorted(crops, key=lambda crop: (crop.y0, crop.x0))
    return [stretch(crop, (rows, columns), (height, width)) for crop in in_order]


def _pool(refined: Tensor) -> Tensor:
    """Return bool [rows, columns] on at most GRID x GRID blocks; one holds any of its cells."""
    height, width = refined.shape
    longer = max(height, width)
    blocks = min(GRID, longer)
    size = max(1, height * blocks // longer), max(1, width * blocks // longer)
    return F.adaptive_max_pool2d(refined[None, None].float(), size)[0, 0] > 0


def stretch(box: Box, grid: tuple[int, int], size: tuple[int, int]) -> Box:
    """Return a box on a grid (rows, columns) as one on a finer grid `size` over the same picture.

    Boxes that meet on one grid meet on the other.
    """
    (rows, columns), (height, width) = grid, size
    return Box(
        box.x0 * width // columns,
        box.y0 * height // rows,
        box.x1 * width // columns,
        box.y1 * height // rows,
    )


def _trim(blocks: Tensor, box: Box) -> Box:
    """Return the smallest box around the refined blocks in `box`, or `box` if there are none."""
    rows, columns = (blocks[box.slices].any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows:
        return box
    x0, y0 = box.x0, box.y0
    return Box(x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1)


def _count(blocks: Tensor, box: Box) -> int:
    return int(blocks[box.slices].sum())


def _halve(blocks: Tensor, box: Box, least: int) -> tuple[Box, Box] | None:
    """Return both sides of the best cut of a box, trimmed; None where no cut leaves enough."""
    count, area = _count(blocks, box), box.extent
    if not count:
        return None

    def badness(halves: tuple[Box, Box]) -> float:
        """Small where the halves leave out much, hold equally much, and are square."""
        left_in = sum(half.width * half.height for half in halves) / area
        uneven = max(_count(blocks, half) for half in halves) / count
        outline = sum(half.width + half.height for half in halves) / (box.width + box.height)
        return left_in + uneven + outline

    return min(_list_cuts(blocks, box, least), key=badness, default=None)


def _list_cuts(blocks: Tensor, box: Box, least: int) -> Iterator[tuple[Box, Box]]:
    for x in range(box.x0 + least, box.x1 - least + 1):
        yield _trim(blocks, box._replace(x1=x)), _trim(blocks, box._replace(x0=x))
    for y in range(box.y0 + least, box.y1 - least + 1):
        yield _trim(blocks, box._replace(y1=y)), _trim(blocks, box._replace(y0=y))
