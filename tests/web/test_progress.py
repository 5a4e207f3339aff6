"""While a sampler runs, the Quadtree Diffusion node says how far it is; with the demo's workflow
and small model."""

import json

from quadtree_pack import demo
from quadtree_pack.testing.frontend import assert_nodes_apart

TEXTS = """() => app.graph.nodes
    .find((node) => node.type === "QuadtreeDiffusion")
    .widgets.map((widget) => String(widget.value))"""


def test_the_node_tells_its_progress_and_then_its_sum(page):
    page.page.evaluate(
        "graph => app.loadGraphData(graph)", json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    )
    page.page.wait_for_function(
        "() => app.graph.nodes.some((node) => node.type === 'QuadtreeDiffusion')"
        " && document.querySelector('.qt-line')"
    )
    page.page.evaluate(
        """() => {
            window.__texts = [];
            app.api.addEventListener("progress_text", (event) => {
                window.__texts.push(event.detail.text);
            });
            const sampler = app.graph.nodes.find((node) => node.type === "KSampler");
            const find = (name) => sampler.widgets.find((widget) => widget.name === name);
            find("steps").value = 5;
            find("seed").value = Date.now() % 1e6; // a new seed: the result must not be cached
        }"""
    )
    assert page.run() == "execution_success"
    texts = page.page.evaluate("() => window.__texts")
    steps = [text for text in texts if text.startswith("step ")]
    assert steps and all("of full cost so far" in text and "windows" in text for text in steps)
    assert "5 steps" in texts[-1] and "% of the latent kept" in texts[-1]
    page.page.wait_for_function(
        f"() => ({TEXTS})().some((text) => /of the latent kept/.test(text))"
    )
    assert_nodes_apart(page)
