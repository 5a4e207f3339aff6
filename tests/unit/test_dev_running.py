"""devtools: steps, programs, signals, tests and the archive."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from quadtree_pack.devtools import archive, paths, running, setup, tests

ROOT = paths.ROOT


def make_archive(project: Path, *names: str, size: int = 10) -> Path:
    with zipfile.ZipFile(project / "node.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "x" * size)
    return project / "node.zip"


def test_an_archive_of_the_pack_alone_passes(project):
    path = make_archive(project, "__init__.py", "web/docs/A.md")
    assert archive.check_archive(path) == (["__init__.py", "web/docs/A.md"], path.stat().st_size)


@pytest.mark.parametrize(
    "name",
    ["tests/test_a.py", "docs/icon.png", "dev.py", "demo/a/b.png", ".github/workflows/tests.yml"],
)
def test_an_archive_with_a_development_file_is_refused_by_its_name(project, name):
    with pytest.raises(
        running.ExpectedError,
        match=re.escape(f"holds {name}: 1 such files; .comfyignore must keep them out"),
    ):
        archive.check_archive(make_archive(project, "__init__.py", name))


def test_an_archive_that_is_too_large_is_refused(project):
    with pytest.raises(
        running.ExpectedError, match=f"more than {archive.ARCHIVE_LIMIT_BYTES}: take out"
    ):
        archive.check_archive(
            make_archive(project, "__init__.py", size=archive.ARCHIVE_LIMIT_BYTES + 1)
        )


@pytest.mark.parametrize(
    "said",
    ["Warning: License should be ...", "Security warnings found:", "Error: version is empty"],
)
def test_a_warning_of_the_registry_s_check_is_a_failure(project, monkeypatch, said):
    """comfy-cli itself ends with 0 then."""
    monkeypatch.setattr(archive, "comfy_cli", lambda *args: said)
    with pytest.raises(running.ExpectedError, match="fix what the lines above say"):
        archive.pack(project, [])


def step(name: str, made: list[str], error: Exception | None = None) -> "setup.Step":
    def make(_comfyui: Path) -> None:
        if error:
            raise error
        made.append(name)

    return setup.Step(lambda _: name, lambda _: name in made, make)


def test_only_what_is_missing_is_made_in_order_and_counted(project, capsys):
    made = ["b"]
    setup.set_up([step(name, made) for name in "abc"], project)
    assert made == ["b", "a", "c"]
    assert re.findall(r"\[.*", capsys.readouterr().out) == ["[1/2] a ...", "[2/2] c ..."]


def test_nothing_is_said_or_locked_when_all_is_there(project, capsys):
    setup.set_up([step("a", ["a"])], project)
    assert capsys.readouterr().out == ""
    assert not list(paths.CACHE.iterdir())


@pytest.mark.parametrize(
    "error", [running.ExpectedError("no network"), OSError("disk full")], ids=str
)
def test_a_failing_step_is_named_and_ends_the_setup(project, error):
    made: list[str] = []
    with pytest.raises(running.ExpectedError, match=rf"(?s){error}.*\[2/3\] b"):
        setup.set_up([step("a", made), step("b", made, error), step("c", made)], project)
    assert made == ["a"]


def test_a_failing_tool_is_told_by_its_last_lines_and_what_to_do(project):
    tool = (
        "for i in range(30): print('line', i)\n"
        "print('No space left on device'); raise SystemExit(3)"
    )
    with pytest.raises(running.ExpectedError) as caught:
        running.run_tool([sys.executable, "-c", tool])
    assert "line 29" in str(caught.value) and "line 9\n" not in str(caught.value)
    assert "free some space" in str(caught.value)


def test_a_program_gets_its_arguments_and_gives_its_exit_code(project):
    code = "import sys; sys.exit(len(sys.argv[1]))"
    assert running.run_child([sys.executable, "-c", code, "a b"], dict(os.environ)) == 3


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
    shutil.copytree(ROOT / "devtools", tmp_path / "devtools")
    text = (
        (ROOT / "dev.py")
        .read_text(encoding="utf-8")
        .replace(
            "sys.exit(main(sys.argv[1:]))",
            "sys.exit(run_child([sys.executable, 'program.py'], dict(os.environ)))",
        )
    )
    text = text.replace("import signal\n", "import os\nimport signal\n")
    text = text.replace("import ExpectedError", "import run_child, ExpectedError")
    (tmp_path / "dev.py").write_text(text, encoding="utf-8")
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
    monkeypatch.setattr(tests, "run_child", lambda argv, env: started.append((argv, env)) or 0)
    assert tests.fuzz(paths.OWN_COMFYUI, args) == 0
    ((argv, env),) = started
    assert (
        env["QUADTREE_FUZZ"] == examples
        and argv[3:5] == ["-m", "fuzz"]
        and argv[len(argv) - len(rest) :] == rest
    )


@pytest.mark.parametrize(
    ("args", "cores", "rest"),
    [
        ([], True, []),
        (["--fast"], True, [*tests.FAST]),
        (["-k", "velocity", "--fast"], True, [*tests.FAST, "-k", "velocity"]),
        (["-n", "0", "tests/web"], False, ["-n", "0", "tests/web"]),
        (["--pdb"], False, ["--pdb"]),
    ],
)
def test_tests_run_on_all_cores_unless_told_otherwise(args, cores, rest, monkeypatch):
    started = []
    monkeypatch.setattr(tests, "run_child", lambda argv, env: started.append((argv, env)) or 0)
    monkeypatch.setattr(tests, "chromium", lambda: "a browser")
    assert tests.test(paths.OWN_COMFYUI, args) == 0
    ((argv, env),) = started
    assert argv[3:] == [*(tests.ALL_CORES if cores else ()), *rest]
    assert env["QUADTREE_CHROMIUM"] == ("" if "--fast" in args else "a browser")
