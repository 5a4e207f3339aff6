"""Starts a real ComfyUI server on this machine and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import DemoError
from .folders import prepare_base
from .queueing import get_json
from .terminal import status_line

NODES = ("QuadtreeVisualizer", "QuadtreeDiffusion", "QuadtreeComposite", "TinyRefinerLoader")
START_LIMIT_S = 300
STOP_LIMIT_S = 10
POLL_S = 0.25
LOOPBACK = "127.0.0.1"
CREATE_NEW_PROCESS_GROUP = 0x200  # subprocess has this name on Windows only


@dataclass(frozen=True)
class Server:
    """A running server: its address, its process and the file with its log."""

    url: str
    process: subprocess.Popen
    log: Path


@contextlib.contextmanager
def running_server(base: Path, comfyui: Path, port: int, *options: str) -> Iterator[Server]:
    """Start ComfyUI, wait until it answers with our nodes, yield it, and end it afterwards.

    `base` is the server's base directory, `comfyui` the folder with main.py; `options` are passed
    to main.py. DemoError where the server does not start or lacks our nodes.
    """
    if not is_port_free(port):
        raise DemoError(f"Something listens on port {port} already; choose another with --port.")
    prepare_base(base)
    log = base / "server.log"
    with log.open("wb") as stream:
        process = start_process(build_command(base, comfyui, port, *options), comfyui, stream)
    server = Server(f"http://{LOOPBACK}:{port}", process, log)
    try:
        wait_until_ready(server)
        check_packs(server)
        yield server
    finally:
        stop(process)


def build_command(base: Path, comfyui: Path, port: int, *options: str) -> list[str]:
    """Return the command that starts ComfyUI offline and without a database file."""
    main = comfyui / "main.py"
    if not main.is_file():
        raise DemoError(
            f"{comfyui} has no main.py; COMFYUI_PATH must name the folder that ComfyUI is started "
            "from."
        )
    address = ["--listen", LOOPBACK, "--port", str(port), "--base-directory", str(base)]
    quiet = ["--database-url", "sqlite:///:memory:", "--disable-auto-launch", "--disable-api-nodes"]
    device = [] if has_cuda() else ["--cpu"]
    return [sys.executable, str(main), *address, *quiet, *device, *options]


def start_process(command: list[str], folder: Path, log: IO[bytes]) -> subprocess.Popen:
    """Start the command in a process group of its own.

    Ctrl+C then reaches only this program, which ends the server in order.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        creationflags=CREATE_NEW_PROCESS_GROUP if os.name == "nt" else 0,
        start_new_session=os.name != "nt",
    )


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def wait_until_ready(server: Server) -> None:
    """Return once the server answers; DemoError where it ends, or needs START_LIMIT_S."""
    started = time.monotonic()
    with status_line() as show:
        while True:
            seconds = time.monotonic() - started
            code = server.process.poll()
            if code is not None:
                raise DemoError(
                    f"ComfyUI ended with code {code} while starting.\n{read_last_lines(server.log)}"
                )
            if seconds > START_LIMIT_S:
                raise DemoError(
                    f"ComfyUI did not answer within {START_LIMIT_S} s.\n"
                    f"{read_last_lines(server.log)}"
                )
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                get_json(f"{server.url}/system_stats")
                return
            show(f"starting ComfyUI, {seconds:.0f} s")
            time.sleep(POLL_S)


def check_packs(server: Server) -> None:
    """Raise DemoError where a node is missing or a pack could not be imported.

    For ComfyUI a pack that fails to import is only a line in the log.
    """
    missing = [name for name in NODES if not get_json(f"{server.url}/object_info/{name}")]
    failed = "IMPORT FAILED" in server.log.read_text(encoding="utf-8", errors="replace")
    if not missing and not failed:
        return
    what = "A node pack could not be imported."
    if missing:
        what = f"ComfyUI runs, but without {', '.join(missing)}."
    raise DemoError(f"{what}\n{read_last_lines(server.log, 40)}")


def read_last_lines(log: Path, count: int = 20) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    indented = [f"  {line}" for line in lines[-count:]]
    return "\n".join([f"The last lines of {log}:", *indented])


def stop(process: subprocess.Popen) -> None:
    """End the server and every process that it started; kill them where they do not end."""
    for signal_name in ("SIGTERM", "SIGKILL"):
        if os.name == "nt":
            process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, getattr(signal, signal_name))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_LIMIT_S)
            return


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        if os.name != "nt":  # on Windows this option would let two servers share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def find_free_port(preferred: int = 0) -> int:
    """Return the preferred port if nothing listens on it, else any free one."""
    if preferred and is_port_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]
