"""The demo's two commands: refine the photo, or leave the server running for the browser."""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import sys
import time
from pathlib import Path

from . import folders
from .errors import DemoError
from .pictures import write_pictures
from .prompts import (
    Prompt,
    bypass,
    find_node,
    prompt_from_workflow,
    remove_node,
    select_needed,
)
from .queueing import Run, find_files, get_json, run_prompt
from .server import find_free_port, read_last_lines, running_server
from .summary import measure, print_summary, read_report
from .terminal import say, status_line

COMFYUI_PORT = 8188  # ComfyUI's own default
INTERRUPTED = 130  # the exit code of a program that Ctrl+C ended, as shells count


def run(argv: list[str]) -> int:
    """Run the demo as a program of its own: report failures and Ctrl+C by the exit code."""
    # Without these handlers the server would outlive this program: SIGTERM would end it at once,
    # and a background job of a shell ignores SIGINT.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    try:
        return main(argv)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("\nStopped.")
        return 0 if "--serve" in argv else INTERRUPTED


def interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """Run the command that the arguments ask for and return its exit code."""
    options = parse(argv)
    if not os.environ.get("COMFYUI_PATH"):
        raise DemoError(
            "COMFYUI_PATH is not set to a ComfyUI folder; `python dev.py demo` sets everything up."
        )
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    if options.serve:
        return serve(comfyui, options.port or find_free_port(COMFYUI_PORT))
    return refine_photo(comfyui, options.port or find_free_port())


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Refines a photo on a real ComfyUI server; pictures in demo/output."
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="leave the server running, with the workflow ready to open",
    )
    parser.add_argument(
        "--port",
        type=int,
        help=(
            f"port of the server (default: with --serve {COMFYUI_PORT} if it is free, else any "
            "free port)"
        ),
    )
    return parser.parse_args(argv)


def refine_photo(comfyui: Path, port: int) -> int:
    """Run the workflow with and without the pack, write the pictures, and print the summary.

    Returns 1 where a kept region has changed, which must never happen.
    """
    workflow = json.loads(folders.WORKFLOW.read_text(encoding="utf-8"))
    started = time.monotonic()
    with running_server(folders.BASE, comfyui, port) as server:
        say(f"ComfyUI answered after {time.monotonic() - started:.0f} s.")
        with_pack, without, prompt = run_both(server.url, workflow)
        report = read_report(server.log.read_text(encoding="utf-8", errors="replace"))
    files = find_files(with_pack, prompt, folders.BASE)
    files["picture without_pack"] = find_files(without, prompt, folders.BASE)["picture after"]
    folders.OUTPUT.mkdir(exist_ok=True)
    write_pictures(files, folders.OUTPUT)
    summary = measure(files, prompt, with_pack=with_pack, without=without, report=report)
    print_summary(summary, folders.OUTPUT)
    return 0 if summary.is_as_promised else 1


def run_both(url: str, workflow: dict) -> tuple[Run, Run, Prompt]:
    """Run the workflow with the pack and without it; return both runs and the first's prompt.

    A run of one step before them loads the model, so that both are timed from the same start.
    """
    object_info = get_json(f"{url}/object_info")
    prompt = prompt_from_workflow(workflow, object_info)
    plain = prompt_without_pack(workflow, object_info)
    last_node = find_node(plain, "SaveLatent", filename_prefix="quadtree/after")
    warm_up = select_needed(copy.deepcopy(plain), last_node)
    warm_up[find_node(plain, "KSampler")]["inputs"]["steps"] = 1
    with status_line() as show:
        run_prompt(url, warm_up, lambda text: show(f"loading the model: {text}"))
        with_pack = run_prompt(url, prompt, lambda text: show(f"with the pack: {text}"))
        without = run_prompt(url, plain, lambda text: show(f"without the pack: {text}"))
    return with_pack, without, prompt


def prompt_without_pack(workflow: dict, object_info: dict) -> Prompt:
    """Return the workflow's prompt with our sampling node bypassed and nothing composited."""
    plain = prompt_from_workflow(bypass(workflow, "QuadtreeDiffusion"), object_info)
    return remove_node(plain, "QuadtreeComposite", through="refined")


def serve(comfyui: Path, port: int) -> int:
    """Leave the server running until Ctrl+C; DemoError where it ends by itself."""
    template = f"?template={folders.TEMPLATE}&source={folders.TEMPLATE_PACK}"
    with running_server(folders.BASE, comfyui, port, "--preview-method", "latent2rgb") as server:
        say(f"ComfyUI runs. The demo's workflow: {server.url}/{template}")
        say(
            f"It is also in the Workflows sidebar of {server.url} as {folders.TEMPLATE!r}. "
            f"Log: {server.log}. Ctrl+C ends the server."
        )
        code = server.process.wait()
        raise DemoError(f"ComfyUI ended with code {code}.\n{read_last_lines(server.log)}")
