"""Benchmarks: `python dev.py bench` runs them all, `python dev.py bench build` one.

Each module has `run()`, which prints a table and returns its rows; they are also written as JSON.
"""
