"""Python packages in the virtual environment: all of them, or one tool alone."""

from __future__ import annotations

from pathlib import Path

from . import paths
from .comfyui import comfyui_ready
from .requirements import merged_requirements, read_requirements
from .setup import (
    Step,
    changing_venv,
    digest_of,
    pip,
    stamp_path,
    stamped,
    venv_config,
    venv_ready,
)

# torchaudio has no build for every torch release; asked for with its dependencies it would take
# torch back.
WITHOUT_DEPENDENCIES = {"torchaudio"}


def wanted_packages(comfyui: Path) -> tuple[list[str], list[str]]:
    """Return the requirement lines to install as usual, and those to install without
    dependencies."""
    merged = merged_requirements(
        read_requirements(paths.REQUIREMENTS), read_requirements(comfyui / "requirements.txt")
    )
    usual = [one.line for one in merged if one.name not in WITHOUT_DEPENDENCIES]
    alone = [one.line for one in merged if one.name in WITHOUT_DEPENDENCIES]
    return usual, alone


def packages_digest(comfyui: Path) -> str:
    usual, alone = wanted_packages(comfyui)
    return digest_of(venv_config(), *usual, "without dependencies", *alone)


def packages_ready(comfyui: Path) -> bool:
    return (
        venv_ready(comfyui)
        and comfyui_ready(comfyui)
        and stamped("packages", packages_digest(comfyui))
    )


def packages_title(comfyui: Path) -> str:
    names = {
        one.name
        for path in (paths.REQUIREMENTS, comfyui / "requirements.txt")
        for one in read_requirements(path)
    }
    return f"installing {len(names)} packages and what they need into .venv"


def install_packages(comfyui: Path) -> None:
    for name in ("packages", "imports", *TOOLS):
        stamp_path(name).unlink(missing_ok=True)
    usual, alone = wanted_packages(comfyui)
    with changing_venv():
        install(usual)
        install(alone, "--no-deps")
    stamp_path("packages").write_text(packages_digest(comfyui), encoding="utf-8")
    for name in TOOLS:
        stamp_path(name).write_text(tool_digest(name), encoding="utf-8")


def install(lines: list[str], *options: str) -> None:
    wanted = paths.CACHE / "requirements.txt"
    wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pip("install", *options, "--requirement", wanted)


TOOLS = {
    "checks": (
        "ruff",
        "mypy",
        "codespell",
        "numpy",
        "torch",
    ),  # mypy reads the types of the last two
    "comfy-cli": ("comfy-cli",),
    "plotting": ("matplotlib", "numpy", "pillow", "scikit-image", "torch"),
}


def tool_lines(name: str) -> list[str]:
    """Return all lines of a tool's packages: there may be one for older and one for newer
    Pythons."""
    return [pin.line for pin in read_requirements(paths.REQUIREMENTS) if pin.name in TOOLS[name]]


def tool_digest(name: str) -> str:
    return digest_of(venv_config(), *tool_lines(name))


def install_tool(name: str) -> None:
    with changing_venv():
        install(tool_lines(name))
    stamp_path(name).write_text(tool_digest(name), encoding="utf-8")


def tool_step(name: str) -> Step:
    return Step(
        title=lambda _: f"installing {' and '.join(TOOLS[name])} into .venv",
        ready=lambda comfyui: venv_ready(comfyui) and stamped(name, tool_digest(name)),
        make=lambda _: install_tool(name),
    )


PACKAGES_STEP = Step(packages_title, packages_ready, install_packages)
