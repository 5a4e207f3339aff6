/**
 * The strip below the picture: how its detail is spread over the tiles, those with the most first,
 * with a mark for `coverage` that can be moved. Registers nothing.
 */
import { createElement } from "./quadtree_elements.js";
import { captureState, findInput, findWidget, isLinked } from "./quadtree_graph.js";
import { translate } from "./quadtree_texts.js";

const NAME = "coverage";
const STEP = 0.01; // of the widget
const KEYS = {
  ...{ ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP },
  ...{ PageDown: -10 * STEP, PageUp: 10 * STEP, Home: -1, End: 1 },
};

export const DETAIL_STYLE = `
.qt-detail { display: flex; align-items: center; gap: 6px; }
.qt-spread { position: relative; flex: 1 1 60px; height: 18px; cursor: ew-resize;
  touch-action: none; background: var(--comfy-input-bg, #222); }
.qt-spread i { position: absolute; inset: 0; }
.qt-spread b { position: absolute; top: -1px; bottom: -1px; width: 3px; margin-left: -1px;
  background: white; box-shadow: 0 0 0 1px black; }
`;

/** Returns where a rising curve over 0..1 reaches a value, and the value at a place of it. */
const curveOf = (values) => {
  const last = values.length - 1;
  const valueAt = (place) => {
    const index = Math.min(last - 1, Math.floor(place * last));
    return values[index] + (values[index + 1] - values[index]) * (place * last - index);
  };
  const placeOf = (value) => {
    const index = values.findIndex((one) => one >= value);
    if (index <= 0) return index ? 1 : 0;
    const [before, after] = values.slice(index - 1, index + 1);
    return (index - 1 + (value - before) / (after - before)) / last;
  };
  return { valueAt, placeOf };
};

/** Returns the outline of bars of these heights, 0 to 1, as CSS has it. */
function outlineOf(heights) {
  const percent = (share) => `${(100 * share).toFixed(2)}%`;
  const corners = heights.flatMap((height, bar) =>
    [bar, bar + 1].map((edge) => `${percent(edge / heights.length)} ${percent(1 - height)}`)
  );
  return `polygon(0 100%, ${corners.join(", ")}, 100% 100%)`;
}

export class DetailStrip {
  /** `panel` has the node, its tree and its requests. */
  constructor(panel) {
    this.panel = panel;
    this.bars = createElement("i");
    this.mark = createElement("b");
    const title = "How the detail is spread over the tiles. Drag the mark to set coverage.";
    this.strip = createElement("div", { className: "qt-spread", tabIndex: 0, title });
    this.strip.append(this.bars, this.mark);
    this.strip.setAttribute("role", "slider");
    this.strip.setAttribute("aria-label", "Coverage of the detail");
    this.strip.setAttribute("aria-valuemin", 0);
    this.strip.setAttribute("aria-valuemax", 100);
    this.text = createElement("span");
    this.row = createElement("div", { className: "qt-detail", hidden: true }, this.strip, this.text);
    this.listen();
  }

  listen() {
    const { strip } = this;
    strip.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.stopPropagation();
      strip.setPointerCapture(event.pointerId);
      this.follow(event);
    });
    strip.addEventListener("pointermove", (event) => {
      if (strip.hasPointerCapture(event.pointerId)) this.follow(event);
    });
    for (const name of ["pointerup", "pointercancel"]) strip.addEventListener(name, captureState);
    strip.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS)) return;
      event.preventDefault();
      event.stopPropagation();
      this.write(this.widget.value + KEYS[event.key]);
      captureState();
    });
  }

  get widget() {
    return findWidget(this.panel.node, NAME);
  }

  /** Shows the curve of the tree; nothing where coverage is not what decides, or is linked. */
  show() {
    const values = this.panel.tree?.coverage_curve;
    this.row.hidden = !values || isLinked(findInput(this.panel.node, NAME));
    if (this.row.hidden) return;
    const text = values.join();
    if (this.shown !== text) {
      this.shown = text;
      this.curve = curveOf(values);
      const shares = values.slice(1).map((value, index) => value - values[index]);
      const most = Math.max(...shares);
      // Roots, so that calm tiles are seen beside the richest.
      this.bars.style.clipPath = outlineOf(shares.map((share) => Math.cbrt(share / most)));
    }
    this.showMark();
  }

  showMark() {
    const percent = Math.round(100 * this.widget.value);
    const place = `${(100 * this.curve.placeOf(this.widget.value)).toFixed(2)}%`;
    this.mark.style.left = place;
    const colours = [`var(--p-primary-color, #3b82f6) ${place}`, `rgb(128 128 128 / 0.6) ${place}`];
    this.bars.style.background = `linear-gradient(90deg, ${colours.join(", ")})`;
    this.text.textContent = translate("{percent}% of the detail", { percent });
    this.strip.setAttribute("aria-valuenow", percent);
    this.strip.setAttribute("aria-valuetext", this.text.textContent);
  }

  /** Moves the mark to the pointer. */
  follow(event) {
    const box = this.strip.getBoundingClientRect(); // the graph may be zoomed
    const place = (event.clientX - box.left) / box.width;
    this.write(this.curve.valueAt(Math.min(1, Math.max(0, place))));
  }

  write(coverage) {
    const { widget } = this;
    const value = Math.round(Math.min(1, Math.max(0, coverage)) / STEP) * STEP;
    widget.value = Number(value.toFixed(2));
    widget.callback?.(widget.value);
    this.panel.node.setDirtyCanvas?.(true); // classic nodes draw the widget's number there
    this.panel.schedule();
    this.showMark();
  }
}
