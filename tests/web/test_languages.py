"""The panel and the progress speak the language of the frontend."""

import json
import re

import pytest
from quadtree_pack import demo
from quadtree_pack.testing.frontend import COST, behind, leaf_at, take, workflow

CHINESE, JAPANESE = "[\u4e00-\u9fff]", "[\u3040-\u30ff]"
LANGUAGES = {"zh": CHINESE, "ja": JAPANESE}
# What stays as it is in every language: names of inputs and nodes, keys and units.
LATIN = re.compile(
    r"[a-z]+(_[a-z]+)+|coverage|JSON|ComfyUI|Image\w+|Shift|Ctrl|Enter|Esc|\bpx\b|[KVFEGZ0]-?9?"
)
ENGLISH = re.compile(r"[A-Za-z]{2,}")
TEXTS = """() => [...document.querySelectorAll(".qt, .qt *")].flatMap((element) => [
    ...[...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data),
    ...["title", "aria-label", "aria-valuetext"].map((name) => element.getAttribute(name) ?? ""),
])"""
CALLS = re.compile(r'translate\(\s*"((?:[^"\\]|\\.)*)"')
SET = "language => app.extensionManager.setting.set('Comfy.Locale', language)"
TABLES = "async () => (await import('/extensions/comfyui-quadtree-diffusion/quadtree_translations.js')).TABLES"
PLACEHOLDERS = re.compile(r"\{(\w+)\}")


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request, opened):
    choose(opened, request.param)
    yield request.param
    choose(opened, "en")


def choose(page, language):
    """Choose a language in the settings, and load the page with it."""
    page.page.evaluate(SET, language)
    page.open()


def english_texts(page):
    """The texts of the panels that hold an English word, those for screen readers included."""
    texts = page.page.evaluate(TEXTS)
    assert len(texts) > 50
    return [text for text in texts if ENGLISH.search(LATIN.sub("", text))]


def test_the_panel_speaks_the_language_of_the_frontend(page, language):
    page.load()
    page.line(rf"^.*{LANGUAGES[language]}.*%")
    assert english_texts(page) == []
    assert re.search(LANGUAGES[language], leaf_at(page, 0.5, 0.5, rf"px.*{LANGUAGES[language]}"))
    take(page, {"zh": "数值", "ja": "値"}[language])
    page.page.locator(".qt-steps input").first.fill("3")
    page.page.wait_for_function(
        "() => /3.*20.*%/.test(document.querySelector('.qt-steps span').textContent)"
    )
    assert english_texts(page) == []


PROBLEMS = {
    "min_tile_size": 2048,
    "min_denoise": 0.9,
    "cost_budget": 0.01,
    "max_tile_size": 4,
    "regions": "[",
    "content_threshold": 900.0,
}


def test_what_is_wrong_is_said_in_the_language(page, language):
    """The last of them is no problem, but a tree of one tile."""
    page.load(workflow(values=[25.0, 64, 1024, 0.2, 0.8, 2, ""]))
    page.line(rf"^.*{LANGUAGES[language]}.*%")
    for name, value in PROBLEMS.items():
        with page.page.expect_response("**/quadtree/preview"):
            before = page.value(name)
            page.set(name, value)
        page.line(rf"{name}.*{LANGUAGES[language]}" if name != "content_threshold" else "1 .*px")
        if name != "regions":  # which quotes what the decoder of JSON says
            assert english_texts(page) == [], name
        page.set(name, before)
        page.line(rf"^.*{LANGUAGES[language]}.*%")
    page.load(workflow("broken.png"))
    page.line(rf"^[^%]*{LANGUAGES[language]}[^%]*$")
    assert english_texts(page) == []
    page.load()
    page.line(rf"^.*{LANGUAGES[language]}.*%")
    page.errors.clear()  # the browser itself logs each refused request


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


def test_the_command_to_the_panel_has_a_name_in_the_language(page, language):
    label = page.page.evaluate(
        """async (language) => {
            const texts = await (await app.api.fetchApi("/i18n")).json();
            return texts[language].commands.quadtree_panel.label;
        }""",
        language,
    )
    assert re.search(LANGUAGES[language], label) and not ENGLISH.search(label)


def test_every_text_that_a_script_translates_is_in_the_tables(page):
    table = page.page.evaluate(TABLES)["zh"]
    scripts = [path.read_text(encoding="utf-8") for path in demo.ROOT.glob("web/*.js")]
    texts = {text for script in scripts for text in CALLS.findall(script)}
    assert len(texts) > 15 and texts <= table.keys()


@pytest.mark.parametrize("language", ["en"], indirect=True)
def test_english_is_as_it_was(page, language):
    page.load()
    page.line(COST)
