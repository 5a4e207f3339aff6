"""Presets set other widgets in the browser, and rarely used inputs are out of the way."""

import pytest
from quadtree_pack.testing.frontend import COST, DEFAULTS, workflow
from quadtree_pack.ui.presets import PRESETS


def values(page):
    return {name: page.value(name) for name in PRESETS["portrait"]}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_its_values_and_the_tree_follows(page, preset):
    page.load()
    page.line(COST)
    with page.page.expect_request("**/quadtree/preview") as sent:
        page.set("preset", preset)
    assert values(page) == PRESETS[preset]
    assert sent.value.post_data_json["coverage"] == PRESETS[preset]["coverage"]
    page.page.wait_for_timeout(900)
    assert page.value("preset") == preset
    saved = page.saved()
    page.load(saved)
    page.page.wait_for_timeout(900)
    assert page.value("preset") == preset and values(page) == PRESETS[preset]


def test_an_edited_value_makes_the_preset_custom(page):
    page.load()
    page.set("preset", "portrait")
    page.set("coverage", 0.5)
    page.page.wait_for_function(
        "() => app.graph.getNodeById(2).widgets.find((w) => w.name === 'preset').value === 'custom'"
    )
    assert page.value("coverage") == 0.5
    assert page.value("max_denoise") == PRESETS["portrait"]["max_denoise"]


def test_custom_changes_nothing_and_an_older_workflow_is_custom(page):
    page.load(workflow(values=DEFAULTS[:13]))
    page.line(COST)
    before = values(page)
    assert page.value("preset") == "custom"
    page.set("preset", "custom")
    page.page.wait_for_timeout(600)
    assert values(page) == before


def test_nodes_2_0_hides_what_is_rarely_used_behind_its_button(page):
    if page.renderer == "classic":
        pytest.skip("the classic renderer shows all widgets")
    page.load()
    page.line(COST)
    node = page.page.locator('[data-node-id="2"]')
    assert node.get_by_text("coverage").first.is_visible()
    assert node.get_by_text("line_thickness").count() == 0
    node.get_by_test_id("advanced-inputs-button").click()
    node.get_by_text("line_thickness").first.wait_for()
