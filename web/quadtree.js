/**
 * The live panel of Quadtree Visualizer: the image with its leaves over it, while a slider moves and before anything is queued.
 * The tree is the server's (POST /quadtree/preview), the same code that runs in the node. Nothing of the panel is saved; what is
 * painted goes into the widget `regions`.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NODE = "QuadtreeVisualizer";
const PARAMETERS = [
  ...["content_threshold", "min_tile_size", "max_tile_size", "min_denoise", "max_denoise"],
  ...["denoise_by", "invert", "detail_metric", "cost_budget"],
];
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
.qt-foot { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; }
.qt-line { flex: 1 1 140px; min-height: 1.3em; overflow-wrap: anywhere; }
/* The theme's red alone is hard to read on light nodes. */
.qt-line.qt-problem { color: color-mix(in srgb, var(--error-text, #f44336) 70%, var(--fg-color, #ddd)); }
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

const isLinked = (input) => (input?.link ?? null) !== null;
const inputOf = (node, name) => node.inputs?.find((one) => one.name === name);

function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

// ---- where the image and the numbers come from

const INPUTS = -10; // the id of a subgraph's own inputs
const MUTED = 2;
const BYPASSED = 4;
const opened = new WeakMap(); // subgraph -> the node it was opened from: it may have several

const rootGraph = () => app.rootGraph ?? app.graph;

/** All graphs of the workflow: the root and every subgraph. */
function allGraphs() {
  const root = rootGraph();
  return [root, ...(root.subgraphs?.values() ?? [])];
}

/** The nodes through which a graph is reached from the root, the outermost first. */
function hostsOf(graph) {
  if (graph === rootGraph()) return [];
  const inside = (node) => node.subgraph === graph;
  const host = [opened.get(graph), ...allGraphs().flatMap((one) => one.nodes)].find((node) => node?.graph && inside(node));
  return host ? [...hostsOf(host.graph), host] : [];
}

/** What an input of a node has: its widget's value, or what is behind its link. */
function valueOfInput(node, name, hosts) {
  const input = inputOf(node, name);
  return isLinked(input) ? followed(node.graph, input.link, hosts) : widgetOf(node, name)?.value;
}

/**
 * What is behind a link: a value, {node, hosts} of the node that makes it, or undefined; through reroutes, bypassed nodes and
 * subgraphs. The frontend's own graphToPrompt does that, too, but asks every widget to serialize itself: some upload files then.
 */
function followed(graph, id, hosts) {
  const link = graph.getLink(id);
  if (!link) return undefined;
  if (Number(link.origin_id) === INPUTS) {
    const host = hosts.at(-1);
    const input = host && inputOf(host, graph.inputs[link.origin_slot]?.name);
    if (!input) return undefined;
    if (!isLinked(input)) return host.getWidgetFromSlot?.(input)?.value;
    return followed(host.graph, input.link, hosts.slice(0, -1));
  }
  const node = graph.getNodeById(link.origin_id);
  if (!node || node.mode === MUTED) return undefined;
  const through = (input) => (isLinked(input) ? followed(graph, input.link, hosts) : undefined);
  if (node.mode === BYPASSED) {
    const type = node.outputs[link.origin_slot].type;
    return through([node.inputs[link.origin_slot], ...node.inputs].find((one) => one && (one.type === type || one.type === "*")));
  }
  if (node.isSubgraphNode?.()) {
    const inner = node.subgraph.outputs[link.origin_slot]?.linkIds[0];
    return inner === undefined ? undefined : followed(node.subgraph, inner, [...hosts, node]);
  }
  if (node.isVirtualNode) return node.inputs?.length ? through(node.inputs[0]) : node.widgets?.[0]?.value;
  return node.comfyClass?.startsWith("Primitive") ? valueOfInput(node, "value", hosts) : { node, hosts };
}

/** The file that a Load Image behind the node's image input shows, or null. */
function loadedFile(node, hosts) {
  const origin = valueOfInput(node, "image", hosts);
  const name = origin?.node?.comfyClass === "LoadImage" ? valueOfInput(origin.node, "image", origin.hosts) : null;
  return typeof name === "string" && name ? name : null;
}

/** ComfyUI's own undo, and what it restores after a reload, learn of a change that no widget made. */
function captureState() {
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
}

/** Parameters of /view for a file as Load Image names it: "folder/name.png [output]". */
function viewOf(name, token) {
  const [, path, type] = name.match(/^(.*?)(?: \[(input|output|temp)\])?$/);
  const cut = path.lastIndexOf("/");
  const query = { filename: path.slice(cut + 1), subfolder: path.slice(0, Math.max(0, cut)), type: type ?? "input", v: token };
  return api.apiURL(`/view?${new URLSearchParams(query)}`);
}

// ---- what is painted

function readRegions(text) {
  try {
    const data = text ? JSON.parse(text) : [];
    const list = Array.isArray(data) ? data : data?.regions;
    return Array.isArray(list) ? list.filter((region) => Array.isArray(region) && region.length === 5) : [];
  } catch {
    return [];
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
    this.view = element("div", "qt-view", { tabIndex: 0, type: "textarea" }); // the type keeps ComfyUI's own Ctrl+Z off
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
    this.view.addEventListener("blur", () => this.stroke || this.choose(null));
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

  /** What the server is asked for; neither `image` nor `run` where there is no image yet. */
  request() {
    const hosts = hostsOf(this.node.graph);
    const plain = (value, name) => (value === undefined || value?.node ? widgetOf(this.node, name)?.value : value);
    const body = {};
    for (const name of [...PARAMETERS, "regions"]) body[name] = plain(valueOfInput(this.node, name, hosts), name);
    const file = loadedFile(this.node, hosts);
    if (file) body.image = file;
    else if (this.lastRun) body.run = this.lastRun.key;
    return body;
  }

  /** Looks whether anything changed; nothing else is done while idle. */
  poll() {
    if (this.node.flags?.collapsed || JSON.stringify(this.request()) === this.asked) return;
    this.schedule();
  }

  executed(output) {
    const image = output?.quadtree_image?.[0];
    const run = output?.quadtree_run?.[0];
    if (!image || !run || run.key === this.lastRun?.key) return;
    this.lastRun = { key: run.key, url: api.apiURL(`/view?${new URLSearchParams(image)}`) };
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
      await this.ask(cost);
    } catch (error) {
      this.show(null, `The preview is not available: ${error?.message ?? error}`);
    } finally {
      this.busy = false;
      if (this.again) this.schedule();
    }
  }

  async ask(cost) {
    const body = this.request();
    this.asked = JSON.stringify(body);
    if (!body.image && !body.run) {
      this.image.removeAttribute("src");
      return this.show(null, "Connect Load Image, or queue the workflow once.", false);
    }
    if (!this.tree) this.say("Reading the image ...");
    const answer = await api.fetchApi("/quadtree/preview", { method: "POST", body: JSON.stringify({ ...body, cost }) });
    const tree = await answer.json().catch(() => ({}));
    if (this.dead) return;
    if (!answer.ok) return this.show(null, tree.error ?? `The server refused the preview (${answer.status}).`);
    const masked = isLinked(inputOf(this.node, "mask")) ? "; the mask is not in this preview" : "";
    this.show(tree, summary(tree) + masked, false);
    const url = body.image ? viewOf(body.image, tree.token) : this.lastRun.url;
    if (this.image.getAttribute("src") !== url) this.image.src = url;
    if (!cost) this.settle = setTimeout(() => this.refresh(true), SETTLED_MS);
  }

  show(tree, words, problem = true) {
    this.tree = tree;
    this.leaves = tree && leavesOf(tree);
    this.grid = tree && indexOf(tree, this.leaves);
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
    return !widgetOf(this.node, "regions") || isLinked(inputOf(this.node, "regions"));
  }

  /** What is painted over a leaf's centre. */
  painted(leaf) {
    const [x, y] = [(leaf.x + leaf.width / 2) / this.tree.width, (leaf.y + leaf.height / 2) / this.tree.height];
    const hit = ([, x0, y0, x1, y1]) => x0 <= x && x < x1 && y0 <= y && y < y1;
    return this.standing().findLast(hit)?.[0] ?? "auto";
  }

  /** The regions that count on this image. */
  standing() {
    return this.tree.notice ? [] : readRegions(this.regions());
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
    const regions = withRegion(this.standing(), [this.stroke.what, ...edges]);
    this.write(regions.length ? JSON.stringify({ size: [width, height], regions }) : "");
    this.tree.notice = null; // what was painted on another image is gone now
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
    captureState();
    this.draw();
  }

  setRegions(text, undoable) {
    if (this.readOnly()) return;
    const before = this.regions();
    this.write(text);
    if (undoable) this.remember(before);
    else {
      captureState();
      this.draw();
    }
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
    if (event.key === "Delete" || event.key === "Backspace") event.stopPropagation(); // else nodes would be deleted
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
  const threshold = tree.threshold === null ? "" : `, content_threshold ${tree.threshold.toFixed(1)}`;
  const shown = tree.denoise.length < tree.count ? ` (the largest ${tree.denoise.length} are shown)` : "";
  return `${tree.count} ${tree.count === 1 ? "tile" : "tiles"}, ${sides}${shown}${cost}${threshold}${tree.notice ? `; ${tree.notice}` : ""}`;
}

/** Blue (keep) to red (regenerate), as in the node's own picture. */
function colourOf(denoise) {
  const [keep, regenerate] = [[26, 89, 255], [255, 38, 13]];
  return keep.map((value, band) => Math.round(value + (regenerate[band] - value) * denoise)).join(" ");
}

// ---- the extension

const extension = {
  name: "quadtree.visualizer",

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const panel = new Panel(node);
    panels.set(node, panel);
    const options = { serialize: false, hideOnZoom: false, hideInPanel: true, getMinHeight: () => 240 };
    const widget = node.addDOMWidget("quadtree_view", `quadtree_view_${++unique}`, panel.root, options);
    widget.serialize = false; // the option keeps it out of the prompt, this out of the workflow
    // The value is read in the next frame: while a slider is dragged, the first one is not rounded yet.
    for (const name of [...PARAMETERS, "regions"]) chain(widgetOf(node, name), "callback", () => panel.schedule());
    chain(node, "onExecuted", (output) => panel.executed(output));
    chain(node, "onRemoved", () => panel.destroy());
  },

  // After undo and a tab switch nodes are new and are not told of their last run otherwise.
  onNodeOutputsUpdated(outputs) {
    const root = rootGraph();
    for (const graph of allGraphs())
      for (const node of graph.nodes) {
        const output = outputs[graph === root ? String(node.id) : `${graph.id}:${node.id}`];
        if (output) panels.get(node)?.executed(output);
      }
  },

  setup() {
    document.head.append(element("style", "", { textContent: STYLE }));
    const shown = () => (app.canvas?.graph?.nodes ?? []).map((node) => panels.get(node)).filter(Boolean);
    setInterval(() => {
      if (document.visibilityState !== "visible") return;
      for (const panel of shown()) panel.poll();
    }, POLL_MS);
    api.addEventListener("reconnected", () => {
      for (const panel of shown()) panel.schedule();
    });
    app.canvas.canvas.addEventListener("subgraph-opened", ({ detail }) => opened.set(detail.subgraph, detail.fromNode));
  },
};

// The pack may be installed twice: the second copy has nothing to add.
if (!app.extensions?.some((one) => one.name === extension.name)) app.registerExtension(extension);
