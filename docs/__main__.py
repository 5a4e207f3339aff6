"""Draws the pictures of the project that need no model: all, or those with a word in their name.

With --templates it writes the example workflows instead, by the nodes of a real ComfyUI server.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from testing.registration import PACKAGE, ROOT, register_pack

MODULES = ("pictures", "thumbnails", "icon", "figures")


def main() -> None:
    parser = build_parser()
    given = parser.parse_args()
    register_pack()
    if given.templates:
        import_module(f"{PACKAGE}.docs.templates").main(given.into)
        return
    drawings = load_drawings()
    chosen = {name: draw for name, draw in drawings.items() if given.word in name}
    if not chosen:
        parser.error(f"no picture has {given.word!r} in its name; there are {', '.join(drawings)}")
    for name, draw in chosen.items():
        target = given.into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draw(target)
        print(f"{name}  {target.stat().st_size / 1000:.0f} kB", flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev.py figures", description=__doc__)
    parser.add_argument(
        "word",
        nargs="?",
        default="",
        help="a part of the names of the pictures to draw; all if none is given",
    )
    parser.add_argument(
        "--into",
        type=Path,
        default=ROOT,
        help="the folder to draw into; the project itself if none is given",
    )
    parser.add_argument(
        "--templates", action="store_true", help="write the example workflows instead"
    )
    return parser


def load_drawings() -> dict[str, Callable[[Path], None]]:
    """Return what draws each picture, by the picture's path in the project."""
    drawings = {}
    for module in MODULES:
        drawings.update(import_module(f"{PACKAGE}.docs.{module}").DRAWINGS)
    return drawings


main()
