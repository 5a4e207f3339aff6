"""The steps that a command needs, made one at a time under a lock, and the virtual environment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import paths
from .running import HELD_LOCKS, ExpectedError, SignsOfLife, run_tool, say


def try_lock(handle: int) -> bool:
    """Lock an open file if no other process has; return whether it is ours now."""
    try:
        if sys.platform == "win32":
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
    paths.CACHE.mkdir(exist_ok=True)
    handle = os.open(paths.CACHE / "setup.lock", os.O_RDWR | os.O_CREAT, 0o644)
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


@dataclass(frozen=True)
class Step:
    """One thing that a command needs: what it is called, whether it is there, how it is made."""

    title: Callable[[Path], str]
    ready: Callable[[Path], bool]
    make: Callable[[Path], None]


def set_up(steps: Iterable[Step], comfyui: Path) -> None:
    """Make the steps that are not ready. Each is given the folder of ComfyUI."""
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
                    f"{error}\nFailed: {name}. Fix this, then run the same command again."
                ) from None
            say(f"      done in {time.monotonic() - start_s:.0f} s")


def venv_config() -> str:
    """Return what .venv was made with and runs on, as text; empty if there is none."""
    try:
        return (paths.VENV / "pyvenv.cfg").read_text(encoding="utf-8") + str(paths.PYTHON.resolve())
    except OSError:
        return ""


def venv_ready(_comfyui: Path) -> bool:
    return paths.PYTHON.exists() and bool(venv_config()) and not paths.BUSY.exists()


def venv_title(_comfyui: Path) -> str:
    return (
        "making .venv anew, since the last setup was cut off"
        if paths.BUSY.exists()
        else "making .venv"
    )


def make_venv(_comfyui: Path) -> None:
    import importlib.util

    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ExpectedError(
            f"This Python {version} comes without the modules venv and ensurepip. On Debian and "
            f"Ubuntu: apt-get install python{version}-venv; elsewhere use the installer of "
            "python.org. Then run this again."
        )
    paths.BUSY.write_text("", encoding="utf-8")
    if paths.VENV.exists():
        delete = "import shutil, sys; shutil.rmtree(sys.argv[1])"
        run_tool(
            [sys.executable, "-c", delete, paths.VENV], status=lambda _: "deleting the old one"
        )
    run_tool([getattr(sys, "_base_executable", None) or sys.executable, "-m", "venv", paths.VENV])
    paths.BUSY.unlink()


@contextlib.contextmanager
def changing_venv() -> Iterator[None]:
    """Leave paths.BUSY behind when interrupted: a half-installed package can look complete to pip.

    A pip that fails by itself has cleaned up: then .venv stays in use.
    """
    paths.BUSY.write_text("", encoding="utf-8")
    try:
        yield
    except ExpectedError:
        paths.BUSY.unlink()
        raise
    paths.BUSY.unlink()


def stamp_path(name: str) -> Path:
    return paths.VENV / f".quadtree-{name}"


def stamped(name: str, digest: str) -> bool:
    try:
        return stamp_path(name).read_text(encoding="utf-8") == digest
    except OSError:
        return False


def digest_of(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


VENV_STEP = Step(venv_title, venv_ready, make_venv)


def pip(*args: str | Path) -> None:
    run_tool([paths.PYTHON, "-m", "pip", *args, "--progress-bar", "off"], status=pip_status)


def pip_status(line: str) -> str:
    """Return pip's own line, or a count of installed packages while pip is silent."""
    if not line.strip().startswith(
        ("Installing", "Attempting", "Found existing", "Uninstalling", "Successfully")
    ):
        return line
    folders = ("lib/*/site-packages/*.dist-info", "Lib/site-packages/*.dist-info")
    installed = max(len(list(paths.VENV.glob(folder))) for folder in folders)
    return f"{installed} packages are in place"
