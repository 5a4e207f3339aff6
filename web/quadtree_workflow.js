/**
 * Collects the part of the workflow that the panel's picture and price depend on, as ComfyUI's API
 * writes a prompt: what leads to the panel's node, and the samplers that use its tree with what
 * leads to them. The server reads it. Registers nothing.
 */
import { app } from "../../scripts/app.js";
import {
  allGraphs, BYPASSED, findAllHosts, findInput, findWidget, isLinked, MUTED, readInput,
} from "./quadtree_graph.js";
import { translate } from "./quadtree_texts.js";

// What comes through inputs of these types does not change the price.
const PRICELESS_TYPES = new Set([
  ...["CLIP", "VAE", "CONTROL_NET", "STYLE_MODEL"],
  ...["CLIP_VISION", "CLIP_VISION_OUTPUT"],
]);
// Random seeds change with every run, and would ask for the same price again.
const SEEDS = new Set(["seed", "noise_seed"]);
const VISUALIZER = "QuadtreeVisualizer";
const PLAIN = new Set(["number", "boolean"]);
const LONGEST_TEXT = 512;
const COMMENTS = /\/\*[\s\S]*?\*\/|\/\/.*/g; // which the frontend takes out of prompts
const MOST_NODES = 2048; // the server's limit, too

/** Returns a node's id as in a prompt: those of the subgraphs that it lies in, then its own. */
export const pathOf = (node, hosts) => [...hosts, node].map(({ id }) => id).join(":");

/**
 * Returns {node, workflow}: the path of a node, and the nodes that it needs and that need it. Throws
 * an error that says so where these are too many.
 */
export function collectWorkflow(node, hosts) {
  const path = pathOf(node, hosts);
  const found = new Map();
  // All of what leads to the node tells whether the image of its last run is still right.
  collect(node, hosts, found, () => false);
  for (const graph of allGraphs()) {
    const samplers = graph.nodes.filter(isSampler);
    const ways = samplers.length ? findAllHosts(graph) : [];
    for (const around of ways.filter((way) => !way.some(isOff)))
      for (const sampler of samplers) {
        const needed = new Map();
        collect(sampler, around, needed, isPriceless);
        if (needed.has(path)) addMissing(found, needed);
      }
  }
  checkCount(found);
  return { node: path, workflow: Object.fromEntries(found) };
}

function checkCount(found) {
  if (found.size <= MOST_NODES) return;
  const count = MOST_NODES;
  throw new Error(translate("more than {count} nodes belong to its image and its runs", { count }));
}

const isOff = (node) => node.mode === MUTED || node.mode === BYPASSED;

function isSampler(node) {
  const gets = (type) => node.inputs?.some((input) => input.type === type && isLinked(input));
  return !isOff(node) && gets("LATENT") && (gets("MODEL") || gets("GUIDER"));
}

function addMissing(found, others) {
  for (const [key, value] of others) if (!found.has(key)) found.set(key, value);
}

/** Returns whether an input is what was painted, which is sent beside the workflow. */
const isPainted = (name, node) => name === "regions" && node.comfyClass === VISUALIZER;

/** Returns whether an input of a sampler, or of what leads to it, does not change the price. */
function isPriceless(name, type, node) {
  const isText = type === "STRING" && node.outputs?.some((output) => output.type === "CONDITIONING");
  return isText || SEEDS.has(name) || PRICELESS_TYPES.has(type);
}

/**
 * Returns whether a widget is no value of its node: a text that a run shows, a button, or what
 * becomes of a seed after a run.
 */
const isShownOnly = ({ name, options }) =>
  !name || name.startsWith("$$") || options?.serialize === false;

/** Adds a node, and all that leads to it but through inputs that `skips`, to `found`. */
function collect(node, hosts, found, skips) {
  const path = pathOf(node, hosts);
  if (found.has(path)) return;
  const inputs = {};
  found.set(path, { class_type: node.comfyClass ?? node.type, inputs });
  checkCount(found);
  const values = (node.widgets ?? []).filter((widget) => !isShownOnly(widget));
  const names = [...(node.inputs ?? []), ...values].map(({ name }) => name);
  for (const name of new Set(names)) {
    if (isPainted(name, node) || skips(name, findInput(node, name)?.type, node)) continue;
    const value = readInput(node, name, hosts);
    if (value?.node) {
      inputs[name] = [pathOf(value.node, value.hosts), value.slot];
      collect(value.node, value.hosts, found, skips);
    } else if (typeof value === "string") {
      const isOwn = !isLinked(findInput(node, name)) && findWidget(node, name)?.dynamicPrompts;
      const text = isOwn ? value.replace(COMMENTS, "") : value;
      inputs[name] = [...text].slice(0, LONGEST_TEXT).join("");
    } else if (PLAIN.has(typeof value)) inputs[name] = value;
  }
}

/** Returns the file of the image that the node before an image input shows, if it shows any. */
export function findShownImage(node, hosts) {
  const before = readInput(node, "image", hosts);
  const shown = before?.node?.imgs?.length && outputOf(before)?.images?.[0];
  if (!shown?.filename) return undefined;
  const { filename, subfolder, type } = shown;
  return `${subfolder ? `${subfolder}/` : ""}${filename} [${type ?? "output"}]`;
}

/** Returns what the server last told of a node's outputs. */
function outputOf({ node, hosts }) {
  const graph = hosts.at(-1)?.subgraph;
  return app.nodeOutputs?.[graph ? `${graph.id}:${node.id}` : String(node.id)];
}
