"""A cross-section of the families of docs/families.md, and that its tables are about all of them
and have nothing wrong in them."""

import gc
from functools import cache

import pytest
from quadtree_pack.testing.features import FEATURES
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
    "ltx2",
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
    if column == "EasyCache":  # which looks for an audio, and fails without this pack, too
        return family == "ltx2"
    return column == "area" and family in ("flux_redux", "pid")


@pytest.mark.parametrize("column", COLUMNS, ids=[title.replace(" ", "-") for title in COLUMNS])
@pytest.mark.parametrize("family", CROSS_SECTION)
def test_family(family, column):
    case = case_of(family)
    refused = is_refused(family, column, case.latent.ndim == 5)
    assert outcome(COLUMNS[column], case) == ("refused" if refused else "yes")


SD_UNETS = {
    *("sd15", "sd15_inpaint", "sd15_ip2p", "sd2_v", "sd21_unclip", "sd_x4_upscaler"),
    *("sdxl", "sdxl_refiner"),
}
OFFERED = {
    "resized references": {
        *("flux", "flux_schnell", "flux_guidance", "flux_kontext", "flux_fill", "flux_redux"),
        *("flux2", "longcat_image", "chroma", "lumina2", "z_image", "z_image_omni", "omnigen2"),
        *("boogu", "qwen_image", "qwen_edit", "joy_image", "krea2", "mage_flow"),
        *("chroma_radiance", "z_image_pixel"),
    },
    "Self-Attention Guidance": SD_UNETS,
    "GLIGEN": SD_UNETS,
    "Flux KV Cache": {"flux2", "qwen_image", "qwen_edit", "krea2", "mage_flow"},
}


@pytest.mark.parametrize("feature", FEATURES, ids=[title.replace(" ", "-") for title in FEATURES])
@pytest.mark.parametrize("family", CROSS_SECTION)
def test_what_comfyui_offers_for_a_family_works(family, feature):
    expected = "yes" if family in OFFERED[feature] else "-"
    assert outcome(FEATURES[feature], case_of(family)) == expected


def read_tables():
    """Return the rows of both tables of docs/families.md, below their headers."""
    text = (ROOT / "docs" / "families.md").read_text()
    tables = [part.strip().splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    cells = [[line.strip("| ").split(" | ") for line in lines] for lines in tables]
    assert [lines[0][1:] for lines in cells] == [list(COLUMNS), list(FEATURES)]
    return [lines[2:] for lines in cells]


def test_the_table_is_about_all_families_and_has_yes_or_refused_in_every_cell():
    rows, _ = read_tables()
    assert [row[0] for row in rows] == list(ZOO)
    assert {cell for row in rows for cell in row[1:]} <= {"yes", "refused"}
    for family, *cells in rows:
        clip = cells[-1] == "yes"
        for column, cell in zip(COLUMNS, cells, strict=True):
            assert (cell == "refused") == is_refused(family, column, clip)


def test_the_second_table_has_yes_wherever_comfyui_offers_it():
    _, rows = read_tables()
    assert {cell for row in rows for cell in row[1:]} == {"yes", "-"}
    offered = {
        title: {row[0] for row in rows if row[number] == "yes"}
        for number, title in enumerate(FEATURES, 1)
    }
    assert offered == OFFERED
