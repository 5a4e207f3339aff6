"""What goes to the model with a window: cut, repeated, or whole."""

import pytest
import torch
from quadtree_pack.conditioning import repeat_rows, stack_windows, unstack_windows, window_args
from quadtree_pack.quadtree import Box

BOXES = [Box(0, 0, 4, 6), Box(3, 2, 7, 8)]
CANVAS = (8, 9)


def numbered(*shape):
    return torch.arange(torch.tensor(shape).prod()).reshape(shape).float()


def arguments(conds=2, batch=3, **c):
    rows = conds * batch
    return {
        "input": numbered(rows, 4, *CANVAS),
        "timestep": torch.arange(rows).float(),
        "c": {"transformer_options": {}, **c},
        "cond_or_uncond": list(range(conds)),
    }


@pytest.mark.parametrize("depth", [(), (2,)])
def test_windows_come_back_as_they_were_cut(depth):
    value = numbered(6, 4, *depth, *CANVAS)
    parts = unstack_windows(stack_windows(value, BOXES, conds=2), len(BOXES), conds=2)
    for box, part in zip(BOXES, parts, strict=True):
        assert torch.equal(part, value[(..., *box.slices)])


def test_rows_are_cond_major():
    cut = window_args(arguments(), BOXES)
    assert cut["timestep"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    first_cond, second_cond = cut["input"].chunk(2)
    whole = arguments()["input"]
    assert torch.equal(first_cond[:3], whole[(slice(0, 3), ..., *BOXES[0].slices)])
    assert torch.equal(second_cond[3:], whole[(slice(3, 6), ..., *BOXES[1].slices)])


def test_what_has_the_canvas_size_is_cut_and_the_rest_goes_whole():
    same, other = numbered(6, 2, *CANVAS), numbered(6, 2, 5, 5)
    shared = numbered(1, 2, *CANVAS)
    text = numbered(6, *CANVAS)  # as many tokens and channels as the canvas has rows and columns
    c = window_args(arguments(c_concat=same, ref_latents=[same, other], image_cond=shared, c_crossattn=text, fps=24), BOXES)[
        "c"
    ]
    assert torch.equal(c["c_concat"], stack_windows(same, BOXES, 2))
    assert torch.equal(c["ref_latents"][0], c["c_concat"]) and torch.equal(c["ref_latents"][1], repeat_rows(other, 2, 2))
    assert torch.equal(c["image_cond"], stack_windows(shared.expand(6, -1, -1, -1), BOXES, 2))
    assert torch.equal(c["c_crossattn"], repeat_rows(text, 2, 2)) and c["fps"] == 24


def test_nothing_of_the_caller_is_changed():
    args = arguments(c_concat=numbered(6, 2, *CANVAS))
    before = args["c"]["c_concat"].clone()
    cut = window_args(args, BOXES)
    cut["c"]["transformer_options"]["scribble"] = 1
    cut["c"]["c_concat"].zero_()
    assert torch.equal(args["c"]["c_concat"], before) and args["c"]["transformer_options"] == {}


def test_a_tensor_of_the_canvas_size_with_other_rows_is_refused():
    with pytest.raises(ValueError, match="has 4 rows, not 6"):
        window_args(arguments(c_concat=numbered(4, 2, *CANVAS)), BOXES)


@pytest.mark.parametrize("key", ["control", "attention_mask_img_shape"])
def test_entries_that_cannot_be_cut_yet_are_refused(key):
    with pytest.raises(ValueError, match="cannot cut"):
        window_args(arguments(**{key: (1, 1)}), BOXES)
