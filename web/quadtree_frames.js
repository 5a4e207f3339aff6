/**
 * The slider below the picture of a clip: which of its frames is shown, with its tree. Registers
 * nothing.
 */
import { createElement, createSlider } from "./quadtree_elements.js";
import { translate } from "./quadtree_texts.js";

export const FRAMES_STYLE = `
.qt-frames { display: flex; align-items: center; gap: 6px; }
.qt .qt-frames input[type="range"] { flex: 1 1 60px; }
`;

export class FrameSlider {
  /** `panel` has the tree of a frame, and asks for that of another. */
  constructor(panel) {
    this.panel = panel;
    const limits = { min: 0, max: 1, step: 1, value: 0 };
    this.slider = createSlider("Frame of the clip", "Look at a frame of the clip", limits);
    this.text = createElement("span");
    this.row = createElement("div", { className: "qt-frames", hidden: true });
    this.row.append(this.slider, this.text);
    this.slider.addEventListener("input", () => {
      this.describe();
      panel.schedule();
    });
  }

  /** Returns the place of the frame among those that are shown; undefined where there is no clip. */
  get place() {
    return this.frames ? Number(this.slider.value) : undefined;
  }

  /** Shows the slider where the picture is a frame of a clip. */
  show() {
    const { tree } = this.panel;
    if (!tree) return; // the frame is shown again once there is a tree
    this.frames = tree.frames;
    this.row.hidden = !this.frames;
    if (!this.frames) return;
    this.slider.max = this.frames.shown.length - 1;
    this.describe();
  }

  describe() {
    const { count, shown } = this.frames;
    const values = { number: shown[this.place] + 1, count };
    this.text.textContent = translate("frame {number} of {count}", values);
    this.slider.setAttribute("aria-valuetext", this.text.textContent);
  }
}
