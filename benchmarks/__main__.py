"""Runs the benchmarks that are named, or all."""

from __future__ import annotations

import argparse
import importlib
import json

from testing.registration import PACKAGE, ROOT, register_pack

RESULTS = ROOT / "benchmarks" / "output"
NAMES = ("build", "plan", "overhead", "gpu", "families", "web", "decode", "quality")


def main() -> None:
    names = parse()
    register_pack()
    RESULTS.mkdir(exist_ok=True)
    for name in names:
        print(f"\n== {name} ==", flush=True)
        rows = importlib.import_module(f"{PACKAGE}.benchmarks.{name}").run()
        target = RESULTS / f"{name}.json"
        target.write_text(json.dumps(rows, indent=1) + "\n")
        print(f"(as JSON in {target.relative_to(ROOT)})")


def parse() -> tuple[str, ...]:
    """Return the names on the command line, or all."""
    known = ", ".join(NAMES)
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {known}; all if none is named"
    )
    names = tuple(parser.parse_args().names) or NAMES
    unknown = set(names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {known}")
    return names


main()
