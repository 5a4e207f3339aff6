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
from comfy.patcher_extension import WrappersMP

SLOW_S = 0.02  # of each call, so that others take part in runs of tiny models
HANG_S = 3.0
# Lets a process go on that stands still: nobody else would.
GO_ON = "import os, signal, sys, time; time.sleep(2); os.kill(int(sys.argv[1]), signal.SIGCONT)"


def with_trouble(model: Any, folder: str) -> Any:
    """Return a clone of a model whose network looks for orders to its process, by its number.

    An order is a file PID.die, PID.hang, PID.stop, PID.fail or PID.oom, which the call takes
    away, or PID.slow, which it leaves. A process that stops neither answers nor ends, as one looks
    whose network is gone.
    """

    def look(executor: Any, *args: Any, **kwargs: Any) -> Any:
        carry_out(Path(folder))
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "trouble", look)
    return model


def carry_out(folder: Path) -> None:
    for order in folder.glob(f"{os.getpid()}.*"):
        if order.suffix == ".slow":
            time.sleep(SLOW_S)
            continue
        order.unlink()
        if order.suffix == ".die":
            os.kill(os.getpid(), signal.SIGKILL)
        if order.suffix == ".hang":
            time.sleep(HANG_S)
        if order.suffix == ".stop":
            subprocess.Popen([sys.executable, "-c", GO_ON, str(os.getpid())])
            os.kill(os.getpid(), signal.SIGSTOP)
        if order.suffix == ".fail":
            raise KeyError("broken")
        if order.suffix == ".oom":
            raise torch.OutOfMemoryError("simulated")
