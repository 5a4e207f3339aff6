"""dev.py's own promises, without a network, a package index or a ComfyUI."""

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from quadtree_pack.testing.dev import DEV, dev


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder that dev.py takes for its own."""
    for name in (
        "ROOT",
        "VENV",
        "CACHE",
        "OWN_COMFYUI",
        "PYTHON",
        "REQUIREMENTS",
        "BUSY",
        "NO_BROWSER",
    ):
        monkeypatch.setattr(dev, name, tmp_path / getattr(dev, name).relative_to(DEV.parent))
    dev.CACHE.mkdir()
    return tmp_path


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
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != dev.SDIST_STAMP)
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


# --- ComfyUI's source -------------------------------------------------------------------------------------------------


def test_only_comfyui_is_taken_from_the_sdist(project):
    sha256 = make_sdist(project / "sdist.tar.gz", SDIST_FILES)
    dev.unpack_comfyui(project / "sdist.tar.gz", dev.OWN_COMFYUI, sha256=sha256)
    assert files_in(dev.OWN_COMFYUI) == COMFYUI_FILES


def test_a_sdist_of_another_sha256_is_refused_unopened(project):
    make_sdist(project / "sdist.tar.gz", SDIST_FILES)
    with pytest.raises(dev.ExpectedError, match="sha256"):
        dev.unpack_comfyui(project / "sdist.tar.gz", dev.OWN_COMFYUI, sha256="0" * 64)
    assert not list(dev.CACHE.iterdir())


@pytest.mark.parametrize(
    "old", [{}, {"main.py": "old"}], ids=["nothing there before", "an old tree there before"]
)
def test_an_interrupted_unpack_changes_nothing_and_the_next_one_is_whole(project, monkeypatch, old):
    for name, text in old.items():
        dev.OWN_COMFYUI.mkdir()
        (dev.OWN_COMFYUI / name).write_text(text, encoding="utf-8")
    sha256 = make_sdist(project / "sdist.tar.gz", SDIST_FILES)

    def interrupt(source, copy):
        copy.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupt)
        dev.unpack_comfyui(project / "sdist.tar.gz", dev.OWN_COMFYUI, sha256=sha256)
    assert files_in(dev.OWN_COMFYUI) == old
    dev.unpack_comfyui(project / "sdist.tar.gz", dev.OWN_COMFYUI, sha256=sha256)
    assert files_in(dev.OWN_COMFYUI) == COMFYUI_FILES


@pytest.mark.parametrize("name", ["../evil.py", "comfy/../../evil.py", "..\\evil.py", "C:evil.py"])
def test_a_sdist_that_points_out_of_its_folder_is_refused(project, name):
    sha256 = make_sdist(
        project / "sdist.tar.gz", {**SDIST_FILES, f"pack-1/vendor/ComfyUI/{name}": "evil"}
    )
    with pytest.raises(dev.ExpectedError, match="points out"):
        dev.unpack_comfyui(project / "sdist.tar.gz", dev.OWN_COMFYUI, sha256=sha256)
    assert not [path for path in project.rglob("*") if "evil" in path.name]


def test_links_in_the_sdist_are_not_made(project):
    sha256 = make_sdist(
        project / "sdist.tar.gz", SDIST_FILES, links={"pack-1/vendor/ComfyUI/link": "/"}
    )
    dev.unpack_comfyui(project / "sdist.tar.gz", dev.OWN_COMFYUI, sha256=sha256)
    assert not any(entry.is_symlink() for entry in dev.OWN_COMFYUI.rglob("*"))


# --- The user's own ComfyUI -------------------------------------------------------------------------------------------


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
        dev.ExpectedError, match=re.escape(str(tmp_path)) + ".*" + said + ".*start ComfyUI from"
    ):
        dev.comfyui_folder(str(tmp_path))


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
    assert dev.parse(argv.split(), environment) == dev.Request("test", args.split(), comfyui)


@pytest.mark.parametrize("argv", ["", "--help", "-h", "help", "test --help", "--comfyui C"])
def test_help_is_shown_when_no_command_is_asked_for(argv, capsys, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert dev.main(argv.split()) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in dev.COMMANDS)


@pytest.mark.parametrize("argv", ["tset", "test --comfyui", "test --comfyui="])
def test_a_wrong_command_line_is_an_expected_error(argv):
    with pytest.raises(dev.ExpectedError, match=r"test|--comfyui PATH"):
        dev.parse(argv.split())


def test_bytecode_of_the_users_comfyui_is_kept_out_of_its_folder(project, monkeypatch):
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    env = dev.command_env(project / "theirs")
    assert Path(env["PYTHONPYCACHEPREFIX"]).is_relative_to(dev.CACHE)
    assert "PYTHONPYCACHEPREFIX" not in dev.command_env(dev.OWN_COMFYUI)


def test_modules_of_others_are_kept_out(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "theirs")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert not {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"} & dev.command_env(dev.OWN_COMFYUI).keys()


@pytest.mark.parametrize(
    ("chosen", "installed", "used"),
    [(None, "", ""), (None, "found", "found"), ("", "found", ""), (str(DEV), "found", str(DEV))],
    ids=["none there", "found", "not wanted", "chosen"],
)
def test_the_browser_is_the_chosen_one_else_the_installed_one(monkeypatch, chosen, installed, used):
    monkeypatch.setattr(dev, "find_chromium", lambda: installed)
    monkeypatch.delenv("QUADTREE_CHROMIUM", raising=False)
    if chosen is not None:
        monkeypatch.setenv("QUADTREE_CHROMIUM", chosen)
    assert dev.chromium() == used


def test_a_chosen_browser_that_is_not_there_is_an_expected_error(monkeypatch, tmp_path):
    monkeypatch.setenv("QUADTREE_CHROMIUM", str(tmp_path / "chrome"))
    with pytest.raises(dev.ExpectedError, match="QUADTREE_CHROMIUM"):
        dev.chromium()


def test_a_chromium_that_cannot_be_had_is_no_failure_and_not_asked_for_again(project, monkeypatch):
    def refuse(*args, **kwargs):
        raise dev.ExpectedError("no network")

    monkeypatch.delenv("QUADTREE_CHROMIUM", raising=False)
    monkeypatch.setattr(dev, "find_chromium", lambda: "")
    monkeypatch.setattr(dev, "can_apt_get", lambda: True)
    monkeypatch.setattr(dev, "run_tool", refuse)
    assert not dev.chromium_ready(project)
    dev.install_chromium(project)
    assert dev.chromium_ready(project)


# --- Requirements -----------------------------------------------------------------------------------------------------

PYTHONS = [(3, minor) for minor in range(10, 15)]


def applies(line: str, python: tuple[int, int]) -> bool:
    marker = line.partition(";")[2].strip()
    if not marker:
        return True
    operator, version = re.fullmatch(r'python_version (>=|<) "([\d.]+)"', marker).groups()
    at_least = python >= tuple(int(number) for number in version.split("."))
    return at_least if operator == ">=" else not at_least


@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: "{}.{}".format(*python))
def test_every_development_requirement_has_one_exact_pin_on_every_python(python):
    pins = [pin for pin in dev.read_requirements(dev.REQUIREMENTS) if applies(pin.line, python)]
    names = [pin.name for pin in pins]
    assert all(re.fullmatch(r"==\d+(\.\d+)*", pin.clauses) for pin in pins)
    assert sorted(set(names)) == sorted(names)
    assert set(names) == {pin.name for pin in dev.read_requirements(dev.REQUIREMENTS)}


def test_what_comfyui_pins_itself_is_not_pinned_here():
    pins = {pin.name for pin in dev.read_requirements(dev.REQUIREMENTS)} - set(dev.TOOLS)
    assert not [name for name in pins if name.startswith("comfy")]


VERSIONS = st.lists(st.sampled_from([0, 1, 2, 10]), min_size=2, max_size=4).map(
    lambda numbers: ".".join(map(str, numbers))
)
CLAUSES = st.builds(
    str.__add__, st.sampled_from(["==", "!=", ">=", "<=", ">", "<", "~="]), VERSIONS
)


@example(["~=1.4.2"], "1.4.1")
@example(["~=1.4.2"], "1.10.2")
@example([">1.2", "<1.11"], "1.10")
@given(
    st.lists(CLAUSES | VERSIONS.map("=={}.*".format) | VERSIONS.map("!={}.*".format), max_size=2),
    VERSIONS,
)
def test_version_clauses_mean_what_they_mean_to_pip(clauses, version):
    assert dev.allows(", ".join(clauses), version) == SpecifierSet(",".join(clauses)).contains(
        version
    )


@pytest.mark.parametrize(
    ("theirs", "installed"),
    [
        ("", ["numpy==2.4.6", "tqdm==4.70.1"]),
        ("numpy", ["numpy==2.4.6", "tqdm==4.70.1"]),
        ("numpy>=1.25.0  # any", ["numpy==2.4.6", "tqdm==4.70.1"]),
        ("NumPy==1.26.4", ["NumPy==1.26.4", "tqdm==4.70.1"]),
        ("numpy<2,>=1.25", ["numpy<2,>=1.25", "tqdm==4.70.1"]),
        ("--pre\nnew-package==1", ["--pre", "new-package==1", "numpy==2.4.6", "tqdm==4.70.1"]),
    ],
    ids=["nothing", "left open", "allowed", "pinned", "below ours", "other lines"],
)
def test_what_comfyui_asks_for_wins_over_our_pins(project, theirs, installed):
    (project / "requirements.txt").write_text(theirs, encoding="utf-8")
    dev.REQUIREMENTS.write_text(
        "numpy==2.4.6\ntqdm==4.70.1\ntorchaudio==2.11.0\n", encoding="utf-8"
    )
    usual, alone = dev.wanted_packages(project)
    assert usual == installed
    assert alone == ["torchaudio==2.11.0"]


def test_all_pins_of_a_package_give_way_when_one_does(project):
    (project / "requirements.txt").write_text("numpy<2.3", encoding="utf-8")
    pins = 'numpy==2.4.6 ; python_version >= "3.11"\nnumpy==2.2.6 ; python_version < "3.11"\n'
    dev.REQUIREMENTS.write_text(pins, encoding="utf-8")
    assert dev.wanted_packages(project)[0] == ["numpy<2.3"]


TOOLS = "".join(f"{package}==1.0\n" for packages in dev.TOOLS.values() for package in packages)


def give_requirements(
    folder: Path, ours: str = TOOLS, theirs: str = "torch\n", config: str = "3.11"
) -> None:
    dev.VENV.mkdir(exist_ok=True)
    (dev.VENV / "pyvenv.cfg").write_text(config, encoding="utf-8")
    dev.REQUIREMENTS.write_text(ours, encoding="utf-8")
    (folder / "requirements.txt").write_text(theirs, encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [{"ours": TOOLS + "pytest==1.0\n"}, {"theirs": "torch==2\n"}, {"config": "3.12"}],
    ids=str,
)
def test_packages_are_installed_again_when_what_they_depend_on_changes(
    project, monkeypatch, change
):
    monkeypatch.setattr(dev, "pip", lambda *args: None)
    theirs = project / "theirs"
    theirs.mkdir()
    give_requirements(theirs)
    dev.PYTHON.parent.mkdir(parents=True)
    dev.PYTHON.touch()
    assert not dev.packages_ready(theirs)
    dev.install_packages(theirs)
    assert dev.packages_ready(theirs)
    give_requirements(theirs, **change)
    assert not dev.packages_ready(theirs)


@pytest.mark.parametrize(
    ("stop", "usable"), [(KeyboardInterrupt, False), (OSError, False), ("refused", True)], ids=str
)
def test_a_venv_whose_installation_was_cut_off_is_not_used(project, monkeypatch, stop, usable):
    """A pip that fails by itself cleans up after itself; one that is stopped does not."""
    error = dev.ExpectedError if stop == "refused" else stop
    give_requirements(project)
    dev.PYTHON.parent.mkdir(parents=True)
    dev.PYTHON.touch()

    def stopped(*args):
        raise error

    monkeypatch.setattr(dev, "pip", stopped)
    with pytest.raises(error):
        dev.install_packages(project)
    assert dev.venv_ready(project) is usable
    assert not dev.packages_ready(project)


@pytest.mark.parametrize("name", dev.TOOLS)
def test_a_tool_is_installed_alone_and_again_when_its_pin_changes(project, monkeypatch, name):
    installed = []
    monkeypatch.setattr(
        dev,
        "pip",
        lambda *args: installed.append((dev.CACHE / "requirements.txt").read_text().split()),
    )
    give_requirements(project)
    dev.PYTHON.parent.mkdir(parents=True)
    dev.PYTHON.touch()
    for _ in range(2):
        dev.set_up([dev.tool_step(name)], project)
    *others, last = dev.TOOLS[name]
    give_requirements(project, ours=TOOLS.replace(f"{last}==1.0", f"{last}==1.1"))
    dev.set_up([dev.tool_step(name)], project)
    assert installed == [
        [f"{one}==1.0" for one in (*others, last)],
        [*(f"{one}==1.0" for one in others), f"{last}==1.1"],
    ]


def test_of_a_tool_with_pins_for_older_and_newer_pythons_pip_gets_both(project):
    pins = ['ruff==1.0 ; python_version >= "3.11"', 'ruff==0.9 ; python_version < "3.11"']
    give_requirements(project, ours="\n".join(["torch==1.0", *pins]))
    assert dev.tool_lines("ruff") == pins


# --- The archive for the registry -------------------------------------------------------------------------------------


def make_archive(project: Path, *names: str, size: int = 10) -> Path:
    with zipfile.ZipFile(project / "node.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "x" * size)
    return project / "node.zip"


def test_an_archive_of_the_pack_alone_passes(project):
    path = make_archive(project, "__init__.py", "web/docs/A.md")
    assert dev.check_archive(path) == (["__init__.py", "web/docs/A.md"], path.stat().st_size)


@pytest.mark.parametrize(
    "name",
    ["tests/test_a.py", "docs/icon.png", "dev.py", "demo/a/b.png", ".github/workflows/tests.yml"],
)
def test_an_archive_with_a_development_file_is_refused_by_its_name(project, name):
    with pytest.raises(
        dev.ExpectedError,
        match=re.escape(f"holds {name}: 1 such files; .comfyignore must keep them out"),
    ):
        dev.check_archive(make_archive(project, "__init__.py", name))


def test_an_archive_that_is_too_large_is_refused(project):
    with pytest.raises(dev.ExpectedError, match=r"more than 300000: take out"):
        dev.check_archive(make_archive(project, "__init__.py", size=dev.ARCHIVE_LIMIT_BYTES + 1))


@pytest.mark.parametrize(
    "said",
    ["Warning: License should be ...", "Security warnings found:", "Error: version is empty"],
)
def test_a_warning_of_the_registry_s_check_is_a_failure(project, monkeypatch, said):
    """comfy-cli itself ends with 0 then."""
    monkeypatch.setattr(dev, "comfy_cli", lambda *args: said)
    with pytest.raises(dev.ExpectedError, match="mend what the lines above say"):
        dev.pack(project, [])


# --- Steps and programs -----------------------------------------------------------------------------------------------


def step(name: str, made: list[str], error: Exception | None = None) -> "dev.Step":
    def make(_comfyui: Path) -> None:
        if error:
            raise error
        made.append(name)

    return dev.Step(lambda _: name, lambda _: name in made, make)


def test_only_what_is_missing_is_made_in_order_and_counted(project, capsys):
    made = ["b"]
    dev.set_up([step(name, made) for name in "abc"], project)
    assert made == ["b", "a", "c"]
    assert re.findall(r"\[.*", capsys.readouterr().out) == ["[1/2] a ...", "[2/2] c ..."]


def test_nothing_is_said_or_locked_when_all_is_there(project, capsys):
    dev.set_up([step("a", ["a"])], project)
    assert capsys.readouterr().out == ""
    assert not list(dev.CACHE.iterdir())


@pytest.mark.parametrize("error", [dev.ExpectedError("no network"), OSError("disk full")], ids=str)
def test_a_failing_step_is_named_and_ends_the_setup(project, error):
    made: list[str] = []
    with pytest.raises(dev.ExpectedError, match=rf"(?s){error}.*\[2/3\] b"):
        dev.set_up([step("a", made), step("b", made, error), step("c", made)], project)
    assert made == ["a"]


def test_a_failing_tool_is_told_by_its_last_lines_and_what_to_do(project):
    tool = "for i in range(30): print('line', i)\nprint('No space left on device'); raise SystemExit(3)"
    with pytest.raises(dev.ExpectedError) as caught:
        dev.run_tool([sys.executable, "-c", tool])
    assert "line 29" in str(caught.value) and "line 9\n" not in str(caught.value)
    assert "free some space" in str(caught.value)


def test_a_program_gets_its_arguments_and_gives_its_exit_code(project):
    code = "import sys; sys.exit(len(sys.argv[1]))"
    assert dev.run_child([sys.executable, "-c", code, "a b"], dict(os.environ)) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl+C to a whole console")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "before", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"]
)
def test_a_signal_ends_the_program_first_and_dev_py_after_it_without_a_traceback(
    tmp_path, number, before
):
    """A shell starts a background job with SIGINT ignored, which children would inherit."""
    program = """
import sys, time
try:
    print("started", flush=True)
    time.sleep(20)
except KeyboardInterrupt:
    print("cleaned up", flush=True)
    sys.exit(7)
"""
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    (tmp_path / "dev.py").write_text(
        DEV.read_text(encoding="utf-8").replace(
            "sys.exit(main(sys.argv[1:]))",
            "sys.exit(run_child([sys.executable, 'program.py'], dict(os.environ)))",
        ),
        encoding="utf-8",
    )
    old = signal.signal(signal.SIGINT, before)
    try:
        process = subprocess.Popen(
            [sys.executable, "dev.py"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, old)
    with process:
        assert process.stdout.readline() == "started\n"
        time.sleep(0.1)
        process.send_signal(number)
        assert process.stdout.read() == "cleaned up\n"
        assert process.wait() == 7


@pytest.mark.parametrize(
    ("args", "examples", "rest"), [([], "500", []), (["20"], "20", []), (["-x"], "500", ["-x"])]
)
def test_fuzz_runs_its_tests_with_so_many_examples(args, examples, rest, monkeypatch):
    started = []
    monkeypatch.setattr(dev, "run_child", lambda argv, env: started.append((argv, env)) or 0)
    assert dev.fuzz(dev.OWN_COMFYUI, args) == 0
    ((argv, env),) = started
    assert (
        env["QUADTREE_FUZZ"] == examples
        and argv[3:5] == ["-m", "fuzz"]
        and argv[len(argv) - len(rest) :] == rest
    )
