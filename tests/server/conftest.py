"""One real server for the tests that need nothing special of it."""

import os
import shutil
from pathlib import Path

import pytest
from quadtree_pack.tests.demo import demo


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("server")
    (base / "input").mkdir()
    shutil.copyfile(demo.DEMO / "photo.png", base / "input" / "example.png")  # ComfyUI's own input folder has one
    return base


@pytest.fixture(scope="session")
def running(base):
    comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
    with demo.running(base, comfyui, demo.free_port()) as server:
        yield server
