"""The example workflows and the blueprint, opened by the real frontend."""

import json

import pytest
from quadtree_pack import demo
from quadtree_pack.testing.api import PACK
from quadtree_pack.testing.frontend import assert_nodes_apart
from quadtree_pack.testing.shipped import BLUEPRINT, EXAMPLES

SAVED = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in demo.ROOT.glob("tests/workflows/*.json")
    if not path.stem.endswith(".api")
}
SCHEMAS = json.loads((demo.ROOT / "tests" / "comfy" / "schemas.json").read_text(encoding="utf-8"))
UNKNOWN = """() => app.graph.nodes
    .filter((node) => !LiteGraph.registered_node_types[node.type])
    .map((node) => node.type)"""
GROUPS = """() => [...document.querySelectorAll("[data-testid^='error-group-missing']")]
    .map((group) => group.dataset.testid)"""
CLOSE_SIDE_PANEL = "() => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', false)"
UNCHOSEN = r"^No file is chosen"  # what the panel says of a template's Load Video

pytestmark = pytest.mark.browser


def values_by_node(workflow):
    """A node without widgets may have no values at all: frontend 1.58 leaves them out."""
    return {node["id"]: list(node.get("widgets_values", [])) for node in workflow["nodes"]}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_opens_with_its_values_nodes_apart_and_a_live_tree(page, name):
    example = json.loads(json.dumps(EXAMPLES[name]).replace("example.png", "picture.png"))
    page.load(example)
    page.line(UNCHOSEN if "video" in name else r"\d+ tiles")
    assert page.page.evaluate(UNKNOWN) == []
    saved = page.saved()
    assert values_by_node(saved) == values_by_node(example)
    assert len(saved["links"]) == len(example["links"])
    assert_nodes_apart(page)


@pytest.mark.parametrize("name", EXAMPLES)
def test_of_an_example_only_models_are_missing_and_each_is_offered(page, name):
    page.load(EXAMPLES[name])
    models = {
        model["name"]
        for node in EXAMPLES[name]["nodes"]
        for model in node["properties"].get("models", ())
    }
    page.page.get_by_role("button", name="View details").first.click()
    page.page.wait_for_selector("[data-testid=error-group-missing-model]")
    page.page.wait_for_function(
        "count => document.querySelectorAll('[data-testid=missing-model-download]').length === count",
        arg=len(models),
    )
    assert page.page.evaluate(GROUPS) == ["error-group-missing-model"]
    rows = page.page.get_by_test_id("missing-model-importable-rows").inner_text()
    assert [name for name in models if name not in rows] == []
    page.page.evaluate(CLOSE_SIDE_PANEL)


def test_the_templates_are_found_by_the_pack_s_name(page):
    page.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    search = page.page.locator("[role=dialog] input").first
    search.fill("quadtree")
    page.page.wait_for_function(
        """names => {
            const cards = [...document.querySelectorAll("[role=dialog] h3")];
            const found = cards.map((card) => card.textContent.trim());
            return names.every((name) => found.includes(name));
        }""",
        arg=list(EXAMPLES),
    )
    page.page.keyboard.press("Escape")
    search.wait_for(state="detached")


def test_an_address_opens_a_template(page):
    name = "Quadtree-Z-Image-upscale"
    page.open(f"/?template={name}&source={PACK}")
    page.line(r"\d+ tiles")
    kinds = page.page.evaluate("() => app.graph.nodes.map((node) => node.type)")
    assert sorted(kinds) == sorted(node["type"] for node in EXAMPLES[name]["nodes"])


def test_the_demo_opens_with_its_nodes_apart(page):
    page.load(
        json.loads(demo.WORKFLOW.read_text(encoding="utf-8").replace("example.png", "picture.png"))
    )
    page.line(r"\d+ tiles")
    page.page.wait_for_timeout(500)  # nodes grow to what they hold
    assert_nodes_apart(page)


@pytest.mark.parametrize("name", SAVED)
def test_a_workflow_of_an_earlier_version_opens_with_its_values(page, name):
    """Values that the file does not have, since their inputs came later, are the defaults."""
    page.load(json.loads(json.dumps(SAVED[name]).replace("example.png", "picture.png")))
    assert page.page.evaluate(UNKNOWN) == []
    prompt = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    saved = {
        str(node["id"]): node
        for node in SAVED[name]["nodes"]
        if node["type"].startswith("Quadtree")
    }
    assert len(saved) >= 2
    for number, node in saved.items():
        golden = [entry for entry in SCHEMAS[node["type"]]["inputs"] if entry["widget"]]
        later = [entry["default"] for entry in golden[len(node["widgets_values"]) :]]
        values = [prompt[number]["inputs"][entry["name"]] for entry in golden]
        assert values == [*node["widgets_values"], *later]
        assert {slot["name"] for slot in node["inputs"] if slot["link"] is not None} == {
            key for key, value in prompt[number]["inputs"].items() if isinstance(value, list)
        }


def test_the_blueprint_opens_with_its_widgets_outside_and_hands_them_inside(page):
    page.page.evaluate("graph => app.loadGraphData(graph)", BLUEPRINT)
    names = [slot["name"] for slot in BLUEPRINT["nodes"][0]["inputs"] if "widget" in slot]
    page.page.wait_for_function("() => app.graph.nodes[0]?.widgets?.length")
    widgets = page.page.evaluate(
        "() => app.graph.nodes[0].widgets.map((widget) => [widget.name, widget.value])"
    )
    assert widgets == [
        list(pair) for pair in zip(names, BLUEPRINT["nodes"][0]["widgets_values"], strict=True)
    ]
    page.page.evaluate(
        """() => {
            const widgets = app.graph.nodes[0].widgets;
            widgets.find((widget) => widget.name === "coverage").value = 0.8;
            widgets.find((widget) => widget.name === "steps").value = 7;
        }"""
    )
    prompt = page.page.evaluate("async () => (await app.graphToPrompt()).output")
    inner = {node["class_type"]: node["inputs"] for node in prompt.values()}
    assert (inner["QuadtreeVisualizer"]["coverage"], inner["KSampler"]["steps"]) == (0.8, 7)
    page.page.evaluate(
        "() => app.canvas.openSubgraph(app.graph.nodes[0].subgraph, app.graph.nodes[0])"
    )
    page.page.wait_for_selector(".qt-line")
    assert_nodes_apart(page)
