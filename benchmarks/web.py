"""How fast the live preview is.

- The route on the real server, in milliseconds: the first request for an image, steps of a slider
  (median and slowest), steps with the cost of a run, and a tree of many leaves.
- The panel in Chromium, where there is one: updates a second while a slider is dragged, while the
  brush paints and while steps are looked at, and milliseconds of one drawing of each.

It also leaves the picture of the panel that README shows, docs/figures/panel.webp.

Targets: at least 15 updates a second on a 1024 px image; 4,000 leaves drawn within 8 ms.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

REPEATS = 40  # steps of the slider
SLOW_REPEATS = 5  # of the slower requests
SIDES_PX = (1024, 4096)
VALUES = {
    "content_threshold": 25.0,
    "min_tile_size": 64,
    "max_tile_size": 1024,
    "min_denoise": 0.2,
    "max_denoise": 0.8,
}
UNTOUCHED = [0.0, 0, 0, 0.2, 0.8, 2, "", "area", False, "multiply", "color", 0.0, 0.95]
PANEL = Path(__file__).resolve().parent.parent / "docs" / "figures" / "panel.webp"
PANEL_NODE_PX, PANEL_WIDTH_PX = (700, 1010), 520
# Where the mark of the strip of detail is dragged to, as shares of the strip.
COVERAGE_DRAG = (0.36, 0.26, 0.17, 0.1, 0.16, 0.26, 0.4)
BRUSH_SIZE = 5  # of the slider: 16% of the longer side of the image
STROKE_X, STROKE = 0.5, (0.3, 0.4, 0.5, 0.6, 0.7)  # down the picture, as shares of it
FRAME_MS, HOLD_MS = 300, 1500
MARGIN_PX, WIDGETS_PX = 10, 82  # beside the panel, and above it: the three widgets there
POINTER = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))  # screenshots have none
MANY_LEAVES = {"content_threshold": 1, "min_tile_size": 16}
MANY_VALUES = [1.0, 16, 1024, 0.2, 0.8, 2, ""]
PAINTED_S = 2.0
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.VueNodes.Enabled": False,
}
# Counts the panel's drawings, with their milliseconds, and the server's answers, until __read.
WATCH = """() => {
    const times = [];
    let answers = 0;
    const [prototype, fetch] = [CanvasRenderingContext2D.prototype, app.api.fetchApi];
    const clear = prototype.clearRect;
    prototype.clearRect = function (...values) {
        if (this.canvas.closest?.(".qt-view")) {
            const start = performance.now();
            queueMicrotask(() => times.push(performance.now() - start));
        }
        return clear.apply(this, values);
    };
    app.api.fetchApi = async function (route, options) {
        const answer = await fetch.call(this, route, options);
        if (route === "/quadtree/preview") answers++;
        return answer;
    };
    const start = performance.now();
    window.__read = () => {
        prototype.clearRect = clear;
        app.api.fetchApi = fetch;
        const seconds = (performance.now() - start) / 1000;
        const ms = times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
        const [drawings, fastest] = [times.length / seconds, times[0]];
        return { ms, fastest, drawings, answers: answers / seconds };
    };
}"""
DRAG = """async (id) => {
    const widgets = app.graph.getNodeById(id).widgets;
    const widget = widgets.find((one) => one.name === "content_threshold");
    const start = performance.now();
    for (let value = 20; performance.now() - start < 2000; value += 0.25) {
        widget.value = value;
        widget.callback?.(value);
        await new Promise((done) => requestAnimationFrame(done));
    }
}"""
RESIZE = """async (id) => {
    const node = app.graph.getNodeById(id);
    for (let size = 0; size < 20; size++) {
        node.setSize([420 + 4 * size, 640]);
        app.canvas.setDirty(true, true);
        await new Promise((done) => setTimeout(done, 60));
    }
}"""
SCRUB = """async () => {
    const slider = document.querySelector(".qt-steps input");
    const start = performance.now();
    for (let step = 0; performance.now() - start < 2000; step++) {
        slider.value = 1 + (step % 20);
        slider.dispatchEvent(new Event("input"));
        await new Promise((done) => requestAnimationFrame(done));
    }
}"""


def run() -> list[dict]:
    from quadtree_pack.testing.demo import running_server

    chromium = os.environ.get("QUADTREE_CHROMIUM", "")
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base(Path(folder))
        with running_server(base) as server:
            rows = measure_route(server.url + "/quadtree/preview")
            if chromium:
                rows += measure_panel(server.url, chromium)
    for row in rows:
        figure = f"{row['ms']:>8.1f} ms" if "ms" in row else f"{row['per_second']:>8.1f}"
        print(f"{row['image_px']:>6} px  {row['what']:>34} {figure}")
    if not chromium:
        print("(no Chromium: the panel was not measured)")
    return rows


def prepare_base(folder: Path) -> Path:
    """Write the demo's photo at both sizes, and the user's settings; return the folder."""
    from PIL import Image
    from quadtree_pack import demo
    from quadtree_pack.testing.photos import photo as photo_of

    user = folder / "user" / "default"
    for path in (folder / "input", user / "workflows", user / "subgraphs"):
        path.mkdir(parents=True)
    (user / "comfy.settings.json").write_text(json.dumps(QUIET))
    photo = Image.open(demo.DEMO / "photo.png").convert("RGB")
    rocket = (photo_of("rocket", 2048) * 255).round().byte().numpy()
    Image.fromarray(rocket).save(folder / "input" / "rocket.png")
    for side in SIDES_PX:
        photo.resize((side, side)).save(folder / "input" / f"{side}.png")
    return folder


def measure_request(url: str, image: str, **body: Any) -> tuple[float, int]:
    """Return the milliseconds of one request and the number of leaves in its answer."""
    workflow = {
        "image": {"class_type": "LoadImage", "inputs": {"image": image}},
        "tree": {"class_type": "QuadtreeVisualizer", "inputs": {"image": ["image", 0]}},
    }
    request_body = {"node": "tree", "workflow": workflow, **VALUES, **body}
    data = json.dumps(request_body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    start = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        tree = json.load(answer)
    return 1000 * (time.perf_counter() - start), tree["count"]


def measure_route(url: str) -> list[dict]:
    rows = []
    for side in SIDES_PX:
        image = f"{side}.png"
        first, _ = measure_request(url, image=image)
        steps, with_cost, many = [], [], []
        for step in range(REPEATS):
            ms, _ = measure_request(url, image=image, content_threshold=20 + step)
            steps.append(ms)
        for step in range(SLOW_REPEATS):
            ms, _ = measure_request(url, image=image, content_threshold=20 + step, cost=True)
            with_cost.append(ms)
        for _ in range(SLOW_REPEATS):
            ms, leaves = measure_request(url, image=image, **MANY_LEAVES)
            many.append(ms)
        figures = {
            "first": first,
            "slider step": median(steps),
            "slider, slowest": max(steps),
            "with cost": median(with_cost),
            f"{leaves} leaves": median(many),
        }
        rows += [{"image_px": side, "what": what, "ms": ms} for what, ms in figures.items()]
    return rows


class Film:
    """Frames of the panel, with the mouse pointer in them."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.frames: list[Any] = []
        box = page.locator(".qt").bounding_box()
        self.clip = {
            "x": box["x"] - MARGIN_PX,
            "y": box["y"] - WIDGETS_PX,
            "width": box["width"] + 2 * MARGIN_PX,
            "height": box["height"] + WIDGETS_PX + MARGIN_PX,
        }

    def shoot(self, x: float, y: float, *, steps: int = 1) -> None:
        """Move the mouse to a point of the page, and take a frame when the panel has followed."""
        from PIL import Image, ImageDraw

        self.page.mouse.move(x, y, steps=steps)
        self.page.wait_for_timeout(400)
        frame = Image.open(BytesIO(self.page.screenshot(clip=self.clip))).convert("RGB")
        x, y = x - self.clip["x"], y - self.clip["y"]
        corners = [(x + 1.5 * across, y + 1.5 * down) for across, down in POINTER]
        ImageDraw.Draw(frame).polygon(corners, fill="white", outline="black", width=2)
        size = PANEL_WIDTH_PX, round(frame.height * PANEL_WIDTH_PX / frame.width)
        self.frames.append(frame.resize(size, Image.Resampling.LANCZOS))

    def save(self, path: Path) -> None:
        first, *others = self.frames
        held = [HOLD_MS, *[FRAME_MS] * (len(others) - 1), HOLD_MS]
        options = {"save_all": True, "append_images": others, "duration": held, "loop": 0}
        first.save(path, quality=40, method=6, minimize_size=True, **options)


def take_picture(page: Any, graph: dict) -> None:
    """Save how the tiles follow the mark of coverage, and then a stroke that keeps the rocket."""
    page.page.set_viewport_size({"width": 1700, "height": 1240})
    graph["extra"]["ds"]["offset"] = [150, 80]
    graph["nodes"][1]["size"] = list(PANEL_NODE_PX)
    page.load(graph)
    page.line("full model cost")
    film, mouse = Film(page.page), page.page.mouse

    def centre(element: Any) -> tuple[float, float]:
        box = element.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    film.shoot(*centre(page.page.locator(".qt-spread b")))
    mouse.down()
    strip = page.page.locator(".qt-spread").bounding_box()
    for share in COVERAGE_DRAG:
        film.shoot(strip["x"] + share * strip["width"], strip["y"] + strip["height"] / 2)
    mouse.up()
    keep = page.page.locator(".qt-tools").get_by_role("button", name="Keep", exact=True)
    keep.click()
    page.page.get_by_label("Brush size").fill(str(BRUSH_SIZE))
    film.shoot(*centre(keep))
    view = page.page.locator(".qt-view canvas").bounding_box()
    x, *ys = (
        view["x"] + STROKE_X * view["width"],
        *(view["y"] + y * view["height"] for y in STROKE),
    )
    film.shoot(x, ys[0])
    mouse.down()
    for y in ys:
        film.shoot(x, y, steps=4)
    mouse.up()
    film.shoot(*centre(keep))
    film.save(PANEL)


def watch(page: Any, act: Callable[[], object]) -> dict[str, float]:
    """Return the median and the least milliseconds of a drawing, and drawings and answers a second,
    of an act."""
    page.page.evaluate(WATCH)
    act()
    return page.page.evaluate("() => window.__read()")


def paint(page: Any) -> None:
    """Paint for two seconds with a brush of middle size, in circles over the picture."""
    box = page.page.locator(".qt-view canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.locator(".qt-tools").get_by_role("button", name="Keep", exact=True).click()
    page.page.get_by_label("Brush size").fill("3")
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < PAINTED_S:
        radius = passed / PAINTED_S * box["height"] / 3
        angle = 12 * passed
        page.page.mouse.move(x + radius * math.cos(angle), y + radius * math.sin(angle))
    page.page.mouse.up()
    page.page.keyboard.press("Escape")


def look_at_a_step(page: Any) -> None:
    page.page.get_by_label("Step of the run").fill("1")
    planned = "() => /%/.test(document.querySelector('.qt-steps span').textContent)"
    page.page.wait_for_function(planned, timeout=60_000)


def measure_panel(url: str, chromium: str) -> list[dict]:
    """Measure dragging, painting and scrubbing, on few leaves and on about 4,000."""
    from playwright.sync_api import sync_playwright
    from quadtree_pack.testing.frontend import VISUALIZER, Frontend, workflow

    rows = []

    def add(what: str, **figure: float) -> None:
        rows.append({"image_px": 1024, "what": what, **figure})

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context()
        context.route(re.compile(r"^https://"), lambda route: route.fulfill(json=[]))
        page = Frontend(context.new_page(), url, "classic")
        page.open()
        page.load(workflow("1024.png"))
        page.line("full model cost")
        dragged = watch(page, lambda: page.page.evaluate(DRAG, VISUALIZER))
        add("updates a second while dragging", per_second=dragged["answers"])
        page.line("full model cost")
        painted = watch(page, lambda: paint(page))
        add("updates a second while painting", per_second=painted["answers"])
        look_at_a_step(page)
        scrubbed = watch(page, lambda: page.page.evaluate(SCRUB))
        add("steps a second while scrubbing", per_second=scrubbed["drawings"])
        page.load(workflow("1024.png", values=MANY_VALUES))
        page.line(r"^\d{4,} tiles.*model cost")
        leaves = int(page.text().split()[0])
        drawn = watch(page, lambda: page.page.evaluate(RESIZE, VISUALIZER))
        add(f"drawing {leaves} leaves", ms=drawn["ms"])
        look_at_a_step(page)
        scrubbed = watch(page, lambda: page.page.evaluate(SCRUB))
        add("the same with a step of a run", ms=scrubbed["ms"])
        page.page.get_by_label("Step of the run").fill("0")
        painted = watch(page, lambda: paint(page))
        add("the same while painting", ms=painted["ms"])
        take_picture(page, workflow("rocket.png", values=UNTOUCHED))
        browser.close()
    return rows
