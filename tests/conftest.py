"""Registers the pack as the package `quadtree_pack`, through the one place that does so; says what
the tests run on."""

import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

spec = importlib.util.spec_from_file_location(
    "quadtree_registration", ROOT / "testing" / "registration.py"
)
registration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(registration)
registration.register_pack()


def pytest_addoption(parser):
    parser.addoption(
        "--update-schemas",
        action="store_true",
        help="write what is new of the nodes to tests/comfy/schemas.json",
    )


def pytest_report_header():
    frontend, torch = map(package_version, ("comfyui-frontend-package", "torch"))
    comfyui = comfyui_version(os.environ.get("COMFYUI_PATH", ""))
    python = platform.python_version()
    return f"versions: ComfyUI {comfyui}, frontend {frontend}, torch {torch}, Python {python}"


def package_version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def comfyui_version(folder):
    """As its own file says it; importing that file would bring ComfyUI's other modules within
    reach."""
    path = Path(folder) / "comfyui_version.py"
    if not path.is_file():
        return "unknown"
    found = re.search(r'__version__ = "(.+)"', path.read_text(encoding="utf-8"))
    return found[1] if found else "unknown"
