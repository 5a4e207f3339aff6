"""The step scrubber of the panel: looked at, played, and following a run."""

import json

import pytest
from quadtree_pack import demo
from quadtree_pack.testing.frontend import COST, VISUALIZER, drawing, workflow

STEP = r"^step (\d+) of (\d+), \d+%, windows: \d+$"


def wait_for_step(page, pattern=STEP, timeout=20_000):
    """Wait until the scrubber's text matches, and return it."""
    return page.page.wait_for_function(
        """pattern => {
            const text = document.querySelector(".qt-steps span")?.textContent ?? "";
            return new RegExp(pattern).test(text) && text;
        }""",
        arg=pattern,
        timeout=timeout,
    ).json_value()


def scrub(page, step):
    page.page.get_by_label("Step of the run").first.fill(str(step))


def count_requests_for_steps(page):
    page.page.evaluate(
        """() => {
            window.__plans = 0;
            const fetch = app.api.fetchApi;
            app.api.fetchApi = function (route, options) {
                if (options?.body?.includes?.('"steps":true')) window.__plans++;
                return fetch.call(this, route, options);
            };
        }"""
    )


def test_a_step_shows_its_windows_and_price_and_is_planned_once(page):
    page.load()
    page.line(COST)
    count_requests_for_steps(page)
    page.page.wait_for_timeout(700)
    assert page.page.evaluate("window.__plans") == 0, "nobody has asked for a step yet"
    whole = drawing(page)
    scrub(page, 1)
    assert wait_for_step(page).startswith("step 1 of 20")
    assert drawing(page) != whole
    scrub(page, 20)
    wait_for_step(page, "^step 20 of 20")
    assert page.page.evaluate("window.__plans") == 1
    scrub(page, 0)
    wait_for_step(page, "^steps$")
    assert drawing(page) == whole


def test_a_changed_tree_is_planned_anew(page):
    page.load()
    page.line(COST)
    scrub(page, 20)
    first = wait_for_step(page)
    page.set("max_denoise", 0.21)
    page.set("regions", '[["keep",0,0,1,0.7]]')
    page.page.wait_for_function(
        """first => {
            const text = document.querySelector(".qt-steps span").textContent;
            return text !== first && text.startsWith("step");
        }""",
        arg=first,
        timeout=20_000,
    )


def test_playing_goes_through_the_steps_and_stops(page):
    page.load(workflow())
    page.line(COST)
    scrub(page, 17)
    wait_for_step(page)
    page.page.get_by_label("Play the steps").first.click()
    wait_for_step(page, "^step 18 of")
    wait_for_step(page, "^step 20 of")
    page.page.wait_for_timeout(900)
    wait_for_step(page, "^step 20 of")
    assert page.page.get_by_label("Play the steps").first.text_content() == "\u25b6"


MOST_REQUESTS = 20  # for the tree, its price and its steps, and again on a busy machine


def test_the_scrubber_follows_a_run_and_then_rests(page):
    page.page.evaluate(
        "graph => app.loadGraphData(graph)", json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    )
    page.page.wait_for_selector(".qt-line")
    page.page.evaluate(
        """() => {
            const sampler = app.graph.nodes.find((node) => node.type === "KSampler");
            const find = (name) => sampler.widgets.find((widget) => widget.name === name);
            find("steps").value = 100; // it lasts longer than its plan takes on a busy machine
            find("seed").value = Date.now() % 1e6; // a new seed: the result must not be cached
            window.__steps = [];
            window.__requests = 0;
            const fetchApi = app.api.fetchApi.bind(app.api);
            app.api.fetchApi = (route, ...more) => {
                window.__requests += route.startsWith("/quadtree/preview");
                return fetchApi(route, ...more);
            };
            new MutationObserver(() => {
                window.__steps.push(document.querySelector(".qt-steps span").textContent);
            }).observe(document.querySelector(".qt-steps span"), { childList: true });
        }"""
    )
    page.line("at 100 steps", timeout=30_000)
    scrub(page, 1)
    wait_for_step(page, "^step 1 of 100")
    scrub(page, 0)
    page.page.evaluate("() => { window.__steps = []; window.__requests = 0; }")
    assert page.run() == "execution_success"
    # The node's text changes with every window, and nothing that the panel shows depends on it.
    assert page.page.evaluate("window.__requests") <= MOST_REQUESTS
    wait_for_step(page, "^steps$")
    seen = [text for text in page.page.evaluate("window.__steps") if text.startswith("step ")]
    steps = [int(text.split()[1]) for text in seen]  # the server tells not every step
    assert steps and steps == sorted(steps) and steps[-1] >= 50


def load_demo(page):
    graph = demo.WORKFLOW.read_text(encoding="utf-8").replace("photo.png", "picture.png")
    page.load(json.loads(graph))
    page.line("at 16 steps", timeout=30_000)


FAST = """() => {
    const sampler = app.graph.nodes.find((node) => node.type === "KSampler");
    const detail = { node: String(sampler.id), value: 0, max: 16 };
    window.__sampling = setInterval(() => {
        detail.value = (detail.value % 16) + 1;
        app.api.dispatchCustomEvent("progress", { ...detail });
    }, 50);
}"""
END = """() => {
    clearInterval(window.__sampling);
    app.api.dispatchCustomEvent("execution_success", {});
}"""


def test_a_fast_sampler_is_followed_also_where_no_step_was_looked_at(page):
    load_demo(page)
    page.page.evaluate(FAST)
    wait_for_step(page)
    page.page.evaluate(END)
    wait_for_step(page, "^steps$")


def test_a_panel_out_of_sight_rests_too_when_the_run_ends(page):
    load_demo(page)
    page.page.evaluate(
        """() => {
            const node = app.graph.nodes.find((one) => one.type === "QuadtreeVisualizer");
            app.canvas.select(node);
            const { node: host } = app.graph.convertToSubgraph(new Set([node]));
            app.canvas.openSubgraph(host.subgraph, host);
        }"""
    )
    page.line("at 16 steps", timeout=30_000)
    page.page.evaluate(FAST.replace("app.graph.nodes", "app.rootGraph.nodes"))
    wait_for_step(page)
    page.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    page.page.evaluate(END)
    page.page.evaluate(
        """() => {
            const host = app.rootGraph.nodes.find((node) => node.isSubgraphNode?.());
            app.canvas.openSubgraph(host.subgraph, host);
        }"""
    )
    wait_for_step(page, "^steps$")
    page.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


def test_without_a_picture_there_are_no_steps_to_look_at(page):
    page.load()
    page.line(COST)
    scrub(page, 3)
    wait_for_step(page)
    page.page.get_by_label("Play the steps").first.click()
    page.page.evaluate("id => app.graph.getNodeById(id).disconnectInput(0)", VISUALIZER)
    wait_for_step(page, "^steps$")
    play = page.page.get_by_label("Play the steps").first
    assert play.is_disabled() and play.text_content() == "\u25b6"
    assert page.page.get_by_label("Step of the run").first.is_disabled()


@pytest.mark.parametrize("answer", ["refusal", "nothing"])
def test_a_plan_that_cannot_be_made_is_said_and_playing_ends(page, answer):
    page.load()
    page.line(COST)
    page.page.evaluate(
        """answer => {
            const fetch = app.api.fetchApi;
            app.api.fetchApi = async function (route, options) {
                if (!options?.body?.includes?.('"steps":true'))
                    return fetch.call(this, route, options);
                if (answer === "nothing") throw new TypeError("no server");
                return new Response('{"error": "no plan today"}', { status: 400 });
            };
            window.__restore = () => { app.api.fetchApi = fetch; };
        }""",
        answer,
    )
    play = page.page.get_by_label("Play the steps").first
    play.click()
    words = "^no plan today$" if answer == "refusal" else "not available: no server$"
    wait_for_step(page, words)
    assert play.text_content() == "\u25b6"
    scrub(page, 7)
    wait_for_step(page, words)
    page.page.evaluate("() => window.__restore()")
    page.set("coverage", 0.9)
    page.set("content_threshold", 30.0)
    wait_for_step(page, "^step 7 of")


SHOW = """() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
    canvas.toBlob((blob) => app.api.dispatchCustomEvent("b_preview", blob));
}"""


def test_while_a_run_is_followed_its_live_preview_lies_behind_the_tiles(page):
    load_demo(page)
    live = page.page.locator(".qt-live").first
    page.page.evaluate(SHOW)
    page.page.evaluate(FAST)
    wait_for_step(page, "^step ")
    assert live.is_hidden(), "this preview came before the run was followed"
    page.page.evaluate(SHOW)
    live.wait_for(state="visible")
    page.page.evaluate(
        """() => {
            clearInterval(window.__sampling);
            app.api.dispatchCustomEvent("progress", { node: "999", value: 1, max: 16 });
        }"""
    )
    live.wait_for(state="hidden")
    page.page.evaluate(SHOW)
    page.page.wait_for_timeout(300)
    assert live.is_hidden(), "this preview is another sampler's"
    page.page.evaluate(END)
    live.wait_for(state="hidden")
