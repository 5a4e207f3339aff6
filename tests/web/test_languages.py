"""The panel and the progress speak the language of the frontend."""

import json
import re

import pytest
from quadtree_pack import demo
from quadtree_pack.testing.frontend import COST, behind, leaf_at

CHINESE, JAPANESE = "[\u4e00-\u9fff]", "[\u3040-\u30ff]"
LANGUAGES = {"zh": CHINESE, "ja": JAPANESE}
ENGLISH = re.compile(r"[a-z]{4,}")
SET = "language => app.extensionManager.setting.set('Comfy.Locale', language)"
TABLES = "async () => (await import('/extensions/comfyui-quadtree-diffusion/quadtree_translations.js')).TABLES"
PLACEHOLDERS = re.compile(r"\{(\w+)\}")


@pytest.fixture(params=LANGUAGES)
def language(request, page):
    choose(page, request.param)
    yield request.param
    choose(page, "en")


def choose(page, language):
    """Choose a language in the settings, and load the page with it."""
    page.page.evaluate(SET, language)
    page.open()


def test_the_panel_speaks_the_language_of_the_frontend(page, language):
    page.load()
    page.line(rf"^.*{LANGUAGES[language]}.*%")
    assert not ENGLISH.search(page.text())
    page.page.locator(".qt button").first.wait_for()
    for button in page.page.locator(".qt button").all():
        assert not ENGLISH.search(button.text_content())
    assert re.search(LANGUAGES[language], leaf_at(page, 0.5, 0.5, rf"px.*{LANGUAGES[language]}"))


def test_what_only_a_run_computes_is_said_in_the_language(page, language):
    page.load(behind("ImageAddNoise", "image", values=(7, "fixed", 0.77)))
    page.line(rf"ImageAddNoise .*{LANGUAGES[language]}")


def test_progress_is_told_in_the_language(page, language):
    graph = json.loads(
        demo.WORKFLOW.read_text(encoding="utf-8").replace("photo.png", "picture.png")
    )
    page.load(graph)
    page.page.evaluate(
        """() => {
            const find = (kind) => app.graph.nodes.find((node) => node.type === kind);
            const node = find("QuadtreeDiffusion");
            app.api.dispatchCustomEvent("progress_text", {
                nodeId: String(node.id),
                text: "step 3/20, 4 of 6 windows, 23% of full cost so far, about 3 min 20 s left",
            });
        }"""
    )
    page.page.wait_for_function(
        """signs => app.graph.nodes.some((node) => node.type === "QuadtreeDiffusion"
            && node.widgets.some(({ value }) => new RegExp(`3/20.*${signs}.*3 min 20 s`).test(value)
                || new RegExp(`${signs}.*3/20.*3 min 20 s`).test(value)))""",
        arg=LANGUAGES[language],
    )


def test_every_language_has_every_text_with_its_values(page):
    tables = page.page.evaluate(TABLES)
    assert set(tables) == set(LANGUAGES)
    assert tables["zh"].keys() == tables["ja"].keys()
    for table in tables.values():
        for english, text in table.items():
            assert set(PLACEHOLDERS.findall(text)) == set(PLACEHOLDERS.findall(english)), english
            assert text != english


def test_english_is_as_it_was(page):
    page.load()
    page.line(COST)
