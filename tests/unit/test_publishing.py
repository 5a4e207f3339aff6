"""What the Comfy Registry and GitHub read: metadata, icon and banner, workflows and issue forms."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml
from comfy_cli.registry.config_parser import extract_node_configuration
from PIL import Image
from quadtree_pack.testing.documents import REPOSITORY

ROOT = Path(__file__).resolve().parents[2]
CONFIG = extract_node_configuration(
    str(ROOT / "pyproject.toml")
)  # as the registry's own tool reads it
RAW = "https://raw.githubusercontent.com"
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
GITHUB = {
    path.relative_to(ROOT / ".github").as_posix(): yaml.load(
        path.read_text(encoding="utf-8"), yaml.BaseLoader
    )
    for path in (ROOT / ".github").rglob("*.yml")
}
FORMS = {name: form for name, form in GITHUB.items() if "body" in form}


def picture(url):
    """The file of the repository that a raw URL on its main branch leads to."""
    prefix = f"{RAW}{urlparse(CONFIG.project.urls.repository).path}/main/"
    assert url.startswith(prefix)
    return Image.open(ROOT / url.removeprefix(prefix))


def test_the_registry_gets_all_that_it_shows():
    assert re.fullmatch(r"\d+\.\d+\.\d+", CONFIG.project.version)
    assert (
        CONFIG.project.name == "quadtree-diffusion"
        and CONFIG.tool_comfy.display_name == "Quadtree Diffusion"
    )
    assert CONFIG.project.license.text == "Apache-2.0"
    assert CONFIG.project.supported_os == ["OS Independent"]
    assert CONFIG.project.supported_comfyui_version.startswith(">=")
    assert CONFIG.project.dependencies == []


def test_the_documents_link_to_the_repository_that_the_registry_shows():
    assert urlparse(CONFIG.project.urls.repository).path == f"/{REPOSITORY}"


def test_the_icon_is_square_and_within_the_registry_s_limit():
    icon = picture(CONFIG.tool_comfy.icon)
    assert icon.width == icon.height <= 400


def test_the_banner_is_21_to_9():
    banner = picture(CONFIG.tool_comfy.banner_url)
    assert banner.width * 9 == banner.height * 21


def test_the_changelog_has_its_form_and_names_the_version_or_leads_to_it():
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings and all(
        re.fullmatch(r"\[(Unreleased|\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d)\]?", one)
        for one in headings
    )
    newest = headings[0].strip("[").partition("]")[0]
    assert newest in ("Unreleased", CONFIG.project.version)
    kinds = set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE))
    assert kinds <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
        "Known limits",
    }


def test_github_tests_every_python_that_pyproject_names():
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert GITHUB["workflows/tests.yml"]["jobs"]["tests"]["strategy"]["matrix"]["python"] == named
    assert f'requires-python = ">={named[0]}"' in PYPROJECT


def test_github_runs_what_our_own_checks_run():
    ours = set(re.findall(r"dev\.py \w+", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    steps = [
        step for job in GITHUB["workflows/tests.yml"]["jobs"].values() for step in job["steps"]
    ]
    assert {
        found for step in steps for found in re.findall(r"dev\.py \w+", step.get("run", ""))
    } == ours


def test_publishing_waits_for_the_tests_and_the_version():
    jobs = GITHUB["workflows/publish.yml"]["jobs"]
    assert jobs["publish"]["needs"] == ["version", "tests"]
    assert (
        jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
        and "workflow_call" in GITHUB["workflows/tests.yml"]["on"]
    )
    (action,) = (
        step
        for step in jobs["publish"]["steps"]
        if step["uses"].startswith("Comfy-Org/publish-node-action@")
    )
    assert action["with"] == {"personal_access_token": "${{ secrets.REGISTRY_ACCESS_TOKEN }}"}


@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="GitHub runs it with bash")
@pytest.mark.parametrize(
    ("tag", "version", "heading", "said"),
    [
        ("v1.2.3", "1.2.3", "## [1.2.3] - 2026-01-31", None),
        ("v1.2.4", "1.2.3", "## [1.2.3] - 2026-01-31", "pyproject.toml says version 1.2.3"),
        ("v1.2.3", "1.2.3", "## [Unreleased]", "no heading ## [1.2.3]"),
        ("v1.2.3", "1.2.3", "## [1.2.30] - 2026-01-31", "no heading ## [1.2.3]"),
    ],
)
def test_a_tag_is_published_only_if_it_names_the_version(tmp_path, tag, version, heading, said):
    changed = PYPROJECT.replace(
        f'\nversion = "{CONFIG.project.version}"', f'\nversion = "{version}"'
    )
    (tmp_path / "pyproject.toml").write_text(changed, encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n", encoding="utf-8")
    (script,) = (
        step["run"]
        for step in GITHUB["workflows/publish.yml"]["jobs"]["version"]["steps"]
        if "run" in step
    )
    env = {**os.environ, "GITHUB_REF_NAME": tag}
    run = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert (run.returncode == 0) is (said is None)
    assert said is None or said in run.stdout


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_issue_form_is_one_that_github_shows(form):
    assert {"name", "description", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "checkboxes")
        assert field["attributes"]["label"]
        assert field["type"] != "checkboxes" or all(
            option["label"] for option in field["attributes"]["options"]
        )


def test_a_bug_report_asks_for_versions_workflow_and_log():
    needed = {
        field["id"]
        for field in FORMS["ISSUE_TEMPLATE/bug.yml"]["body"]
        if field.get("validations", {}).get("required")
    }
    assert {"workflow", "log", "pack", "comfyui", "system"} <= needed
