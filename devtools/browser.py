"""A Chromium, Chrome or Edge, for the browser tests only."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from . import paths
from .running import ExpectedError, run_tool, tool_env
from .setup import Step

BROWSER_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
)


BROWSER_PLACES = (
    # macOS
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "~/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    # Windows
    "${ProgramFiles}/Google/Chrome/Application/chrome.exe",
    "${ProgramFiles(x86)}/Google/Chrome/Application/chrome.exe",
    "${LocalAppData}/Google/Chrome/Application/chrome.exe",
    "${LocalAppData}/Chromium/Application/chrome.exe",
    "${ProgramFiles(x86)}/Microsoft/Edge/Application/msedge.exe",
    "${ProgramFiles}/Microsoft/Edge/Application/msedge.exe",
)


ASK_AGAIN_S = 24 * 3600.0


def find_chromium() -> str:
    """Return the path of an installed Chromium, Chrome or Edge; empty if there is none."""
    for name in BROWSER_NAMES:
        if path := shutil.which(name):
            return path
    for place in BROWSER_PLACES:
        installed = Path(expand_variables(place)).expanduser()
        if installed.is_file():
            return str(installed)
    return ""


def expand_variables(place: str) -> str:
    """Fill in ${NAME}; unlike os.path.expandvars, also a name with brackets, as Windows has one."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: os.environ.get(match[1], match[0]), place)


def chromium() -> str:
    """Return the browser of QUADTREE_CHROMIUM (empty: no browser tests), else an installed one."""
    chosen = os.environ.get("QUADTREE_CHROMIUM")
    if chosen is None:
        return find_chromium()
    if chosen and not Path(chosen).is_file():
        raise ExpectedError(
            f"QUADTREE_CHROMIUM names no file: {chosen}. Give a browser's path, or an empty one."
        )
    return chosen


def can_apt_get() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None


def chromium_ready(_comfyui: Path) -> bool:
    asked_for = "QUADTREE_CHROMIUM" in os.environ or not can_apt_get() or bool(find_chromium())
    return asked_for or (
        paths.NO_BROWSER.exists() and time.time() - paths.NO_BROWSER.stat().st_mtime < ASK_AGAIN_S
    )


def install_chromium(_comfyui: Path) -> None:
    """Install Chromium with apt-get; without it the browser tests are skipped."""
    env = {**tool_env(), "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run_tool(["apt-get", "-q", "update"], env=env)
        run_tool(["apt-get", "-q", "-y", "--no-install-recommends", "install", "chromium"], env=env)
    except ExpectedError:
        paths.NO_BROWSER.write_text(
            "apt-get gave no chromium; delete this file to ask it again\n", encoding="utf-8"
        )


CHROMIUM_STEP = Step(
    lambda _: "installing Chromium for the browser tests", chromium_ready, install_chromium
)
