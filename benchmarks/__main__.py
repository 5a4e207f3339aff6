"""Runs the benchmarks that are named, or all."""

from __future__ import annotations

import argparse
import importlib
import json

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
)


def main() -> None:
    names, pictures = parse()
    register_pack()
    RESULTS.mkdir(exist_ok=True)
    for name in names:
        print(f"\n== {name} ==", flush=True)
        module = importlib.import_module(f"{PACKAGE}.benchmarks.{name}")
        rows = module.run(pictures) if name == "decide" else module.run()
        target = RESULTS / f"{name}.json"
        target.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"(as JSON in {target.relative_to(ROOT)})")


def parse() -> tuple[tuple[str, ...], int | None]:
    """Return the names on the command line, or all, and how many pictures `decide` is to take."""
    known = ", ".join(NAMES)
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {known}; all if none is named"
    )
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="only the first N pictures of decide"
    )
    options = parser.parse_args()
    names = tuple(options.names) or NAMES
    unknown = set(names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {known}")
    return names, options.pictures


if __name__ == "__main__":  # processes that a benchmark starts import this file
    main()
