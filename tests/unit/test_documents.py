"""What the README, CONTRIBUTING and the benchmarks say, held against the project."""

import ast
import json
import re
import runpy

import pytest
import torch
from quadtree_pack import velocity
from quadtree_pack.benchmarks import build, charts, overhead, quality_cases, quality_report
from quadtree_pack.testing.documents import (
    BENCHMARKS,
    CONTRIBUTING,
    DOCUMENTS,
    FENCED,
    MEASURED,
    README,
    REFERENCE,
    ROOT,
    rows,
)
from quadtree_pack.windows.blending import METHODS

MOST_LINES, MOST_COLUMNS = 120, 120  # of the README


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_reference_is_used(document):
    text = DOCUMENTS[document]
    assert all(f"][{name}]" in text for name, _ in REFERENCE.findall(text))


# --- The README -----------------------------------------------------------------------------------


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= MOST_COLUMNS


def test_the_readme_says_what_each_node_is_for():
    nodes = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    expected = {f"[{node['display_name']}](web/docs/{name}.md)" for name, node in nodes.items()}
    assert {node for _, node in rows(README, "I want to")} == expected


# --- The benchmarks -------------------------------------------------------------------------------


def test_every_benchmark_has_a_row():
    named = [command for command, _ in rows(MEASURED, "benchmark |")]
    assert named == [f"`python dev.py bench {name}`" for name in BENCHMARKS]


def test_every_chart_of_the_benchmarks_is_shown_with_words_for_those_who_cannot_see_it():
    shown = dict(re.findall(r"!\[(.+?)\]\(figures/(.+?)\)", MEASURED))
    quality = [f"quality-{name}.png" for name in charts.IN_DOCS]
    assert list(shown.values()) == [*quality, "decide-ranking.png"]
    assert all(len(words) > 50 for words in shown)


def test_the_quality_of_every_method_is_told_for_long_and_short_runs():
    table = rows(MEASURED, "method | steps")
    told = [(method, int(steps)) for method, steps, *_ in table]
    lengths = quality_cases.LONG, quality_cases.SHORT
    assert told == [(method, steps) for steps in lengths for method in METHODS]
    numbers = [cell for _, _, *cells in table for cell in cells]
    assert all(re.fullmatch(r"\d\.\d{3}( \(\d\.\d{3}\))?|\d\d\.\d dB", one) for one in numbers)


def test_the_texture_of_every_tree_is_told():
    told = [float(texture) for _, texture in rows(MEASURED, "run | texture")]
    assert len(told) == 1 + len(quality_cases.TREES)
    (saved,) = re.findall(r"invents (\d+)% less than\s+the uniform denoise", MEASURED)
    assert int(saved) == pytest.approx(100 * (1 - told[-1] / told[0]), abs=1)


def test_the_targets_that_are_told_are_the_ones_that_are_checked():
    told = " ".join(MEASURED.split())
    seam = quality_report.SEAM_LIMITS["Shifted Feather"]
    assert f"A seam index of at most {seam} for Shifted Feather" in told
    at_4096, at_8192 = (build.LIMIT_S[side] for side in (4096, 8192))
    assert f"{at_4096} s for an image of 4096 px and {at_8192} s for one of 8192 px" in told
    longer = 100 * (overhead.ONE_WINDOW_TARGET - 1)
    assert f"takes at most {longer:.0f}% longer than the same run without the node" in told


# --- CONTRIBUTING ---------------------------------------------------------------------------------


def definitions_in(path):
    """Yield the functions, classes and constants of a module, methods as Class.method."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
            members = node.body if isinstance(node, ast.ClassDef) else ()
            yield from (f"{node.name}.{one.name}" for one in members if hasattr(one, "name"))


PLACES = {subject: (file, names) for subject, file, names in rows(CONTRIBUTING, "what | file")}


@pytest.mark.parametrize("subject", PLACES)
def test_what_contributing_points_to_is_there(subject):
    file, names = PLACES[subject]
    path = ROOT / file.strip("`")
    named = re.findall(r"`(.+?)`", names)
    assert path.is_file() and named
    if path.suffix == ".py":
        assert set(named) <= set(definitions_in(path))
    else:
        assert all(name in path.read_text(encoding="utf-8") for name in named)


def test_the_worked_example_passes_with_its_fix_and_fails_without_it(tmp_path, monkeypatch):
    (source,) = (block for language, block in FENCED.findall(CONTRIBUTING) if language == "python")
    path = tmp_path / "example.py"
    path.write_text(source, encoding="utf-8")
    scope = runpy.run_path(str(path), {"torch": torch, "hold": velocity.hold})
    (test,) = (value for name, value in scope.items() if name.startswith("test_"))
    test()
    monkeypatch.setattr(velocity, "STEP_DIGITS", 12)
    with pytest.raises(AssertionError):
        test()
