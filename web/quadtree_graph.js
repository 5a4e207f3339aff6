/**
 * Finds what reaches a node in the browser's graph: the value of an input, or the node that computes
 * it. Registers nothing: ComfyUI loads every script in this folder, so only quadtree.js may have
 * effects of its own.
 */
import { app } from "../../scripts/app.js";

const SUBGRAPH_INPUTS = -10; // the node id that links from a subgraph's own inputs have
export const MUTED = 2; // values of node.mode
export const BYPASSED = 4;

// Subgraph -> the node through which it was last opened; several nodes may share a subgraph.
const openedFrom = new WeakMap();

export const isLinked = (input) => linkInto(input) !== null;
export const findInput = (node, name) => node.inputs?.find((input) => input.name === name);
export const findWidget = (node, name) => node.widgets?.find((widget) => widget.name === name);
export const rootGraph = () => app.rootGraph ?? app.graph;

/**
 * Returns the link into an input of a node, or null. Newer frontends deprecate `input.link`; and the
 * method of a subgraph's node means a link inside of it, so that of plain nodes is called.
 */
function linkInto(input) {
  const node = input?.node;
  if (!node?.graph) return null;
  const { getInputLink } = globalThis.LiteGraph.LGraphNode.prototype;
  return getInputLink.call(node, node.inputs.indexOf(input));
}

/** Tells ComfyUI's undo and its restore after a reload about a change that no widget made. */
export function captureState() {
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
}

/** Returns all graphs of the workflow: the root and every subgraph. */
export function allGraphs() {
  const root = rootGraph();
  return [root, ...(root.subgraphs?.values() ?? [])];
}

/** Remembers through which node a subgraph was opened. */
export function rememberOpened(subgraph, node) {
  openedFrom.set(subgraph, node);
}

/** Returns the nodes through which a graph is reached from the root, the outermost first. */
export function findHosts(graph) {
  if (graph === rootGraph()) return [];
  const nodes = [openedFrom.get(graph), ...allGraphs().flatMap((one) => one.nodes)];
  const host = nodes.find((node) => node?.graph && node.subgraph === graph);
  return host ? [...findHosts(host.graph), host] : [];
}

/** Returns every way from the root to a graph, each as findHosts has it. */
export function findAllHosts(graph) {
  if (graph === rootGraph()) return [[]];
  return allGraphs().flatMap((one) => {
    const inside = one.nodes.filter((node) => node.subgraph === graph);
    return inside.flatMap((host) => findAllHosts(one).map((hosts) => [...hosts, host]));
  });
}

/** Returns what an input of a node gets: its widget's value, or what its link leads to. */
export function readInput(node, name, hosts) {
  const link = linkInto(findInput(node, name));
  if (link) return followLink(node.graph, link, hosts);
  return findWidget(node, name)?.value;
}

/**
 * Follows a link through reroutes, bypassed nodes and subgraphs. Returns the value it leads to,
 * {node, hosts, slot} for the output of the node that computes one, or undefined.
 *
 * The frontend's own graphToPrompt does this as well, but it makes every widget serialize itself,
 * and some widgets upload a file then.
 */
function followLink(graph, link, hosts) {
  if (Number(link.origin_id) === SUBGRAPH_INPUTS) return leaveSubgraph(graph, link, hosts);
  const node = graph.getNodeById(link.origin_id);
  if (!node || node.mode === MUTED) return undefined;
  const follow = (input) => {
    const before = linkInto(input);
    return before ? followLink(graph, before, hosts) : undefined;
  };
  if (node.mode === BYPASSED) return follow(bypassInput(node, link));
  if (node.isSubgraphNode?.()) {
    const id = node.subgraph.outputs[link.origin_slot]?.linkIds[0];
    const inner = id === undefined ? null : node.subgraph.getLink(id);
    return inner ? followLink(node.subgraph, inner, [...hosts, node]) : undefined;
  }
  if (node.isVirtualNode) {
    const setter = findSetter(node, hosts);
    if (setter) return readInput(setter.node, setter.node.inputs[0].name, setter.hosts);
    return node.inputs?.length ? follow(node.inputs[0]) : node.widgets?.[0]?.value;
  }
  if (node.comfyClass?.startsWith("Primitive")) return readInput(node, "value", hosts);
  return { node, hosts, slot: link.origin_slot };
}

/** Follows a link that comes from a subgraph's own input to the node that holds the subgraph. */
function leaveSubgraph(graph, link, hosts) {
  const host = hosts.at(-1);
  const input = host && findInput(host, graph.inputs[link.origin_slot]?.name);
  if (!input) return undefined;
  const before = linkInto(input);
  if (!before) return host.getWidgetFromSlot?.(input)?.value;
  return followLink(host.graph, before, hosts.slice(0, -1));
}

/** Returns the input that a bypassed node passes on to an output, as ComfyUI chooses it. */
function bypassInput({ inputs, outputs }, { origin_slot: slot, type }) {
  const fits = (input) =>
    input && [type, outputs[slot].type].every((one) => LiteGraph.isValidConnection(input.type, one));
  return [inputs[slot], inputs.find((input) => input.type === type), ...inputs].find(fits);
}

/**
 * Returns {node, hosts} for the Set node that a Get node of KJNodes names: of its own graph, or else
 * of the nearest around it. Undefined for other nodes, and where there is none.
 */
function findSetter(getter, hosts) {
  if (getter.type !== "GetNode") return undefined;
  const name = getter.widgets?.[0]?.value;
  const isNamed = (node) => node.type === "SetNode" && node.widgets?.[0]?.value === name;
  for (let depth = hosts.length; depth >= 0; depth--) {
    const { graph } = hosts[depth] ?? getter;
    const node = graph.nodes.find(isNamed);
    if (node) return { node, hosts: hosts.slice(0, depth) };
  }
  return undefined;
}
