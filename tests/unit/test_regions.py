"""Painted regions: what is read from a workflow, and where they lie on the tree."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.quadtree import build_quadtree
from quadtree_pack.testing.hostile import JUNK, ODD_NAMES, damaged, fuzz, is_clear
from quadtree_pack.testing.trees import is_sound
from quadtree_pack.tree.regions import Painting, Region, mark_painted, paint_regions

SPANS = st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True).map(
    lambda ends: sorted(end / 8 for end in ends)
)


def boxes():
    return st.tuples(SPANS, SPANS).map(
        lambda spans: (spans[0][0], spans[1][0], spans[0][1], spans[1][1])
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["keep", "full", "value", "auto"]), boxes()),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([(256, 256), (512, 256), (200, 328)]),
)
@settings(max_examples=40, deadline=None)
def test_leaves_follow_what_was_painted_last_over_them(strokes, size):
    """Edges on eighths are exact where eighths of the image lie on the grid.

    Others go by the centre of a leaf.
    """
    width, height = size
    regions = [Region(what, *box, *[0.37] * (what == "value")) for what, box in strokes]
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(1)) * 0.05
    limits = {"min_tile_px": 8, "max_tile_px": 128, "min_denoise": 0.3, "max_denoise": 0.7}
    tree, plain = build_quadtree(image, regions=regions, **limits), build_quadtree(image, **limits)
    wanted = torch.full((height, width), -1.0, dtype=torch.float64)
    for what, (x0, y0, x1, y1) in strokes:
        area = (
            slice(round(y0 * height), round(y1 * height)),
            slice(round(x0 * width), round(x1 * width)),
        )
        wanted[area] = {"keep": 0.0, "full": 1.0, "value": 0.37, "auto": -1.0}[what]
    assert is_sound(tree)
    for leaf in tree.leaves:
        under = wanted[leaf.box.slices]
        centre = under[under.shape[0] // 2, under.shape[1] // 2]
        exact = size != (200, 328)
        if exact:
            assert (under == centre).all()
        if exact or (under == centre).all():
            assert leaf.denoise == centre if centre >= 0 else 0.3 <= leaf.denoise <= 0.7
    if all(what == "auto" for what, _ in strokes):
        assert tree == plain


def test_a_painted_area_stays_whole_however_busy_it_is():
    image = torch.rand(256, 256, 3)
    kept = build_quadtree(
        image, regions=[Region("keep", 0, 0, 1, 1)], min_tile_px=8, max_tile_px=128
    )
    assert {leaf.side for leaf in kept.leaves} == {128} and {
        leaf.denoise for leaf in kept.leaves
    } == {0.0}


def test_a_grid_goes_by_the_centres_of_its_blocks():
    grid = paint_regions([Region("keep", 0.0, 0.0, 1 / 3, 1.0)], 100, 20, 16)
    assert grid.tolist() == [[0, 0, -1, -1, -1, -1, -1]] * 2
    assert paint_regions([Region("full", 0.99, 0.0, 1.0, 1.0)], 100, 20, 16).eq(-1).all()
    assert paint_regions([Region("full", 0.97, 0.0, 1.0, 1.0)], 100, 20, 16)[:, -1].eq(1).all()
    assert paint_regions([], 100, 20, 16) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        "{}",
        '"keep"',
        '{"regions": 3}',
        '{"regions": [["keep", 0, 0, 1]]}',
        '[["keep", 0, 0, 1, 2]]',
        '[["keep", 0, 0, 1, NaN]]',
        '[["keep", 0, 0, 1, true]]',
        '[["keep", 0, 0, 1, "1"]]',
        '[["burn", 0, 0, 1, 1]]',
        '[["value", 0, 0, 1, 1]]',
        '[["value", 0, 0, 1, 1, 1.5]]',
        '[["value", 0, 0, 1, 1, "0.5"]]',
        '[["keep", 0, 0, 1, 1, 0.5]]',
        "[[[], 0, 0, 1, 1]]",
        '{"size": [0, 5], "regions": []}',
        '{"size": [1.5, 5], "regions": []}',
        "[" * 100_000,
        json.dumps([["keep", 0, 0, 1, 1]] * 20_001),
    ],
)
def test_a_hostile_value_is_refused_in_words(text):
    with pytest.raises(ValueError, match="regions"):
        Painting.from_json(text)


def test_an_empty_text_paints_nothing_and_a_bare_list_fits_every_image():
    assert Painting.from_json(" ").select_regions(5, 7) == ()
    regions = Painting.from_json('[["keep", 0, 0, 0.5, 1]]').select_regions(5, 7)
    assert regions == (Region("keep", 0.0, 0.0, 0.5, 1.0),)
    sized = Painting.from_json('{"size": [300, 200], "regions": [["full", 0, 0, 1, 1]]}')
    assert (
        sized.select_regions(1501, 1000) == (Region("full", 0, 0, 1, 1),)
        and sized.select_regions(200, 300) is None
    )


SOUND = [
    '{"size": [300, 200], "regions": [["keep", 0.25, 0.5, 0.5, 0.75], ["auto", 0, 0, 1, 1]]}',
    '[["full", 0, 0, 1, 1]]',
]


@given(damaged(st.sampled_from(SOUND)) | st.text() | JUNK | JUNK.map(json.dumps))
@fuzz(100)
def test_any_value_is_refused_in_words_or_paints_inside_the_image(value):
    try:
        painting = Painting.from_json(value)
    except ValueError as error:
        assert "regions" in str(error) and is_clear(str(error))
        return
    for width, height in ((1, 1), (300, 200), (7, 1000)):
        grid = paint_regions(painting.select_regions(width, height) or (), width, height, 8)
        assert grid is None or (
            set(grid.unique().tolist()) <= {-1.0, 0.0, 1.0}
            and grid.shape == (-(-height // 8), -(-width // 8))
        )


@pytest.mark.parametrize(
    "text",
    [
        " " * 10**7 + "[",
        '["' + "x" * 10**7 + '"]',
        json.dumps([["keep", 0, 0, 1, 1]] * 600_000),
        json.dumps([["keep" * 10**6, 0, 0, 1, 1]]),
        json.dumps([["keep", 0, 0, 1, [[1] * 1000] * 1000]]),
        '[["keep", 0, 0, 1, ' + "9" * 4000 + "]]",
        '[["keep", 0, 0, 1, ' + "9" * 10**6 + "]]",
        '{"size": [' + "9" * 4000 + ', 1], "regions": []}',
        '{"regions": [["keep", 0, 0, 1, 1e308]]}',
        '{"regions": [["keep", -1e308, 0, 1, 1]]}',
        '{"regions": [["keep", 0, 0, 1, -Infinity]]}',
        '{"regions": ' * 10**5,
        *(json.dumps([[name, 0, 0, 1, 1]]) for name in ODD_NAMES),
        *("[" * depth + "1" + "]" * depth for depth in range(50, 1000, 50)),
        *(
            '{"size":' + "[" * depth + "1" + "]" * depth + ', "regions": []}'
            for depth in range(50, 1000, 50)
        ),
    ],
    ids=lambda text: f"{text[:20]!a} {len(text)}",
)
def test_an_overlong_deep_or_odd_value_is_refused_in_few_words(text):
    with pytest.raises(ValueError, match="regions") as caught:
        Painting.from_json(text)
    assert is_clear(str(caught.value))


def test_what_is_painted_to_be_refined_is_a_mask_of_the_image_s_size():
    painting = (
        Region("full", 0.0, 0.0, 0.5, 0.5),
        Region("value", 0.5, 0.0, 1.0, 0.5, 0.3),
        Region("keep", 0.0, 0.5, 0.5, 1.0),
        Region("auto", 0.0, 0.0, 0.25, 0.5),
    )
    mask = mark_painted(painting, 64, 40)
    assert mask.shape == (1, 40, 64) and mask.dtype == torch.float32
    assert mask[0, :16, 16:].eq(1).all() and mask[0, :16, :16].eq(0).all()
    assert mask[0, 24:].eq(0).all()
    assert mark_painted((), 50, 30).eq(0).all() and mark_painted((), 50, 30).shape == (1, 30, 50)
