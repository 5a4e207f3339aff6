"""The measures of `bench quality` and of the seam tests, one function each. Pure torch.

Words:
- A picture is [H, W, C] in 0..1, with sides of whole cells of CELL_PX.
- A change is a result minus its input, both decoded, so that what the autoencoder loses is in
  neither.
- A line lies between two neighbouring cells. Values of lines come as a pair: across columns
  [h, w - 1] and across rows [h - 1, w]. Borders are lines, too, as bool.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

CELL_PX = 8
NEIGHBOURHOOD = 5  # cells: a region is calm or detailed by the mean over a square of 40 px
CALM, DETAILED = 0.25, 0.5  # quantiles: the calmest quarter of a picture, its more detailed half

Lines = tuple[Tensor, Tensor]


def line_gradients(change: Tensor, power: int = 1) -> Lines:
    """Return the mean of |a - b|**power over the pairs of px a, b on both sides of every line."""
    height, width, colours = change.shape
    across_columns = change.diff(dim=1)[:, CELL_PX - 1 :: CELL_PX].abs() ** power
    across_rows = change.diff(dim=0)[CELL_PX - 1 :: CELL_PX].abs() ** power
    rows, columns = height // CELL_PX, width // CELL_PX
    return (
        across_columns.reshape(rows, CELL_PX, columns - 1, colours).mean((1, 3)),
        across_rows.reshape(rows - 1, columns, CELL_PX, colours).mean((2, 3)),
    )


def window_borders(windows: Iterable, height: int, width: int) -> Lines:
    """Return the lines where a window or its core begins or ends.

    A window is a pair of boxes in cells, the window and its core; height and width are in cells.
    """
    columns = torch.zeros(height, width + 1, dtype=torch.bool)
    rows = torch.zeros(height + 1, width, dtype=torch.bool)
    for window in windows:
        for box in window:
            columns[box.y0 : box.y1, [box.x0, box.x1]] = True
            rows[[box.y0, box.y1], box.x0 : box.x1] = True
    return columns[:, 1:-1], rows[1:-1]


def leaf_borders(denoise: Tensor) -> Lines:
    """Return the lines between leaves, from the denoise [h, w] before it is feathered."""
    return denoise.diff(dim=1) != 0, denoise.diff(dim=0) != 0


def border_contrast(change: Tensor, borders: Lines, free: Tensor) -> float:
    """Return the gradient of the change across borders over that across all other lines.

    Only lines between two free cells [h, w] count. NaN where no border lies between free cells.
    """
    at, elsewhere = [], []
    inside = lines_between(free)
    for gradient, border, inner in zip(line_gradients(change), borders, inside, strict=True):
        at.append(gradient[border & inner])
        elsewhere.append(gradient[~border & inner])
    return float(torch.cat(at).mean() / torch.cat(elsewhere).mean())


def lines_between(free: Tensor) -> Lines:
    """Return the lines between two cells that are both free [h, w]."""
    return free[:, 1:] & free[:, :-1], free[1:] & free[:-1]


def window_seam_index(change: Tensor, untiled: Tensor, borders: Lines, free: Tensor) -> float:
    """Return `border_contrast` of a run in windows over that of the untiled run; 1 = no seam.

    `untiled` is the change of the untiled run, where only the picture itself can show at the
    borders. The lines where windows begin and end count as well as the middle of their overlap.
    """
    return border_contrast(change, borders, free) / border_contrast(untiled, borders, free)


def without(borders: Lines, others: Lines) -> Lines:
    """Return those of `borders` that are not among `others`."""
    return borders[0] & ~others[0], borders[1] & ~others[1]


def count_free_lines(borders: Lines, free: Tensor) -> int:
    """Return how many of `borders` lie between two free cells [h, w]."""
    across_columns, across_rows = lines_between(free)
    return int((borders[0] & across_columns).sum() + (borders[1] & across_rows).sum())


def leaf_seam_index(change: Tensor, borders: Lines) -> float:
    """Return the change's gradient across leaf borders over that across the lines beside them.

    At most 1 = no seam. Leaf borders lie where detail begins, so only the lines one cell to
    either side can be compared with. Both gradients are root mean squares: texture that ends at a
    border has half the variance across it, as the two lines beside it have on average, and that
    is no seam. NaN where nothing changed beside any border.
    """
    at = beside = 0.0
    for axis, (gradient, border) in enumerate(zip(line_gradients(change, 2), borders, strict=True)):
        lines, is_border = gradient.movedim(1 - axis, 0), border.movedim(1 - axis, 0)[1:-1]
        at += float(lines[1:-1][is_border].double().sum())
        beside += float(((lines[:-2] + lines[2:]) / 2)[is_border].double().sum())
    return (at / beside) ** 0.5 if beside else math.nan


def kept_error(before: Tensor, after: Tensor, kept: Tensor) -> float:
    """Return the largest change of a latent [B, C, h, w] in the cells `kept` [h, w].

    0 where nothing is kept.
    """
    changes = (after - before)[..., kept].abs().flatten()
    return float(torch.cat([changes, torch.zeros(1)]).max())


def cell_gradient(picture: Tensor) -> Tensor:
    """Return the mean absolute gradient in each cell [h, w], from px to px in both directions."""
    across = (
        F.pad(picture.diff(dim=1), (0, 0, 0, 1)).abs()
        + F.pad(picture.diff(dim=0), (0, 0, 0, 0, 0, 1)).abs()
    )
    return F.avg_pool2d(across.mean(-1)[None, None], CELL_PX)[0, 0]


def calm_and_detailed(sharp: Tensor) -> tuple[Tensor, Tensor]:
    """Return the calm and the detailed cells [h, w] of the sharp original, as bool.

    They are its calmest quarter and its more detailed half, by the mean gradient around each cell.
    """
    around = F.avg_pool2d(
        cell_gradient(sharp)[None, None],
        NEIGHBOURHOOD,
        stride=1,
        padding=NEIGHBOURHOOD // 2,
        count_include_pad=False,
    )[0, 0]
    return around <= around.quantile(CALM), around >= around.quantile(DETAILED)


def sharpness_gained(before: Tensor, after: Tensor, sharp: Tensor) -> float:
    """Return the share of the gradient that `before` lacks in detailed regions and `after` has.

    1 = all of the sharp original's gradient; below 0 the picture became softer. Each cell counts
    up to the original's gradient: more than that is noise and earns nothing.
    """
    _, detailed = calm_and_detailed(sharp)
    goal, had, has = (cell_gradient(picture)[detailed] for picture in (sharp, before, after))
    had, has = had.minimum(goal), has.minimum(goal)
    return float((has - had).sum() / (goal - had).sum())


def invented_texture(change: Tensor, sharp: Tensor) -> float:
    """Return the change's mean gradient in calm regions of the original, in levels of 255 a px."""
    calm, _ = calm_and_detailed(sharp)
    return 255 * float(cell_gradient(change)[calm].mean())


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pictures in 0..1."""
    return float(-10 * (picture - reference).double().square().mean().log10())
