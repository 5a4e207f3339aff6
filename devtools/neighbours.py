"""`python dev.py neighbours`: this pack beside others, given as folders, in one ComfyUI."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import paths
from .comfyui import command_env
from .running import ExpectedError, run_child

# `python -m` would put the project on sys.path, where its nodes.py hides ComfyUI's own.
START = (
    "import sys; from testing.registration import register_pack; register_pack(); "
    "del sys.path[0]; from quadtree_pack.benchmarks.neighbours import main; main()"
)
ABOUT = "Runs Quadtree Diffusion beside other packs. Nothing is downloaded or installed."


def neighbours(comfyui: Path, args: list[str]) -> int:
    """Run the graphs of these packs on the real ComfyUI and print a verdict on each."""
    options = parse(args)
    folders = [check_pack(folder) for folder in options.packs]
    command: list[str | Path] = [paths.PYTHON, "-c", START, *folders]
    if options.write:
        command += ["--write", options.write.resolve()]
    if options.site:
        command += ["--site", options.site.resolve()]
    return run_child(command, command_env(comfyui))


def parse(args: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py neighbours", description=ABOUT)
    parser.add_argument(
        "--packs",
        nargs="+",
        type=Path,
        required=True,
        metavar="DIR",
        help="folders of packs, as they would lie in custom_nodes",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="also write the table there, such as docs/neighbours.md",
    )
    parser.add_argument(
        "--site",
        type=Path,
        metavar="DIR",
        help="Python packages that the packs need, from `pip install --target DIR`",
    )
    return parser.parse_args(args)


def check_pack(folder: Path) -> Path:
    """Return the pack's folder, absolute; ExpectedError if ComfyUI would find no pack there."""
    path = folder.expanduser().resolve()
    if not (path / "__init__.py").is_file():
        raise ExpectedError(
            f"{folder} holds no pack: __init__.py is missing; give the folder that would lie in "
            "ComfyUI's custom_nodes."
        )
    return path
