"""`python dev.py lint`: style, types, spelling, and the browser's script."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import paths
from .running import ExpectedError, run_child, run_tool, say, tool_env

# The pack's folder may have any name, and a name with a hyphen is no package to mypy: it reads a
# copy under this one.
TYPED_NAME = "quadtree_pack"
TYPED_FILES = ("nodes.py", "tiled_diffusion.py", "quadtree.py", "velocity.py", "utils.py")
TYPED_ROOMS = ("tree", "windows", "sampling", "image", "ui", "cluster", "devtools")
BIOME = "@biomejs/biome@2.6.8"


def lint(_comfyui: Path, args: list[str]) -> int:
    """Run every check, the ones after a failed one as well; `--fix` repairs what ruff can
    repair."""
    fix = args == ["--fix"]
    if args and not fix:
        raise ExpectedError(f"lint does not take {' '.join(args)}; it takes nothing, or --fix.")
    codes = [
        check_style(fix),
        check_types(),
        check_spelling(),
        check_script(),
    ]
    return max(codes)


def check_style(fix: bool) -> int:
    """Run ruff: its rules, then its format."""
    ruff = [str(paths.PYTHON), "-m", "ruff"]
    check = [*ruff, "check", "--fix", "."] if fix else [*ruff, "check", "."]
    layout = [*ruff, "format", "."] if fix else [*ruff, "format", "--check", "."]
    checked = run_child(check, tool_env())
    formatted = run_child(layout, tool_env())
    return checked or formatted


def check_types() -> int:
    """Run mypy on the pack and on devtools; errors name files below TYPED_NAME."""
    folder = paths.CACHE / "types"
    copy = folder / TYPED_NAME
    shutil.rmtree(folder, ignore_errors=True)
    copy.mkdir(parents=True)
    (copy / "__init__.py").touch()
    for name in TYPED_FILES:
        shutil.copy(paths.ROOT / name, copy)
    for name in TYPED_ROOMS:
        shutil.copytree(paths.ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.pyc"))
    command: list[str | Path] = [paths.PYTHON, "-m", "mypy", "-p", TYPED_NAME]
    command += ["--config-file", paths.ROOT / "pyproject.toml"]
    command += ["--cache-dir", paths.CACHE / "mypy"]
    return run_child(command, {**tool_env(), "MYPYPATH": str(folder)})


def check_spelling() -> int:
    """Run codespell with its settings in pyproject.toml."""
    return run_child([paths.PYTHON, "-m", "codespell_lib", "."], tool_env())


def check_script() -> int:
    """Run Biome on web/ where npm is there; its settings are in biome.json."""
    npm = shutil.which("npm")
    if npm is None:
        say("web/: not checked, since npm was not found; install Node.js to check the JavaScript.")
        return 0
    folder = paths.CACHE / "biome"
    biome = folder / "node_modules" / ".bin" / ("biome.cmd" if os.name == "nt" else "biome")
    try:
        if not biome.exists():
            folder.mkdir(parents=True, exist_ok=True)
            run_tool([npm, "install", "--no-audit", "--no-fund", "--prefix", folder, BIOME])
    except ExpectedError as error:
        say(f"{error}\nweb/: not checked, since npm could not install {BIOME}.")
        return 0
    return run_child([biome, "lint", "--config-path", paths.ROOT, paths.ROOT / "web"], tool_env())
