"""Each measure of `bench quality` reacts to what it is for, and to nothing else."""

import math

import pytest
import torch
from quadtree_pack.testing import measures
from quadtree_pack.utils import Box
from quadtree_pack.windows.tiling import Window

CELLS = (12, 16)
FREE = torch.ones(CELLS, dtype=torch.bool)
NOISE = torch.rand(96, 128, 3, generator=torch.Generator().manual_seed(0))
SMOOTH = (
    torch.linspace(0, 1, 128).expand(96, 128)[..., None].expand(-1, -1, 3)
    + torch.linspace(0, 1, 96)[:, None, None]
)
HALVES = [Window(Box(0, 0, 9, 12), Box(0, 0, 8, 12)), Window(Box(7, 0, 16, 12), Box(8, 0, 16, 12))]
BORDERS = measures.window_borders(HALVES, *CELLS)


def stepped(at_px, height=0.5):
    """The smooth change with a step across the columns."""
    change = SMOOTH.clone()
    change[:, at_px:] += height
    return change


def test_a_smooth_change_has_no_seam():
    assert measures.window_seam_index(SMOOTH, SMOOTH, BORDERS, FREE) == pytest.approx(1)
    assert measures.border_contrast(NOISE, BORDERS, FREE) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "cell",
    [7, 8, 9],
    ids=["where a window begins", "the middle of the overlap", "where a window ends"],
)
def test_a_step_on_a_window_border_is_a_seam(cell):
    assert measures.window_seam_index(stepped(8 * cell), SMOOTH, BORDERS, FREE) > 1.5


def test_a_step_elsewhere_is_no_seam():
    assert measures.window_seam_index(stepped(8 * 4), SMOOTH, BORDERS, FREE) < 1


def test_an_edge_of_the_picture_itself_is_no_seam():
    assert measures.window_seam_index(stepped(64), stepped(64), BORDERS, FREE) == pytest.approx(1)


def test_borders_where_nothing_may_change_do_not_count():
    kept = FREE.clone()
    kept[:, 6:11] = False
    assert math.isnan(measures.border_contrast(stepped(64), BORDERS, kept))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_step_between_leaves_is_a_seam_and_a_slope_is_none(axis):
    denoise = torch.zeros(CELLS)
    denoise.movedim(axis, 0)[6:] = 1
    borders = measures.leaf_borders(denoise)
    change = SMOOTH.clone()
    assert measures.leaf_seam_index(change, borders) == pytest.approx(1)
    change.movedim(axis, 0)[48:] += 0.5
    assert measures.leaf_seam_index(change, borders) > 1.5


def test_a_kept_region_that_changed_is_found():
    before, kept = torch.zeros(1, 4, *CELLS), FREE.clone()
    kept[:, 8:] = False
    after = before.clone()
    after[..., 8:] = 1
    assert measures.kept_error(before, after, kept) == 0
    after[0, 0, 0, 0] = 1e-6
    assert measures.kept_error(before, after, kept) == pytest.approx(1e-6)
    assert measures.kept_error(before, after, torch.zeros_like(kept)) == 0


def test_texture_that_ends_at_a_border_is_no_seam():
    denoise = torch.zeros(CELLS)
    denoise[:, 8:] = 1
    texture = torch.randn(96, 128, 3, generator=torch.Generator().manual_seed(1))
    change = texture * (torch.arange(128) >= 64)[None, :, None]
    assert measures.leaf_seam_index(change, measures.leaf_borders(denoise)) < 1.1


HALF_CALM = torch.cat([torch.zeros(96, 64, 3), NOISE[:, 64:]], 1)


def test_sharpness_is_the_share_of_what_the_blur_took():
    blurred = 0.2 * HALF_CALM
    assert measures.sharpness_gained(blurred, blurred, HALF_CALM) == 0
    assert measures.sharpness_gained(blurred, HALF_CALM, HALF_CALM) == pytest.approx(1)
    assert measures.sharpness_gained(blurred, 0.6 * HALF_CALM, HALF_CALM) == pytest.approx(0.5)
    assert measures.sharpness_gained(blurred, 0.1 * HALF_CALM, HALF_CALM) < 0


def test_more_gradient_than_the_original_has_earns_nothing():
    blurred = 0.2 * HALF_CALM
    assert measures.sharpness_gained(blurred, 5 * HALF_CALM, HALF_CALM) == pytest.approx(1)


def test_texture_is_invented_where_the_original_is_calm():
    change = torch.zeros_like(NOISE)
    change[:, 80:] = NOISE[:, 80:]
    assert measures.invented_texture(change, HALF_CALM) == 0
    assert measures.invented_texture(NOISE, HALF_CALM) > 50


def test_psnr_of_a_known_error():
    picture, reference = torch.full((8, 8, 3), 0.6), torch.full((8, 8, 3), 0.5)
    assert measures.psnr(picture, reference) == pytest.approx(20)


def test_lines_are_counted_between_free_cells_and_taken_out_by_name():
    columns = torch.zeros(12, 15, dtype=torch.bool)
    columns[:, 7] = True
    other = columns.clone()
    other[:4] = False
    rows = torch.zeros(11, 16, dtype=torch.bool)
    left = measures.without((columns, rows), (other, rows))
    free = FREE.clone()
    free[0] = False
    assert (
        measures.count_free_lines((columns, rows), free) == 11
        and measures.count_free_lines(left, free) == 3
    )
