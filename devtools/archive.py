"""The archive that the Comfy Registry gets: `python dev.py pack`."""

from __future__ import annotations

import re
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from . import paths
from .running import ExpectedError, indent, run_tool, say, tool_env

# What the registry gets: .comfyignore says what is in it, these say when something went wrong.
ARCHIVE = paths.ROOT / "node.zip"  # comfy-cli's own name for it


ARCHIVE_LIMIT_BYTES = 600_000


NEVER_SHIPPED = {
    ".cache",
    ".ci",
    ".git",
    ".github",
    ".venv",
    "benchmarks",
    "demo",
    "dev.py",
    "devtools",
    "docs",
    "requirements-dev.txt",
    "testing",
    "tests",
}


def pack(_comfyui: Path, args: list[str]) -> int:
    if args:
        raise ExpectedError(f"pack takes no {' '.join(args)}; it takes nothing.")
    said = comfy_cli("node", "validate")
    say(indent(said))
    if re.search(r"warning|error", said, re.IGNORECASE):
        raise ExpectedError(
            "The registry would not take this pack as it is: fix what the lines above say."
        )
    say(indent(comfy_cli("node", "pack")))
    names, size = check_archive(ARCHIVE)
    say(
        f"{ARCHIVE.name}: {len(names)} files, {size / 1000:.0f} kB "
        f"(limit {ARCHIVE_LIMIT_BYTES / 1000:.0f} kB)"
    )
    return 0


def comfy_cli(*args: str) -> str:
    """Run comfy-cli and return what it prints; its settings are thrown away, and it sends no
    telemetry."""
    with tempfile.TemporaryDirectory() as home:
        places = dict.fromkeys(
            ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), home
        )
        env = {**tool_env(), **places, "DO_NOT_TRACK": "1", "PYTHONUTF8": "1"}
        return run_tool(
            [paths.PYTHON, "-m", "comfy_cli", "--skip-prompt", "--no-enable-telemetry", *args],
            env=env,
        )


def check_archive(path: Path) -> tuple[list[str], int]:
    """Return the names in the archive and its size in bytes.

    Raises ExpectedError if it holds a development file or is too large.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    size = path.stat().st_size
    if stray := sorted(name for name in names if PurePosixPath(name).parts[0] in NEVER_SHIPPED):
        raise ExpectedError(
            f"{path.name} holds {', '.join(stray[:5])}: {len(stray)} such files; "
            ".comfyignore must keep them out."
        )
    if size > ARCHIVE_LIMIT_BYTES:
        raise ExpectedError(
            f"{path.name} has {size} bytes, more than {ARCHIVE_LIMIT_BYTES}: "
            "take out what users do not need."
        )
    return names, size
