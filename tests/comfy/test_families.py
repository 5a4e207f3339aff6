"""A cross-section of the families of docs/families.md, and that this table is about all of them and
has nothing wrong in it."""

import gc
from functools import cache

import pytest
from quadtree_pack.testing.matrix import COLUMNS, Case, outcome
from quadtree_pack.testing.registration import ROOT
from quadtree_pack.testing.tiny_models import ZOO

CROSS_SECTION = [
    "sdxl",
    "svd",
    "cascade_b",
    "sd3",
    "pixart_sigma",
    "flux_fill",
    "flux_redux",
    "chroma",
    "z_image",
    "omnigen2",
    "qwen_edit",
    "hidream_e1",
    "wan21_vace",
    "wan21_camera",
    "cosmos_predict2",
    "pid",
    "hidream_o1",
]


@cache
def case_of(name):
    return Case(ZOO[name]())


@pytest.fixture(scope="module", autouse=True)
def models_are_freed_before_the_interpreter_ends():
    yield
    case_of.cache_clear()
    gc.collect()


def is_refused(family, column, clip):
    """Areas with masks between tokens; context windows cut a batch of images in no other way."""
    if column == "context windows":
        return not clip
    return column == "area" and family in ("flux_redux", "pid")


@pytest.mark.parametrize("column", COLUMNS, ids=[title.replace(" ", "-") for title in COLUMNS])
@pytest.mark.parametrize("family", CROSS_SECTION)
def test_family(family, column):
    case = case_of(family)
    refused = is_refused(family, column, case.latent.ndim == 5)
    assert outcome(COLUMNS[column], case) == ("refused" if refused else "yes")


def test_the_table_is_about_all_families_and_has_yes_or_refused_in_every_cell():
    rows = [
        line.strip("| \n").split(" | ")
        for line in (ROOT / "docs" / "families.md").read_text().splitlines()
        if "|" in line
    ]
    assert rows[0] == ["family", *COLUMNS]
    assert [row[0] for row in rows[2:]] == list(ZOO)
    assert {cell for row in rows[2:] for cell in row[1:]} <= {"yes", "refused"}
    for family, *cells in rows[2:]:
        clip = cells[-1] == "yes"
        for column, cell in zip(COLUMNS, cells, strict=True):
            assert (cell == "refused") == is_refused(family, column, clip)
