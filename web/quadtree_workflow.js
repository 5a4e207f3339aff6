/**
 * Collects the part of the workflow that the panel's picture and price depend on, as ComfyUI's API
 * writes a prompt: what leads to the panel's node, and the samplers that use its tree with what
 * leads to them. The server reads it. Registers nothing.
 */
import {
  allGraphs, BYPASSED, findHosts, findInput, isLinked, MUTED, readInput,
} from "./quadtree_graph.js";

// What comes through inputs of these types changes neither picture nor price.
const SKIPPED_TYPES = new Set([
  ...["CONDITIONING", "CLIP", "VAE", "CONTROL_NET", "STYLE_MODEL"],
  ...["CLIP_VISION", "CLIP_VISION_OUTPUT"],
]);
// Random seeds change with every run, and would ask for the same price again.
const SKIPPED_NAMES = new Set(["seed", "noise_seed", "control_after_generate", "regions"]);
const PLAIN = new Set(["string", "number", "boolean"]);
const LONGEST_TEXT = 512;
const MOST_NODES = 512;

/** Returns a node's id as in a prompt: those of the subgraphs that it lies in, then its own. */
export const pathOf = (node, hosts) => [...hosts, node].map(({ id }) => id).join(":");

/** Returns {node, workflow}: the path of a node, and the nodes that it needs and that need it. */
export function collectWorkflow(node, hosts) {
  const path = pathOf(node, hosts);
  const found = new Map();
  collect(node, hosts, found);
  for (const graph of allGraphs()) {
    const around = graph.nodes.some(isSampler) && findHosts(graph);
    if (!around || around.some(isOff)) continue;
    for (const sampler of graph.nodes.filter(isSampler)) {
      const needed = new Map();
      collect(sampler, around, needed);
      if (needed.has(path)) for (const [key, value] of needed) found.set(key, value);
    }
  }
  return { node: path, workflow: found.size > MOST_NODES ? {} : Object.fromEntries(found) };
}

const isOff = (node) => node.mode === MUTED || node.mode === BYPASSED;

function isSampler(node) {
  const gets = (type) => node.inputs?.some((input) => input.type === type && isLinked(input));
  return !isOff(node) && gets("LATENT") && (gets("MODEL") || gets("GUIDER"));
}

/** Adds a node, and all that leads to it, to `found`. */
function collect(node, hosts, found) {
  const path = pathOf(node, hosts);
  if (found.has(path) || found.size > MOST_NODES) return;
  const inputs = {};
  found.set(path, { class_type: node.comfyClass ?? node.type, inputs });
  const names = [...(node.inputs ?? []), ...(node.widgets ?? [])].map(({ name }) => name);
  for (const name of new Set(names)) {
    if (SKIPPED_NAMES.has(name) || SKIPPED_TYPES.has(findInput(node, name)?.type)) continue;
    const value = readInput(node, name, hosts);
    if (value?.node) {
      inputs[name] = [pathOf(value.node, value.hosts), value.slot];
      collect(value.node, value.hosts, found);
    } else if (PLAIN.has(typeof value) && String(value).length <= LONGEST_TEXT) inputs[name] = value;
  }
}
