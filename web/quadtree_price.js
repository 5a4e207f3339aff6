/** Asks what the runs with a tree will cost, and says it in words. Registers nothing. */
import { api } from "../../scripts/api.js";
import { translate, translateFinished } from "./quadtree_texts.js";

const PACES = "quadtree.seconds_per_cell"; // in the browser's storage, which is per server
const MOST_PACES = 50;
const SETTLED_MS = 200; // the price is asked this long after the last change

const ASSUMED = {
  run: "a typical run", // no Quadtree Diffusion with a sampler follows
  model: "a typical model",
  size: "a latent of the size of this image",
  steps: "20 steps",
  sigmas: "sigmas of that many steps", // unknown nodes change them
  "noise mask": "no noise mask",
  prompts: "every prompt everywhere",
  settings: "default settings",
};

/** Returns the price in the server's answer for the status line; empty while it has none. */
export function describePrice({ cost, steps, cells, model, assumed, problem }) {
  if (problem) {
    const values = { problem: translateFinished(problem) };
    return `, ${translate("but the run would end with an error: {problem}", values)}`;
  }
  if (cost === undefined) return "";
  const percent = Math.round(100 * cost);
  const price = "about {percent}% of the full model cost at {steps} steps";
  const parts = ["", translate(price, { percent, steps })];
  const seconds = cells * readPaces()[model];
  if (seconds >= 0) parts.push(translate("about {time}", { time: formatSeconds(seconds) }));
  const what = assumed.map((one) => translate(ASSUMED[one])).join(", ");
  return parts.join(", ") + (what ? ` (${translate("assuming {what}", { what })})` : "");
}

function formatSeconds(seconds) {
  const [minutes, rest] = [Math.floor(Math.round(seconds) / 60), Math.round(seconds) % 60];
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}

// ---- How fast each model runs here

/** Returns the seconds per evaluated cell of each model, by its name; none if unreadable. */
function readPaces() {
  try {
    return JSON.parse(localStorage.getItem(PACES)) ?? {};
  } catch {
    return {};
  }
}

/** Keeps the pace of a run that has ended, for the next price of the same model. */
export function keepPace({ model, cells, seconds }) {
  const { [model]: _, ...others } = readPaces();
  const kept = Object.entries(others).slice(1 - MOST_PACES);
  const paces = Object.fromEntries([...kept, [model, seconds / cells]]);
  try {
    localStorage.setItem(PACES, JSON.stringify(paces));
  } catch {
    // No room, or not allowed: the panel then shows no seconds.
  }
}

/** What the server says in the place of an answer. */
class Refusal extends Error {}

/**
 * Asks for a tree, with `cost` also for its price and with `steps` for the plan of its steps. Throws
 * what `explain` puts into words.
 */
export async function requestPreview(body) {
  const options = { method: "POST", body: JSON.stringify(body) };
  const response = await api.fetchApi("/quadtree/preview", options);
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const { status } = response;
  const rejected = translate("The server rejected the preview ({status}).", { status });
  throw new Refusal(answer.error ? translateFinished(answer.error) : rejected);
}

/** Says why there is no answer: the server's words, or what went wrong on the way. */
export function explain(error) {
  if (error instanceof Refusal) return error.message;
  const reason = error?.message ?? error;
  return translate("The preview is not available: {reason}", { reason });
}

/**
 * Asks for the price of a panel's tree once its changes have settled.
 *
 * At a large image it takes a second or two, so trees are asked for meanwhile; the answer counts if
 * nothing has changed since.
 */
export class PriceInquiry {
  constructor(panel) {
    this.panel = panel;
  }

  schedule(body) {
    this.cancel();
    this.body = body;
    this.timer = setTimeout(() => this.ask(body), SETTLED_MS);
  }

  /** Asks again for the price of the same tree: its model may be better known now. */
  refresh() {
    if (this.body) this.schedule(this.body);
  }

  cancel() {
    clearTimeout(this.timer);
  }

  async ask(body) {
    if (this.busy) return this.schedule(body);
    this.busy = true;
    try {
      const tree = await requestPreview({ ...body, cost: true });
      const isCurrent = !this.panel.dead && this.panel.asked === JSON.stringify(body);
      if (isCurrent) this.panel.showAnswer(tree);
    } catch {
      // The tree stays without a price; where the server has gone, the next request says so.
    } finally {
      this.busy = false;
    }
  }
}
