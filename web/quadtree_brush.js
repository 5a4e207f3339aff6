/** The brush of the panel: its tools, its strokes and what they write. Registers nothing. */
import { app } from "../../scripts/app.js";
import { createElement, createSlider } from "./quadtree_elements.js";
import { captureState, findInput, findWidget, isLinked } from "./quadtree_graph.js";
import {
  findBorders, readRegions, regionAt, regionOf, simplify, writeRegions,
} from "./quadtree_regions.js";
import { Stroke } from "./quadtree_stroke.js";
import { translate } from "./quadtree_texts.js";

const TOOLS = {
  keep: { key: "k", label: "Keep", title: "Paint what stays as it is (denoise 0)" },
  value: { key: "v", label: "Value", title: "Paint with the denoise beside it" },
  full: { key: "f", label: "Full", title: "Paint what is fully regenerated (denoise 1)" },
  auto: { key: "e", label: "Erase", title: "Leave to the tree again; right click does it, too" },
};
const HINTS = "Shift: a rectangle. Esc: no tool.";
const KIND_TEXT = { keep: "keep", full: "full", value: "painted" };
const DENOISE = { keep: 0, full: 1 };
const SIZES = [0, 2, 4, 8, 12, 16, 24, 32, 48]; // of the brush, in % of the longer side; 0: a tile
const DIGITS = "0123456789";
const MOST_UNDO = 50;

export const BRUSH_STYLE = `
.qt-tools > div { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; }
.qt-tools > div + div { margin-top: 4px; min-height: 24px; gap: 4px 10px; font-size: 11px; }
.qt-tools span { display: inline-flex; align-items: center; gap: 4px; }
.qt-tools .qt-option { flex: 1 1 auto; max-width: 140px; }
.qt-tools .qt-undo { margin-left: auto; }
.qt [hidden] { display: none; }
.qt input[type="range"] { flex: 1 1 36px; width: 36px; min-width: 0; margin: 0;
  accent-color: var(--p-primary-color, #6af); }
.qt button[aria-pressed="true"] { background: var(--p-primary-color, #3b82f6); color: white;
  border-color: white; }
.qt-painting canvas { cursor: crosshair; }
.qt-ring { position: absolute; border: 1px solid white; border-radius: 50%; pointer-events: none;
  box-shadow: 0 0 0 1px black, inset 0 0 0 1px black; transform: translate(-50%, -50%); }
.qt-tools i { width: 12px; height: 12px; border: 1px solid var(--border-color, #666); }
.qt-tools i.qt-scale { width: 36px; background: linear-gradient(90deg,
  rgb(26 89 255), rgb(255 38 13)); }
.qt-tools i.qt-hatch { border-color: white; background: repeating-linear-gradient(45deg,
  #444 0 2px, white 2px 3px, #444 3px 4px); }
`;

export class Brush {
  /** `panel` has the node, its tree, leaves and grid, and draws. */
  constructor(panel) {
    this.panel = panel;
    this.undone = [];
    this.tool = null;
    this.fills = false;
    this.opacity = 1; // of the tiles over the picture
    this.touches = new Map(); // pointer id -> where each finger is
    this.build();
  }

  // ---- What the panel shows of it

  build() {
    this.buttons = Object.entries(TOOLS).map(([tool, { key, label, title }]) => {
      const button = this.createButton(label, `${title}. Key: ${key.toUpperCase()}. ${HINTS}`);
      button.addEventListener("click", () => this.takeTool(this.tool === tool ? null : tool));
      return button;
    });
    this.value = createSlider("Denoise to paint", "Denoise of the tool Value. Keys: 0-9", {
      ...{ min: 0, max: 1, step: 0.05 },
      value: 0.5,
    });
    this.valueText = createElement("span");
    this.size = createSlider("Brush size", "Size of the brush. Keys: [ and ]", {
      ...{ min: 0, max: SIZES.length - 1, step: 1 },
      value: 0,
    });
    this.sizeText = createElement("span");
    this.fillButton = this.createButton(
      "Fill", "A click paints all connected tiles of the same denoise. Key: G"
    );
    this.fillButton.addEventListener("click", () => this.setFills(!this.fills));
    this.undoButton = this.createButton("Undo", "Undo the last painted change. Keys: Ctrl+Z");
    this.clearButton = this.createButton("Clear", "Remove all painted regions");
    this.undoButton.addEventListener("click", () => this.undo());
    this.clearButton.addEventListener("click", () => this.setRegions("", true));
    this.undoButton.className = "qt-undo";
    for (const slider of [this.value, this.size])
      slider.addEventListener("input", () => this.showTools());
    const buttons = [...this.buttons, this.undoButton, this.clearButton];
    this.toolbar = createElement(
      "div", { className: "qt-tools" }, createElement("div", {}, ...buttons), this.buildOptions()
    );
    this.toolbar.setAttribute("role", "toolbar");
    this.toolbar.setAttribute("aria-label", "Paint tiles");
    this.ring = createElement("div", { className: "qt-ring", hidden: true });
    this.showTools();
  }

  createButton(textContent, title) {
    return createElement("button", { type: "button", textContent, title });
  }

  /**
   * Makes the row below the tools: it explains the colours, and with a tool in hand it has what the
   * tool can be told, so that the picture stays where it is.
   */
  buildOptions() {
    const colour = (className, text) =>
      createElement("span", {}, createElement("i", { className }), text);
    const group = (...children) => createElement("span", { className: "qt-option" }, ...children);
    this.legend = [colour("qt-scale", "kept to regenerated"), colour("qt-hatch", "painted")];
    this.valueGroup = group("denoise", this.value, this.valueText);
    this.options = [this.valueGroup, group("size", this.size, this.sizeText), this.fillButton];
    const opacity = createSlider("Opacity of the tiles", "Opacity of the tiles", {
      ...{ min: 0, max: 1, step: 0.05 },
      value: this.opacity,
    });
    opacity.addEventListener("input", () => {
      this.opacity = Number(opacity.value);
      this.panel.canvas.style.opacity = this.opacity;
    });
    return createElement("div", {}, ...this.legend, ...this.options, group("opacity", opacity));
  }

  takeTool(tool) {
    if (tool && !this.canPaint()) return;
    this.cancelStroke();
    this.tool = tool;
    this.showTools();
  }

  setFills(fills) {
    this.fills = fills;
    this.showTools();
  }

  showTools() {
    Object.keys(TOOLS).forEach((tool, number) => {
      this.buttons[number].setAttribute("aria-pressed", tool === this.tool);
    });
    this.fillButton.setAttribute("aria-pressed", this.fills);
    this.valueText.textContent = Number(this.value.value).toFixed(2);
    const percent = SIZES[this.size.value];
    this.sizeText.textContent = percent ? `${percent}%` : translate("tile");
    for (const element of this.legend) element.hidden = Boolean(this.tool);
    for (const element of this.options) element.hidden = !this.tool;
    this.valueGroup.hidden = this.tool !== "value";
    this.showState();
  }

  /** Shows what can be used with the picture as it is. */
  showState() {
    this.panel.view.classList.toggle("qt-painting", this.isInHand());
    if (!this.isInHand()) this.ring.hidden = true;
    for (const button of [...this.buttons, this.fillButton]) button.disabled = !this.canPaint();
    this.undoButton.disabled = !this.undone.length;
    this.clearButton.disabled = this.isReadOnly() || !this.regionsText();
  }

  /** Shows the brush under the pointer. */
  showRing(event) {
    const { panel } = this;
    const radius = this.radius();
    const shown = this.isInHand() && !this.fills && radius && event.pointerType !== "touch";
    this.ring.hidden = !shown;
    if (!shown) return;
    const { scale, x, y } = panel.imagePlace();
    const [across, down] = panel.pointOf(event);
    const side = `${2 * radius * scale}px`;
    const place = { left: `${x + across * scale}px`, top: `${y + down * scale}px` };
    Object.assign(this.ring.style, { ...place, width: side, height: side });
  }

  /** Returns the radius of the brush in px of the image; 0 for a brush of whole tiles. */
  radius() {
    const { width, height } = this.panel.tree ?? { width: 0, height: 0 };
    return (SIZES[this.size.value] / 200) * Math.max(width, height);
  }

  // ---- The painted regions

  regionsText() {
    const value = findWidget(this.panel.node, "regions")?.value;
    return typeof value === "string" ? value : "";
  }

  /** Returns whether the regions come from a link or a subgraph's widget, and cannot be painted. */
  isReadOnly() {
    const { node } = this.panel;
    return !findWidget(node, "regions") || isLinked(findInput(node, "regions"));
  }

  /** Returns whether there is a picture to paint on, of what the node gets. */
  canPaint() {
    return Boolean(this.panel.tree) && !this.panel.isStale && !this.isReadOnly();
  }

  /** Returns whether a tool is taken and can be used. */
  isInHand() {
    return Boolean(this.tool) && this.canPaint();
  }

  /** Returns the painted regions; none if they were painted on an image of another shape. */
  regions() {
    return this.panel.tree.notice ? [] : readRegions(this.regionsText());
  }

  /** Returns what is painted, as drawPainted takes it; it is computed once per change. */
  painted() {
    const text = this.panel.tree.notice ? "" : this.regionsText();
    if (this.shown?.text !== text) {
      const regions = simplify(readRegions(text));
      this.shown = { text, regions, borders: findBorders(regions) };
    }
    return this.shown;
  }

  regionOfLeaf(leaf) {
    return regionAt(this.painted().regions, leaf, this.panel.tree);
  }

  /** Says in words which denoise a leaf has, and where it comes from. */
  describe(leaf) {
    const [kind, , , , , value] = this.regionOfLeaf(leaf) ?? [];
    const denoise = value ?? DENOISE[kind] ?? leaf.denoise; // the server may not have answered yet
    const values = { denoise: denoise.toFixed(2), kind: translate(KIND_TEXT[kind] ?? "as computed") };
    return translate("denoise {denoise} ({kind})", values);
  }

  setRegions(text, undoable) {
    const before = this.regionsText();
    if (this.isReadOnly() || before === text) return;
    this.write(text);
    if (undoable) this.remember(before);
    captureState();
    this.panel.draw();
  }

  undo() {
    if (this.undone.length) this.setRegions(this.undone.pop(), false);
  }

  remember(before) {
    this.undone = [...this.undone, before].slice(-MOST_UNDO);
  }

  write(text) {
    const widget = findWidget(this.panel.node, "regions");
    widget.value = text;
    widget.callback?.(text);
    this.panel.schedule();
  }

  // ---- Strokes

  /** Begins a stroke at a point in px of the image; `erase` does what the tool Erase does. */
  begin(at, { erase = false, box = false } = {}) {
    const { panel } = this;
    const kind = erase ? "auto" : this.tool;
    this.stroke = {
      ...{ at, box, from: at },
      before: this.regionsText(),
      below: this.regions(),
      paint: kind === "value" ? [kind, Number(this.value.value)] : [kind],
      blocks: new Stroke(panel.grid, panel.leaves, this.radius()),
    };
    const label = (leaf) => `${leaf.denoise} ${this.regionOfLeaf(leaf)?.[0] ?? "auto"}`;
    if (this.fills && !box) this.stroke.blocks.flood(at, label);
    else this.moveTo([at]);
    this.apply();
  }

  /** Goes on to these points, one after the other. */
  moveTo(points) {
    const { stroke } = this;
    for (const point of points) {
      if (stroke.box) stroke.blocks.setBox(stroke.from, point);
      else if (!this.fills) stroke.blocks.addLine(stroke.at, point);
      stroke.at = point;
    }
  }

  /** Writes what the stroke paints so far. */
  apply() {
    const { below, paint, blocks } = this.stroke;
    const { tree } = this.panel;
    const rectangles = blocks.findRectangles(tree);
    const regions = rectangles.map((rectangle) => regionOf(rectangle, tree, paint));
    const text = writeRegions(simplify([...below, ...regions]), tree);
    tree.notice = null; // regions painted on another image have just been replaced
    if (text !== this.regionsText()) this.write(text);
    this.panel.showLine();
    this.panel.draw();
  }

  end() {
    if (!this.stroke) return;
    const { before } = this.stroke;
    this.stroke = null;
    if (before === this.regionsText()) return;
    this.remember(before);
    captureState();
    this.panel.draw();
  }

  /** Takes back a stroke that has not ended. */
  cancelStroke() {
    if (!this.stroke) return;
    this.write(this.stroke.before);
    this.stroke = null;
    this.panel.draw();
  }

  // ---- Pointers and keys

  /** Handles a press; returns whether it is the brush's. */
  press(event) {
    const { panel } = this;
    if (event.pointerType === "touch") this.touches.set(event.pointerId, event);
    if (this.touches.size > 1) {
      this.cancelStroke(); // two fingers zoom and move the graph
      return false;
    }
    const paints = event.button === 0 || event.button === 2;
    if (!paints || !this.isInHand()) return false;
    panel.canvas.setPointerCapture(event.pointerId);
    this.begin(panel.pointOf(event), { erase: event.button === 2, box: event.shiftKey });
    return true;
  }

  move(event) {
    this.showRing(event);
    if (this.stroke) {
      const events = event.getCoalescedEvents?.() ?? [];
      this.moveTo((events.length ? events : [event]).map((one) => this.panel.pointOf(one)));
      this.apply();
    } else if (this.touches.size === 1 && !this.isInHand()) this.panGraph(event);
    if (this.touches.has(event.pointerId)) this.touches.set(event.pointerId, event);
  }

  release(event) {
    this.touches.delete(event.pointerId);
    if (event.type === "pointercancel") this.cancelStroke();
    this.end();
  }

  /** Moves the graph with one finger, as it moves beside the nodes. */
  panGraph(event) {
    const last = this.touches.get(event.pointerId);
    if (!last) return;
    const { ds } = app.canvas;
    ds.offset[0] += (event.clientX - last.clientX) / ds.scale;
    ds.offset[1] += (event.clientY - last.clientY) / ds.scale;
    app.canvas.setDirty(true, true);
  }

  /** Handles a key; returns whether it is the brush's. `at` is the chosen point, or null. */
  handleKey(event, at) {
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      const undoes = key === "z" && !event.shiftKey;
      if (undoes) this.undo();
      return undoes;
    }
    if (event.altKey) return false;
    const tool = Object.keys(TOOLS).find((name) => TOOLS[name].key === key);
    const step = { "[": -1, "]": 1 }[key];
    if (tool) this.takeTool(this.tool === tool ? null : tool);
    else if (key === "escape" && this.tool) this.takeTool(null);
    else if (key === "g") this.setFills(!this.fills);
    else if (step) this.size.value = Number(this.size.value) + step;
    else if (DIGITS.includes(key)) this.value.value = Number(key) / 10;
    else if (key !== "enter" && key !== " ") return false;
    else if (at && this.isInHand()) {
      this.begin(at);
      this.end();
    }
    this.showTools();
    return true;
  }
}
