"""The step scrubber of the panel: looked at, played, and following a run."""

import json

from quadtree_pack import demo
from quadtree_pack.testing.frontend import COST, colours, workflow

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
    whole = colours(page)
    scrub(page, 1)
    assert wait_for_step(page).startswith("step 1 of 20")
    assert colours(page) != whole
    scrub(page, 20)
    wait_for_step(page, "^step 20 of 20")
    assert page.page.evaluate("window.__plans") == 1
    scrub(page, 0)
    wait_for_step(page, "^steps$")
    assert colours(page) == whole


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


def test_the_scrubber_follows_a_run_and_then_rests(page):
    page.page.evaluate(
        "graph => app.loadGraphData(graph)", json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    )
    page.page.wait_for_selector(".qt-line")
    page.page.evaluate(
        """() => {
            const sampler = app.graph.nodes.find((node) => node.type === "KSampler");
            const find = (name) => sampler.widgets.find((widget) => widget.name === name);
            find("steps").value = 12;
            find("seed").value = Date.now() % 1e6; // a new seed: the result must not be cached
            window.__steps = [];
            new MutationObserver(() => {
                window.__steps.push(document.querySelector(".qt-steps span").textContent);
            }).observe(document.querySelector(".qt-steps span"), { childList: true });
        }"""
    )
    page.line("at 12 steps", timeout=30_000)
    scrub(page, 1)
    wait_for_step(page, "^step 1 of 12")
    scrub(page, 0)
    page.page.evaluate("() => { window.__steps = []; }")
    assert page.run() == "execution_success"
    wait_for_step(page, "^steps$")
    seen = [text for text in page.page.evaluate("window.__steps") if text.startswith("step ")]
    steps = [int(text.split()[1]) for text in seen]  # the server tells not every step
    assert steps and steps == sorted(steps) and steps[-1] >= 6
