"""What `bench quality` and the seam tests measure on pictures: each function is one definition. Pure torch.

Pictures are [H, W, C] in 0..1 with sides of whole cells; `change` is a result minus its input, both decoded, so that what the
autoencoder loses is in neither. Lines between cells come as a pair: across columns [h, w - 1] and across rows [h - 1, w].
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

CELL_PX = 8
NEIGHBOURHOOD = 5  # cells: a region is calm or detailed by the mean over a square of so many, 40 px
CALM, DETAILED = 0.25, 0.5  # the calmest quarter of a picture, its more detailed half

Lines = tuple[Tensor, Tensor]


def line_gradients(change: Tensor, power: int = 1) -> Lines:
    """Mean absolute difference (or its square) of the two px on both sides of every line between two cells."""
    height, width, colours = change.shape
    across_columns = change.diff(dim=1)[:, CELL_PX - 1 :: CELL_PX].abs() ** power
    across_rows = change.diff(dim=0)[CELL_PX - 1 :: CELL_PX].abs() ** power
    rows, columns = height // CELL_PX, width // CELL_PX
    return (
        across_columns.reshape(rows, CELL_PX, columns - 1, colours).mean((1, 3)),
        across_rows.reshape(rows - 1, columns, CELL_PX, colours).mean((2, 3)),
    )


def window_borders(windows: Iterable, height: int, width: int) -> Lines:
    """Lines where a window (a pair of boxes in cells: what it sees, what it answers for) begins or ends; bool."""
    columns = torch.zeros(height, width + 1, dtype=torch.bool)
    rows = torch.zeros(height + 1, width, dtype=torch.bool)
    for window in windows:
        for box in window:
            columns[box.y0 : box.y1, [box.x0, box.x1]] = True
            rows[[box.y0, box.y1], box.x0 : box.x1] = True
    return columns[:, 1:-1], rows[1:-1]


def leaf_borders(denoise: Tensor) -> Lines:
    """Lines between leaves of different denoise, from the denoise [h, w] before it is feathered; bool."""
    return denoise.diff(dim=1) != 0, denoise.diff(dim=0) != 0


def border_contrast(change: Tensor, borders: Lines, free: Tensor) -> float:
    """Gradient of the change across borders over that across all other lines; both between cells that are free [h, w].

    NaN where no border lies between free cells.
    """
    among = free[:, 1:] & free[:, :-1], free[1:] & free[:-1]
    at, elsewhere = [], []
    for gradient, border, inside in zip(line_gradients(change), borders, among, strict=True):
        at.append(gradient[border & inside])
        elsewhere.append(gradient[~border & inside])
    return float(torch.cat(at).mean() / torch.cat(elsewhere).mean())


def window_seam_index(change: Tensor, untiled: Tensor, borders: Lines, free: Tensor) -> float:
    """`border_contrast` of a run in windows over that of the untiled run, where only the picture itself can show there; 1 = no
    seam. Where windows begin and end counts as well as the middle of their overlap."""
    return border_contrast(change, borders, free) / border_contrast(untiled, borders, free)


def without(borders: Lines, others: Lines) -> Lines:
    """Those of `borders` that are not among `others`."""
    return borders[0] & ~others[0], borders[1] & ~others[1]


def free_lines(borders: Lines, free: Tensor) -> int:
    """How many of `borders` lie between cells that are free [h, w]."""
    return int(
        (borders[0] & free[:, 1:] & free[:, :-1]).sum() + (borders[1] & free[1:] & free[:-1]).sum()
    )


def leaf_seam_index(change: Tensor, borders: Lines) -> float:
    """Gradient of the change across leaf borders over that across the lines one cell to either side, as root mean squares; at
    most 1 = no seam.

    Leaf borders lie where detail begins, so only what is beside them can be compared with. Squares, since texture that ends
    at a border has half the variance across it, as the two lines beside it have on average: that is no seam. NaN where
    nothing changed beside any border.
    """
    at = beside = 0.0
    for axis, (gradient, border) in enumerate(zip(line_gradients(change, 2), borders, strict=True)):
        lines, is_border = gradient.movedim(1 - axis, 0), border.movedim(1 - axis, 0)[1:-1]
        at += float(lines[1:-1][is_border].double().sum())
        beside += float(((lines[:-2] + lines[2:]) / 2)[is_border].double().sum())
    return (at / beside) ** 0.5 if beside else math.nan


def kept_error(before: Tensor, after: Tensor, kept: Tensor) -> float:
    """Largest change of a latent [B, C, h, w] where `kept` [h, w]; 0 where nothing is kept."""
    return float(torch.cat([(after - before)[..., kept].abs().flatten(), torch.zeros(1)]).max())


def cell_gradient(picture: Tensor) -> Tensor:
    """Mean absolute gradient, from px to px in both directions, of each cell: [h, w]."""
    across = (
        F.pad(picture.diff(dim=1), (0, 0, 0, 1)).abs()
        + F.pad(picture.diff(dim=0), (0, 0, 0, 0, 0, 1)).abs()
    )
    return F.avg_pool2d(across.mean(-1)[None, None], CELL_PX)[0, 0]


def calm_and_detailed(sharp: Tensor) -> Lines:
    """Cells [h, w] of the calmest quarter of the sharp original, and of its more detailed half, by the gradient around each."""
    around = F.avg_pool2d(
        cell_gradient(sharp)[None, None],
        NEIGHBOURHOOD,
        1,
        NEIGHBOURHOOD // 2,
        count_include_pad=False,
    )[0, 0]
    return around <= around.quantile(CALM), around >= around.quantile(DETAILED)


def sharpness_gained(before: Tensor, after: Tensor, sharp: Tensor) -> float:
    """Of the gradient that detailed regions of `before` lack of the sharp original's, the share in `after`; 1 = all of it.

    Each cell counts up to the sharp original's gradient: more than that is noise and earns nothing. Below 0 it got softer.
    """
    _, detailed = calm_and_detailed(sharp)
    goal, had, has = (cell_gradient(picture)[detailed] for picture in (sharp, before, after))
    had, has = had.minimum(goal), has.minimum(goal)
    return float((has - had).sum() / (goal - had).sum())


def invented_texture(change: Tensor, sharp: Tensor) -> float:
    """Mean gradient of the change in calm regions of the sharp original, in levels of 255 a px."""
    calm, _ = calm_and_detailed(sharp)
    return 255 * float(cell_gradient(change)[calm].mean())


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1."""
    return float(-10 * (picture - reference).double().square().mean().log10())
