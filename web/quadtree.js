/**
 * The live panel of Quadtree Visualizer: the image with its leaves over it, while a slider moves and before anything is queued.
 * The tree is the server's (POST /quadtree/preview), the same code that runs in the node. Nothing of the panel is saved; what is
 * painted goes into the widget `regions`.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NODE = "QuadtreeVisualizer";
const PARAMETERS = ["content_threshold", "min_tile_size", "max_tile_size", "min_denoise", "max_denoise"];
const CYCLE = { auto: "keep", keep: "full", full: "auto" };
const WORDS = { auto: "as computed", keep: "keep", full: "full" };
const SHADES = 24; // leaves are tinted in so many steps between keep and regenerate
const POLL_MS = 400;
const SETTLED_MS = 200; // after the last change the cost is asked for, too
const MOST_UNDO = 50;

const STYLE = `
.qt { display: flex; flex-direction: column; min-height: 220px; height: 100%; gap: 4px; font: 12px sans-serif; color: var(--fg-color, #ddd); }
.qt-view { position: relative; flex: 1; min-height: 160px; background: var(--comfy-input-bg, #222); outline-offset: -2px; overflow: hidden; }
.qt-view img, .qt-view canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.qt-view img { object-fit: contain; user-select: none; pointer-events: none; }
.qt-view canvas { touch-action: none; cursor: crosshair; }
.qt-foot { display: flex; align-items: center; gap: 6px; }
.qt-line { flex: 1; min-height: 1.3em; overflow-wrap: anywhere; }
.qt-line.qt-problem { color: var(--error-text, #ff6b6b); }
.qt button { font: inherit; color: inherit; background: var(--comfy-input-bg, #333); border: 1px solid var(--border-color, #666);
  border-radius: 4px; padding: 1px 7px; cursor: pointer; }
.qt button:disabled { opacity: 0.4; cursor: default; }
`;

const panels = new WeakMap();
let unique = 0; // Nodes 2.0 shows a dead node's element after undo unless each widget is of a type of its own

/** Calls `after` behind a method that may exist already. */
function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

function element(tag, className, properties = {}) {
  return Object.assign(document.createElement(tag), { className, ...properties });
}

function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

// ---- where the image and the numbers come from

/** All graphs of the workflow: the root and every subgraph. */
function allGraphs() {
  const root = app.rootGraph ?? app.graph;
  return [root, ...(root.subgraphs?.values() ?? [])];
}

/** A text that changes with whatever may change what the visualizers get; cheap, so that it can be asked often. */
function wiring() {
  const parts = [];
  for (const graph of allGraphs()) {
    parts.push(graph.id ?? "", graph.links?.size ?? 0, graph.last_link_id ?? graph.state?.lastLinkId ?? 0);
    for (const node of graph.nodes) {
      parts.push(node.id, node.mode);
      for (const input of node.inputs ?? []) parts.push(input.link ?? "");
      for (const widget of node.widgets ?? [])
        if (widget.name === "image" || widget.name === "value" || PARAMETERS.includes(widget.name)) parts.push(widget.value);
    }
  }
  return parts.join("\u0001");
}

/** The values that a node's inputs have in the prompt, by the frontend's own resolution of reroutes, bypasses and subgraphs. */
async function promptOf(node) {
  const { output } = await app.graphToPrompt();
  const own = String(node.id);
  const key = Object.keys(output).find(
    (id) => output[id].class_type === NODE && (id === own || id.endsWith(":" + own)) && (node.graph === (app.rootGraph ?? app.graph)) === (id === own)
  );
  return key === undefined ? null : { output, inputs: output[key].inputs };
}

/** The value behind a linked number, where a primitive node gives it; undefined where only a run can tell. */
function linkedValue(output, value) {
  if (!Array.isArray(value)) return value;
  const origin = output[value[0]];
  return origin?.class_type.startsWith("Primitive") ? linkedValue(output, origin.inputs.value) : undefined;
}

/** The file that a Load Image upstream shows, or null. */
function loadedFile(output, link) {
  const origin = Array.isArray(link) ? output[link[0]] : null;
  const name = origin?.class_type === "LoadImage" ? linkedValue(output, origin.inputs.image) : null;
  return typeof name === "string" && name ? name : null;
}

/** Parameters of /view for a file as Load Image names it: "folder/name.png [output]". */
function viewOf(name, token) {
  const [, path, type] = name.match(/^(.*?)(?: \[(input|output|temp)\])?$/);
  const cut = path.lastIndexOf("/");
  const query = { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(0, cut)), type: type ?? "input", v: token };
  return api.apiURL("/view?" + new URLSearchParams(query));
}

// ---- what is painted

function readPainting(text) {
  try {
    const data = text ? JSON.parse(text) : {};
    return { size: data.size, regions: Array.isArray(data) ? data : (data.regions ?? []) };
  } catch {
    return { regions: [] };
  }
}

const share = (px, side) => Math.min(1, Math.round((1e6 * px) / side) / 1e6);
const covers = (outer, inner) => outer[1] <= inner[1] && outer[2] <= inner[2] && outer[3] >= inner[3] && outer[4] >= inner[4];
const meets = (one, other) => one[1] < other[3] && other[1] < one[3] && one[2] < other[4] && other[2] < one[4];

/** The regions with one more on top; what it hides is dropped, and "auto" over nothing is nothing. */
function withRegion(regions, region) {
  const rest = regions.filter((other) => !covers(region, other));
  return region[0] === "auto" && !rest.some((other) => meets(region, other)) ? rest : [...rest, region];
}

/** One panel of one node. */
class Panel {
  constructor(node) {
    this.node = node;
    this.root = element("div", "qt");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", "Quadtree preview");
    this.view = element("div", "qt-view", { tabIndex: 0 });
    this.view.setAttribute("role", "application");
    this.view.setAttribute("aria-label", "Tiles of the image. Arrow keys choose a tile, Enter changes it between as computed, keep and full.");
    this.image = element("img", "", { alt: "", draggable: false });
    this.image.addEventListener("load", () => this.draw());
    this.canvas = element("canvas", "");
    this.view.append(this.image, this.canvas);
    this.line = element("div", "qt-line");
    this.line.setAttribute("role", "status");
    this.undoButton = element("button", "", { type: "button", textContent: "Undo", title: "Undo the last painted tiles" });
    this.clearButton = element("button", "", { type: "button", textContent: "Clear", title: "Remove all that is painted" });
    const foot = element("div", "qt-foot");
    foot.append(this.line, this.undoButton, this.clearButton);
    this.root.append(this.view, foot);

    this.undo = [];
    this.chosen = -1; // the leaf under the pointer, or chosen by keys
    this.live = {}; // numbers of a slider that is being dragged
    this.listen();
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.view);
    this.say("Connect Load Image, or queue the workflow once.");
  }

  listen() {
    this.canvas.addEventListener("pointermove", (event) => {
      this.point(event);
      if (this.stroke) this.paint();
    });
    this.canvas.addEventListener("pointerleave", () => this.stroke || this.choose(null));
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 1) return forward("processMouseDown", event);
      this.point(event);
      if (event.button !== 0 || this.chosen < 0 || this.readOnly()) return;
      event.preventDefault();
      event.stopPropagation();
      this.view.focus({ preventScroll: true });
      this.canvas.setPointerCapture(event.pointerId);
      this.begin();
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => this.end());
    this.view.addEventListener("keydown", (event) => this.key(event));
    this.undoButton.addEventListener("click", () => this.undo.length && this.setRegions(this.undo.pop(), false));
    this.clearButton.addEventListener("click", () => this.regions() && this.setRegions("", true));
    this.root.addEventListener(
      "wheel",
      (event) => {
        if (globalThis.LiteGraph?.vueNodesMode) return;
        event.preventDefault();
        app.canvas.processMouseWheel(event);
      },
      { passive: false }
    );
    for (const [name, method] of [["pointermove", "processMouseMove"], ["pointerup", "processMouseUp"]])
      this.root.addEventListener(name, (event) => (event.buttons & 4 || event.button === 1) && forward(method, event));
    function forward(method, event) {
      if (!globalThis.LiteGraph?.vueNodesMode) app.canvas[method](event);
    }
  }

  destroy() {
    this.dead = true;
    this.resized.disconnect();
    clearTimeout(this.settle);
    cancelAnimationFrame(this.frame);
  }

  say(words, problem = false) {
    this.words = words;
    this.problem = problem;
    this.showLine();
  }

  /** The status line: the leaf under the pointer, else the tree. */
  showLine() {
    const leaf = this.leaves?.[this.chosen];
    const words = leaf
      ? `${leaf.side} px, detail ${leaf.detail.toFixed(1)}, denoise ${leaf.denoise.toFixed(2)} (${WORDS[this.painted(leaf)]})`
      : this.words;
    if (this.line.textContent !== words) this.line.textContent = words;
    this.line.classList.toggle("qt-problem", !leaf && this.problem);
  }

  // ---- asking for the tree

  /** Looks whether anything changed; nothing else is done while idle. */
  poll() {
    const seen = wiring() + this.regions();
    if (seen === this.seen) return;
    this.seen = seen;
    this.live = {};
    this.prompt = null;
    this.schedule();
  }

  moved(name) {
    requestAnimationFrame(() => {
      this.live[name] = widgetOf(this.node, name)?.value; // read late: while dragged, the first value is not rounded yet
      this.seen = wiring() + this.regions();
      this.schedule();
    });
  }

  executed(output) {
    const image = output?.quadtree_image?.[0];
    const run = output?.quadtree_run?.[0];
    if (!image || !run || run.key === this.lastRun?.key) return;
    this.lastRun = { key: run.key, url: api.apiURL("/view?" + new URLSearchParams(image)) };
    this.schedule();
  }

  schedule() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.refresh();
    });
  }

  /** One request in flight; whatever happened meanwhile is asked for afterwards, the latest alone. */
  async refresh(cost = false) {
    if (this.dead) return;
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    this.again = false;
    clearTimeout(this.settle);
    try {
      this.prompt ??= await promptOf(this.node);
      if (this.dead) return;
      await this.ask(cost);
    } catch (error) {
      this.show(null, "The preview is not available: " + (error?.message ?? error));
    } finally {
      this.busy = false;
      if (this.again) this.schedule();
    }
  }

  async ask(cost) {
    const body = { regions: this.regions(), cost };
    for (const name of PARAMETERS) {
      const value = this.live[name] ?? (this.prompt ? linkedValue(this.prompt.output, this.prompt.inputs[name]) : undefined);
      body[name] = value ?? widgetOf(this.node, name)?.value;
    }
    const file = this.prompt && loadedFile(this.prompt.output, this.prompt.inputs.image);
    if (file) body.image = file;
    else if (this.lastRun) body.run = this.lastRun.key;
    else return this.show(null, "Connect Load Image, or queue the workflow once.", false);
    if (body.min_tile_size > body.max_tile_size) return this.show(null, "min_tile_size is above max_tile_size.");
    if (body.min_denoise > body.max_denoise) return this.show(null, "min_denoise is above max_denoise.");

    const answer = await api.fetchApi("/quadtree/preview", { method: "POST", body: JSON.stringify(body) });
    const tree = await answer.json();
    if (this.dead) return;
    if (!answer.ok) return this.show(null, tree.error ?? "The server refused the preview.");
    this.show(tree, summary(tree), false);
    const url = file ? viewOf(file, tree.token) : this.lastRun.url;
    if (this.image.getAttribute("src") !== url) this.image.src = url;
    if (!cost) this.settle = setTimeout(() => this.refresh(true), SETTLED_MS);
  }

  show(tree, words, problem = true) {
    this.tree = tree;
    this.leaves = tree && leavesOf(tree);
    this.grid = tree && indexOf(tree, this.leaves);
    if (!tree && problem) this.image.removeAttribute("src");
    this.chosen = tree && this.at ? this.leafAtPx(...this.at) : -1; // leaves have other numbers now
    this.say(words, problem);
    this.draw();
  }

  // ---- drawing

  /** Where the image lies in the view, in CSS px. */
  frameOf() {
    const [width, height] = [this.view.clientWidth, this.view.clientHeight];
    const scale = Math.min(width / this.tree.width, height / this.tree.height);
    return { scale, x: (width - this.tree.width * scale) / 2, y: (height - this.tree.height * scale) / 2 };
  }

  draw() {
    const painted = this.regions();
    this.undoButton.disabled = !this.undo.length;
    this.clearButton.disabled = !painted;
    const density = 2 * (globalThis.devicePixelRatio || 1); // zooming the graph is a CSS transform that nobody announces
    const [width, height] = [Math.round(this.view.clientWidth * density), Math.round(this.view.clientHeight * density)];
    if (!width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.tree) return;
    const { scale, x, y } = this.frameOf();
    context.setTransform(density, 0, 0, density, 0, 0);
    const shades = Array.from({ length: SHADES + 1 }, () => new Path2D());
    const rectangle = (path, leaf) =>
      path.rect(x + leaf.x * scale, y + leaf.y * scale, leaf.width * scale, leaf.height * scale);
    for (const leaf of this.leaves) rectangle(shades[Math.round(leaf.denoise * SHADES)], leaf);
    context.lineWidth = 1 / density;
    shades.forEach((path, shade) => {
      const colour = colourOf(shade / SHADES);
      context.fillStyle = `rgb(${colour} / 0.3)`;
      context.strokeStyle = `rgb(${colour} / 0.9)`;
      context.fill(path);
      context.stroke(path);
    });
    const leaf = this.leaves[this.chosen];
    if (leaf) {
      const path = new Path2D();
      rectangle(path, leaf);
      context.lineWidth = 2;
      context.strokeStyle = "white";
      context.stroke(path);
    }
  }

  // ---- pointing and painting

  /** Chooses the leaf under the pointer. */
  point(event) {
    if (!this.tree) return;
    const { scale, x, y } = this.frameOf();
    const [across, down] = [event.offsetX / this.canvas.offsetWidth, event.offsetY / this.canvas.offsetHeight];
    this.choose([(across * this.view.clientWidth - x) / scale, (down * this.view.clientHeight - y) / scale]);
  }

  leafAtPx(px, py) {
    if (px < 0 || py < 0 || px >= this.tree.width || py >= this.tree.height) return -1;
    const { side, columns, cells } = this.grid;
    return cells[Math.floor(py / side) * columns + Math.floor(px / side)] - 1;
  }

  /** Chooses the leaf at a place in px of the image; null for none. */
  choose(at) {
    const number = at && this.tree ? this.leafAtPx(...at) : -1;
    this.at = number < 0 ? null : at;
    if (number === this.chosen) return;
    this.chosen = number;
    this.showLine();
    this.draw();
  }

  regions() {
    const value = widgetOf(this.node, "regions")?.value;
    return typeof value === "string" ? value : "";
  }

  /** Regions that come from a link, or from the widget of a subgraph's box, are not painted here. */
  readOnly() {
    const input = this.node.inputs?.find((one) => one.name === "regions");
    return !widgetOf(this.node, "regions") || (input?.link ?? null) !== null;
  }

  /** What is painted over a leaf's centre. */
  painted(leaf) {
    const [x, y] = [(leaf.x + leaf.width / 2) / this.tree.width, (leaf.y + leaf.height / 2) / this.tree.height];
    const hit = ([, x0, y0, x1, y1]) => x0 <= x && x < x1 && y0 <= y && y < y1;
    return readPainting(this.regions()).regions.findLast(hit)?.[0] ?? "auto";
  }

  begin() {
    this.stroke = { what: CYCLE[this.painted(this.leaves[this.chosen])], before: this.regions(), done: new Set() };
    this.paint();
  }

  /** Gives the chosen leaf what this stroke gives. */
  paint() {
    const leaf = this.leaves?.[this.chosen];
    if (!leaf || this.stroke.done.has(leaf.key)) return;
    this.stroke.done.add(leaf.key);
    const { width, height } = this.tree;
    const edges = [share(leaf.x, width), share(leaf.y, height), share(leaf.x + leaf.width, width), share(leaf.y + leaf.height, height)];
    const regions = withRegion(readPainting(this.regions()).regions, [this.stroke.what, ...edges]);
    this.write(regions.length ? JSON.stringify({ size: [width, height], regions }) : "");
    leaf.denoise = { keep: 0, full: 1 }[this.stroke.what] ?? leaf.denoise; // at once; the server's answer follows
    this.showLine();
    this.draw();
  }

  end() {
    if (!this.stroke) return;
    const { before } = this.stroke;
    this.stroke = null;
    if (before !== this.regions()) this.remember(before);
  }

  remember(before) {
    this.undo = [...this.undo, before].slice(-MOST_UNDO);
    this.draw();
    app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.(); // ComfyUI's own undo knows of it, too
  }

  setRegions(text, undoable) {
    if (this.readOnly()) return;
    const before = this.regions();
    this.write(text);
    if (undoable) this.remember(before);
  }

  write(text) {
    const widget = widgetOf(this.node, "regions");
    widget.value = text;
    widget.callback?.(text);
    this.schedule();
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    const undo = event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey);
    if (!this.leaves?.length || !(step || undo || event.key === "Enter" || event.key === " ")) return;
    event.preventDefault();
    event.stopPropagation();
    if (undo) this.undoButton.click();
    else if (step) this.choose(this.beside(step));
    else if (this.chosen >= 0 && !this.readOnly()) {
      this.begin();
      this.end();
    }
  }

  /** The centre of the leaf beside the chosen one, in px of the image; at the edge, of the chosen one. */
  beside([dx, dy]) {
    const centre = (leaf) => [leaf.x + leaf.width / 2, leaf.y + leaf.height / 2];
    const leaf = this.leaves[this.chosen];
    if (!leaf) return [0, 0];
    const [x, y] = centre(leaf);
    const found = this.leafAtPx(x + (dx * (leaf.width + 1)) / 2, y + (dy * (leaf.height + 1)) / 2);
    return centre(this.leaves[found] ?? leaf);
  }
}

// ---- the server's answer

function leavesOf(tree) {
  return tree.denoise.map((denoise, number) => {
    const [x, y, side] = tree.tiles.slice(3 * number, 3 * number + 3);
    const [width, height] = [Math.min(side, tree.width - x), Math.min(side, tree.height - y)];
    return { x, y, side, width, height, denoise: denoise / 1000, detail: tree.detail[number] / 10, key: `${x},${y},${side}` };
  });
}

/** Which leaf each block of the smallest side belongs to: its number and one, 0 where it was not sent. */
function indexOf(tree, leaves) {
  const side = tree.sides[0];
  const [columns, rows] = [Math.ceil(tree.width / side), Math.ceil(tree.height / side)];
  const cells = new Int32Array(columns * rows);
  leaves.forEach((leaf, number) => {
    const right = Math.min(columns, (leaf.x + leaf.side) / side);
    const bottom = Math.min(rows, (leaf.y + leaf.side) / side);
    for (let row = leaf.y / side; row < bottom; row++) cells.fill(number + 1, row * columns + leaf.x / side, row * columns + right);
  });
  return { side, columns, cells };
}

function summary(tree) {
  const [small, large] = tree.sides;
  const sides = small === large ? `${large} px` : `${small}-${large} px`;
  const cost = tree.cost === undefined ? "" : `, about ${Math.round(100 * tree.cost)}% of the full model cost at ${tree.steps} steps`;
  const shown = tree.denoise.length < tree.count ? ` (the largest ${tree.denoise.length} are shown)` : "";
  return `${tree.count} ${tree.count === 1 ? "tile" : "tiles"}, ${sides}${shown}${cost}${tree.notice ? "; " + tree.notice : ""}`;
}

/** Blue (keep) to red (regenerate), as in the node's own picture. */
function colourOf(denoise) {
  const [keep, regenerate] = [[26, 89, 255], [255, 38, 13]];
  return keep.map((value, band) => Math.round(value + (regenerate[band] - value) * denoise)).join(" ");
}

// ---- the extension

app.registerExtension({
  name: "quadtree.visualizer",

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const panel = new Panel(node);
    panels.set(node, panel);
    const options = { serialize: false, hideOnZoom: false, hideInPanel: true, getMinHeight: () => 240 };
    const widget = node.addDOMWidget("quadtree_view", "quadtree_view_" + ++unique, panel.root, options);
    widget.serialize = false; // the option keeps it out of the prompt, this out of the workflow
    for (const name of PARAMETERS) chain(widgetOf(node, name), "callback", () => panel.moved(name));
    chain(node, "onExecuted", (output) => panel.executed(output));
    chain(node, "onRemoved", () => panel.destroy());
  },

  // After undo and a tab switch nodes are new and are not told of their last run otherwise.
  onNodeOutputsUpdated(outputs) {
    const root = app.rootGraph ?? app.graph;
    for (const graph of allGraphs())
      for (const node of graph.nodes) {
        const output = outputs[graph === root ? String(node.id) : `${graph.id}:${node.id}`];
        if (output) panels.get(node)?.executed(output);
      }
  },

  setup() {
    document.head.append(element("style", "", { textContent: STYLE }));
    setInterval(() => {
      if (document.visibilityState !== "visible") return;
      for (const node of app.canvas?.graph?.nodes ?? []) panels.get(node)?.poll();
    }, POLL_MS);
  },
});
