"""The demo as a library: how tests start a real server, queue prompts and read what came."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from quadtree_pack import demo


@contextlib.contextmanager
def running_server(base: Path, *options: str) -> Iterator[demo.Server]:
    """Start the ComfyUI of COMFYUI_PATH with the demo's packs on a free port.

    `base` is its base directory, with inputs, outputs and user data; `options` are main.py's.
    """
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    with demo.running_server(base, comfyui, demo.find_free_port(), *options) as server:
        yield server
