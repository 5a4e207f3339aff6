"""The commands behind `python dev.py`: setup, tests, checks, the archive, the demo's start.

Standard library only, since it makes the environment itself; it imports neither the pack nor
ComfyUI.
"""
