"""Runs the benchmarks that are named, or all."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from testing.registration import PACKAGE, ROOT, register_pack

RESULTS = ROOT / "benchmarks" / "output"
NAMES = (
    "build",
    "plan",
    "overhead",
    "gpu",
    "families",
    "web",
    "decode",
    "quality",
    "release",
    "decide",
    "cluster",
    "video",
    "rivals",
)


def main() -> None:
    options = parse()
    arguments = {"decide": [options.pictures], "rivals": [options.packs]}
    register_pack()
    RESULTS.mkdir(exist_ok=True)
    for name in options.names:
        print(f"\n== {name} ==", flush=True)
        module = importlib.import_module(f"{PACKAGE}.benchmarks.{name}")
        rows = module.run(*arguments.get(name, []))
        target = RESULTS / f"{name}.json"
        target.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"(as JSON in {target.relative_to(ROOT)})")


def parse() -> argparse.Namespace:
    """Return the command line's options; without names, all benchmarks are named."""
    known = ", ".join(NAMES)
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {known}; all if none is named"
    )
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="only the first N pictures of decide"
    )
    parser.add_argument(
        "--packs",
        nargs="+",
        type=Path,
        default=(),
        metavar="DIR",
        help="folders of the packs that rivals compares with",
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {known}")
    options.names = options.names or NAMES
    return options


if __name__ == "__main__":  # processes that a benchmark starts import this file
    main()
