"""While a sampler runs, the Quadtree Diffusion node says how far it is; with the demo's workflow
and small model."""

import json

from quadtree_pack import demo
from quadtree_pack.testing.frontend import assert_nodes_apart

TEXTS = """() => app.graph.nodes
    .find((node) => node.type === "QuadtreeDiffusion")
    .widgets.map((widget) => String(widget.value))"""


def load_demo(page):
    """The demo with few steps, and a new seed: the result must not be cached."""
    page.page.evaluate(
        "graph => app.loadGraphData(graph)", json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    )
    page.page.wait_for_function(
        "() => app.graph.nodes.some((node) => node.type === 'QuadtreeDiffusion')"
        " && document.querySelector('.qt-line')"
    )
    page.page.evaluate(
        """() => {
            const sampler = app.graph.nodes.find((node) => node.type === "KSampler");
            const find = (name) => sampler.widgets.find((widget) => widget.name === name);
            find("steps").value = 5;
            find("seed").value = Date.now() % 1e6;
        }"""
    )


def wait_for_sum(page):
    page.page.wait_for_function(
        f"() => ({TEXTS})().some((text) => /of the latent kept/.test(text))"
    )


def test_the_node_tells_its_progress_and_then_its_sum(page):
    load_demo(page)
    page.page.evaluate(
        """() => {
            window.__texts = [];
            app.api.addEventListener("progress_text", (event) => {
                window.__texts.push(event.detail.text);
            });
        }"""
    )
    assert page.run() == "execution_success"
    texts = page.page.evaluate("() => window.__texts")
    steps = [text for text in texts if text.startswith("step ")]
    assert steps and all("of full cost so far" in text and "windows" in text for text in steps)
    assert "5 steps" in texts[-1] and "% of the latent kept" in texts[-1]
    wait_for_sum(page)
    assert_nodes_apart(page)


def test_the_sum_stays_on_the_node_where_the_frontend_takes_texts_away(page):
    """Frontends from 1.58 on take them away when a job ends; here the test does it."""
    load_demo(page)
    page.page.evaluate(
        """() => app.api.addEventListener("execution_success", () => {
            const node = app.graph.nodes.find((node) => node.type === "QuadtreeDiffusion");
            node.widgets = node.widgets.filter((one) => !/of the latent kept/.test(one.value));
            window.__left = node.widgets.length;
        })"""
    )
    assert page.run() == "execution_success"
    page.page.wait_for_function(f"() => ({TEXTS})().length === window.__left + 1")
    wait_for_sum(page)
