"""The demo: refines a photo on a real ComfyUI server, over its API, and shows what changed and what did not.

python demo/run.py              runs the workflow with and without the pack; pictures in demo/output
python demo/run.py --serve      leaves the server running, with the workflow ready to open

COMFYUI_PATH names the ComfyUI folder; Python is the one that runs that ComfyUI. `python dev.py demo` sets up both.
Nothing happens on import, so tests use `server`, `prompt_from_workflow` and `run_prompt` as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parent
ROOT = DEMO.parent
BASE = ROOT / ".cache" / "server"
OUTPUT = DEMO / "output"
WORKFLOW = DEMO / "workflow.json"
PACKS = {"comfyui-quadtree-diffusion": ROOT, "tiny_refiner": DEMO / "tiny_refiner"}
NODES = ("QuadtreeVisualizer", "QuadtreeDiffusion", "QuadtreeComposite", "TinyRefinerLoader")

TEMPLATE = "Quadtree-Diffusion-demo"  # no blanks: the browser accepts none in an address
TEMPLATE_PACK = "quadtree_demo"
START_LIMIT_S = 300
STOP_LIMIT_S = 10

Prompt = dict[str, dict[str, Any]]


class DemoError(Exception):
    """Something that a person can act on; its text says how."""


# --- From the workflow that the browser opens to the prompt that the API takes ---------------------------------------

MUTED, BYPASSED = 2, 4
VIRTUAL = ("Note", "MarkdownNote")  # they exist in the browser only
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEEDS = ("seed", "noise_seed")


def prompt_from_workflow(workflow: dict, object_info: dict) -> Prompt:
    """What the browser would send for this workflow; object_info is the server's answer to GET /object_info."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    prompt = {}
    for node in nodes.values():
        if node.get("mode", 0) in (MUTED, BYPASSED) or node["type"] in (*VIRTUAL, "Reroute"):
            continue
        if node["type"] not in object_info:
            raise ValueError(
                f"The server does not know the node {node['type']!r} (id {node['id']})."
            )
        inputs = widget_values(node, object_info[node["type"]])
        for slot in node.get("inputs", ()):
            if slot.get("link") is None:
                continue
            source = link_source(links[slot["link"]], nodes, links)
            inputs.pop(slot["name"], None)
            if source is not None:
                inputs[slot["name"]] = [str(source[0]), source[1]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def widget_values(node: dict, info: dict) -> dict[str, Any]:
    """Input name -> value; a workflow stores values by position, in schema order."""
    values = iter(node.get("widgets_values") or ())
    named = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            if (isinstance(kind, str) and kind not in WIDGET_TYPES) or options.get("forceInput"):
                continue
            for value in (
                values
            ):  # takes one, if there is one left: an input added later has none in an old file
                named[name] = value
                break
            if options.get("control_after_generate") or (kind == "INT" and name in SEEDS):
                next(values, None)  # the browser's own "fixed", "randomize" ... behind each seed
    return named


def link_source(
    origin: tuple[int, int], nodes: dict[int, dict], links: dict
) -> tuple[int, int] | None:
    """Node id and output slot that really feed a link: through reroutes and bypassed nodes; None behind a muted one."""
    while True:
        node_id, slot = origin
        node = nodes[node_id]
        if node.get("mode", 0) == MUTED:
            return None
        if node["type"] != "Reroute" and node.get("mode", 0) != BYPASSED:
            return origin
        inputs = node.get("inputs", [])
        wanted = node["outputs"][slot]["type"]
        same_place = inputs[slot : slot + 1]
        fitting = [
            one
            for one in (*same_place, *inputs)
            if node["type"] == "Reroute" or one["type"] == wanted
        ]
        if not fitting or fitting[0].get("link") is None:
            return None
        origin = links[fitting[0]["link"]]


def bypass(workflow: dict, node_type: str) -> dict:
    """A copy of the workflow in which all nodes of this type are bypassed, as by Ctrl+B."""
    changed = copy.deepcopy(workflow)
    for node in changed["nodes"]:
        if node["type"] == node_type:
            node["mode"] = BYPASSED
    return changed


def skip(prompt: Prompt, class_type: str, through: str) -> Prompt:
    """The prompt without the only node of this class: what it gave, its input `through` gives."""
    node_id = find_node(prompt, class_type)
    source = prompt[node_id]["inputs"][through]
    rest = {number: node for number, node in prompt.items() if number != node_id}
    return {
        number: {
            **node,
            "inputs": {
                name: source if value == [node_id, 0] else value
                for name, value in node["inputs"].items()
            },
        }
        for number, node in rest.items()
    }


def find_node(prompt: Prompt, class_type: str, **inputs: Any) -> str:
    """Id of the only node of this class with these input values."""
    found = [
        node_id
        for node_id, node in prompt.items()
        if node["class_type"] == class_type
        and inputs.items() <= {k: str(v) for k, v in node["inputs"].items()}.items()
    ]
    if len(found) != 1:
        raise ValueError(
            f"The workflow has {len(found)} {class_type} nodes with {inputs}; it must have one."
        )
    return found[0]


def only_needed_for(prompt: Prompt, node_id: str) -> Prompt:
    """The part of the prompt that this node depends on, itself included."""
    needed, open_ids = {}, [node_id]
    while open_ids:
        current = open_ids.pop()
        needed[current] = prompt[current]
        open_ids += [
            value[0] for value in prompt[current]["inputs"].values() if isinstance(value, list)
        ]
    return needed


# --- The server's own folder ------------------------------------------------------------------------------------------


def link_folder(link: Path, target: Path) -> None:
    """Makes link lead to target; a junction on Windows, where a symbolic link needs special rights."""
    if link.exists() and link.resolve() == target.resolve():
        return
    if os.path.lexists(link):
        os.unlink(link)  # noqa: PTH108 - unlike Path.unlink documented to remove a junction too
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def write_if_missing(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(text, encoding="utf-8")


def prepare_base(base: Path) -> None:
    """The server's base directory: both packs linked, the photo in input, the workflow at hand, no first-visit tour."""
    for name in ("custom_nodes", "input", "output", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, target in PACKS.items():
        link_folder(base / "custom_nodes" / name, target)
    shutil.copyfile(DEMO / "photo.png", base / "input" / "photo.png")
    workflow = WORKFLOW.read_text(encoding="utf-8")

    # A pack without nodes that brings a template: the browser can open one from an address.
    template = base / "custom_nodes" / TEMPLATE_PACK
    (template / "example_workflows").mkdir(parents=True, exist_ok=True)
    (template / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n", encoding="utf-8")
    (template / "example_workflows" / f"{TEMPLATE}.json").write_text(workflow, encoding="utf-8")

    user = base / "user" / "default"
    write_if_missing(
        user / "workflows" / f"{TEMPLATE}.json", workflow
    )  # may hold what a person has changed and saved
    write_if_missing(user / "comfy.settings.json", '{"Comfy.TutorialCompleted": true}')
    write_if_missing(user / "comfy.templates.json", "[]")
    write_if_missing(user / "user.css", "")
    (user / "subgraphs").mkdir(exist_ok=True)


# --- The server -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen
    log: Path


@contextlib.contextmanager
def server(base: Path, comfyui: Path, port: int, *options: str) -> Iterator[str]:
    """A running ComfyUI on loopback, given as its address; ended with its whole process group."""
    with running(base, comfyui, port, *options) as it:
        yield it.url


@contextlib.contextmanager
def running(base: Path, comfyui: Path, port: int, *options: str) -> Iterator[Server]:
    """Starts ComfyUI, waits until it answers, checks that it knows our nodes, and ends it afterwards."""
    if not is_free(port):
        raise DemoError(f"Something listens on port {port} already; choose another with --port.")
    prepare_base(base)
    log = base / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            start_line(base, comfyui, port, *options),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=comfyui,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            # A group of its own: Ctrl+C reaches this program only, which then ends the server in order.
            **({"creationflags": 0x200} if os.name == "nt" else {"start_new_session": True}),
        )
    it = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until_ready(it)
        check_packs(it)
        yield it
    finally:
        stop(process)


def start_line(base: Path, comfyui: Path, port: int, *options: str) -> list[str]:
    """The command that starts ComfyUI, offline and without a database of its own."""
    main = comfyui / "main.py"
    if not main.is_file():
        raise DemoError(
            f"{comfyui} has no main.py; COMFYUI_PATH must name the folder that ComfyUI is started from."
        )
    place = ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    quiet = ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes"]
    return [sys.executable, str(main), *place, *quiet, *([] if has_cuda() else ["--cpu"]), *options]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def wait_until_ready(it: Server) -> None:
    with status_line() as show:
        started = time.monotonic()
        while True:
            seconds = time.monotonic() - started
            if it.process.poll() is not None:
                raise DemoError(
                    f"ComfyUI ended with code {it.process.returncode} while starting.\n{last_lines(it.log)}"
                )
            if seconds > START_LIMIT_S:
                raise DemoError(
                    f"ComfyUI did not answer within {START_LIMIT_S} s.\n{last_lines(it.log)}"
                )
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                get_json(f"{it.url}/system_stats")
                return
            show(f"starting ComfyUI, {seconds:.0f} s")
            time.sleep(0.25)


def check_packs(it: Server) -> None:
    """A pack that fails to import is only a line in the server's log; here it ends the demo."""
    missing = [name for name in NODES if not get_json(f"{it.url}/object_info/{name}")]
    failed = "IMPORT FAILED" in it.log.read_text(encoding="utf-8", errors="replace")
    if missing or failed:
        what = (
            f"ComfyUI runs, but without {', '.join(missing)}."
            if missing
            else "A node pack could not be imported."
        )
        raise DemoError(f"{what}\n{last_lines(it.log, 40)}")


def get_json(url: str) -> Any:
    # Past any proxy: the server is on this machine.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        url, timeout=30
    ) as answer:
        return json.load(answer)


def last_lines(log: Path, count: int = 20) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"The last lines of {log}:", *(f"  {line}" for line in lines[-count:])])


def stop(process: subprocess.Popen) -> None:
    """Ends the server and all that it started."""
    for sent in ("SIGTERM", "SIGKILL"):
        if os.name == "nt":
            process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, getattr(signal, sent))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
            return


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        if os.name != "nt":  # there it means something else: that two servers may share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(preferred: int = 0) -> int:
    """The preferred port where nothing listens on it, else any free one."""
    if preferred and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- One run over the API ---------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What the server told about one prompt."""

    outputs: dict[str, dict] = field(default_factory=dict)
    seconds: dict[str, float] = field(
        default_factory=dict
    )  # per node that was executed, not taken from the cache


def run_prompt(url: str, prompt: Prompt, show: Callable[[str], None] = lambda _: None) -> Run:
    """Queues the prompt and waits for its end; `show` gets a short text whenever there is something new."""
    return asyncio.run(_run_prompt(url, prompt, show))


async def _run_prompt(url: str, prompt: Prompt, show: Callable[[str], None]) -> Run:
    import aiohttp  # ComfyUI's own requirement

    run, client = Run(), uuid.uuid4().hex
    async with (
        aiohttp.ClientSession(url) as session,
        session.ws_connect("/ws", params={"clientId": client}) as socket_,
    ):
        async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as answer:
            queued = await answer.json()
        if "prompt_id" not in queued or queued.get("node_errors"):
            raise DemoError(f"ComfyUI refused the workflow: {refusal(queued)}")
        await follow(socket_, prompt, queued["prompt_id"], run, show)
        async with session.get(f"/history/{queued['prompt_id']}") as answer:
            run.outputs = (await answer.json())[queued["prompt_id"]]["outputs"]
    return run


async def follow(
    socket_: Any, prompt: Prompt, prompt_id: str, run: Run, show: Callable[[str], None]
) -> None:
    """Reads the server's messages until this prompt has ended; DemoError where it failed."""
    import aiohttp

    current, since = None, time.monotonic()
    async for message in socket_:
        event = (
            json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {}
        )  # else a preview picture
        data = event.get("data") or {}
        if data.get("prompt_id") != prompt_id:
            continue
        raise_failure(event["type"], data)
        if event["type"] == "executing":
            if current is not None:
                run.seconds[current] = time.monotonic() - since
            current, since = data["node"], time.monotonic()
            if current is None:
                return  # sent last, once the history holds the outputs
            show(prompt[current]["class_type"])
        elif event["type"] == "progress":
            show(f"step {data['value']} of {data['max']}")
    raise DemoError("The server went away during the run.")


def raise_failure(kind: str, data: dict) -> None:
    if kind == "execution_error":
        raise DemoError(f"{data['node_type']} failed: {data['exception_message'].strip()}")
    if kind == "execution_interrupted":
        raise DemoError("The run was interrupted.")


def refusal(answer: dict) -> str:
    """The reasons in the server's answer to a prompt that it did not accept."""
    reasons = [
        f"{node['class_type']}: {error['message']} ({error['details']})"
        for node in (answer.get("node_errors") or {}).values()
        for error in node["errors"]
    ]
    return "; ".join(reasons) or str((answer.get("error") or {}).get("message", answer))


# --- The demo ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluations:
    """What the pack reports about one run, in one line of the server's log."""

    text: str
    cost_percent: float


def evaluations(log: str) -> Evaluations | None:
    """The last such line; None where there is none."""
    found = re.findall(
        r"Quadtree: (\d+ model calls? on \d+ windows? in \d+ steps?), ([\d.]+)% of the full model cost",
        log,
    )
    return Evaluations(found[-1][0], float(found[-1][1])) if found else None


def files_of(run: Run, prompt: Prompt, base: Path) -> dict[str, Path]:
    """Where the run's pictures and latents lie: "picture before", "latent before" ... by their file name prefix."""
    paths = {}
    for class_type, key, what in (
        ("SaveImage", "images", "picture"),
        ("SaveLatent", "latents", "latent"),
    ):
        for node_id, node in prompt.items():
            if node["class_type"] == class_type and node_id in run.outputs:
                place = run.outputs[node_id][key][0]
                name = node["inputs"]["filename_prefix"].rpartition("/")[2]
                paths[f"{what} {name}"] = base / "output" / place["subfolder"] / place["filename"]
    return paths


def refine(url: str, workflow: dict) -> tuple[Run, Run, Prompt]:
    """The workflow with the pack and with our node bypassed; a first step loads the model, so that both start equal."""
    object_info = get_json(f"{url}/object_info")
    plain = skip(
        prompt_from_workflow(bypass(workflow, "QuadtreeDiffusion"), object_info),
        "QuadtreeComposite",
        "refined",
    )
    warm_up = only_needed_for(
        copy.deepcopy(plain), find_node(plain, "SaveLatent", filename_prefix="quadtree/after")
    )
    warm_up[find_node(plain, "KSampler")]["inputs"]["steps"] = 1
    timed = prompt_from_workflow(workflow, object_info)
    with status_line() as show:
        run_prompt(url, warm_up, lambda text: show(f"loading the model: {text}"))
        with_pack = run_prompt(url, timed, lambda text: show(f"with the pack: {text}"))
        without = run_prompt(url, plain, lambda text: show(f"without the pack: {text}"))
    return with_pack, without, timed


def demo(comfyui: Path, port: int) -> int:
    from pictures import (
        write_pictures,
    )  # beside this file; needs numpy and Pillow, which tests of the rest do not

    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    started = time.monotonic()
    with running(BASE, comfyui, port) as it:
        say(f"ComfyUI runs after {time.monotonic() - started:.0f} s.")
        with_pack, without, prompt = refine(it.url, workflow)
        reported = evaluations(it.log.read_text(encoding="utf-8", errors="replace"))
    files = files_of(with_pack, prompt, BASE)
    files["picture without_pack"] = files_of(without, prompt, BASE)["picture after"]
    OUTPUT.mkdir(exist_ok=True)
    write_pictures(files, OUTPUT)
    return summarise(files, prompt, (with_pack, without), reported)


def summarise(
    files: dict[str, Path], prompt: Prompt, runs: tuple[Run, Run], reported: Evaluations | None
) -> int:
    """Prints what was measured; 1 where a kept region has changed, which must never happen."""
    from pictures import kept_cells, largest_changes, largest_kept_px_change, leaves_by_side

    sampler = find_node(prompt, "KSampler")
    settings = prompt[find_node(prompt, "QuadtreeVisualizer")]["inputs"]
    leaves = leaves_by_side(files["picture denoise_map"], settings)
    kept = kept_cells(files["picture denoise_map"], files["latent before"])
    change_kept, change_free = largest_changes(files["latent before"], files["latent after"], kept)
    change_px = largest_kept_px_change(
        *(files[f"picture {name}"] for name in ("denoise_map", "before", "after"))
    )
    seconds, plain_seconds = (run.seconds[sampler] for run in runs)
    sides = ", ".join(f"{count} of {side} px" for side, count in leaves.items())
    cost = "not reported by the pack"
    if reported:
        cost = f"{reported.cost_percent:.0f}% of a run without the pack ({reported.text})"
    say(f"leaves             {sum(leaves.values())}: {sides}")
    say(f"kept               {kept.mean():.0%} of the picture")
    say(f"model evaluations  {cost}")
    say(f"sampling           {seconds:.1f} s; without the pack {plain_seconds:.1f} s")
    say(
        f"largest change     kept regions {change_kept:g}, elsewhere {change_free:.2f} (latent units)"
    )
    say(
        f"in the picture     kept regions {change_px} of 255 levels{'' if change_px else ', each px as it was'}"
    )
    say(f"pictures           {OUTPUT}")
    if change_kept > 0 or change_px > 0 or not kept.any():
        say(
            "FAILED: a region with denoise 0 must equal the input to the bit, latent and px, and the demo must have one."
        )
        return 1
    return 0


def serve(comfyui: Path, port: int) -> int:
    with running(BASE, comfyui, port, "--preview-method", "latent2rgb") as it:
        say(
            f"ComfyUI runs. The demo's workflow: {it.url}/?template={TEMPLATE}&source={TEMPLATE_PACK}"
        )
        say(
            f"It is also in the Workflows sidebar of {it.url} as {TEMPLATE!r}. Log: {it.log}. Ctrl+C ends the server."
        )
        code = it.process.wait()
        raise DemoError(f"ComfyUI ended with code {code}.\n{last_lines(it.log)}")


# --- The terminal -----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def status_line(every_s: float = 5) -> Iterator[Callable[[str], None]]:
    """A function that shows a passing text: in place on a terminal, else as a line now and then."""
    terminal = sys.stdout.isatty()
    next_line = time.monotonic() + every_s

    def show(text: str) -> None:
        nonlocal next_line
        if terminal:
            print(f"\r\x1b[2K{text}", end="", flush=True)
        elif time.monotonic() >= next_line:
            next_line = time.monotonic() + every_s
            say(text)

    try:
        yield show
    finally:
        if terminal:
            print("\r\x1b[2K", end="", flush=True)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Refines a photo on a real ComfyUI server; pictures in demo/output."
    )
    parser.add_argument(
        "--serve", action="store_true", help="leave the server running, its workflow ready to open"
    )
    parser.add_argument(
        "--port", type=int, help="port of the server (default: with --serve 8188 if free, else any)"
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    asked = arguments(argv)
    if not os.environ.get("COMFYUI_PATH"):
        raise DemoError(
            "COMFYUI_PATH names no ComfyUI folder; `python dev.py demo` sets everything up."
        )
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    port = asked.port or free_port(8188 if asked.serve else 0)
    return (serve if asked.serve else demo)(comfyui, port)


def interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # Else the server would outlive this program; a shell's background job ignores SIGINT unless told otherwise.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    try:
        sys.exit(main(sys.argv[1:]))
    except DemoError as trouble:
        print(trouble, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        say("\nStopped.")
        sys.exit(0 if "--serve" in sys.argv else 130)
