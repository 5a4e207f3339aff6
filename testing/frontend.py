"""What the browser tests do with the real frontend: load a workflow, find our panel, move its
sliders, run it."""

from itertools import combinations

LOADER, VISUALIZER = 1, 2
TITLE_PX = 30  # the bar above a node's own area
# What the status line says once a tree is shown.
COST = (
    r"^\d+ tiles, 64-\d+ px, about \d+% of the full model cost at 20 steps "
    r"\(assuming a typical run\)$"
)
WIDGETS = (
    "content_threshold",
    "min_tile_size",
    "max_tile_size",
    "min_denoise",
    "max_denoise",
    "line_thickness",
    "regions",
)
LATER = (
    *("denoise_by", "invert", "mask_mode", "detail_metric", "cost_budget", "coverage"),
    *("batch", "preset"),
)
DEFAULTS = [
    *[25.0, 64, 1024, 0.2, 0.8, 2, ""],
    *["area", False, "multiply", "color", 0.0, 0.95, "images", "custom"],
]
# What the frontend logs about itself, and about servers that it asks and this one forbids.
FRONTEND_S_OWN = ("ComfyApp graph accessed before initialization", "Content Security Policy")


def node(number, kind, inputs, outputs, *, at=(20, 480), size=(200, 40), mode=0, values=()):
    """A node as a workflow stores it; inputs as (name, type, link), outputs as (name, type,
    links)."""
    return {
        "id": number,
        "type": kind,
        "pos": list(at),
        "size": list(size),
        "flags": {},
        "order": number,
        "mode": mode,
        "inputs": [{"name": name, "type": slot, "link": link} for name, slot, link in inputs],
        "outputs": [{"name": name, "type": slot, "links": links} for name, slot, links in outputs],
        "properties": {"Node name for S&R": kind},
        "widgets_values": list(values),
    }


def workflow(image="picture.png", values=None, linked=True):
    """Load Image -> Quadtree Visualizer."""
    outputs = [("IMAGE", "IMAGE", [1] if linked else []), ("MASK", "MASK", [])]
    loader = node(
        LOADER, "LoadImage", [], outputs, at=(20, 80), size=(280, 320), values=(image, "image")
    )
    inputs = [("image", "IMAGE", 1 if linked else None), ("mask", "MASK", None)]
    outputs = [("image", "IMAGE", []), ("quadtree", "QUADTREE", []), ("denoise_map", "MASK", [])]
    values = values or DEFAULTS
    visualizer = node(
        VISUALIZER,
        "QuadtreeVisualizer",
        inputs,
        outputs,
        at=(360, 80),
        size=(420, 640),
        values=values,
    )
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


def behind(kind, *inputs, values=()):
    """Load Image -> a node of this kind -> Quadtree Visualizer; the loader goes to all its inputs."""
    graph = workflow()
    links = [[10 + slot, LOADER, 0, 3, slot, "IMAGE"] for slot in range(len(inputs))]
    linked = [(name, "IMAGE", 10 + slot) for slot, name in enumerate(inputs)]
    graph["nodes"].append(node(3, kind, linked, [("IMAGE", "IMAGE", [2])], values=values))
    graph["links"] = [*links, [2, 3, 0, VISUALIZER, 0, "IMAGE"]]
    graph["nodes"][0]["outputs"][0]["links"] = [link[0] for link in links]
    graph["nodes"][1]["inputs"][0]["link"] = 2
    return graph


class Frontend:
    """One page of one renderer."""

    def __init__(self, page, url, renderer):
        self.page, self.url, self.renderer = page, url, renderer
        self.errors = []
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error} {error.stack}"))

    def open(self, address=""):
        """Loads the page, with what its address may ask for."""
        self.page.goto(self.url + address)
        self.page.wait_for_function(
            "() => window.app?.vueAppReady"
            " && !document.querySelector('#splash-loader, .p-blockui-mask')",
            timeout=60_000,
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
        """Waits until a status line matches, and returns the text that matched."""
        return self.page.wait_for_function(
            """pattern => [...document.querySelectorAll('.qt-line')]
                .map((line) => line.textContent)
                .find((text) => new RegExp(pattern).test(text))""",
            arg=pattern,
            timeout=timeout,
        ).json_value()

    def wait_for_text(self, text):
        """Waits until the first status line is exactly this."""
        self.page.wait_for_function(
            "text => document.querySelector('.qt-line').textContent === text", arg=text
        )

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
            """([node, name]) => {
                const widgets = app.graph.getNodeById(node).widgets;
                return widgets.find((one) => one.name === name).value;
            }""",
            [node, name],
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
        self.page.wait_for_function("() => window.__end", timeout=90_000)
        return self.page.evaluate("() => window.__end")

    def shot(self, path):
        self.page.screenshot(path=path)


def tiles(page):
    return int(page.text().split()[0])


def canvas(page):
    return page.page.locator(".qt-view canvas").first


def canvas_box(page):
    return canvas(page).bounding_box()


def place(page, across, down):
    """A place of the view given as shares of it, for Playwright's actions: these wait until the
    view stands still and nothing lies over it."""
    box = canvas_box(page)
    return {"x": across * box["width"], "y": down * box["height"]}


def leaf_at(page, across, down, pattern=r"^\d+ px, detail"):
    """What the panel says of the leaf at a share of the view, by moving the mouse there."""
    canvas(page).hover(position=place(page, across, down))
    return page.line(pattern)


def take(page, tool):
    """Take a tool of the brush, by its button; again: put it back."""
    page.page.locator(".qt-tools").first.get_by_role("button", name=tool, exact=True).click()


def click_leaf(page, across=0.52, down=0.52, **options):
    """Click the leaf at a share of the view: not at its middle, where four tiles meet."""
    canvas(page).click(position=place(page, across, down), **options)


def drag(page, start, end, *, steps=25, button="left"):
    """Drag the mouse between two places, as shares of the view."""
    drag_in(page, canvas(page), start, end, steps=steps, button=button)


def drag_in(page, element, start, end, *, steps=25, button="left"):
    """Drag the mouse between two places, as shares of an element."""
    box = element.bounding_box()
    element.hover(position={"x": start[0] * box["width"], "y": start[1] * box["height"]})
    box = element.bounding_box()
    x, y = (box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"])
    page.page.mouse.down(button=button)
    page.page.mouse.move(x, y, steps=steps)
    page.page.mouse.up(button=button)


def assert_nodes_apart(page):
    areas = page.page.evaluate(
        "() => app.canvas.graph.nodes.map((node) => [...node.pos, ...node.size])"
    )
    boxes = [(x, y - TITLE_PX, x + width, y + height) for x, y, width, height in areas]
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def drawing(page):
    """What is drawn over the picture, as the text of a PNG."""
    return page.page.evaluate("() => document.querySelector('.qt-view canvas').toDataURL()")


def colours(page):
    """Distinct colours on the overlay."""
    return page.page.evaluate(
        """() => {
            const canvas = document.querySelector(".qt-view canvas");
            const { width, height } = canvas;
            const image = canvas.getContext("2d").getImageData(0, 0, width, height);
            return new Set(new Uint32Array(image.data.buffer)).size;
        }"""
    )
