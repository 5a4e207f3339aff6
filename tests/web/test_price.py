"""The panel's price, read from the workflow in the browser, is the one of the run's end."""

import json
import re

import pytest
from quadtree_pack import demo
from quadtree_pack.testing.api import get, with_tiny_model
from quadtree_pack.testing.frontend import COST
from quadtree_pack.testing.shipped import BLUEPRINT, EXAMPLES

PRICE = r"about (\d+)% of the full model cost at (\d+) steps"
TYPICAL = r" \(assuming a typical model(, no noise mask)?\)"
ENDED = re.compile(r"([\d.]+)% of the full model cost")
# A small run of a template, in windows, which the demo's model makes in seconds.
MADE_SMALL = {
    "LoadImage": {"image": "half.png"},
    "LoadVideo": {"file": "example.mp4"},
    "ImageScaleBy": {"scale_by": 1.0},
    "QuadtreeCrops": {"max_crops": 1},  # the model has one prompt
    "KSampler": {"steps": 4},
    "QuadtreeDiffusion": {"tile_size": 256, "tile_overlap": 32},
}
STILLS = [name for name in EXAMPLES if "video" not in name]
DEMO = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))


def load(page, graph):
    page.load(json.loads(json.dumps(graph).replace("example.png", "picture.png")))


def watch_progress(page):
    page.page.evaluate(
        """() => {
            window.__texts = [];
            app.api.addEventListener("progress_text", ({ detail }) => __texts.push(detail.text));
        }"""
    )


def read_end(page):
    """The percents that the run told at its end."""
    texts = page.page.evaluate("() => __texts")
    told = [found.group(1) for text in texts if (found := ENDED.search(text))]
    assert told, texts
    return float(told[-1])


def set_value(page, kind, name, value):
    page.page.evaluate(
        """([kind, name, value]) => {
            const node = app.graph.nodes.find((one) => one.type === kind);
            node.widgets.find((widget) => widget.name === name).value = value;
        }""",
        [kind, name, value],
    )


def send_again(page, change):
    """What the panel sends after a change, JavaScript."""
    with page.page.expect_request("**/quadtree/preview") as sent:
        page.page.evaluate(change)
    return json.loads(sent.value.post_data)


def assert_queued(page, body):
    """Check that the workflow that the panel sent is a part of what would be queued."""
    queued = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert body["workflow"][body["node"]]["class_type"] == "QuadtreeVisualizer"
    for number, one in body["workflow"].items():
        assert queued[number]["class_type"] == one["class_type"]
        for key, value in one["inputs"].items():
            assert queued[number]["inputs"].get(key, value) == value, (number, key)


def test_the_panel_and_the_end_of_the_run_tell_one_price(page):
    load(page, json.loads(json.dumps(DEMO).replace("photo.png", "picture.png")))
    page.line(PRICE)
    watch_progress(page)
    set_value(page, "KSampler", "steps", 5)
    set_value(page, "KSampler", "seed", 1000 + (page.renderer == "classic"))
    page.line("at 5 steps")
    assert page.run() == "execution_success"
    ended = read_end(page)
    set_value(page, "QuadtreeVisualizer", "coverage", 0.94)  # so that the price is asked anew
    page.line("tiles")
    set_value(page, "QuadtreeVisualizer", "coverage", 0.95)
    line = page.line(PRICE + r", about (\d+ min )?\d+ s$")  # of this model, which is known now
    assert abs(float(re.search(PRICE, line).group(1)) - ended) <= 3


@pytest.fixture(scope="session")
def object_info(server):
    return get(server, "/object_info")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_panel_and_the_end_of_an_example_s_run_tell_one_price(page, name, object_info):
    """With the demo's model, on a photo with a part painted for the mask editor."""
    prompt = with_tiny_model(demo.prompt_from_workflow(EXAMPLES[name], object_info))
    for node in prompt.values():
        node["inputs"] |= MADE_SMALL.get(node["class_type"], {})
    # Not the seed of the other renderer, or its run would be cached.
    prompt[demo.find_node(prompt, "KSampler")]["inputs"]["seed"] = int(page.renderer == "classic")
    prompt["tiny"]["_meta"] = {"title": "Tiny"}
    page.page.evaluate("prompt => app.loadApiJson(prompt, 'priced')", prompt)
    page.page.wait_for_selector(".qt-line")
    watch_progress(page)
    assert page.run() == "execution_success"
    ended = read_end(page)
    shown = int(re.search(PRICE, page.line(PRICE + r"(?!.*assuming a typical)")).group(1))
    assert abs(shown - ended) <= 3 and ended > 0


@pytest.mark.parametrize("name", STILLS)
def test_what_the_panel_sends_is_what_would_be_queued(page, name):
    """Of an example, but for texts, seeds and what only makes conditioning."""
    load(page, EXAMPLES[name])
    sampler = next(one for one in EXAMPLES[name]["nodes"] if one["type"] == "KSampler")
    steps = sampler["widgets_values"][2]
    page.line(rf"at {steps} steps{TYPICAL}")
    body = send_again(
        page,
        """() => {
            const node = app.graph.nodes.find((one) => one.type === "QuadtreeVisualizer");
            node.widgets.find((widget) => widget.name === "coverage").value = 0.85;
        }""",
    )
    assert {"QuadtreeVisualizer", "QuadtreeDiffusion", "KSampler", "LoadImage"} <= {
        one["class_type"] for one in body["workflow"].values()
    }
    assert_queued(page, body)


def test_in_the_blueprint_the_values_of_its_outside_count(page):
    page.page.evaluate("graph => app.loadGraphData(graph)", BLUEPRINT)
    page.page.wait_for_function("() => app.graph.nodes[0]?.widgets?.length")
    page.page.evaluate(
        """() => {
            const host = app.graph.nodes[0];
            host.widgets.find((widget) => widget.name === "steps").value = 7;
            host.widgets.find((widget) => widget.name === "scale_by").value = 1.5;
            const loader = LiteGraph.createNode("LoadImage");
            app.graph.add(loader);
            loader.widgets.find((widget) => widget.name === "image").value = "picture.png";
            loader.connect(0, host, 0);
            const model = LiteGraph.createNode("TinyRefinerLoader");
            app.graph.add(model);
            model.connect(0, host, host.inputs.findIndex((input) => input.name === "model"));
            app.canvas.openSubgraph(host.subgraph, host);
        }"""
    )
    page.page.wait_for_selector(".qt-line")
    page.line("at 7 steps")
    body = send_again(
        page,
        """() => {
            const host = app.rootGraph.nodes[0];
            host.widgets.find((widget) => widget.name === "coverage").value = 0.85;
        }""",
    )
    assert_queued(page, body)
    page.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_without_a_sampler_the_price_is_of_a_typical_run_and_says_so(page):
    page.load()
    page.line(COST)


def test_a_muted_sampler_does_not_count(page):
    load(page, EXAMPLES["Quadtree-SDXL-upscale"])
    page.line("at 24 steps")
    page.page.evaluate(
        "() => { app.graph.nodes.find((node) => node.type === 'KSampler').mode = 2; }"
    )
    page.line("at 20 steps")


def test_settings_that_the_run_would_refuse_are_said(page):
    load(page, json.loads(json.dumps(DEMO).replace("photo.png", "picture.png")))
    page.line(PRICE)
    set_value(page, "QuadtreeDiffusion", "tile_overlap", 512)
    page.line("but the run would end with an error: tile_overlap 512 px takes")


def test_with_a_budget_the_panel_says_that_the_price_is_another_run_s(page):
    load(page, json.loads(json.dumps(DEMO).replace("photo.png", "picture.png")))
    page.line(PRICE)
    set_value(page, "QuadtreeVisualizer", "cost_budget", 0.35)
    page.line(PRICE + r".*, coverage [\d.]+ \(cost_budget is of a typical run\)$")
    set_value(page, "QuadtreeVisualizer", "cost_budget", 0.0)
    page.line(PRICE + r"[^_]*$")


def test_the_pace_of_a_run_is_kept_for_its_model_over_a_reload(page):
    graph = json.loads(json.dumps(DEMO).replace("photo.png", "picture.png"))
    send = """([model, cells, seconds]) =>
        app.api.dispatchCustomEvent("quadtree_run", { model, cells, seconds })"""
    page.page.evaluate(send, ["TinyRefinerLoader", 1000, 3000.0])
    page.open()
    load(page, graph)
    assert int(re.search(r"(\d+) min", page.line(r"about \d+ min \d+ s")).group(1)) > 100
    page.page.evaluate(send, ["TinyRefinerLoader", 1000, 0.001])
    page.line(r"at 16 steps, about \d+ s")
    page.page.evaluate(send, ["another model", 1000, 3000.0])
    set_value(page, "KSampler", "steps", 15)
    page.line(r"at 15 steps, about \d+ s")
    page.page.evaluate("() => localStorage.setItem('quadtree.seconds_per_cell', '{')")
    set_value(page, "KSampler", "steps", 14)
    page.line(r"at 14 steps( \(|$)")
