"""The live panel in the real frontend, in both renderers."""

import re

import pytest
from quadtree_pack.benchmarks.web import RESIZE, watch
from quadtree_pack.testing.frontend import (
    COST,
    LATER,
    LOADER,
    VISUALIZER,
    WIDGETS,
    behind,
    canvas_box,
    click_leaf,
    colours,
    leaf_at,
    node,
    take,
    tiles,
    workflow,
)
from quadtree_pack.ui.workflow import MOST_NODES


def test_the_tree_and_its_price_are_shown_before_anything_is_queued(page):
    page.load()
    page.line(COST)
    assert colours(page) > 3
    assert (
        page.page.locator(".qt-view img")
        .first.get_attribute("src")
        .startswith("/api/view?filename=quadtree_")
    )
    assert (
        page.page.locator('.qt[role="group"]').first.get_attribute("aria-label")
        == "Quadtree preview"
    )


def test_tiles_follow_a_slider_while_it_moves(page):
    page.load()
    page.line(COST)
    counts = []
    for value in range(20, 80, 3):
        page.set("content_threshold", float(value))
        page.page.wait_for_timeout(50)
        counts.append(tiles(page))
    page.line(COST)
    # A busy machine shows few of the trees between, but never only the last.
    assert len(set(counts)) >= 3 and tiles(page) < max(counts) / 1.5


def test_one_request_is_in_flight_and_the_last_value_wins(page):
    page.load()
    page.line(COST)
    page.page.evaluate(
        """() => {
            window.__flight = 0; window.__most = 0; window.__last = null;
            window.__fetch ??= app.api.fetchApi;
            app.api.fetchApi = async function (route, options) {
                window.__last = JSON.parse(options?.body ?? "{}");
                // The price may be asked beside it: it takes long for large images.
                if (route !== "/quadtree/preview" || window.__last.cost)
                    return window.__fetch.call(this, route, options);
                window.__most = Math.max(window.__most, ++window.__flight);
                try { return await window.__fetch.call(this, route, options); } finally { window.__flight--; }
            };
        }"""
    )
    page.page.evaluate(
        """async (id) => {
            const widget = app.graph.getNodeById(id).widgets.find((one) => one.name === "content_threshold");
            for (let value = 20; value <= 40; value += 0.5) {
                widget.value = value; widget.callback?.(value);
                await new Promise((done) => setTimeout(done, 5));
            }
        }""",
        VISUALIZER,
    )
    page.page.wait_for_function(
        "() => window.__flight === 0 && window.__last.cost && window.__last.content_threshold === 40"
    )
    assert (
        page.page.evaluate("() => { app.api.fetchApi = window.__fetch; return window.__most; }")
        == 1
    )


def test_hovering_names_the_leaf(page):
    page.load()
    page.line(COST)
    words = leaf_at(page, 0.5, 0.5)
    assert "px, detail" in words and "denoise 0." in words and "(as computed)" in words
    page.page.mouse.move(5, 400)
    page.line(COST)


def test_problems_are_said_in_plain_words(page):
    page.load()
    page.line(COST)
    page.set("min_tile_size", 2048)
    page.line("^min_tile_size is 2048 px and max_tile_size 1024 px")
    page.set("min_tile_size", 64)
    page.set("min_denoise", 0.9)
    page.line("^min_denoise is 0.9 and max_denoise 0.8")
    page.load(workflow(linked=False))
    page.line("^Connect Load Image, or queue the workflow once")
    picture = page.page.locator(".qt-view img").first
    assert picture.is_hidden(), "the browser would frame a picture without a file"
    page.load(workflow("broken.png"))
    page.line("cannot be read as an image")
    page.load(workflow("sub/tall [1].png"))
    page.line(COST)
    picture.wait_for()
    page.errors.clear()  # the browser itself logs each refused request


def test_nothing_of_the_panel_is_saved(page):
    values = [
        30,
        32,
        512,
        0.1,
        0.9,
        1,
        '[["keep",0,0,0.5,0.5]]',
        "depth",
        True,
        "limit",
        "both",
        0.4,
        0.95,
        "clip",
        "custom",
    ]
    page.load(workflow(values=values))
    page.line("tiles?")
    assert page.saved()["nodes"][1]["widgets_values"] == values
    prompt = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert set(prompt[str(VISUALIZER)]["inputs"]) == {"image", *WIDGETS, *LATER}
    page.load(page.saved())
    page.line("tiles")
    assert page.saved()["nodes"][1]["widgets_values"] == values


def test_the_panel_follows_what_denoise_follows(page):
    page.load()
    page.line(COST)
    seen = {page.text()}
    changes = (
        ("denoise_by", "depth"),
        ("denoise_by", "detail"),
        ("detail_metric", "edges"),
        ("invert", True),
    )
    for name, value in changes:
        before = page.text()
        page.set(name, value)
        page.page.wait_for_function(
            "before => document.querySelector('.qt-line').textContent !== before", arg=before
        )
        seen.add(page.line(COST))
    assert len(seen) >= 3


def asks_price(request):
    return "quadtree/preview" in request.url and request.post_data_json.get("cost")


def test_with_a_budget_the_panel_names_the_threshold_it_found(page):
    page.load()
    page.line(COST)
    with_threshold = r"^\d+ tiles?, [-0-9]+ px, about \d+% of the full model cost at 20 steps \(assuming a typical run\), content_threshold \d+\.\d$"
    page.set("cost_budget", 0.4)
    found = page.line(with_threshold)
    # The tree comes first and shows no price until that of the same tree has come, too.
    with page.page.expect_response(lambda response: asks_price(response.request)):
        page.set("content_threshold", 90.0)
    assert page.line(with_threshold) == found, "the budget decides, not content_threshold"


def test_a_blend_of_two_images_is_shown_before_any_run_and_is_the_run_s(page):
    page.load(behind("ImageBlend", "image1", "image2", values=(0.5, "normal")))
    before = page.line(COST)
    assert page.run() == "execution_success"
    page.page.wait_for_timeout(700)
    assert page.line(COST) == before
    assert "quadtree_" in page.page.locator(".qt-view img").first.get_attribute("src")


def test_an_image_is_followed_through_a_resize_before_any_run(page):
    page.load()
    alone = page.line(COST)
    page.load(behind("ImageScaleBy", "image", values=("lanczos", 2.0)))
    live = page.line(COST)
    assert live != alone
    assert "quadtree_" in page.page.locator(".qt-view img").first.get_attribute("src")
    assert page.run() == "execution_success"
    page.page.wait_for_timeout(500)
    page.wait_for_text(live)
    page.set("scale_by", 1.0, node=3)
    page.wait_for_text(alone)


WIDGET_OF_STRENGTH = {"name": "strength", "type": "FLOAT", "widget": {"name": "strength"}}
STALE = "; of an earlier run, something before this node has changed$"


def assert_paintable(page, expected):
    """Check that the picture can be painted with mouse, keys and buttons, or that it cannot."""
    tools = page.page.locator(".qt-tools").first
    for name in ("Keep", "Value", "Full", "Erase"):
        assert tools.get_by_role("button", name=name, exact=True).is_enabled() is expected
    page.set("regions", "")
    page.page.locator(".qt-view").first.focus()
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("f")
    click_leaf(page)
    page.page.keyboard.press("Enter")
    assert (page.value("regions") != "") is expected
    assert (page.page.locator(".qt-painting").count() == 1) is expected
    page.page.keyboard.press("Escape")
    page.page.mouse.move(5, 5)
    assert page.page.locator(".qt-caption").first.is_visible() is not expected


def test_of_a_node_that_only_a_run_computes_the_last_run_is_shown_and_said(page):
    strength = 0.1 if page.renderer == "classic" else 0.15  # not what has run already
    page.load(behind("ImageAddNoise", "image", values=(7, "fixed", strength)))
    page.line("^ImageAddNoise is computed during the run. Queue the workflow once.$")
    assert page.run() == "execution_success"
    page.line("; of the last run$")
    page.set("content_threshold", 40.0)
    page.line("; of the last run$")
    assert not page.page.locator(".qt-stale").count()
    graph = page.saved()
    page.set("strength", 0.2, node=3)
    page.line(STALE)
    assert page.page.locator(".qt-stale").count() == 1
    page.set("strength", strength, node=3)
    page.line("; of the last run$")
    page.set("seed", 8, node=3)
    page.line("; of the last run, seed changed$")
    page.set("seed", 7, node=3)
    page.line("; of the last run$")
    page.open()
    page.load(graph)
    page.line("; of the last run$")


def test_a_picture_that_is_no_longer_the_input_is_grey_and_cannot_be_painted(page):
    page.load(behind("ImageAddNoise", "image", values=(7, "fixed", 0.1)))
    assert page.run() == "execution_success"
    page.line("; of the last run$")
    assert_paintable(page, True)
    take(page, "Keep")
    painted = page.value("regions")
    page.set("image", "sub/tall [1].png", LOADER)
    page.line(STALE)
    click_leaf(page)  # with the tool that was taken before
    page.page.mouse.move(5, 5)
    assert page.value("regions") == painted
    assert page.page.locator(".qt-stale").count() == 1
    assert "%" not in page.text(), "nobody knows the price of the image that comes"
    assert page.page.locator(".qt-caption").first.text_content().startswith("An earlier image.")
    assert_paintable(page, False)
    page.set("image", "picture.png", LOADER)
    page.line("; of the last run$")
    assert_paintable(page, True)


def test_what_a_run_made_of_numbers_from_other_nodes_is_the_last_run_s(page):
    graph = behind("ImageAddNoise", "image", values=(7, "fixed", 0.25))
    graph["nodes"].append(node(4, "PrimitiveFloat", [], [("FLOAT", "FLOAT", [20])], values=(0.25,)))
    graph["nodes"][2]["inputs"].append({**WIDGET_OF_STRENGTH, "link": 20})
    graph["links"].append([20, 4, 0, 3, 1, "FLOAT"])
    page.load(graph)
    assert page.run() == "execution_success"
    page.line("; of the last run$")
    page.set("value", 0.3, node=4)
    page.line(STALE)


def test_what_the_node_before_shows_is_used_before_any_run(page):
    """As nodes of other packs show what they made, with a name among the temporary files."""
    page.load(behind("ImageAddNoise", "image", values=(9, "fixed", 0.3)))
    page.line("^ImageAddNoise is computed during the run")
    page.page.evaluate(
        """() => {
            const shown = { filename: "picture.png", subfolder: "", type: "input" };
            app.nodeOutputs["3"] = { images: [shown] };
            app.graph.getNodeById(3).imgs = [new Image()];
        }"""
    )
    page.line("; as the node before shows it$")
    assert_paintable(page, True)
    page.set("strength", 0.4, node=3)
    page.line(STALE)
    assert_paintable(page, False)
    page.page.evaluate("() => { delete app.nodeOutputs['3']; }")


def test_a_switch_passes_on_what_it_chooses(page):
    page.load(behind("ComfySwitchNode", "on_false", values=(False,)))
    page.line(COST)
    page.set("switch", True, node=3)
    page.line("^This image is computed during the run")


SET_AND_GET = """([loader, visualizer]) => {
    for (const kind of ["SetNode", "GetNode"]) {
        class Joint extends LiteGraph.LGraphNode {
            constructor() {
                super(kind);
                this.isVirtualNode = true;
                if (kind === "SetNode") this.addInput("IMAGE", "*");
                this.addOutput("IMAGE", "*");
                this.addWidget("text", "Constant", "photo", () => {});
            }
        }
        LiteGraph.registerNodeType(kind, Joint);
    }
    const [set, get] = ["SetNode", "GetNode"].map((kind) => LiteGraph.createNode(kind));
    app.graph.add(set);
    app.graph.add(get);
    const node = app.graph.getNodeById(visualizer);
    node.disconnectInput(0);
    app.graph.getNodeById(loader).connect(0, set, 0);
    get.connect(0, node, 0);
}"""


def load_set_and_get(page):
    """As KJNodes defines them: the browser alone knows them, and joins them by a name."""
    page.load()
    page.line(COST)
    page.page.evaluate(SET_AND_GET, [LOADER, VISUALIZER])


def test_set_and_get_nodes_are_seen_through(page):
    load_set_and_get(page)
    page.page.wait_for_timeout(1000)
    page.line(COST)
    page.set("content_threshold", 50.0)
    page.line(COST)


def test_a_get_node_in_a_subgraph_finds_the_set_node_outside(page):
    load_set_and_get(page)
    page.page.evaluate(
        """(visualizer) => {
            const get = app.graph.nodes.find((node) => node.type === "GetNode");
            const inside = new Set([get, app.graph.getNodeById(visualizer)]);
            const { node } = app.graph.convertToSubgraph(inside);
            app.canvas.openSubgraph(node.subgraph, node);
        }""",
        VISUALIZER,
    )
    page.page.wait_for_selector(".qt-line")
    page.line(COST)
    assert page.page.evaluate(
        "() => !app.canvas.graph.nodes.some((node) => node.type === 'SetNode')"
    )
    page.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_bypassed_nodes_and_reroutes_are_seen_through(page):
    graph = workflow()
    graph["nodes"] += [
        node(3, "ImageInvert", [("image", "IMAGE", 1)], [("IMAGE", "IMAGE", [2])], mode=4),
        node(4, "Reroute", [("", "*", 2)], [("", "IMAGE", [3])], at=(20, 560), size=(75, 26)),
    ]
    graph["links"] = [
        [1, LOADER, 0, 3, 0, "IMAGE"],
        [2, 3, 0, 4, 0, "IMAGE"],
        [3, 4, 0, VISUALIZER, 0, "IMAGE"],
    ]
    graph["nodes"][1]["inputs"][0]["link"] = 3
    page.load(graph)
    page.line(COST)


def test_a_bypassed_node_that_takes_images_and_masks_is_seen_through(page):
    """ComfyUI passes on what can be connected, not only what has the output's very type."""
    graph = workflow()
    inputs = [("input", "IMAGE,MASK", 1)]
    graph["nodes"].append(
        node(3, "ResizeImageMaskNode", inputs, [("resized", "IMAGE", [2])], mode=4)
    )
    graph["links"] = [
        [1, LOADER, 0, 3, 0, "IMAGE"],
        [2, 3, 0, VISUALIZER, 0, "IMAGE"],
    ]
    graph["nodes"][1]["inputs"][0]["link"] = 2
    page.load(graph)
    page.line(COST)


def test_a_widget_without_a_name_before_the_node_changes_nothing(page):
    page.load()
    before = re.match(r"\d+", page.line(COST))[0]
    page.page.evaluate(
        """(id) => app.graph.getNodeById(id).widgets.push({ type: "divider", options: {} })""",
        LOADER,
    )
    page.set("content_threshold", 90.0)
    page.line(f"^(?!{before} ){COST[1:]}")


def test_a_value_that_only_a_run_computes_is_named(page):
    page.load()
    page.line(COST)
    page.page.evaluate(
        """([visualizer, loader]) => {
            const size = LiteGraph.createNode("GetImageSize"), node = app.graph.getNodeById(visualizer);
            app.graph.add(size);
            app.graph.getNodeById(loader).connect(0, size, 0);
            size.connect(0, node, node.inputs.findIndex(({ name }) => name === "min_tile_size"));
        }""",
        [VISUALIZER, LOADER],
    )
    page.line("only a run computes min_tile_size")


def test_inside_a_subgraph_the_image_outside_is_found(page):
    page.load()
    page.line(COST)
    page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            app.canvas.select(node);
            app.graph.convertToSubgraph(new Set([node]));
        }""",
        VISUALIZER,
    )
    host = page.page.evaluate(
        "() => app.rootGraph.nodes.find((node) => node.isSubgraphNode?.())?.id"
    )
    assert host is not None
    page.page.evaluate(
        "id => app.canvas.openSubgraph(app.rootGraph.getNodeById(id).subgraph, app.rootGraph.getNodeById(id))",
        host,
    )
    page.line(COST)
    page.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_undo_of_a_deletion_shows_the_living_panel(page):
    page.load()
    page.line(COST)
    page.page.evaluate(
        """(id) => {
            const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker;
            tracker.captureCanvasState();
            app.graph.remove(app.graph.getNodeById(id));
            tracker.captureCanvasState();
        }""",
        VISUALIZER,
    )
    page.page.wait_for_function("() => !document.querySelector('.qt-line')")
    page.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.page.wait_for_selector(".qt-line")
    page.line(COST)
    before = tiles(page)
    page.set("content_threshold", 60.0)
    page.page.wait_for_function(
        f"() => parseInt(document.querySelector('.qt-line').textContent) < {before}"
    )
    assert page.page.locator(".qt-line").count() == 1


def test_copies_have_panels_of_their_own(page):
    page.load()
    page.line(COST)
    page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            app.canvas.select(node); app.canvas.copyToClipboard([node]); app.canvas.pasteFromClipboard();
        }""",
        VISUALIZER,
    )
    page.page.wait_for_function("() => document.querySelectorAll('.qt-line').length === 2")
    texts = page.page.locator(".qt-line").all_text_contents()
    assert sum("tiles" in text for text in texts) >= 1


def test_with_the_side_panel_open_a_chosen_node_keeps_its_width(page):
    page.load()
    page.line(COST)
    wide = canvas_box(page)["width"]
    page.page.evaluate("(id) => app.canvas.select(app.graph.getNodeById(id))", VISUALIZER)
    page.page.evaluate(
        "() => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', true)"
    )
    page.page.wait_for_timeout(500)
    page.page.evaluate(
        "() => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', false)"
    )
    page.page.evaluate(
        "(id) => { app.graph.getNodeById(id).setSize([620, 700]); app.canvas.setDirty(true, true); }",
        VISUALIZER,
    )
    page.page.wait_for_function(
        "wide => document.querySelector('.qt-view canvas').getBoundingClientRect().width > wide",
        arg=wide + 100,
    )


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_pointing_is_right_at_every_zoom(page, scale):
    page.load()
    page.line(COST)
    there = leaf_at(page, 0.3, 0.6)
    page.page.evaluate(
        "scale => { app.canvas.ds.scale = scale; app.canvas.ds.offset = [-200, 0]; app.canvas.setDirty(true, true); }",
        scale,
    )
    page.page.wait_for_timeout(300)
    if canvas_box(page)["y"] + 0.6 * canvas_box(page)["height"] < 880:
        assert leaf_at(page, 0.3, 0.6) == there
    page.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; }")


def test_a_node_that_is_placed_has_room_for_the_picture(page):
    page.load()
    page.page.evaluate(
        """() => {
            window.__placed = LiteGraph.createNode("QuadtreeVisualizer");
            window.__placed.pos = [800, 100];
            app.graph.add(window.__placed);
        }"""
    )
    page.page.wait_for_function(
        """() => {
            const { element } = __placed.widgets.find(({ name }) => name === "quadtree_view");
            const view = element.querySelector(".qt-view");
            return view.clientHeight >= 240 && view.clientWidth >= 380;
        }"""
    )


IDLE_MS = 1500
MS_FOR_4000 = 8
COUNT_WORK = """(milliseconds) => {
    const counts = { drawings: 0, requests: 0, frames: 0 };
    const [prototype, { fetchApi }] = [CanvasRenderingContext2D.prototype, app.api];
    const [clear, request] = [prototype.clearRect, window.requestAnimationFrame];
    prototype.clearRect = function (...values) {
        if (this.canvas.closest?.(".qt-view")) counts.drawings++;
        return clear.apply(this, values);
    };
    app.api.fetchApi = function (route, ...rest) {
        if (route.startsWith("/quadtree")) counts.requests++;
        return fetchApi.call(this, route, ...rest);
    };
    window.requestAnimationFrame = function (...values) {
        if (new Error().stack.includes("quadtree")) counts.frames++;
        return request.apply(this, values);
    };
    return new Promise((done) => setTimeout(() => {
        prototype.clearRect = clear;
        app.api.fetchApi = fetchApi;
        window.requestAnimationFrame = request;
        done(counts);
    }, milliseconds));
}"""


def load_thousands(page):
    """Load a tree of more than 4,000 leaves, and wait for its price."""
    page.load(workflow(values=[1.0, 8, 1024, 0.2, 0.8, 2, ""]))
    page.line(r"^\d{4,} tiles.*model cost", timeout=30_000)
    assert tiles(page) > 4000


def test_an_idle_panel_draws_and_asks_nothing_also_with_thousands_of_leaves(page):
    load_thousands(page)
    page.page.wait_for_timeout(500)
    counts = page.page.evaluate(COUNT_WORK, IDLE_MS)
    assert counts == {"drawings": 0, "requests": 0, "frames": 0}
    page.page.evaluate(
        """(id) => setTimeout(() => {
            app.graph.getNodeById(id).widgets.find((one) => one.name === "max_denoise").value = 0.7;
        }, 300)""",
        VISUALIZER,
    )
    counts = page.page.evaluate(COUNT_WORK, IDLE_MS)
    assert min(counts.values()) > 0, "it does work once something has changed"


def test_thousands_of_leaves_are_drawn_in_time(page):
    """As `bench web` measures it; the fastest drawing, so that a busy machine does not count."""
    load_thousands(page)
    drawn = watch(page, lambda: page.page.evaluate(RESIZE, VISUALIZER))
    assert drawn["drawings"] > 0
    assert drawn["fastest"] * 4000 / tiles(page) <= MS_FOR_4000


def test_looking_asks_no_other_node_to_serialize_itself(page):
    """Some nodes upload a file or show an alert then; the frontend's own graphToPrompt is only the
    oracle here."""
    page.load()
    page.line(COST)
    page.page.evaluate(
        """() => {
            window.__asked = 0;
            window.__toPrompt = app.graphToPrompt;
            app.graphToPrompt = function (...values) { window.__asked++; return window.__toPrompt.apply(this, values); };
        }"""
    )
    image = page.page.locator(".qt-view img").first
    before = image.get_attribute("src")
    page.set("image", "sub/tall [1].png", LOADER)
    page.page.wait_for_function(
        "src => document.querySelector('.qt-view img').getAttribute('src') !== src", arg=before
    )
    page.line(COST)
    asked = page.page.evaluate(
        "() => { app.graphToPrompt = window.__toPrompt; return window.__asked; }"
    )
    assert asked == 0
    prompt = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt[str(LOADER)]["inputs"]["image"] == "sub/tall [1].png"


def masked(*kinds):
    """Load Image -> Quadtree Visualizer, and its mask through nodes of these kinds."""
    graph = workflow("half.png")
    origin = (LOADER, 1)
    for number, kind in enumerate(kinds, start=3):
        graph["nodes"].append(
            node(number, kind, [("mask", "MASK", number)], [("MASK", "MASK", [number + 1])])
        )
        graph["links"].append([number, *origin, number, 0, "MASK"])
        origin = (number, 0)
    last = 3 + len(kinds)
    graph["links"].append([last, *origin, VISUALIZER, 1, "MASK"])
    graph["nodes"][0]["outputs"][1]["links"] = [3]
    graph["nodes"][1]["inputs"][1]["link"] = last
    return graph


def test_the_mask_of_a_transparent_file_is_shown_and_counts(page):
    """The left half of the file is transparent: Load Image's mask is 1 there, and 0 elsewhere."""
    page.load(workflow("half.png"))
    whole = page.line(COST)
    page.load(masked())
    assert page.line(COST) != whole
    assert page.page.locator(".qt-veil").first.is_visible()
    assert "denoise 0.00" in leaf_at(page, 0.7, 0.5)
    assert "denoise 0.00" not in leaf_at(page, 0.3, 0.5)
    page.load(masked("InvertMask"))
    page.page.mouse.move(5, 400)
    page.line(COST)
    assert "denoise 0.00" in leaf_at(page, 0.3, 0.5)


def test_a_mask_that_the_preview_cannot_know_is_named(page):
    page.load(masked("ThresholdMask", "PreviewAny"))
    page.line("the preview ignores the mask$")


def test_a_muted_visualizer_shows_its_tree_all_the_same(page):
    graph = workflow()
    graph["nodes"][1]["mode"] = 2
    page.load(graph)
    page.line(COST)


def test_a_workflow_that_cannot_be_read_is_said_and_other_panels_go_on(page):
    """Two bypassed nodes that feed each other lead nowhere."""
    page.load()
    page.line(COST)
    page.page.evaluate(
        """(visualizer) => {
            const nodes = [0, 1].map(() => LiteGraph.createNode("ImageInvert"));
            for (const node of nodes) {
                node.mode = 4;
                app.graph.add(node);
            }
            const broken = LiteGraph.createNode("QuadtreeVisualizer");
            app.graph.add(broken);
            nodes[0].connect(0, nodes[1], 0);
            nodes[1].connect(0, broken, 0);
            nodes[1].connect(0, nodes[0], 0);
            app.graph._nodes.reverse(); // the broken one is asked first
        }""",
        VISUALIZER,
    )
    page.line("^The preview is not available: ")
    page.set("coverage", 0.5)
    page.set("content_threshold", 0.0)
    page.line("^[0-9]+ tiles.*model cost")


COUNT = """async count => {
    const path = "/extensions/comfyui-quadtree-diffusion/quadtree_workflow.js";
    const { collectWorkflow } = await import(path);
    const graph = new LiteGraph.LGraph();
    let last = null;
    for (let number = 0; number < count; number++) {
        const node = LiteGraph.createNode("ImageInvert");
        graph.add(node);
        last?.connect(0, node, 0);
        last = node;
    }
    try {
        return Object.keys(collectWorkflow(last, []).workflow).length;
    } catch (error) {
        return error.message;
    }
}"""


def test_a_large_workflow_is_sent_and_of_a_larger_one_the_truth_is_said(page):
    page.load()
    assert page.page.evaluate(COUNT, 700) == 700
    assert page.page.evaluate(COUNT, MOST_NODES + 1) == (
        f"more than {MOST_NODES} nodes belong to its image and its runs"
    )
