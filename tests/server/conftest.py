"""One real server for the tests that need nothing special of it."""

import shutil

import pytest
from quadtree_pack import demo
from quadtree_pack.testing.demo import running_server


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("server")
    (base / "input").mkdir()
    shutil.copyfile(
        demo.DEMO / "photo.png", base / "input" / "example.png"
    )  # ComfyUI's own input folder has one
    return base


@pytest.fixture(scope="session")
def running(base):
    with running_server(base) as server:
        yield server
