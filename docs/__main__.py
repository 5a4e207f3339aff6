"""Draws every picture of the project that needs no model, or those whose name holds a given word."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from testing.registration import PACKAGE, ROOT, register_pack

MODULES = ("pictures", "icon", "figures")


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py figures", description=__doc__)
    parser.add_argument(
        "word",
        nargs="?",
        default="",
        help="a part of the names of those to draw; all if none is given",
    )
    parser.add_argument(
        "--into",
        type=Path,
        default=ROOT,
        help="the folder to draw into; the project itself if none is given",
    )
    given = parser.parse_args()
    register_pack()
    drawings = {
        name: draw
        for module in MODULES
        for name, draw in import_module(f"{PACKAGE}.docs.{module}").DRAWINGS.items()
    }
    chosen = {name: draw for name, draw in drawings.items() if given.word in name}
    if not chosen:
        parser.error(f"no picture's name holds {given.word!r}; there are {', '.join(drawings)}")
    for name, draw in chosen.items():
        target = given.into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        draw(target)
        print(f"{name}  {target.stat().st_size / 1000:.0f} kB", flush=True)


main()
