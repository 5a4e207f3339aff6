"""The registry's archive, as comfy-cli packs it, unpacked alone into the custom_nodes folder of a
real ComfyUI."""

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from quadtree_pack import demo
from quadtree_pack.devtools.archive import ARCHIVE, pack
from quadtree_pack.testing.api import PACK, fetch, get, short_prompt
from quadtree_pack.testing.demo import running_server
from quadtree_pack.testing.documents import locate, targets_in
from quadtree_pack.testing.registration import pack_files

ROOT = demo.ROOT
PARTS = {"web", "locales", "example_workflows", "subgraphs"}
TEXTS = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Made as `python dev.py pack` makes it."""
    assert pack(Path(), []) == 0
    return zipfile.ZipFile(ARCHIVE)


@pytest.fixture(scope="module")
def base(archive, tmp_path_factory):
    """A base directory with the unpacked archive in custom_nodes: a folder of its own, no link to
    the checkout."""
    base = tmp_path_factory.mktemp("archive")
    archive.extractall(base / "custom_nodes" / PACK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(demo.PACKS, PACK, base / "custom_nodes" / PACK)
        yield base


@pytest.fixture(scope="module")
def running(base):
    with running_server(base) as server:
        yield server


def files(folder, pattern="*"):
    return [path for path in sorted((ROOT / folder).rglob(pattern)) if path.is_file()]


def test_the_archive_holds_the_pack_and_nothing_else(archive):
    modules = {path.relative_to(ROOT).as_posix() for path in pack_files()}
    parts = {path.relative_to(ROOT).as_posix() for part in PARTS for path in files(part)}
    assert set(archive.namelist()) == modules | parts | TEXTS
    assert archive.testzip() is None


def test_every_relative_link_of_a_page_in_the_archive_leads_into_the_archive(archive):
    names = archive.namelist()
    pages = [name for name in names if name.endswith(".md")]
    assert "README.md" in pages
    for page in pages:
        for target in targets_in(archive.read(page).decode("utf-8")):
            place, _ = locate(page, target)
            relative = "://" not in target
            assert not relative or any(f"{name}/".startswith(f"{place}/") for name in names), target


def test_the_server_runs_the_unpacked_files_and_no_others(running, base):
    folder = base / "custom_nodes" / PACK
    assert not folder.is_symlink() and not (folder / "dev.py").exists()
    ours = {
        name
        for name, info in get(running, "/object_info").items()
        if info["python_module"] == f"custom_nodes.{PACK}"
    }
    assert ours == set(
        json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    )
    assert "IMPORT FAILED" not in running.log.read_text()


def test_every_web_file_and_help_page_is_served(running):
    paths = [path.relative_to(ROOT / "web").as_posix() for path in files("web")]
    assert "quadtree.js" in paths and "docs/QuadtreeDiffusion.md" in paths
    for path in paths:
        assert fetch(running, f"/extensions/{PACK}/{path}") == (ROOT / "web" / path).read_bytes()
    assert f"/extensions/{PACK}/quadtree.js" in get(running, "/extensions")


def test_the_example_workflows_are_listed_and_served(running):
    names = [path.stem for path in files("example_workflows", "*.json")]
    assert names and sorted(get(running, "/api/workflow_templates")[PACK]) == names
    for path in files("example_workflows"):
        assert fetch(running, f"/api/workflow_templates/{PACK}/{path.name}") == path.read_bytes()


def test_the_blueprints_are_listed(running):
    listed = {
        e["name"]
        for e in get(running, "/api/global_subgraphs").values()
        if e["info"]["node_pack"].endswith(PACK)
    }
    assert listed == {path.stem for path in files("subgraphs")}


def test_the_translations_are_served(running):
    served = get(running, "/api/i18n")
    for path in files("locales"):
        texts = json.loads(path.read_text(encoding="utf-8"))
        of_kind = served[path.parent.name][path.stem]  # nodeDefs, commands
        assert texts and {name: of_kind[name] for name in texts} == texts


def test_a_workflow_runs_to_its_picture(running, base):
    prompt = short_prompt(running)
    paths = demo.find_files(demo.run_prompt(running.url, prompt), prompt, base)
    pictures = [
        Image.open(path).convert("RGB")
        for name, path in paths.items()
        if name.startswith("picture")
    ]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) > 1
    assert demo.read_report(running.log.read_text()).cost_percent > 0
