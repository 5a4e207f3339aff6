"""The demo's files, and the base directory that its ComfyUI server runs in."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parent
ROOT = DEMO.parent
BASE = ROOT / ".cache" / "server"
OUTPUT = DEMO / "output"
WORKFLOW = DEMO / "workflow.json"
PACKS = {"comfyui-quadtree-diffusion": ROOT, "tiny_refiner": DEMO / "tiny_refiner"}

TEMPLATE = "Quadtree-Diffusion-demo"  # without blanks, which the frontend rejects in an address
TEMPLATE_PACK = "quadtree_demo"
THUMBNAIL = ROOT / "example_workflows" / "Quadtree-SDXL-upscale.jpg"


def prepare_base(base: Path) -> None:
    """Fill the server's base directory with both packs, the photo, the workflow and user data.

    The photo is there a second time by the name that ComfyUI's own example image has, which the
    templates load.
    """
    for name in ("custom_nodes", "input", "output", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, target in PACKS.items():
        link_folder(base / "custom_nodes" / name, target)
    for name in ("photo.png", "example.png"):
        shutil.copyfile(DEMO / "photo.png", base / "input" / name)
    workflow = WORKFLOW.read_text(encoding="utf-8")
    write_template(base / "custom_nodes" / TEMPLATE_PACK, workflow)
    write_user_data(base / "user" / "default", workflow)


def link_folder(link: Path, target: Path) -> None:
    """Make `link` lead to `target`.

    Windows gets a junction, since a symbolic link needs special rights there.
    """
    if link.exists() and link.resolve() == target.resolve():
        return
    if os.path.lexists(link):
        os.unlink(link)  # noqa: PTH108 - unlike Path.unlink documented to remove a junction too
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def write_template(pack: Path, workflow: str) -> None:
    """Write a node pack without nodes whose template the browser can open from an address."""
    (pack / "example_workflows").mkdir(parents=True, exist_ok=True)
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n", encoding="utf-8")
    (pack / "example_workflows" / f"{TEMPLATE}.json").write_text(workflow, encoding="utf-8")
    shutil.copyfile(THUMBNAIL, pack / "example_workflows" / f"{TEMPLATE}.jpg")


def write_user_data(user: Path, workflow: str) -> None:
    """Write the user's saved workflow, and settings that skip the tutorial of the first visit.

    A file that exists is kept: a person may have changed and saved it.
    """
    files = {
        f"workflows/{TEMPLATE}.json": workflow,
        "comfy.settings.json": '{"Comfy.TutorialCompleted": true}',
        "comfy.templates.json": "[]",
        "user.css": "",
    }
    for name, text in files.items():
        path = user / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(text, encoding="utf-8")
    (user / "subgraphs").mkdir(exist_ok=True)
