"""Makes calls of a model slow, failing or hanging in some processes, as files in a folder say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

SLOW_S = 0.02  # of each call, so that others take part in runs of tiny models
HANG_S = 1.5
CALLS = "calls"  # the folder in which they are noted
FREED = "freed"  # that in which processes note that they freed a model
KEYS = "keys"  # that in which they note which API key a node got
# Lets a process go on that stands still: nobody else would.
GO_ON = "import os, signal, sys, time; time.sleep(1.5); os.kill(int(sys.argv[1]), signal.SIGCONT)"


def with_trouble(model: Any, folder: str) -> Any:
    """Return a clone of a model whose network looks for orders to its process, by its number.

    An order is a file PID.die, PID.hang, PID.stop, PID.fail, PID.oom or PID.memory, which the call
    takes away, or PID.slow, which it leaves; PID.hang and PID.slow may hold a number of seconds. A
    process that stops neither answers nor ends, as one looks whose network is gone. Where there is
    a folder "calls", each call leaves its time there.
    """

    from comfy.patcher_extension import WrappersMP  # which tests of the server do not have

    def look(executor: Any, *args: Any, **kwargs: Any) -> Any:
        carry_out(Path(folder))
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "trouble", look)
    return model


def carry_out(folder: Path) -> None:
    note_call(folder)
    for order in folder.glob(f"{os.getpid()}.*"):
        seconds = float(order.read_text() or 0)
        if order.suffix == ".slow":
            time.sleep(seconds or SLOW_S)
            continue
        order.unlink()
        if order.suffix == ".die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order.suffix == ".hang":
            time.sleep(seconds or HANG_S)
        if order.suffix == ".stop":
            subprocess.Popen([sys.executable, "-c", GO_ON, str(os.getpid())])
            os.kill(os.getpid(), signal.SIGSTOP)
        if order.suffix == ".fail":
            raise KeyError("broken")
        if order.suffix == ".oom":
            raise torch.OutOfMemoryError("simulated")
        if order.suffix == ".memory":
            raise MemoryError("simulated")


def note_call(folder: Path) -> None:
    """Note when a call began, where calls are noted."""
    if (folder / CALLS).is_dir():
        with (folder / CALLS / str(os.getpid())).open("a") as noted:
            noted.write(f"{time.time()}\n")


def list_calls(folder: Path) -> dict[int, list[float]]:
    """Return when each process began its calls, by its number; see `time.time`."""
    noted = (folder / CALLS).iterdir()
    return {int(path.name): [float(line) for line in path.read_text().split()] for path in noted}


def note_freed(folder: Path) -> None:
    """Note that this process freed a model, where that is noted."""
    if (folder / FREED).is_dir():
        (folder / FREED / str(os.getpid())).touch()


def note_key(folder: Path, key: str | None) -> None:
    """Note which API key a node of this process got, where that is noted."""
    if (folder / KEYS).is_dir():
        (folder / KEYS / str(os.getpid())).write_text(str(key))
