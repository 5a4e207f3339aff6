/**
 * The live panel of Quadtree Visualizer: the image with its tiles, updated while a slider moves and
 * before anything is queued.
 *
 * The server builds the tree (POST /quadtree/preview) with the code that also runs in the node.
 * Regions painted in the panel are stored in the widget `regions`; nothing else is saved.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { BRUSH_STYLE, Brush } from "./quadtree_brush.js";
import { DETAIL_STYLE, DetailStrip } from "./quadtree_detail.js";
import { clearCanvas, drawLeaves, drawPainted, drawStep, frameLeaf } from "./quadtree_drawing.js";
import { createElement } from "./quadtree_elements.js";
import { FRAMES_STYLE, FrameSlider } from "./quadtree_frames.js";
import {
  allGraphs, findHosts, findInput, findWidget, isLinked, readInput,
  rememberOpened, rootGraph,
} from "./quadtree_graph.js";
import { checkPreset, connectPreset } from "./quadtree_presets.js";
import { explain, keepPace, PriceInquiry, requestPreview } from "./quadtree_price.js";
import { STEPS_STYLE, Scrubber } from "./quadtree_steps.js";
import {
  followTexts, translate, translateFinished, translateLabels,
} from "./quadtree_texts.js";
import { buildGrid, describeTree, readLeaves } from "./quadtree_tree.js";
import { collectWorkflow, findShownImage } from "./quadtree_workflow.js";

const NODE = "QuadtreeVisualizer";
const PARAMETERS = [
  "mask_mode",
  ...["content_threshold", "min_tile_size", "max_tile_size", "min_denoise", "max_denoise"],
  ...["denoise_by", "invert", "detail_metric", "cost_budget", "coverage", "batch"],
];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const NO_IMAGE = "Connect Load Image, or queue the workflow once.";
const STALE = "An earlier image. Queue the workflow to see the new one and paint on it.";
const ORIGINS = {
  run: "of the last run",
  reseeded: "of the last run, seed changed",
  shown: "as the node before shows it",
  stale: "of an earlier run, something before this node has changed",
};
const POLL_MS = 400;
const PLACED_CSS_PX = 420; // the width of a node that is placed, where the tools fit in one row
const PLACED_ROOM_CSS_PX = 120; // of its height, beyond the least

const STYLE = `
.qt { display: flex; flex-direction: column; min-height: 290px; height: 100%; gap: 4px;
  font: 12px sans-serif; color: var(--fg-color, #ddd); }
.qt-view { position: relative; flex: 1; min-height: 150px; background: var(--comfy-input-bg, #222);
  outline-offset: -2px; overflow: hidden; }
.qt-view img, .qt-view canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.qt-view img { object-fit: contain; user-select: none; pointer-events: none; }
.qt-stale img, .qt-stale canvas { filter: grayscale(1) brightness(0.6); }
.qt-caption { position: absolute; inset: auto 0 0; padding: 4px 6px; text-align: center;
  background: rgb(0 0 0 / 0.75); color: white; pointer-events: none; }
.qt-view canvas { touch-action: none; }
/* Two rows, so that the picture stays where it is while the text changes. */
.qt-line { line-height: 1.3; min-height: 2.6em; overflow-wrap: anywhere; }
/* The theme's red alone is hard to read on light nodes. */
.qt-line.qt-problem {
  color: color-mix(in srgb, var(--error-text, #f44336) 70%, var(--fg-color, #ddd)); }
.qt button { font: inherit; color: inherit; background: var(--comfy-input-bg, #333);
  border: 1px solid var(--border-color, #666); border-radius: 4px; padding: 1px 7px;
  cursor: pointer; }
.qt button:disabled { opacity: 0.4; cursor: default; }
`;

const panels = new WeakMap(); // node -> its panel
// Each widget gets a type of its own: after an undo, Nodes 2.0 would otherwise show the element of
// the deleted node.
let widgetCount = 0;

/** Makes an object's method also call `after`; the method need not exist yet. */
function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

/** Returns the URL of a picture that the server made. */
const pictureUrl = (file) => api.apiURL(`/view?${new URLSearchParams(file)}`);

/** Shows a picture that the server made in an element; null shows none. */
function showPicture(image, file) {
  const url = file && pictureUrl(file);
  if (!url) image.removeAttribute("src");
  else if (image.getAttribute("src") !== url) image.src = url;
  image.hidden = !url;
}

/** Passes a pointer event on to the graph; Nodes 2.0 does this by itself. */
function forwardToGraph(method, event) {
  if (!globalThis.LiteGraph?.vueNodesMode) app.canvas[method](event);
}

/** The panel of one node. */
class Panel {
  constructor(node) {
    this.node = node;
    this.price = new PriceInquiry(this);
    this.chosen = -1; // number of the leaf under the pointer or chosen with the keyboard
    this.build();
    this.listen();
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.view);
    this.say(translate(NO_IMAGE));
  }

  build() {
    this.root = createElement("div", { className: "qt" });
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", "Quadtree preview");
    // ComfyUI leaves Ctrl+Z to elements of this type, from frontend 1.58 to those that are edited.
    this.view = createElement("div", { className: "qt-view", tabIndex: 0, type: "textarea" });
    Object.defineProperty(this.view, "isContentEditable", { value: true });
    this.view.setAttribute("role", "application");
    this.view.setAttribute(
      "aria-label",
      "Tiles of the image. Use the arrow keys to choose a tile, K, V, F or E to take a tool, and " +
        "Enter to paint the tile with it."
    );
    // The browser would frame a picture that has no file.
    this.image = createElement("img", { alt: "", draggable: false, hidden: true });
    this.canvas = createElement("canvas");
    // Darkens what a mask keeps.
    const veil = { className: "qt-veil", alt: "", draggable: false, hidden: true };
    this.veil = createElement("img", veil);
    this.caption = createElement("div", { className: "qt-caption", textContent: STALE });
    this.caption.hidden = true;
    this.view.append(this.image, this.veil, this.canvas, this.caption);
    this.line = createElement("div", { className: "qt-line" });
    this.line.setAttribute("role", "status");
    this.brush = new Brush(this);
    this.scrubber = new Scrubber(this);
    this.strip = new DetailStrip(this);
    this.frames = new FrameSlider(this);
    this.view.append(this.brush.ring);
    this.image.after(this.scrubber.live);
    const sliders = [this.frames.row, this.strip.row, this.scrubber.row];
    this.root.append(this.brush.toolbar, this.view, ...sliders, this.line);
    translateLabels(this.root);
  }

  listen() {
    this.image.addEventListener("load", () => this.draw());
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.tree) return;
      this.choose(this.pointOf(event));
      this.brush.move(event);
    });
    this.canvas.addEventListener("pointerleave", (event) => {
      this.brush.ring.hidden = true;
      const stays = this.brush.stroke || event.pointerType === "touch"; // a finger was lifted
      if (!stays) this.choose(null);
    });
    this.canvas.addEventListener("contextmenu", (event) => {
      if (!this.brush.isInHand()) return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.canvas.addEventListener("pointerdown", (event) => this.press(event));
    for (const name of ["pointerup", "pointercancel"])
      this.canvas.addEventListener(name, (event) => this.brush.release(event));
    this.view.addEventListener("keydown", (event) => this.handleKey(event));
    this.view.addEventListener("blur", () => {
      const stays = this.brush.stroke || this.canvas.matches(":hover");
      if (!stays) this.choose(null);
    });
    const onWheel = (event) => {
      if (globalThis.LiteGraph?.vueNodesMode) return;
      event.preventDefault();
      app.canvas.processMouseWheel(event);
    };
    this.root.addEventListener("wheel", onWheel, { passive: false });
    const forwardMiddle = (method) => (event) => {
      if (event.buttons & 4 || event.button === 1) forwardToGraph(method, event);
    };
    this.root.addEventListener("pointermove", forwardMiddle("processMouseMove"));
    this.root.addEventListener("pointerup", forwardMiddle("processMouseUp"));
  }

  destroy() {
    this.dead = true;
    this.resized.disconnect();
    this.price.cancel();
    this.scrubber.destroy();
    cancelAnimationFrame(this.frame);
  }

  say(text, problem = false) {
    this.text = text;
    this.problem = problem;
    this.showLine();
  }

  /** Returns in words what the panel shows otherwise than a run. */
  listLimits(tree) {
    const limits = [];
    const count = tree.images;
    if (tree.other_batch) limits.push(translate("of a run with another choice of batch"));
    else if (count > 1 && !tree.frames)
      limits.push(translate("tree and price of the first of {count} images", { count }));
    const hosts = findHosts(this.node.graph);
    const isComputed = (name) => readInput(this.node, name, hosts)?.node;
    const names = [...PARAMETERS, "regions"].filter(isComputed).join(", ");
    const words = "only a run computes {names}: the node's own value is shown";
    if (names) limits.push(translate(words, { names }));
    if (isLinked(findInput(this.node, "mask")) && !tree.mask)
      limits.push(translate("the preview ignores the mask"));
    return limits;
  }

  /** Shows the status line: the chosen leaf, or the tree if none is chosen. */
  showLine() {
    const leaf = this.leaves?.[this.chosen];
    let text = this.text;
    if (leaf) {
      const values = { side: leaf.side, detail: leaf.detail.toFixed(1) };
      const words = this.brush.describe(leaf);
      text = translate("{side} px, detail {detail}, {words}", { ...values, words });
    }
    if (this.line.textContent !== text) this.line.textContent = text;
    this.line.classList.toggle("qt-problem", !leaf && this.problem);
  }

  // ---- Requesting the tree

  /** Returns the body of a request; without a workflow while no image is connected. */
  request() {
    const hosts = findHosts(this.node.graph);
    const body = {};
    for (const name of [...PARAMETERS, "regions"]) {
      const value = readInput(this.node, name, hosts);
      const unknown = value === undefined || value?.node; // computed by a node during the run
      body[name] = unknown ? findWidget(this.node, name)?.value : value;
    }
    if (!readInput(this.node, "image", hosts)?.node) return body;
    Object.assign(body, collectWorkflow(this.node, hosts));
    const shown = findShownImage(this.node, hosts);
    return { ...body, shown, run: this.lastRun, frame: this.frames.place };
  }

  /** Requests the tree if anything has changed; this is all that an idle panel does. */
  poll() {
    if (this.node.flags?.collapsed) return;
    try {
      checkPreset(this.node);
      if (JSON.stringify(this.request()) !== this.asked) this.schedule();
    } catch (error) {
      this.fail(error);
    }
  }

  /** Says what is wrong with a workflow that cannot be read; the other panels go on. */
  fail(error) {
    const text = explain(error);
    this.asked = null;
    if (this.text !== text) this.show(null, text);
  }

  /** Takes the output of a run of the node, for images that no file holds. */
  takeOutput(output) {
    const key = output?.quadtree_run?.[0]?.key;
    if (!key || key === this.lastRun) return;
    this.lastRun = key;
    this.schedule();
  }

  schedule() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.refresh();
    });
  }

  /** Sends one request at a time; of the changes made meanwhile, only the latest is sent next. */
  async refresh() {
    if (this.dead) return;
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    this.again = false;
    this.price.cancel();
    try {
      await this.ask();
    } catch (error) {
      if (!this.dead) this.show(null, explain(error));
    } finally {
      this.busy = false;
      if (this.again) this.schedule();
    }
  }

  async ask() {
    const body = this.request();
    this.asked = JSON.stringify(body);
    if (!body.workflow) return this.showNothing(translate(NO_IMAGE));
    if (!this.tree) this.say(translate("Reading the image ..."));
    const tree = await requestPreview(body);
    if (this.dead) return;
    if (tree.unknown) return this.showNothing(translateFinished(tree.unknown));
    this.showAnswer(tree);
    if (!this.isStale) this.price.schedule(body); // that of another image may be far from it
  }

  /** Whether the picture is no longer what the node gets. */
  get isStale() {
    return this.tree?.origin === "stale";
  }

  showNothing(text) {
    for (const image of [this.image, this.veil]) showPicture(image, null);
    this.show(null, text, false);
  }

  /** Shows the server's answer to a request. */
  showAnswer(tree) {
    const origin = ORIGINS[tree.origin];
    const notes = [describeTree(tree), origin && translate(origin), ...this.listLimits(tree)];
    this.show(tree, notes.filter(Boolean).join("; "), false);
    showPicture(this.image, tree.picture);
    showPicture(this.veil, tree.mask);
  }

  show(tree, text, problem = true) {
    this.tree = tree;
    this.leaves = tree && readLeaves(tree);
    this.grid = tree && buildGrid(tree, this.leaves);
    this.chosen = tree && this.at ? this.leafAt(...this.at) : -1; // leaves have other numbers now
    this.view.classList.toggle("qt-stale", this.isStale);
    this.caption.hidden = !this.isStale;
    this.say(text, problem);
    if (!this.brush.canPaint()) this.brush.cancelStroke();
    this.strip.show();
    this.frames.show();
    this.scrubber.forget();
    this.draw();
  }

  // ---- Drawing

  /** Returns the scale and the top left corner of the image in the view, in CSS px. */
  imagePlace() {
    const [width, height] = [this.view.clientWidth, this.view.clientHeight];
    const scale = Math.min(width / this.tree.width, height / this.tree.height);
    const x = (width - this.tree.width * scale) / 2;
    const y = (height - this.tree.height * scale) / 2;
    return { scale, x, y };
  }

  draw() {
    if (!this.scrubber) return; // it is still built
    this.brush.showState();
    const context = clearCanvas(this.canvas, this.view.clientWidth, this.view.clientHeight);
    if (!context || !this.tree) return;
    const place = this.imagePlace();
    drawLeaves(context, this.leaves, place);
    const step = this.scrubber.shown();
    if (step) drawStep(context, this.leaves, step, place);
    drawPainted(context, this.brush.painted(), this.tree, place);
    const leaf = this.leaves[this.chosen];
    if (leaf) frameLeaf(context, leaf, place);
  }

  // ---- Pointing and painting

  /** Returns where the pointer is, in px of the image. */
  pointOf(event) {
    const { scale, x, y } = this.imagePlace();
    const box = this.canvas.getBoundingClientRect(); // the graph may be zoomed
    const across = ((event.clientX - box.left) / box.width) * this.view.clientWidth;
    const down = ((event.clientY - box.top) / box.height) * this.view.clientHeight;
    return [(across - x) / scale, (down - y) / scale];
  }

  /** Returns the number of the leaf at a point in px of the image; -1 for none. */
  leafAt(x, y) {
    if (x < 0 || y < 0 || x >= this.tree.width || y >= this.tree.height) return -1;
    const { side, columns, blocks } = this.grid;
    return blocks[Math.floor(y / side) * columns + Math.floor(x / side)] - 1;
  }

  /** Chooses the leaf at a point [x, y] in px of the image; null chooses none. */
  choose(at) {
    const number = at && this.tree ? this.leafAt(...at) : -1;
    this.at = number < 0 ? null : at;
    if (number === this.chosen) return;
    this.chosen = number;
    this.showLine();
    this.draw();
  }

  press(event) {
    if (event.button === 1) return forwardToGraph("processMouseDown", event);
    this.choose(this.tree && this.pointOf(event));
    if (event.pointerType === "touch" || event.button === 0 || this.brush.isInHand()) {
      event.preventDefault();
      event.stopPropagation();
    }
    this.view.focus({ preventScroll: true });
    this.brush.press(event);
  }

  handleKey(event) {
    const arrow = ARROWS[event.key];
    // ComfyUI would delete the selected nodes.
    if (event.key === "Delete" || event.key === "Backspace") event.stopPropagation();
    if (!this.leaves?.length) return;
    if (arrow) this.choose(this.neighbourCentre(arrow));
    else if (!this.brush.handleKey(event, this.at)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * Returns the centre of the leaf next to the chosen one, in px of the image; at the edge of the
   * image the centre of the chosen leaf.
   */
  neighbourCentre([dx, dy]) {
    const centre = (leaf) => [leaf.x + leaf.width / 2, leaf.y + leaf.height / 2];
    const leaf = this.leaves[this.chosen];
    if (!leaf) return [0, 0];
    const [x, y] = centre(leaf);
    const found = this.leafAt(x + (dx * (leaf.width + 1)) / 2, y + (dy * (leaf.height + 1)) / 2);
    return centre(this.leaves[found] ?? leaf);
  }
}

// ---- The extension

const panelsOf = (graph) => (graph?.nodes ?? []).map((node) => panels.get(node)).filter(Boolean);

/** Returns the panels of the graph that is shown. */
const visiblePanels = () => panelsOf(app.canvas?.graph);

/** Returns the panels of all graphs of the workflow. */
const allPanels = () => allGraphs().flatMap(panelsOf);

const ENDS = ["execution_success", "execution_error", "execution_interrupted", "reconnected"];

/** Lets the panels that are shown follow what samplers do, until the run ends. */
function followRuns() {
  const tell = (list, event, act) =>
    api.addEventListener(event, ({ detail }) => {
      for (const { scrubber } of list()) act(scrubber, detail);
    });
  tell(visiblePanels, "progress", (scrubber, progress) => scrubber.follow(progress));
  tell(visiblePanels, "b_preview", (scrubber, blob) => scrubber.showLive(blob));
  // A panel that followed may be out of sight by now.
  for (const end of ENDS) tell(allPanels, end, (scrubber) => scrubber.rest());
}

/** Brings the keyboard to the panel of the selected node, or to the first panel that is shown. */
function focusPanel() {
  const shown = visiblePanels();
  const panel = shown.find(({ node }) => app.canvas.selected_nodes?.[node.id]) ?? shown[0];
  panel?.view.focus();
}

const extension = {
  name: "quadtree.visualizer",
  commands: [{ id: "quadtree.panel", label: "Quadtree: go to the panel", function: focusPanel }],
  keybindings: [{ commandId: "quadtree.panel", combo: { key: "q", alt: true } }],

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const panel = new Panel(node);
    panels.set(node, panel);
    const options = {
      serialize: false, hideOnZoom: false, hideInPanel: true, getMinHeight: () => 300,
    };
    const type = `quadtree_view_${++widgetCount}`;
    const widget = node.addDOMWidget("quadtree_view", type, panel.root, options);
    widget.serialize = false; // the option keeps it out of the prompt, this out of the workflow
    // A node that is placed gets room for the picture; one that is loaded has a size of its own.
    const [width, height] = node.computeSize();
    node.setSize([Math.max(width, PLACED_CSS_PX), height + PLACED_ROOM_CSS_PX]);
    // The value is read in the next frame: during a drag the callback still gets it unrounded.
    for (const name of [...PARAMETERS, "regions"])
      chain(findWidget(node, name), "callback", () => panel.schedule());
    connectPreset(node, chain);
    chain(node, "onExecuted", (output) => panel.takeOutput(output));
    chain(node, "onRemoved", () => panel.destroy());
  },

  // After an undo or a tab switch the nodes are new, and onExecuted is not called for them.
  onNodeOutputsUpdated(outputs) {
    const root = rootGraph();
    for (const graph of allGraphs())
      for (const node of graph.nodes) {
        const output = outputs[graph === root ? String(node.id) : `${graph.id}:${node.id}`];
        if (output) panels.get(node)?.takeOutput(output);
      }
  },

  setup() {
    const textContent = STYLE + BRUSH_STYLE + DETAIL_STYLE + FRAMES_STYLE + STEPS_STYLE;
    document.head.append(createElement("style", { textContent }));
    setInterval(() => {
      if (document.visibilityState !== "visible") return;
      for (const panel of visiblePanels()) panel.poll();
    }, POLL_MS);
    followTexts(() => allGraphs().flatMap(({ nodes }) => nodes), ENDS);
    api.addEventListener("quadtree_run", ({ detail }) => {
      keepPace(detail);
      for (const panel of visiblePanels()) panel.price.refresh();
    });
    api.addEventListener("reconnected", () => {
      for (const panel of allPanels()) panel.schedule();
    });
    followRuns();
    app.canvas.canvas.addEventListener("subgraph-opened", ({ detail }) =>
      rememberOpened(detail.subgraph, detail.fromNode)
    );
  },
};

// The pack may be installed twice; the second copy then does nothing.
if (!app.extensions?.some((one) => one.name === extension.name)) app.registerExtension(extension);
