"""The real server and the real frontend in Chromium, for classic nodes and for Nodes 2.0."""

import json
import os
import re
import shutil
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from quadtree_pack import demo
from quadtree_pack.testing.clips import save_clip
from quadtree_pack.testing.demo import running_server
from quadtree_pack.testing.frontend import Frontend

CHROMIUM = os.environ.get("QUADTREE_CHROMIUM", "")
FRONTEND = os.environ.get("QUADTREE_FRONTEND", "")  # static/ of another than the installed one
ARTEFACTS = Path(__file__).resolve().parents[2] / ".cache" / "browser"
QUIET = {"Comfy.TutorialCompleted": True, "Comfy.RightSidePanel.IsOpen": False}


def pytest_itemcollected(item):
    """A machine that is too busy for the browser's timeouts gets a second chance, once a test."""
    item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=["TimeoutError"]))


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """ComfyUI's user data: no first-visit dialogs, and pictures to load."""
    base = tmp_path_factory.mktemp("browser")
    user = base / "user" / "default"
    for folder in (base / "input" / "sub", user / "workflows", user / "subgraphs"):
        folder.mkdir(parents=True)
    (user / "comfy.settings.json").write_text(json.dumps(QUIET))
    (user / "comfy.templates.json").write_text("[]")
    (user / "user.css").write_text("")
    photo = Image.open(demo.DEMO / "photo.png").convert("RGB")
    photo.resize((1024, 680)).save(base / "input" / "picture.png")
    alpha = Image.new("L", (1024, 680), 255)
    alpha.paste(0, (0, 0, 512, 680))
    half = photo.resize((1024, 680))
    half.putalpha(alpha)
    half.save(base / "input" / "half.png")
    photo.resize((680, 1024)).save(base / "input" / "sub" / "tall [1].png")
    save_clip(base / "input" / "example.mp4")
    (base / "input" / "broken.png").write_text("no image")
    return base


@pytest.fixture(scope="session")
def server(base):
    frontend = ["--front-end-root", FRONTEND] if FRONTEND else []
    with running_server(base, *frontend) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    """Chromium for one file: while Playwright runs, its event loop lets nobody else start one."""
    if not CHROMIUM:
        pytest.skip("no Chromium, Chrome or Edge: QUADTREE_CHROMIUM=PATH names one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module", params=["classic", "Nodes 2.0"])
def opened(request, server, browser):
    """One page per renderer; tests load their own workflows into it."""
    settings = {**QUIET, "Comfy.VueNodes.Enabled": request.param == "Nodes 2.0"}
    post(server.url + "/api/settings", settings)
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.route(
        re.compile(r"^https://"), lambda route: route.fulfill(json=[])
    )  # the frontend's own news and registries
    context.route(re.compile(r"/user\.css$"), lambda route: route.fulfill(body=""))
    frontend = Frontend(context.new_page(), server.url, request.param)
    frontend.open()
    yield frontend
    context.close()


@pytest.fixture
def page(opened, request):
    """The page, with a check that nothing of ours was logged as an error, and a screenshot of a
    failed test."""
    opened.errors.clear()
    failed = request.session.testsfailed
    yield opened
    if request.session.testsfailed > failed:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"\W+", "-", request.node.name)
        opened.page.screenshot(path=ARTEFACTS / f"{name}.png")
    assert opened.own_errors() == []


@pytest.fixture(scope="session", autouse=True)
def no_old_screenshots():
    shutil.rmtree(ARTEFACTS, ignore_errors=True)


def post(url, body):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return answer.read()
