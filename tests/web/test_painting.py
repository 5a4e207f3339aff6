"""Painting in the live panel: tiles, drags, keys, undo, and what is saved of it."""

import json

import pytest
from quadtree_pack.testing.frontend import (
    COST,
    DEFAULTS,
    LATER,
    LOADER,
    canvas_box,
    click_leaf,
    drag,
    leaf_at,
    take,
    workflow,
)


def painted(page):
    """The regions that the node would get."""
    text = page.value("regions")
    return json.loads(text)["regions"] if text else []


def covers(region, x, y):
    return region[1] <= x < region[3] and region[2] <= y < region[4]


def area(regions):
    return sum((x1 - x0) * (y1 - y0) for _, x0, y0, x1, y1, *_ in regions)


def test_without_a_tool_nothing_is_painted(page):
    page.load()
    page.line(COST)
    click_leaf(page)
    click_leaf(page, button="right")
    page.page.keyboard.press("Escape")
    drag(page, (0.2, 0.4), (0.8, 0.6))
    assert "(as computed)" in leaf_at(page, 0.52, 0.52)
    page.page.keyboard.press("Enter")
    assert page.value("regions") == ""
    assert page.page.locator(".qt-tools button[aria-pressed=true]").count() == 0


def test_each_tool_paints_a_tile_and_is_saved_undone_and_cleared(page):
    page.load()
    page.line(COST)
    for tool, words in (("Keep", r"0\.00 \(keep"), ("Full", r"1\.00 \(full"), ("Value", "painted")):
        take(page, tool)
        click_leaf(page)
        page.line(words)
        assert [region[0] for region in painted(page)] == [tool.lower()]
    saved = json.loads(page.value("regions"))
    assert saved["size"] == [1024, 680]
    assert page.saved()["nodes"][1]["widgets_values"][6] == page.value("regions")
    prompt = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt["2"]["inputs"]["regions"] == page.value("regions")
    take(page, "Erase")
    click_leaf(page)
    page.line(r"\(as computed\)$")
    assert page.value("regions") == ""
    take(page, "Undo")
    assert json.loads(page.value("regions")) == saved
    take(page, "Clear")
    assert page.value("regions") == ""
    take(page, "Undo")
    assert json.loads(page.value("regions")) == saved


def test_the_slider_s_denoise_is_painted_and_reaches_the_tree(page):
    page.load()
    page.line(COST)
    take(page, "Value")
    page.page.get_by_label("Denoise to paint").first.fill("0.35")
    click_leaf(page)
    page.line(r"denoise 0\.35 \(painted\)")
    assert [region[0::5] for region in painted(page)] == [["value", 0.35]]
    take(page, "Value")
    leaf_at(page, 0.5, 0.7)
    assert "denoise 0.35 (painted)" in leaf_at(page, 0.52, 0.52)


PLACE = """() => {
    window.__placed = LiteGraph.createNode("QuadtreeVisualizer");
    __placed.pos = [820, 80];
    app.graph.add(__placed);
    app.graph.getNodeById(1).connect(0, __placed, 0);
    app.graph.remove(app.graph.getNodeById(2));
}"""


def test_the_picture_stays_where_it_is_when_a_tool_is_taken(page):
    """In a node as wide as it is placed, whose tools and their options must fit."""
    page.load()
    page.page.evaluate(PLACE)
    page.line("full model cost")
    page.page.wait_for_timeout(300)
    before = canvas_box(page)
    rows = page.page.locator(".qt-tools > div")
    for tool in ("Keep", "Value", "Full", "Erase"):
        take(page, tool)
        assert page.page.get_by_label("Brush size").first.is_visible()
        assert page.page.get_by_label("Denoise to paint").first.is_visible() is (tool == "Value")
        assert canvas_box(page) == before
        assert all(row.bounding_box()["height"] < 30 for row in rows.all()), "one row each"
    page.page.keyboard.press("Escape")


def test_a_right_click_erases_while_a_tool_is_taken(page):
    page.load()
    page.line(COST)
    take(page, "Full")
    drag(page, (0.3, 0.52), (0.7, 0.52))
    before = area(painted(page))
    click_leaf(page, button="right")
    assert 0 < area(painted(page)) < before
    assert page.page.locator(".litecontextmenu, .p-contextmenu").count() == 0


@pytest.mark.parametrize("size", [0, 1])
def test_a_fast_stroke_leaves_no_hole(page, size):
    """The mouse jumps over 80% of the width: the browser tells two points only."""
    page.load()
    page.line(COST)
    take(page, "Keep")
    page.page.get_by_label("Brush size").first.fill(str(size))
    drag(page, (0.1, 0.5), (0.9, 0.5), steps=1)
    regions = painted(page)
    holes = [
        step
        for step in range(110, 890, 5)
        if not any(covers(region, step / 1000, 0.5) for region in regions)
    ]
    assert holes == [] and {region[0] for region in regions} == {"keep"}
    take(page, "Undo")
    assert page.value("regions") == "", "one stroke is one change"


def test_a_larger_brush_paints_more(page):
    page.load()
    page.line(COST)
    take(page, "Keep")
    areas = []
    for size in (3, 6, 8):
        page.page.get_by_label("Brush size").first.fill(str(size))
        click_leaf(page)
        areas.append(area(painted(page)))
        take(page, "Undo")
    assert areas == sorted(areas) and areas[0] < areas[1] / 2 < areas[2] / 4


def test_shift_paints_a_rectangle_and_fill_a_connected_area(page):
    page.load()
    page.line(COST)
    take(page, "Full")
    page.page.keyboard.down("Shift")
    drag(page, (0.3, 0.4), (0.7, 0.6))
    page.page.keyboard.up("Shift")
    (region,) = painted(page)
    assert region[0] == "full" and covers(region, 0.35, 0.5) and covers(region, 0.65, 0.5)
    assert not covers(region, 0.1, 0.5)
    take(page, "Keep")
    take(page, "Fill")
    click_leaf(page)
    assert [region[0] for region in painted(page)] == ["keep"]
    assert area(painted(page)) == pytest.approx(area([region]), rel=0.01)
    take(page, "Fill")


def test_painting_over_and_over_keeps_the_text_short(page):
    page.load()
    page.line(COST)
    for tool in ("Keep", "Full", "Keep"):
        take(page, tool)
        for row in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
            drag(page, (0, row), (1, row), steps=3)
    assert len(painted(page)) < 40


def test_the_keyboard_chooses_leaves_and_tools(page):
    page.load()
    page.line(COST)
    page.page.locator(".qt-view").first.focus()
    keys = page.page.keyboard
    keys.press("ArrowRight")
    page.line(r"^\d+ px, detail")
    keys.press("ArrowRight")
    keys.press("ArrowDown")
    keys.press("k")
    keys.press("Enter")
    assert "(keep)" in page.line(r"\(keep\)")
    keys.press("v")
    keys.press("7")
    keys.press("Enter")
    page.line(r"denoise 0\.70 \(painted\)")
    keys.press("Control+z")
    page.line(r"\(keep\)")
    keys.press("e")
    keys.press("Enter")
    assert page.value("regions") == ""
    keys.press("Escape")
    keys.press("Enter")
    assert page.value("regions") == ""


def test_one_shortcut_leads_the_keyboard_to_the_panel(page):
    page.load()
    page.line(COST)
    page.page.locator("body").press("Alt+q")
    assert page.page.evaluate("document.activeElement.className").startswith("qt-view")


def test_regions_have_no_box_among_the_widgets_and_stay_an_input(page):
    page.load(workflow(values=[*DEFAULTS[:6], '[["keep",0,0,0.5,0.5]]', *DEFAULTS[7:]]))
    page.line("tiles")
    assert page.page.evaluate(
        "app.graph.getNodeById(2).widgets.find((w) => w.name === 'regions').hidden"
    )
    assert page.page.locator("textarea").count() == 0
    prompt = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt["2"]["inputs"]["regions"] == '[["keep",0,0,0.5,0.5]]'
    assert "(keep)" in leaf_at(page, 0.2, 0.3)


@pytest.fixture
def fingers(page):
    """What sends events of a touch screen to the page."""
    return page.page.context.new_cdp_session(page.page)


def touch(page, session, kind, *points):
    """Send fingers at shares of the view."""
    box = canvas_box(page)
    at = [
        {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": number}
        for number, (x, y) in enumerate(points)
    ]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})


def test_a_finger_paints_only_with_a_tool_and_else_moves_the_graph(page, fingers):
    page.load()
    page.line(COST)
    look = "() => [...app.canvas.ds.offset, app.canvas.ds.scale]"
    before = page.page.evaluate(look)
    touch(page, fingers, "touchStart", (0.5, 0.5))
    touch(page, fingers, "touchMove", (0.6, 0.5))
    touch(page, fingers, "touchEnd")
    moved = page.page.evaluate(look)
    assert page.value("regions") == "" and moved[0] > before[0] + 10
    take(page, "Keep")
    touch(page, fingers, "touchStart", (0.3, 0.5))
    touch(page, fingers, "touchMove", (0.6, 0.5))
    touch(page, fingers, "touchEnd")
    assert page.page.evaluate(look) == moved
    assert any(covers(region, 0.45, 0.5) for region in painted(page))
    page.line(r"\(keep\)")


def test_two_fingers_zoom_the_graph_and_paint_nothing(page, fingers):
    page.load()
    page.line(COST)
    take(page, "Keep")
    before = page.page.evaluate("app.canvas.ds.scale")
    touch(page, fingers, "touchStart", (0.45, 0.5))
    touch(page, fingers, "touchStart", (0.45, 0.5), (0.55, 0.5))
    for away in (0.1, 0.15, 0.2):
        touch(page, fingers, "touchMove", (0.5 - away, 0.5), (0.5 + away, 0.5))
    touch(page, fingers, "touchEnd")
    assert page.value("regions") == ""
    assert page.page.evaluate("app.canvas.ds.scale") > before * 1.2
    page.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; }")


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
    take(page, "Keep")
    click_leaf(page)
    page.line(r"\(keep\)$")
    page.page.evaluate(
        """(id) => {
            app.graph.getNodeById(id).pos = [40, 120];
            app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
        }""",
        LOADER,
    )
    page.page.locator(".qt-view").first.focus()
    page.page.keyboard.press("Control+Shift+z")  # ComfyUI's redo
    page.page.wait_for_timeout(300)
    assert page.value("regions") != ""
    page.page.locator(".qt-view").first.focus()
    page.page.keyboard.press("Control+z")
    page.page.wait_for_timeout(300)
    assert page.value("regions") == ""
    assert page.page.evaluate("(id) => [...app.graph.getNodeById(id).pos]", LOADER) == [40, 120]


def test_painting_on_an_image_of_another_shape_starts_anew(page):
    elsewhere = '{"size":[1024,680],"regions":[["keep",0,0,1,1]]}'
    page.load(workflow("sub/tall [1].png", values=[*DEFAULTS[:6], elsewhere, *DEFAULTS[7:]]))
    page.line("painted on an image of another shape: regions ignored")
    assert "(as computed)" in leaf_at(page, 0.52, 0.52)
    take(page, "Keep")
    click_leaf(page)
    page.line(r"\(keep\)$")
    assert json.loads(page.value("regions"))["size"] == [680, 1024] and len(painted(page)) == 1


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


WHITE = """() => {
    const canvas = document.querySelector(".qt-view canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let at = 0; at < data.length; at += 4)
        count += data[at] > 200 && data[at + 1] > 200 && data[at + 2] > 200;
    return count;
}"""


def test_what_is_painted_is_hatched_in_white_until_it_is_erased(page):
    page.load()
    page.line(COST)
    plain = page.page.evaluate(WHITE)
    take(page, "Keep")
    drag(page, (0.3, 0.52), (0.7, 0.52))
    page.page.mouse.move(5, 5)
    hatched = page.page.evaluate(WHITE)
    assert hatched > plain + 500
    take(page, "Clear")
    page.page.mouse.move(5, 5)
    page.page.wait_for_function(f"plain => ({WHITE})() <= plain", arg=plain)


def test_a_legend_names_the_colours_until_a_tool_takes_its_place(page):
    page.load()
    page.line(COST)
    entries = page.page.locator(".qt-tools span:has(i.qt-scale, i.qt-hatch)")
    entries.first.wait_for()
    assert entries.all_text_contents() == ["kept to regenerated", "painted"]
    take(page, "Keep")
    entries.first.wait_for(state="hidden")


def test_the_tiles_can_be_made_transparent(page):
    page.load()
    page.line(COST)
    page.page.get_by_label("Opacity of the tiles").first.fill("0.25")
    assert (
        page.page.evaluate("() => document.querySelector('.qt-view canvas').style.opacity")
        == "0.25"
    )
