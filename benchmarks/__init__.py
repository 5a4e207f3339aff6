"""Benchmarks: `python dev.py bench` runs them all, `python dev.py bench build` one. Each prints a table and writes JSON."""
