"""README, CONTRIBUTING and the guide: a test runs every command, every link leads somewhere, every
message exists."""

import ast
import re
import shutil
import sys
from pathlib import Path

import pytest
from quadtree_pack.devtools import checks, commands, paths, tests
from quadtree_pack.docs import figures
from quadtree_pack.docs.drawing import build_automatic_tree
from quadtree_pack.sampling.cost import estimate_typical_cost
from quadtree_pack.sampling.model import TYPICAL_STEPS
from quadtree_pack.testing.documents import (
    BENCHMARKS,
    DOCUMENTS,
    GUIDE,
    commands_in,
    locate,
    rows,
    targets_in,
)
from quadtree_pack.testing.photos import photo
from quadtree_pack.testing.registration import pack_files

ROOT = paths.ROOT
COMMANDS = {" ".join(words): words for text in DOCUMENTS.values() for words in commands_in(text)}

# --- Commands -------------------------------------------------------------------------------------

# What runs a command, as file::test; benchmarks are below.
RUN_BY = {
    "demo": "tests/server/test_demo.py::test_the_demo_refines_its_photo_and_leaves_pictures",
    "serve": "tests/server/test_demo.py::"
    "test_serve_leaves_a_server_with_workflow_and_pictures_until_it_is_interrupted",
    "cluster-demo": "tests/server/test_cluster_demo.py::"
    "test_the_cluster_demo_gives_the_same_picture_and_draws_who_did_what",
    "test": "tests/unit/test_guide.py::test_the_command_test_runs_what_is_named",
    "fuzz": "tests/unit/test_dev_running.py::test_fuzz_runs_its_tests_with_so_many_examples",
    "neighbours": "tests/server/test_neighbours_command.py::"
    "test_packs_are_judged_and_one_that_does_not_load_ends_nothing",
    "lint": "tests/unit/test_guide.py::test_the_command_lint_repairs_what_it_can",
    "figures": "tests/unit/test_figures.py::test_a_committed_picture_is_the_one_that_is_drawn",
    "templates": "tests/server/test_shipped.py::"
    "test_the_templates_are_those_that_the_command_writes",
    "pack": "tests/server/test_archive.py::test_the_archive_holds_the_pack_and_nothing_else",
    "bench": "tests/server/test_benches.py::test_a_benchmark_runs_to_its_rows",
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_of_the_documents_is_known_and_run_by_a_test(words):
    request = commands.parse(words)
    file, test = RUN_BY[request.command].split("::")
    functions = [
        node.name
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        if hasattr(node, "name")
    ]
    assert test in functions
    assert request.command != "bench" or set(request.args) <= set(BENCHMARKS)


def test_the_documents_name_every_command_and_every_benchmark():
    assert {words[0] for words in COMMANDS.values()} == commands.COMMANDS.keys()
    assert {
        words[1] for words in COMMANDS.values() if words[0] == "bench" and len(words) > 1
    } == set(BENCHMARKS)


@pytest.fixture
def here(monkeypatch):
    """dev.py takes this Python for its own, so that nothing is set up."""
    monkeypatch.setattr(paths, "PYTHON", sys.executable)
    monkeypatch.setattr(tests, "chromium", lambda: "")


def test_the_command_test_runs_what_is_named(here, capfd):
    assert (
        commands.COMMANDS["test"].run(
            paths.OWN_COMFYUI,
            ["tests/unit/test_utils.py", "-q", "-n", "0", "-p", "no:cacheprovider"],
        )
        == 0
    )
    assert "passed" in capfd.readouterr().out


def test_the_command_lint_repairs_what_it_can(here, tmp_path, monkeypatch):
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    (tmp_path / "odd.py").write_text("import sys\nx =  {  }\n", encoding="utf-8")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert checks.check_style(fix=False) != 0
    assert checks.check_style(fix=True) == 0
    assert (tmp_path / "odd.py").read_text(encoding="utf-8") == "x = {}\n"


# --- Links ----------------------------------------------------------------------------------------


def anchors(path):
    """Of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(document):
    for target in targets_in(DOCUMENTS[document]):
        place, anchor = locate(document, target)
        if place is None:
            continue
        path = ROOT / place
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", sorted((ROOT / "web" / "docs").rglob("*.md")), ids=str)
def test_a_help_page_links_to_whole_addresses_only(page):
    """ComfyUI shows it on its own page, where others lead nowhere; it finds pictures, though."""
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)]*)\)", page.read_text(encoding="utf-8"))
    assert all(link.startswith("https://") for link in links)


def test_every_figure_is_in_the_guide_with_words_for_those_who_cannot_see_it():
    shown = dict(re.findall(r"!\[(.+?)\]\(figures/(.+?)\)", GUIDE))
    assert sorted(shown.values()) == sorted(Path(name).name for name in figures.DRAWINGS)
    assert all(len(words) > 50 for words in shown)


# --- What it says ---------------------------------------------------------------------------------


def texts_of(path):
    """Every text in a module, with … for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[dsr]", "…", node.value)


TEXTS = [text for path in pack_files() for text in texts_of(path)]
MESSAGES = [cells[0].strip("`") for cells in rows(GUIDE, "message")]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_guide_is_one_of_the_pack(message):
    pattern = ".*".join(re.escape(part) for part in message.split("…"))
    assert any(re.search(pattern, text) for text in TEXTS)


def test_the_portrait_costs_what_the_guide_says():
    tree = build_automatic_tree(photo("astronaut", figures.LONG_SIDE_PX))
    cost = estimate_typical_cost(tree, TYPICAL_STEPS)
    told = f"the portrait costs {100 * cost:.0f}% of the full model cost"
    assert told in " ".join(GUIDE.split())
