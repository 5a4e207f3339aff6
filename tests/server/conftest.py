"""One real server for the tests that need nothing special of it."""

import pytest
from PIL import Image
from quadtree_pack import demo
from quadtree_pack.testing.clips import save_clip
from quadtree_pack.testing.demo import running_server


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("server")
    (base / "input").mkdir()
    save_clip(base / "input" / "example.mp4")
    photo = Image.open(demo.DEMO / "photo.png").convert("RGBA")
    photo.paste((0, 0, 0, 0), (120, 60, 300, 200))  # as the mask editor saves what was painted
    photo.save(base / "input" / "painted.png")
    return base


@pytest.fixture(scope="session")
def running(base):
    with running_server(base) as server:
        yield server
