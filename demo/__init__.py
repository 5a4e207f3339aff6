"""The demo: refines a photo on a real ComfyUI server, over its API, and shows what changed.

`python demo/run.py` runs it. Nothing happens on import, so tests and benchmarks use these names,
too: they start a real server, turn saved workflows into prompts, queue them and find the results.
"""

from .errors import DemoError
from .folders import DEMO, PACKS, ROOT, TEMPLATE, WORKFLOW
from .prompts import (
    VIRTUAL,
    Prompt,
    find_node,
    prompt_from_workflow,
    read_widget_values,
    select_needed,
)
from .queueing import Run, find_files, get_json, run_prompt
from .server import Server, find_free_port, running_server
from .summary import read_report

__all__ = [
    "DEMO",
    "PACKS",
    "ROOT",
    "TEMPLATE",
    "VIRTUAL",
    "WORKFLOW",
    "DemoError",
    "Prompt",
    "Run",
    "Server",
    "find_files",
    "find_free_port",
    "find_node",
    "get_json",
    "prompt_from_workflow",
    "read_report",
    "read_widget_values",
    "run_prompt",
    "running_server",
    "select_needed",
]
