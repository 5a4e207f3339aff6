"""devtools: ComfyUI's source is unpacked whole or not at all, and the user's own folder is
checked."""

import hashlib
import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from quadtree_pack.devtools import browser, comfyui, commands, paths, running

DEV = paths.ROOT / "dev.py"


def make_sdist(path: Path, files: dict[str, str], links: dict[str, str] | None = None) -> str:
    """Writes a .tar.gz of these files (name: text) and links (name: target), returns its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return hashlib.sha256(path.read_bytes()).hexdigest()


COMFYUI_FILES = {
    "main.py": "main",
    "comfy/sd.py": "sd",
    "comfy/ldm/flux.py": "flux",
    "requirements.txt": "torch\n",
}


SDIST_FILES = {
    "pack-1/setup.py": "no",
    "pack-1/vendor/other/main.py": "no",
    **{f"pack-1/vendor/ComfyUI/{name}": text for name, text in COMFYUI_FILES.items()},
}


def files_in(folder: Path) -> dict[str, str]:
    paths = (
        path for path in folder.rglob("*") if path.is_file() and path.name != comfyui.SDIST_STAMP
    )
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_only_comfyui_is_taken_from_the_sdist(project):
    sha256 = make_sdist(project / "sdist.tar.gz", SDIST_FILES)
    comfyui.unpack_comfyui(project / "sdist.tar.gz", paths.OWN_COMFYUI, sha256=sha256)
    assert files_in(paths.OWN_COMFYUI) == COMFYUI_FILES


def test_a_sdist_of_another_sha256_is_refused_unopened(project):
    make_sdist(project / "sdist.tar.gz", SDIST_FILES)
    with pytest.raises(running.ExpectedError, match="sha256"):
        comfyui.unpack_comfyui(project / "sdist.tar.gz", paths.OWN_COMFYUI, sha256="0" * 64)
    assert not list(paths.CACHE.iterdir())


@pytest.mark.parametrize(
    "old", [{}, {"main.py": "old"}], ids=["nothing there before", "an old tree there before"]
)
def test_an_interrupted_unpack_changes_nothing_and_the_next_one_is_whole(project, monkeypatch, old):
    for name, text in old.items():
        paths.OWN_COMFYUI.mkdir()
        (paths.OWN_COMFYUI / name).write_text(text, encoding="utf-8")
    sha256 = make_sdist(project / "sdist.tar.gz", SDIST_FILES)

    def interrupt(source, copy):
        copy.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupt)
        comfyui.unpack_comfyui(project / "sdist.tar.gz", paths.OWN_COMFYUI, sha256=sha256)
    assert files_in(paths.OWN_COMFYUI) == old
    comfyui.unpack_comfyui(project / "sdist.tar.gz", paths.OWN_COMFYUI, sha256=sha256)
    assert files_in(paths.OWN_COMFYUI) == COMFYUI_FILES


@pytest.mark.parametrize("name", ["../evil.py", "comfy/../../evil.py", "..\\evil.py", "C:evil.py"])
def test_a_sdist_that_points_out_of_its_folder_is_refused(project, name):
    sha256 = make_sdist(
        project / "sdist.tar.gz", {**SDIST_FILES, f"pack-1/vendor/ComfyUI/{name}": "evil"}
    )
    with pytest.raises(running.ExpectedError, match="points out"):
        comfyui.unpack_comfyui(project / "sdist.tar.gz", paths.OWN_COMFYUI, sha256=sha256)
    assert not [path for path in project.rglob("*") if "evil" in path.name]


def test_links_in_the_sdist_are_not_made(project):
    sha256 = make_sdist(
        project / "sdist.tar.gz", SDIST_FILES, links={"pack-1/vendor/ComfyUI/link": "/"}
    )
    comfyui.unpack_comfyui(project / "sdist.tar.gz", paths.OWN_COMFYUI, sha256=sha256)
    assert not any(entry.is_symlink() for entry in paths.OWN_COMFYUI.rglob("*"))


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([], r"main.py, comfy/ and requirements.txt are missing"),
        (["main.py"], r"comfy/ and requirements.txt are missing"),
        (["main.py", "comfy"], r": requirements.txt is missing"),
    ],
    ids=["an empty folder", "no comfy", "no requirements"],
)
def test_a_folder_without_comfyui_is_named_with_what_is_missing(tmp_path, there, said):
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(
        running.ExpectedError, match=re.escape(str(tmp_path)) + ".*" + said + ".*start ComfyUI from"
    ):
        comfyui.comfyui_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("argv", "environment", "args", "comfyui"),
    [
        ("test -x", "", "-x", ""),
        ("--comfyui C test -x", "", "-x", "C"),
        ("test --comfyui C -x", "", "-x", "C"),
        ("test -x --comfyui=C", "", "-x", "C"),
        ("test -x", "E", "-x", "E"),
        ("test -x --comfyui C", "E", "-x", "C"),
        ("test -k a -- --comfyui C", "E", "-k a -- --comfyui C", "E"),
    ],
)
def test_comfyui_is_read_anywhere_and_before_the_environment(argv, environment, args, comfyui):
    assert commands.parse(argv.split(), environment) == commands.Request(
        "test", args.split(), comfyui
    )


@pytest.mark.parametrize("argv", ["", "--help", "-h", "help", "test --help", "--comfyui C"])
def test_help_is_shown_when_no_command_is_asked_for(argv, capsys, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert commands.main(argv.split()) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in commands.COMMANDS)


@pytest.mark.parametrize("argv", ["tset", "test --comfyui", "test --comfyui="])
def test_a_wrong_command_line_is_an_expected_error(argv):
    with pytest.raises(running.ExpectedError, match=r"test|--comfyui PATH"):
        commands.parse(argv.split())


def test_bytecode_of_the_users_comfyui_is_kept_out_of_its_folder(project, monkeypatch):
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    env = comfyui.command_env(project / "theirs")
    assert Path(env["PYTHONPYCACHEPREFIX"]).is_relative_to(paths.CACHE)
    assert "PYTHONPYCACHEPREFIX" not in comfyui.command_env(paths.OWN_COMFYUI)


def test_modules_of_others_are_kept_out(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "theirs")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert (
        not {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
        & comfyui.command_env(paths.OWN_COMFYUI).keys()
    )


@pytest.mark.parametrize(
    ("chosen", "installed", "used"),
    [(None, "", ""), (None, "found", "found"), ("", "found", ""), (str(DEV), "found", str(DEV))],
    ids=["none there", "found", "not wanted", "chosen"],
)
def test_the_browser_is_the_chosen_one_else_the_installed_one(monkeypatch, chosen, installed, used):
    monkeypatch.setattr(browser, "find_chromium", lambda: installed)
    monkeypatch.delenv("QUADTREE_CHROMIUM", raising=False)
    if chosen is not None:
        monkeypatch.setenv("QUADTREE_CHROMIUM", chosen)
    assert browser.chromium() == used


def test_a_chosen_browser_that_is_not_there_is_an_expected_error(monkeypatch, tmp_path):
    monkeypatch.setenv("QUADTREE_CHROMIUM", str(tmp_path / "chrome"))
    with pytest.raises(running.ExpectedError, match="QUADTREE_CHROMIUM"):
        browser.chromium()


def test_a_chromium_that_cannot_be_had_is_no_failure_and_not_asked_for_again(project, monkeypatch):
    def refuse(*args, **kwargs):
        raise running.ExpectedError("no network")

    monkeypatch.delenv("QUADTREE_CHROMIUM", raising=False)
    monkeypatch.setattr(browser, "find_chromium", lambda: "")
    monkeypatch.setattr(browser, "can_apt_get", lambda: True)
    monkeypatch.setattr(browser, "run_tool", refuse)
    assert not browser.chromium_ready(project)
    browser.install_chromium(project)
    assert browser.chromium_ready(project)
