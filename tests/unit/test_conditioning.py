"""What goes to the model with a window: cropped, repeated, or whole."""

import pytest
import torch
from quadtree_pack.sampling.conditioning import crop_call, crop_to_area, select_conds
from quadtree_pack.sampling.cropping import (
    RunMemory,
    box_on_grid,
    find_scale,
    repeat_rows,
    stack_windows,
    unstack_windows,
)
from quadtree_pack.utils import Box

BOXES = [Box(0, 0, 4, 6), Box(3, 2, 7, 8)]
CANVAS = (8, 9)


def numbered(*shape):
    return torch.arange(torch.tensor(shape).prod()).reshape(shape).float()


def cropped(args, boxes=BOXES):
    """Return the call for the windows; nothing was reported before."""
    return crop_call(args, boxes, unit=2, memory=RunMemory())


def arguments(conds=2, batch=3, **c):
    rows = conds * batch
    return {
        "input": numbered(rows, 4, *CANVAS),
        "timestep": torch.arange(rows).float(),
        "c": {"transformer_options": {}, **c},
        "cond_or_uncond": list(range(conds)),
    }


@pytest.mark.parametrize("depth", [(), (2,)])
def test_windows_come_back_as_they_were_cropped(depth):
    value = numbered(6, 4, *depth, *CANVAS)
    parts = unstack_windows(stack_windows(value, BOXES, conds=2), windows=len(BOXES), conds=2)
    for box, part in zip(BOXES, parts, strict=True):
        assert torch.equal(part, value[(..., *box.slices)])


def test_rows_are_cond_major():
    cut = cropped(arguments(), BOXES)
    assert cut["timestep"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    first_cond, second_cond = cut["input"].chunk(2)
    whole = arguments()["input"]
    assert torch.equal(first_cond[:3], whole[(slice(0, 3), ..., *BOXES[0].slices)])
    assert torch.equal(second_cond[3:], whole[(slice(3, 6), ..., *BOXES[1].slices)])


def test_what_has_the_canvas_size_is_cropped_and_the_rest_goes_whole():
    same, other = numbered(6, 2, *CANVAS), numbered(6, 2, 5, 5)
    shared = numbered(1, 2, *CANVAS)
    text = numbered(6, *CANVAS)  # as many tokens and channels as the canvas has rows and columns
    c = cropped(
        arguments(
            c_concat=same, ref_latents=[same, other], image_cond=shared, c_crossattn=text, fps=24
        ),
        BOXES,
    )["c"]
    assert torch.equal(c["c_concat"], stack_windows(same, BOXES, 2))
    assert torch.equal(c["ref_latents"][0], c["c_concat"]) and torch.equal(
        c["ref_latents"][1], repeat_rows(other, windows=2, conds=2)
    )
    assert torch.equal(c["image_cond"], stack_windows(shared.expand(6, -1, -1, -1), BOXES, 2))
    assert torch.equal(c["c_crossattn"], repeat_rows(text, windows=2, conds=2)) and c["fps"] == 24


def test_nothing_of_the_caller_is_changed():
    args = arguments(c_concat=numbered(6, 2, *CANVAS))
    before = args["c"]["c_concat"].clone()
    cut = cropped(args, BOXES)
    cut["c"]["transformer_options"]["scribble"] = 1
    cut["c"]["c_concat"].zero_()
    assert torch.equal(args["c"]["c_concat"], before) and args["c"]["transformer_options"] == {}


def test_a_tensor_of_the_canvas_size_with_other_rows_is_refused():
    with pytest.raises(ValueError, match="has 4 rows, not 6"):
        cropped(arguments(c_concat=numbered(4, 2, *CANVAS)), BOXES)


def test_places_of_guides_count_from_the_corner_of_each_window():
    """ComfyUI's, of a guide of two frames at 32 px a cell: where tokens begin and end."""
    height, width = CANVAS
    axes = torch.meshgrid(
        torch.tensor([9, 17]), 32 * torch.arange(height), 32 * torch.arange(width), indexing="ij"
    )
    begin = torch.stack(axes).flatten(1)
    places = torch.stack([begin, begin + torch.tensor([[8], [32], [32]])], dim=-1)
    entry = {"pre_filter_count": 2 * height * width, "latent_shape": [2, *CANVAS], "strength": 0.5}
    args = arguments(keyframe_idxs=places.repeat(6, 1, 1, 1), guide_attention_entries=[entry])
    cut = cropped(args, BOXES)["c"]
    corner = places.unflatten(1, (2, *CANVAS))[..., :6, :4, :]
    assert torch.equal(cut["keyframe_idxs"], corner.flatten(1, 3).expand(12, -1, -1, -1))
    assert cut["guide_attention_entries"] == [
        {"pre_filter_count": 48, "latent_shape": [2, 6, 4], "strength": 0.5}
    ]
    assert entry["pre_filter_count"] == 2 * height * width


def test_guides_whose_tokens_lie_on_some_cells_are_refused():
    places = torch.zeros(6, 3, CANVAS[0] * CANVAS[1], 2)
    with pytest.raises(ValueError, match=r"cannot cut LTXV .* with LTXVCropGuides"):
        cropped(arguments(keyframe_idxs=places, denoise_mask=-torch.ones(6, 1, *CANVAS)))
    with pytest.raises(ValueError, match=r"cannot cut LTXV .* with LTXVCropGuides"):
        cropped(arguments(keyframe_idxs=places[:, :, 1:]))
    assert cropped(arguments(keyframe_idxs=None))["c"] == {
        "keyframe_idxs": None,
        "transformer_options": {},
    }


def test_what_lies_at_another_resolution_is_cropped_at_that_resolution():
    fine, coarse = numbered(6, 3, 16, 18), numbered(6, 3, 4, 5)
    c = cropped(
        arguments(camera_conditions=fine, pose_latents=coarse), [Box(0, 0, 4, 6), Box(4, 2, 8, 8)]
    )["c"]
    assert torch.equal(
        c["camera_conditions"], stack_windows(fine, [Box(0, 0, 8, 12), Box(8, 4, 16, 16)], 2)
    )
    assert torch.equal(
        c["pose_latents"], stack_windows(coarse, [Box(0, 0, 2, 3), Box(2, 1, 4, 4)], 2)
    )


def test_what_has_no_whole_scale_is_resampled_to_the_canvas():
    value = torch.linspace(0, 1, 6)[None, None, :, None].expand(6, 2, 6, 7)
    cut = cropped(arguments(denoise_mask=value))["c"]["denoise_mask"]
    assert cut.shape == (12, 2, 6, 4) and 0.2 < cut[0].diff(dim=-2).mean() * 7 < 1.1


def test_a_grid_over_the_canvas_rounds_up_at_the_end():
    assert box_on_grid(Box(8, 0, 17, 9), canvas=(9, 17), grid=(2, 3)) == (1, 0, 3, 2)
    assert box_on_grid(Box(2, 4, 5, 9), canvas=(9, 17), grid=(72, 136)) == (16, 32, 40, 72)
    assert box_on_grid(Box(2, 4, 5, 9), canvas=(9, 17), grid=(9, 17)) == (2, 4, 5, 9)
    with pytest.raises(ValueError, match="5 x 5 cells over a latent of 17 x 9"):
        box_on_grid(Box(0, 0, 4, 4), canvas=(9, 17), grid=(5, 5))


def test_a_mask_between_tokens_keeps_the_text_and_the_window_s_patches():
    text, grid = 3, (4, 5)  # patches of 2 cells; the last column of the canvas is half a patch
    tokens = text + grid[0] * grid[1]
    mask = numbered(1, tokens, tokens)
    c = arguments(attention_mask=mask, c_crossattn=torch.zeros(6, text, 8))
    box = Box(4, 2, 8, 6)
    kept = [0, 1, 2] + [text + row * grid[1] + column for row in (1, 2) for column in (2, 3)]
    assert torch.equal(cropped(c, [box])["c"]["attention_mask"], mask[:, kept][:, :, kept])
    both = cropped(c, [box, Box(0, 0, 4, 4)])["c"]["attention_mask"]
    assert (
        both.shape == (12, 7, 7)
        and torch.equal(both[0], mask[0][kept][:, kept])
        and not torch.equal(both[0], both[3])
    )


def test_an_unknown_entry_that_looks_spatial_is_named_once(caplog):
    entries = {
        "spread": numbered(6, 16, 20, 4),
        "fine": numbered(6, 2, 32, 40),
        "coarse": numbered(6, 2, 8, 10),
        "nested": {"inside": numbered(6, 2, 16, 20)},
        "on_canvas": numbered(6, 2, 16, 20),
        "text": numbered(6, 16, 20),
        "vector": numbered(6, 20),
    }
    args = {**arguments(**entries), "input": numbered(6, 4, 16, 20)}
    warned = set()
    for _ in range(2):
        c = crop_call(args, BOXES, unit=2, memory=RunMemory(warned=warned))["c"]
    assert warned == {"spread", "fine", "coarse", "nested"} and len(caplog.messages) == 4
    assert "unknown conditioning entry 'spread' looks spatial" in caplog.text
    assert torch.equal(c["fine"], repeat_rows(entries["fine"], windows=2, conds=2))
    assert torch.equal(c["on_canvas"], stack_windows(entries["on_canvas"], BOXES, 2))


def test_some_conds_of_a_call_can_be_taken_alone():
    c = arguments(
        conds=3,
        batch=2,
        c_concat=numbered(6, 2, *CANVAS),
        ref_latents=[numbered(6, 1)],
        scale=numbered(1, 3),
    )["c"]
    c["transformer_options"] = {
        "uuids": ["a", "b", "c"],
        "cond_or_uncond": [0, 0, 1],
        "patches": {},
    }
    taken = select_conds(c, [2, 0], conds=3, rows=6)
    assert torch.equal(taken["c_concat"], c["c_concat"][[4, 5, 0, 1]]) and taken["ref_latents"][
        0
    ].flatten().tolist() == [
        4,
        5,
        0,
        1,
    ]
    assert taken["transformer_options"] == {
        "uuids": ["c", "a"],
        "cond_or_uncond": [1, 0],
        "patches": {},
    }
    assert torch.equal(taken["scale"], c["scale"]) and c["transformer_options"]["uuids"] == [
        "a",
        "b",
        "c",
    ]


def test_for_an_area_what_core_leaves_at_the_canvas_size_is_cropped_to_it():
    where = {"canvas": Box(0, 0, 9, 8), "area": Box(2, 4, 8, 8), "unit": 2}
    c = {
        "vace_context": numbered(2, 3, *CANVAS),
        "camera_conditions": numbered(2, 3, 64, 72),
        "c_concat": numbered(2, 1, 4, 6),
        "ref_latents": [numbered(2, 1, *CANVAS)],
    }
    cut = crop_to_area(c, **where)
    assert torch.equal(cut["vace_context"], c["vace_context"][..., 4:8, 2:8])
    assert torch.equal(cut["camera_conditions"], c["camera_conditions"][..., 32:64, 16:64])
    assert cut["c_concat"] is c["c_concat"] and cut["ref_latents"] is c["ref_latents"]
    text = {"y": numbered(2, 8)}
    assert crop_to_area(text, **where) is text
    with pytest.raises(ValueError, match="Redux"):
        crop_to_area({"attention_mask": numbered(1, 25, 25)}, **where)


def test_small_grids_are_taken_as_networks_round_them():
    assert find_scale((9, 11), (2, 2)) == (1, 8) and find_scale((9, 11), (5, 6)) == (1, 2)
    assert (
        find_scale((9, 11), (4, 5)) == (1, 2)
        and find_scale((9, 11), (72, 88)) == (8, 1)
        and find_scale((9, 11), (3, 7)) is None
    )
