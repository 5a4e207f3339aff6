/**
 * The panel's texts in the language of the frontend: English is the key, {names} stand for values.
 * Registers nothing.
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { TABLES } from "./quadtree_translations.js";

const PLACEHOLDER = /\{(\w+)\}/g;

/** Returns the translations into the frontend's language; undefined for English and others. */
const currentTable = () => TABLES[app.extensionManager?.setting?.get("Comfy.Locale")];

const fill = (template, values) => template.replace(PLACEHOLDER, (_, name) => values[name] ?? "");

/** Returns an English text in the frontend's language, with its values. */
export function translate(english, values = {}) {
  return fill(currentTable()?.[english] ?? english, values);
}

/** Returns the expression that a finished text of a template fits. */
function toPattern(template) {
  const escaped = template.replace(/[.*+?^$()|[\]\\/]/g, "\\$&");
  return new RegExp(`^${escaped.replace(PLACEHOLDER, "(?<$1>.+?)")}$`);
}

const patterns = new WeakMap(); // table -> [expression, translation] of each text with values

function patternsOf(table) {
  if (!patterns.has(table)) {
    const withValues = Object.entries(table).filter(([template]) => template.includes("{"));
    patterns.set(table, withValues.map(([template, text]) => [toPattern(template), text]));
  }
  return patterns.get(table);
}

/** Returns a finished English text in the frontend's language, if it is known. */
export function translateFinished(text) {
  const table = currentTable();
  if (!table) return text;
  if (table[text]) return table[text];
  for (const [pattern, translation] of patternsOf(table)) {
    const found = pattern.exec(text);
    if (found) return fill(translation, found.groups);
  }
  return text;
}

/** Translates the texts, titles and names for screen readers of all elements in `root`. */
export function translateLabels(root) {
  if (!currentTable()) return;
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = translateFinished(texts.currentNode.data);
  for (const element of [root, ...root.querySelectorAll("*")])
    for (const name of ["title", "aria-label"])
      if (element.hasAttribute(name))
        element.setAttribute(name, translateFinished(element.getAttribute(name)));
}

/** Returns the widget in which a node shows this text. */
const findShown = (node, text) => node.widgets?.find(({ value }) => value === text);

/**
 * Translates what our nodes tell while they run, once the frontend has shown it, and keeps the last
 * text of a run on its node: frontends from 1.58 on take it away when the job ends. `nodes` returns
 * the nodes of the workflow, and `ends` are the events at the end of a job.
 */
export function followTexts(nodes, ends) {
  const told = new Map(); // node -> what it told last
  const ours = () => nodes().filter((node) => node.comfyClass?.startsWith("Quadtree"));
  const take = (detail) => {
    const id = String(detail.nodeId).split(":").at(-1); // behind those of its subgraphs
    const node = ours().find((one) => String(one.id) === id && findShown(one, detail.text));
    if (!node) return;
    told.set(node, detail);
    findShown(node, detail.text).value = translateFinished(detail.text);
  };
  const restore = () => {
    const present = ours();
    for (const [node, { nodeId, text }] of told) {
      const isGone = present.includes(node) && !findShown(node, translateFinished(text));
      if (isGone) api.dispatchCustomEvent("progress_text", { nodeId, text });
    }
    told.clear();
  };
  api.addEventListener("progress_text", ({ detail }) => setTimeout(() => take(detail)));
  for (const end of ends) api.addEventListener(end, () => setTimeout(restore));
}
