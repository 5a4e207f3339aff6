"""Painting in the live panel: tiles, drags, keys, undo, and what is saved of it."""

import json

import pytest
from quadtree_pack.testing.frontend import (
    COST,
    DEFAULTS,
    LATER,
    LOADER,
    canvas_box,
    leaf_at,
    workflow,
)


def test_clicks_cycle_a_leaf_and_are_saved_undone_and_cleared(page):
    page.load()
    page.line(COST)
    leaf_at(page, 0.5, 0.5)
    for words in ("keep", "full", "as computed"):
        page.page.mouse.down()
        page.page.mouse.up()
        page.line(rf"\({words}\)$")
    assert page.value("regions") == ""
    page.page.mouse.down()
    page.page.mouse.up()
    painted = json.loads(page.value("regions"))
    assert painted["size"] == [1024, 680] and [region[0] for region in painted["regions"]] == [
        "keep"
    ]
    assert page.saved()["nodes"][1]["widgets_values"][6] == page.value("regions")
    assert "denoise 0.00 (keep)" in page.line("denoise 0.00")
    undo, clear = (
        page.page.get_by_role("button", name=name, exact=True).first for name in ("Undo", "Clear")
    )
    undo.click()
    assert page.value("regions") == ""
    leaf_at(page, 0.5, 0.5)
    page.page.mouse.down()
    page.page.mouse.up()
    clear.click()
    assert page.value("regions") == "" and clear.is_disabled()
    undo.click()
    assert json.loads(page.value("regions")) == painted


def test_a_drag_paints_every_leaf_on_its_way_with_one_undo(page):
    page.load()
    page.line(COST)
    box = canvas_box(page)
    page.page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.5 * box["height"])
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"], steps=25)
    page.page.mouse.up()
    painted = json.loads(page.value("regions"))["regions"]
    assert len(painted) >= 3 and {region[0] for region in painted} == {"keep"}
    page.page.get_by_role("button", name="Undo", exact=True).first.click()
    assert page.value("regions") == ""


def test_the_keyboard_chooses_and_changes_leaves(page):
    page.load()
    page.line(COST)
    page.page.locator(".qt-view").first.focus()
    page.page.keyboard.press("ArrowRight")
    first = page.line(r"^\d+ px, detail")
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Enter")
    assert "(keep)" in page.line(r"\(keep\)")
    page.page.keyboard.press("Control+z")
    assert page.value("regions") == "" and first


def test_a_workflow_of_before_the_regions_still_loads(page):
    page.load(workflow(values=DEFAULTS[:6]))
    page.line(COST)
    assert page.value("regions") == "" and page.value("line_thickness") == 2
    assert [page.value(name) for name in LATER] == DEFAULTS[7:]


@pytest.mark.parametrize("key", ["Delete", "Backspace"])
def test_keys_in_the_panel_delete_no_nodes(page, key):
    page.load()
    page.line(COST)
    page.page.evaluate("(id) => app.canvas.select(app.graph.getNodeById(id))", LOADER)
    page.page.locator(".qt-view").first.focus()
    page.page.keyboard.press(key)
    page.page.wait_for_timeout(200)
    assert page.page.evaluate("() => app.graph.nodes.length") == 2


def test_undo_by_key_takes_back_the_painting_and_nothing_else(page):
    page.load()
    page.line(COST)
    leaf_at(page, 0.5, 0.5)
    page.page.mouse.down()
    page.page.mouse.up()
    page.line(r"\(keep\)$")
    page.page.evaluate(
        """(id) => {
            app.graph.getNodeById(id).pos = [40, 120];
            app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
        }""",
        LOADER,
    )
    page.page.locator(".qt-view").first.focus()
    page.page.keyboard.press("Control+z")
    page.page.wait_for_timeout(300)
    assert page.value("regions") == ""
    assert page.page.evaluate("(id) => [...app.graph.getNodeById(id).pos]", LOADER) == [40, 120]


def test_painting_on_an_image_of_another_shape_starts_anew(page):
    elsewhere = '{"size":[1024,680],"regions":[["keep",0,0,1,1]]}'
    page.load(workflow("sub/tall [1].png", values=[*DEFAULTS[:6], elsewhere, *DEFAULTS[7:]]))
    page.line("painted on an image of another shape: regions ignored")
    assert "(as computed)" in leaf_at(page, 0.5, 0.5)
    page.page.mouse.down()
    page.page.mouse.up()
    page.line(r"\(keep\)$")
    painted = json.loads(page.value("regions"))
    assert painted["size"] == [680, 1024] and len(painted["regions"]) == 1


@pytest.mark.parametrize(
    "text", ['{"regions": 5}', '{"regions": [5]}', "[null]", "{", '[["keep", 2, 0, 1, 1]]']
)
def test_a_garbled_regions_text_is_said_and_throws_nothing(page, text):
    page.load(workflow(values=[*DEFAULTS[:6], text, *DEFAULTS[7:]]))
    page.line("regions")
    box = canvas_box(page)
    page.page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.page.mouse.move(box["x"] + 90, box["y"] + 90)
    page.set("regions", "")
    page.line("tiles|px, detail")
    page.errors[:] = [error for error in page.errors if error.startswith("uncaught")]
