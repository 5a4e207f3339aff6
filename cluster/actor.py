"""What Ray starts on a worker: it starts ComfyUI there, and hands over to the pack found in it.

Ray sends this class by value, since a worker has this pack as a node pack of its own ComfyUI, under
whatever name. So nothing else of the pack is imported here: standard library only.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any


class Actor:
    """One worker: a ComfyUI, started from the folder that its machine names."""

    def __init__(self) -> None:
        self.worker: Any = None
        self.temporary: Any = None

    def boot(self, facts: dict[str, Any]) -> tuple[str, Any]:
        """Start ComfyUI; return ("ok", versions) or ("error", words).

        `facts` has what the head knows: "folder" and "options" of its own ComfyUI, for a worker on
        the same machine, "device" (the number of a GPU, or None), and "threads" of its CPU.
        """
        try:
            if facts.get("device") is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = str(facts["device"])
            folder = facts.get("folder") or os.environ.get("COMFYUI_PATH", "")
            if not (Path(folder) / "main.py").is_file():
                return "error", (
                    f"COMFYUI_PATH is {folder!r} there, which is not the folder of a ComfyUI; set "
                    "it before `ray start`"
                )
            options = facts.get("options")
            if options is None:
                options = shlex.split(os.environ.get("COMFYUI_OPTIONS", ""))
            self.start_comfyui(folder, options)
            return "ok", self.find_pack(facts)
        except SystemExit as error:
            return "error", f"ComfyUI ended while it started ({error})"
        except Exception as error:
            return "error", f"ComfyUI does not start there: {type(error).__name__}: {error}"

    def start_comfyui(self, folder: str, options: list[str]) -> None:
        """Start ComfyUI as its own main.py does, but for the server, which listens to nobody."""
        import torch

        self.temporary = tempfile.TemporaryDirectory(prefix="quadtree-worker-")
        own = ["--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        # Its own, or the ComfyUI that runs from the same folder would lose its previews.
        own += ["--temp-directory", self.temporary.name]
        if not torch.cuda.is_available() and not _has_other_device(torch):
            own.append("--cpu")
        sys.argv = ["main.py", *options, *own]
        sys.path.insert(0, folder)
        os.chdir(folder)
        main = importlib.import_module("main")
        self.loop, self.server, _ = main.start_comfyui()

    def find_pack(self, facts: dict[str, Any]) -> Any:
        """Make the worker from the Quadtree Diffusion of this ComfyUI; return its versions."""
        nodes = importlib.import_module("nodes")
        kind = nodes.NODE_CLASS_MAPPINGS.get("QuadtreeCluster")
        if kind is None:
            raise RuntimeError("this ComfyUI has no Quadtree Diffusion, or an older one")
        package = kind.__module__.rpartition(".")[0]
        self.worker = importlib.import_module(f"{package}.cluster.worker").Worker(
            self.server, facts.get("threads")
        )
        return self.worker.versions()

    def build(self, branch: dict[str, Any], controls: list[dict[str, Any]]) -> tuple[str, Any]:
        """Build the model of a prompt's branch; return ("ok", its identity) or ("error", words).

        `controls` are the branches of ControlNets, which are built when they are needed.
        """
        return self.ask("build", branch, controls)

    def forget(self) -> tuple[str, Any]:
        """Forget the model and what the nodes of its branch keep."""
        return self.ask("forget")

    def evaluate(self, message: dict[str, Any]) -> tuple[str, Any]:
        """Evaluate a batch of windows; return ("ok", result), or ("error" or "oom", words)."""
        return self.ask("evaluate", message)

    def end_run(self) -> tuple[str, Any]:
        """Forget what belongs to a run; models stay loaded."""
        return self.ask("end_run")

    def ping(self) -> int:
        """Answer with the number of this process."""
        return os.getpid()

    def ask(self, name: str, *args: Any) -> tuple[str, Any]:
        """Call a method of the worker; errors come back as words."""
        if self.worker is None:
            return "error", "it has not started"
        try:
            return "ok", getattr(self.worker, name)(*args)
        except Exception as error:
            kind = "oom" if self.worker.is_oom(error) else "error"
            # A ValueError is in words already.
            prefix = "" if type(error) is ValueError else f"{type(error).__name__}: "
            words = f"{prefix}{error}"
        if kind == "oom":  # here, since the error held what was being computed
            self.worker.free_memory()
        return kind, words


def _has_other_device(torch: Any) -> bool:
    accelerator = getattr(torch, "accelerator", None)
    return accelerator is not None and bool(accelerator.is_available())
