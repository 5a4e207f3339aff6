"""Makes packages importable that fail beside a CPU build of torch."""

from __future__ import annotations

from pathlib import Path

from . import paths
from .packages import packages_digest, packages_ready
from .running import ExpectedError, run_tool
from .setup import Step, digest_of, stamp_path, stamped

FRAGILE_IMPORTS = ("torchvision", "torchaudio", "spandrel", "kornia")


CURE_NAME = "quadtree_dev_torchvision"


CURE = '''"""Written by dev.py. A CUDA build of torchvision cannot load its operators beside a CPU
build of torch, and then fails on naming two of them. They are declared here just before
torchvision is imported; torch itself is not imported before that, so that Python starts as fast
as ever."""
import sys


class DeclareOperators:
    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, DeclareOperators())
'''


# Says in one line each which modules fail, and whether torch is a CPU build.
PROBE = """
import importlib, sys, torch
print("CPU" if torch.version.cuda is None and torch.version.hip is None else "GPU")
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        print("FAILS", name, " ".join(str(error).split())[:300])
print(torch.__path__[0])
"""


def failing_imports() -> tuple[dict[str, str], str, Path]:
    """Return errors by module name, the kind of torch build (CPU or GPU), and .venv's
    site-packages."""
    lines = run_tool(
        [paths.PYTHON, "-c", PROBE, *FRAGILE_IMPORTS], status=lambda _: "importing"
    ).splitlines()
    kind = next(line for line in lines if line in ("CPU", "GPU"))
    failing = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("FAILS "))
    return failing, kind, Path(lines[-1]).parent


def imports_digest(comfyui: Path) -> str:
    return digest_of(packages_digest(comfyui), CURE, *FRAGILE_IMPORTS)


def imports_ready(comfyui: Path) -> bool:
    return packages_ready(comfyui) and stamped("imports", imports_digest(comfyui))


def cure_imports(comfyui: Path) -> None:
    """Make each of FRAGILE_IMPORTS importable in .venv; change nothing if they already are."""
    for path in paths.VENV.rglob(
        f"{CURE_NAME}.*"
    ):  # of an earlier torch: beside a whole torchvision it would do harm
        path.unlink()
    failing, kind, site_packages = failing_imports()
    if kind == "CPU" and "torchvision" in failing:
        (site_packages / f"{CURE_NAME}.py").write_text(CURE, encoding="utf-8")
        (site_packages / f"{CURE_NAME}.pth").write_text(f"import {CURE_NAME}\n", encoding="utf-8")
    if (
        kind == "CPU" and "torchaudio" in failing
    ):  # its CUDA libraries cannot be loaded; without them it imports
        for suffix in (".so", ".pyd", ".dll", ".dylib"):
            for library in (site_packages / "torchaudio").rglob(f"*{suffix}"):
                library.unlink()
    if failing and kind == "CPU":
        failing, kind, _ = failing_imports()
    if failing:
        errors = "\n".join(f"      | {name}: {error}" for name, error in failing.items())
        raise ExpectedError(
            f"{errors}\nThese do not fit the installed torch. Delete .venv, then run this again."
        )
    stamp_path("imports").write_text(imports_digest(comfyui), encoding="utf-8")


IMPORTS_STEP = Step(lambda _: "checking that they can be imported", imports_ready, cure_imports)
