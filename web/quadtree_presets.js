/**
 * The widget `preset` of Quadtree Visualizer: choosing one sets other widgets, and editing one of
 * these makes it "custom". The values come with the node's definition. Registers nothing.
 */
import { findWidget } from "./quadtree_graph.js";

const CUSTOM = "custom";

/** Makes the widget `preset` of a new node set the others; `chain` adds to a method. */
export function connectPreset(node, chain) {
  const preset = findWidget(node, "preset");
  if (preset) chain(preset, "callback", () => applyPreset(node));
}

/** Returns the values that the chosen preset has; undefined for custom ones. */
function valuesOf(node) {
  const options = node.constructor.nodeData?.input?.optional?.preset?.[1];
  return options?.presets?.[findWidget(node, "preset")?.value];
}

function applyPreset(node) {
  for (const [name, value] of Object.entries(valuesOf(node) ?? {})) {
    const widget = findWidget(node, name);
    if (!widget || widget.value === value) continue;
    widget.value = value;
    widget.callback?.(value);
  }
  node.setDirtyCanvas?.(true, true);
}

/** Makes the preset "custom" where a value is no longer its own. */
export function checkPreset(node) {
  const edited = ([name, value]) => findWidget(node, name)?.value !== value;
  if (Object.entries(valuesOf(node) ?? {}).some(edited)) findWidget(node, "preset").value = CUSTOM;
}
