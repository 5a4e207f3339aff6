"""The strip of detail in the panel: where coverage lies on it, and that it sets the widget."""

import re

import pytest
from quadtree_pack.testing.frontend import DEFAULTS, VISUALIZER, drag_in, workflow

AUTOMATIC = [0.0, 0, 0, *DEFAULTS[3:]]
PRICED = "model cost"


@pytest.fixture
def strip(page):
    page.load(workflow(values=AUTOMATIC))
    page.line(PRICED)
    return page.page.get_by_role("slider", name="Coverage of the detail").first


def mark_at(page):
    """Where the mark is, as a share of the strip."""
    place = page.page.locator(".qt-spread b").first.evaluate("mark => mark.style.left")
    return float(place.removesuffix("%")) / 100


def heights(page):
    """The heights of the bars, as shares of the strip's."""
    outline = page.page.locator(".qt-spread i").first.evaluate("bars => bars.style.clipPath")
    return [1 - float(y) / 100 for y in re.findall(r"[\d.]+% ([\d.]+)%", outline)][1:-1:2]


def test_the_bars_fall_from_the_richest_tiles_to_the_calmest(page, strip):
    bars = heights(page)
    assert len(bars) == 64 and bars[0] > 0.5 and max(bars) == 1
    assert sum(bars[:16]) > sum(bars[16:32]) > sum(bars[32:48]) > sum(bars[48:])
    assert strip.get_attribute("aria-valuenow") == "95"
    assert strip.get_attribute("aria-valuetext") == "95% of the detail"
    assert 0.2 < mark_at(page) < 0.95


def asks_below(coverage):
    """Tells a request of the panel with less than this coverage from others."""
    return lambda request: (
        "quadtree/preview" in request.url and request.post_data_json["coverage"] < coverage
    )


def test_dragging_the_mark_sets_coverage_and_the_tree_follows(page, strip):
    before, at = page.text(), page.saved()["nodes"][1]["pos"]
    with page.page.expect_request(asks_below(0.9)):
        drag_in(page, strip, (0.6, 0.5), (0.1, 0.5))
    coverage = page.value("coverage")
    assert 0.1 < coverage < 0.9 and round(coverage, 2) == coverage
    assert page.saved()["nodes"][1]["pos"] == at, "the node was not dragged"
    assert mark_at(page) == pytest.approx(0.1, abs=0.03)
    page.page.wait_for_function(
        "before => document.querySelector('.qt-line').textContent !== before", arg=before
    )
    saved = page.saved()["nodes"][1]["widgets_values"]
    assert coverage in saved
    drag_in(page, strip, (0.1, 0.5), (1.4, 0.5))
    assert page.value("coverage") == 1


def test_the_keyboard_moves_the_mark(page, strip):
    strip.focus()
    for key, value in (
        *[("ArrowLeft", 0.94), ("ArrowUp", 0.95), ("PageDown", 0.85), ("PageUp", 0.95)],
        *[("Home", 0), ("ArrowDown", 0), ("End", 1), ("ArrowRight", 1)],
    ):
        page.page.keyboard.press(key)
        assert page.value("coverage") == value
        assert strip.get_attribute("aria-valuenow") == str(round(100 * value))
    assert page.page.evaluate("app.graph.nodes.length") == 2, "no key reached the graph"


def test_the_mark_follows_the_widget(page, strip):
    at_95 = mark_at(page)
    page.set("coverage", 0.5)
    page.page.wait_for_function(
        "() => document.querySelector('.qt-spread').getAttribute('aria-valuenow') === '50'"
    )
    assert mark_at(page) < at_95


def test_where_coverage_decides_nothing_there_is_no_strip(page, strip):
    row = page.page.locator(".qt-detail").first
    for name in ("content_threshold", "cost_budget"):
        page.set(name, 0.4)
        row.wait_for(state="hidden")
        page.set(name, 0.0)
        row.wait_for(state="visible")
    page.page.evaluate("id => app.graph.getNodeById(id).disconnectInput(0)", VISUALIZER)
    row.wait_for(state="hidden")
