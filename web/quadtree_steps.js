/**
 * The step scrubber below the picture: what a run does at each step, before it and while it
 * samples. Registers nothing.
 *
 * The server plans the steps (POST /quadtree/preview with `steps`), when they are first asked for.
 */
import { createElement, createSlider } from "./quadtree_elements.js";
import { explain, requestPreview } from "./quadtree_price.js";
import { translate } from "./quadtree_texts.js";

const PLAY_MS = 300; // per step
const SETTLED_MS = 250; // the plan is asked this long after the last change
const TYPICAL_STEPS = 20; // shown until the server has told

export const STEPS_STYLE = `
.qt-steps { display: flex; align-items: center; gap: 6px; }
.qt .qt-steps input[type="range"] { flex: 1 1 60px; }
.qt-steps span { flex: 0 1 auto; }
.qt-view img.qt-live { background: black; }
`;

export class Scrubber {
  /** `panel` has the tree, its leaves and the body of its request, and draws. */
  constructor(panel) {
    this.panel = panel;
    this.plan = null; // of the tree that is shown
    this.problem = ""; // why there is none
    this.play = createElement("button", {
      ...{ type: "button", textContent: "\u25b6", title: "Play the steps of the run" },
    });
    this.play.setAttribute("aria-label", "Play the steps");
    this.slider = createSlider("Step of the run", "Look at a step of the run; 0: the whole tree", {
      ...{ min: 0, max: TYPICAL_STEPS, step: 1 },
      value: 0,
    });
    this.text = createElement("span");
    this.row = createElement("div", { className: "qt-steps" }, this.play, this.slider, this.text);
    this.live = createElement("img", { className: "qt-live", alt: "", hidden: true });
    this.slider.addEventListener("input", () => {
      this.stop();
      this.show();
    });
    this.play.addEventListener("click", () => (this.playing ? this.stop() : this.start()));
    this.show();
  }

  get step() {
    return Number(this.slider.value);
  }

  set step(step) {
    this.slider.value = step;
    this.show();
  }

  /** Returns the step that is looked at, as drawStep takes it; null where none is. */
  shown() {
    const index = this.step - 1;
    if (index < 0 || !this.plan) return null;
    return { held: this.plan.held, windows: this.plan.windows[index] ?? [], index };
  }

  /** Shows the step that is chosen, and asks for its plan where it is not known. */
  show() {
    const { plan, problem, step } = this;
    const isEmpty = !this.panel.tree;
    this.slider.disabled = this.play.disabled = isEmpty;
    if (step && !plan && !problem && !isEmpty) this.schedule();
    this.text.textContent = step && !isEmpty ? this.describe() : translate("steps");
    this.slider.setAttribute("aria-valuetext", this.text.textContent);
    this.panel.draw();
  }

  describe() {
    const { plan, problem, step } = this;
    if (!plan) return problem || translate("planning ...");
    const count = plan.windows[step - 1].length / 4;
    const percent = Math.round(plan.shares[step - 1] / 10);
    const values = { step, steps: plan.windows.length, count, percent };
    return translate("step {step} of {steps}, {percent}%, windows: {count}", values);
  }

  // ---- The plan

  /** Forgets the plan of a tree that is no longer shown. */
  forget() {
    const count = this.panel.tree?.steps;
    if (this.panel.asked !== this.planned) {
      this.plan = this.planned = null;
      this.problem = "";
      if (count && !this.following) this.slider.max = count;
    }
    if (!this.panel.tree) this.stop();
    this.show();
  }

  schedule() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), SETTLED_MS);
  }

  async ask() {
    const { panel } = this;
    const { asked } = panel;
    if (!panel.tree || this.planned === asked) return;
    if (this.busy) return this.schedule();
    this.busy = true;
    try {
      const { plan } = await requestPreview({ ...JSON.parse(asked), steps: true });
      if (panel.dead || panel.asked !== asked) return;
      this.planned = asked;
      this.take(plan);
    } catch (error) {
      if (panel.asked === asked) this.giveUp(explain(error));
    } finally {
      this.busy = false;
    }
  }

  /** Says why there is no plan, until another tree is shown. */
  giveUp(problem) {
    this.problem = problem;
    this.stop();
    this.show();
  }

  take(plan) {
    this.plan = plan;
    this.slider.max = plan.windows.length;
    if (this.late) this.follow(this.late);
    this.show();
  }

  // ---- Playing, and following a run

  start() {
    const last = Number(this.slider.max);
    this.play.textContent = "\u25a0";
    if (this.step === last) this.slider.value = 0;
    this.playing = setInterval(() => {
      if (this.step && !this.plan) return; // it is still planned
      this.step += 1;
      if (this.step >= Number(this.slider.max)) this.stop();
    }, PLAY_MS);
  }

  stop() {
    clearInterval(this.playing);
    this.playing = 0;
    this.play.textContent = "\u25b6";
  }

  /** Follows a sampler's progress: the event's `node` has done `value` steps of `max`. */
  follow(progress) {
    this.late = progress;
    // Not by schedule(): a fast sampler would put the question off again and again.
    if (!this.plan) return this.busy || this.problem || this.ask();
    const { node, value, max } = progress;
    this.isOurs = String(node) === this.plan.sampler && max === this.plan.windows.length;
    if (!this.isOurs) {
      this.live.hidden = true;
      return;
    }
    this.following = true;
    this.stop();
    this.step = value;
  }

  /** Shows core's picture of the latent behind the tiles, while a run is followed. */
  showLive(blob) {
    if (!this.following || !this.isOurs) return;
    URL.revokeObjectURL(this.live.src);
    this.live.src = URL.createObjectURL(blob);
    this.live.hidden = false;
  }

  /** Ends following: the run is over. */
  rest() {
    this.late = null;
    if (!this.following) return;
    this.following = false;
    URL.revokeObjectURL(this.live.src);
    this.live.hidden = true;
    this.step = 0;
  }

  destroy() {
    this.rest();
    this.stop();
    clearTimeout(this.timer);
  }
}
