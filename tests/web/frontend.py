"""What the browser tests do with the real frontend: load a workflow, find our panel, move its sliders, run it."""

LOADER, VISUALIZER = 1, 2
WIDGETS = ("content_threshold", "min_tile_size", "max_tile_size", "min_denoise", "max_denoise", "line_thickness", "regions")
LATER = ("denoise_by", "invert", "mask_mode")
DEFAULTS = [25.0, 64, 1024, 0.2, 0.8, 2, "", "area", False, "multiply"]
# The one message that the frontend logs about itself.
FRONTEND_S_OWN = ("ComfyApp graph accessed before initialization",)


def workflow(image="picture.png", values=None, linked=True):
    """Load Image -> Quadtree Visualizer."""
    loader = {
        "id": LOADER,
        "type": "LoadImage",
        "pos": [20, 80],
        "size": [280, 320],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [
            {"name": "IMAGE", "type": "IMAGE", "links": [1] if linked else []},
            {"name": "MASK", "type": "MASK", "links": []},
        ],
        "properties": {"Node name for S&R": "LoadImage"},
        "widgets_values": [image, "image"],
    }
    visualizer = {
        "id": VISUALIZER,
        "type": "QuadtreeVisualizer",
        "pos": [360, 80],
        "size": [420, 640],
        "flags": {},
        "order": 1,
        "mode": 0,
        "inputs": [
            {"name": "image", "type": "IMAGE", "link": 1 if linked else None},
            {"name": "mask", "type": "MASK", "link": None},
        ],
        "outputs": [
            {"name": "image", "type": "IMAGE", "links": []},
            {"name": "quadtree", "type": "QUADTREE", "links": []},
            {"name": "denoise_map", "type": "MASK", "links": []},
        ],
        "properties": {"Node name for S&R": "QuadtreeVisualizer"},
        "widgets_values": list(values or DEFAULTS),
    }
    return {
        "last_node_id": 2,
        "last_link_id": 1,
        "nodes": [loader, visualizer],
        "links": [[1, LOADER, 0, VISUALIZER, 0, "IMAGE"]] if linked else [],
        "groups": [],
        "config": {},
        "extra": {"ds": {"scale": 1, "offset": [0, 0]}},
        "version": 0.4,
    }


class Frontend:
    """One page of one renderer."""

    def __init__(self, page, url, renderer):
        self.page, self.url, self.renderer = page, url, renderer
        self.errors = []
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error} {error.stack}"))

    def open(self):
        self.page.goto(self.url)
        self.page.wait_for_function(
            "() => window.app?.vueAppReady && !document.querySelector('#splash-loader, .p-blockui-mask')", timeout=60_000
        )

    def _logged(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location['url']})")

    def own_errors(self):
        """What our script logged, threw or let escape, and every error that nobody caught."""
        signs = ("quadtree", "uncaught", "checkstate")
        ours = [text for text in self.errors if any(sign in text.lower() for sign in signs)]
        return [text for text in ours if not any(own in text for own in FRONTEND_S_OWN)]

    def load(self, graph=None):
        self.page.evaluate("graph => app.loadGraphData(graph)", graph or workflow())
        self.page.wait_for_selector(".qt-line")

    def line(self, pattern, timeout=10_000):
        """Waits until the status line matches; its text."""
        self.page.wait_for_function(
            "pattern => [...document.querySelectorAll('.qt-line')].some(line => new RegExp(pattern).test(line.textContent))",
            arg=pattern,
            timeout=timeout,
        )
        return self.text()

    def text(self):
        return self.page.locator(".qt-line").first.text_content()

    def set(self, name, value, node=VISUALIZER):
        """As a slider that is dragged to a value does it."""
        self.page.evaluate(
            """([node, name, value]) => {
                const widget = app.graph.getNodeById(node).widgets.find((one) => one.name === name);
                widget.value = value;
                widget.callback?.(value);
            }""",
            [node, name, value],
        )

    def value(self, name, node=VISUALIZER):
        return self.page.evaluate(
            "([node, name]) => app.graph.getNodeById(node).widgets.find((one) => one.name === name).value", [node, name]
        )

    def saved(self):
        """The workflow as a file would hold it."""
        return self.page.evaluate("() => app.rootGraph.serialize()")

    def run(self):
        """Presses Run; "execution_success" or "execution_error"."""
        self.page.evaluate(
            """() => {
                window.__end = null;
                for (const name of ["execution_success", "execution_error"])
                    app.api.addEventListener(name, () => (window.__end = name), { once: true });
                app.queuePrompt(0);
            }"""
        )
        self.page.wait_for_function("() => window.__end", timeout=30_000)
        return self.page.evaluate("() => window.__end")

    def shot(self, path):
        self.page.screenshot(path=path)
