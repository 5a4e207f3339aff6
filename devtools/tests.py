"""`python dev.py test` and `fuzz`: pytest with ComfyUI, on all cores."""

from __future__ import annotations

from pathlib import Path

from . import paths
from .browser import chromium
from .comfyui import command_env
from .running import run_child, say

# `python -m pytest` would put the project on sys.path, where its nodes.py and utils.py hide
# ComfyUI's own.
PYTEST = "import sys; del sys.path[0]; import pytest; sys.exit(pytest.main())"
# A file's tests stay in one process, since they share models, a server or a browser.
# Eight at most: each needs up to 3 GB.
ALL_CORES = ("--numprocesses", "logical", "--maxprocesses", "8", "--dist", "loadfile")
FAST = ("tests/unit", "-m", "not slow")
FUZZ_EXAMPLES = 500  # of each test


def test(comfyui: Path, args: list[str]) -> int:
    """Run the tests on all cores: all of them, those of `--fast`, or those that pytest's arguments
    choose.

    Pytest runs in one process where an argument asks for it (`-n 0` or `--pdb`).
    """
    if "--fast" in args:
        args = [*FAST, *(word for word in args if word != "--fast")]
        return run_pytest(comfyui, args, browser="")
    browser = chromium()
    if not browser:
        say(
            "No Chromium, Chrome or Edge found: the browser tests are skipped. "
            "QUADTREE_CHROMIUM=PATH names one."
        )
    return run_pytest(comfyui, args, browser=browser)


def run_pytest(comfyui: Path, args: list[str], *, browser: str) -> int:
    """Run pytest with these arguments, on all cores unless they say otherwise."""
    alone = any(word.startswith(("-n", "--numprocesses", "--pdb", "--update-")) for word in args)
    cores = () if alone else ALL_CORES
    env = {**command_env(comfyui), "QUADTREE_CHROMIUM": browser}
    return run_child([paths.PYTHON, "-c", PYTEST, *cores, *args], env)


def fuzz(comfyui: Path, args: list[str]) -> int:
    """Run the hypothesis tests with many new examples each and show their statistics."""
    examples, rest = str(FUZZ_EXAMPLES), args
    if args and args[0].isdigit():
        examples, rest = args[0], args[1:]
    chosen = ["-m", "fuzz", "--hypothesis-show-statistics", "-W", "ignore", "--timeout", "3600"]
    env = {**command_env(comfyui), "QUADTREE_FUZZ": examples}
    return run_child([paths.PYTHON, "-c", PYTEST, *chosen, *rest], env)
