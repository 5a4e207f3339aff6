"""Registers the pack as the package `quadtree_pack`, through the one place that does so."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location("quadtree_registration", ROOT / "benchmarks" / "pack.py")
registration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(registration)
registration.register_pack()
