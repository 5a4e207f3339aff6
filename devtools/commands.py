"""The commands of dev.py, its command line and its help."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import paths
from .archive import pack
from .browser import CHROMIUM_STEP, chromium
from .checks import lint
from .comfyui import COMFYUI_STEP, comfyui_folder, command_env
from .imports import IMPORTS_STEP
from .neighbours import neighbours
from .packages import PACKAGES_STEP, tool_step
from .running import ExpectedError, run_child, say, tool_env
from .setup import VENV_STEP, Step, set_up
from .tests import fuzz, test

REAL_COMFYUI = (VENV_STEP, COMFYUI_STEP, PACKAGES_STEP, IMPORTS_STEP)


def demo(comfyui: Path, args: list[str]) -> int:
    """Run the demo: a photo, refined on a real ComfyUI server."""
    return run_child([paths.PYTHON, paths.ROOT / "demo" / "run.py", *args], command_env(comfyui))


def serve(comfyui: Path, args: list[str]) -> int:
    """Start the demo's server and leave it running."""
    return demo(comfyui, ["--serve", *args])


def cluster_demo(comfyui: Path, args: list[str]) -> int:
    """Refine the demo's photo on two workers of a Ray cluster on this machine."""
    return run_child([paths.PYTHON, "-m", "demo.cluster", *args], command_env(comfyui))


def bench(comfyui: Path, args: list[str]) -> int:
    """Run the benchmarks."""
    return run_child(
        [paths.PYTHON, "-m", "benchmarks", *args],
        {**command_env(comfyui), "QUADTREE_CHROMIUM": chromium()},
    )


def figures(_comfyui: Path, args: list[str]) -> int:
    """Draw the pictures of the documentation."""
    return run_child([paths.PYTHON, "-m", "docs", *args], tool_env())


def templates(comfyui: Path, args: list[str]) -> int:
    """Write the example workflows, with the nodes that a real ComfyUI server has."""
    return run_child([paths.PYTHON, "-m", "docs", "--templates", *args], command_env(comfyui))


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
        serve,
        REAL_COMFYUI,
        "",
        "start that server and leave it running, its workflow ready to open",
    ),
    "cluster-demo": Command(
        cluster_demo,
        REAL_COMFYUI,
        "[--steps N]",
        "refine it on two workers of a Ray cluster, and draw who did what",
    ),
    "test": Command(
        test,
        (*REAL_COMFYUI, CHROMIUM_STEP),
        "[--fast] [pytest's]",
        "run the tests; --fast: unit tests, in 2 minutes",
    ),
    "fuzz": Command(
        fuzz,
        REAL_COMFYUI,
        "[examples]",
        "feed every node hostile and odd values, 500 for each test",
    ),
    "bench": Command(bench, REAL_COMFYUI, "[name] [arguments]", "run the benchmarks"),
    "neighbours": Command(
        neighbours,
        REAL_COMFYUI,
        "--packs DIR ...",
        "run this pack beside others that you have",
    ),
    "lint": Command(
        lint,
        (VENV_STEP, tool_step("checks")),
        "[--fix]",
        "check style, types and spelling; --fix repairs what it can",
        False,
    ),
    "figures": Command(
        figures,
        (VENV_STEP, tool_step("plotting")),
        "[a part of a name]",
        "draw the pictures of the docs",
        False,
    ),
    "templates": Command(
        templates, REAL_COMFYUI, "", "write the workflows of the Templates dialog anew"
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
    commands = "\n".join(f"  {name:12}{one.args:22}{one.about}" for name, one in COMMANDS.items())
    return f"""\
usage: python dev.py [--comfyui PATH] COMMAND [arguments]

{commands}

Each command first sets up what it needs in .venv and .cache of this folder: Python packages, and
ComfyUI 0.30.0 (about 3 GB). That takes a minute or two once; later runs start at once. To undo it,
delete both folders. Only `test` looks beyond them: it needs a browser, which it installs with
apt-get as root on Debian. QUADTREE_CHROMIUM=PATH names another browser; an empty QUADTREE_CHROMIUM
skips the tests that need one.

  --comfyui PATH   use your own ComfyUI (the folder with its main.py) instead; nothing is installed
                   into it or written there. The environment variable COMFYUI_PATH does the same.

Examples:
  python dev.py demo
  python dev.py test -k velocity -x
  python dev.py test --comfyui ../ComfyUI
"""


@dataclass(frozen=True)
class Request:
    """A parsed command line: `comfyui` is empty for our own, `command` is empty for help."""

    command: str
    args: list[str]
    comfyui: str


def parse(argv: list[str], environment_path: str = "") -> Request:
    """Parse the command line; --comfyui may stand before or after the command, up to a `--`."""
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


def main(argv: list[str]) -> int:
    request = parse(argv, os.environ.get("COMFYUI_PATH", ""))
    if not request.command:
        say(usage())
        return 0
    command = COMMANDS[request.command]
    comfyui = comfyui_folder(request.comfyui) if command.needs_comfyui else paths.OWN_COMFYUI
    set_up(command.steps, comfyui)
    return command.run(comfyui, request.args)
