"""Run programs: one line when a step starts, signs of life while it runs, its last lines when it
fails."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from . import paths

QUIET_S = 2.0  # a tool that takes longer shows that it is alive


LINE_EVERY_S = 15.0  # how often, where the output is no terminal


class ExpectedError(Exception):
    """An expected failure; its text says what came and what to do. Shown without a traceback."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: unlike Ctrl+C in a terminal it reaches this process only, not the program it
    started."""


def say(text: str) -> None:
    print(text, flush=True)


class SignsOfLife:
    """Show the seconds and the tool's last line: in place in a terminal, otherwise now and then."""

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
        "pip found no such package for this Python and system: use a 64-bit Python 3.10 to 3.13, "
        "delete .venv",
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


HELD_LOCKS: list[
    int
] = []  # given to the tools too: what outlives a killed dev.py still keeps the next one waiting


def run_tool(
    argv: Sequence[str | Path],
    *,
    env: dict[str, str] | None = None,
    status: Callable[[str], str] = str.strip,
) -> str:
    """Run a setup tool without a terminal and return its last lines.

    Raises ExpectedError, with these lines, if the tool fails.

    `status` turns the last line into what is shown while the tool runs.
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
        cwd=paths.ROOT,
        pass_fds=tuple(HELD_LOCKS),
    ) as child:
        output_lines = child.stdout or ()  # a pipe, as asked for above
        kept = (line for line in output_lines if line.strip() and not NOISE.match(line))
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
            f"{indent(output)}\n{hint(output)}, then run the same command again; "
            "it goes on from here."
        )
    return output


def indent(text: str) -> str:
    return "\n".join("      | " + line[:200] for line in text.splitlines())


# Variables that would lead a Python of ours to the modules of others, or keep it from caching
# bytecode, which costs every start of ComfyUI seconds.
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


def reached_by_ctrl_c() -> bool:
    """Return whether a terminal has already sent Ctrl+C to our children: it must not be sent
    twice."""
    if os.name == "nt":
        return True
    try:
        with Path("/dev/tty").open() as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def end(child: subprocess.Popen, stop: KeyboardInterrupt) -> int:
    """Pass an interrupt on and wait; each further one is less polite. Return the exit code."""
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


def run_child(argv: Sequence[str | Path], env: dict[str, str]) -> int:
    """Run a command's program in our terminal and return its exit code; Ctrl+C ends it first, then
    us."""
    with subprocess.Popen([str(part) for part in argv], env=env, cwd=paths.ROOT) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt as stop:
            code = end(child, stop)
    return 128 - code if code < 0 else code
