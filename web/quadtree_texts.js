/**
 * The panel's texts in the language of the frontend: English is the key, {names} stand for values.
 * Registers nothing.
 */
import { app } from "../../scripts/app.js";
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

/** Translates what our nodes tell while they run, once the frontend has shown it. */
export function translateProgress({ text }, nodes) {
  const translated = currentTable() ? translateFinished(text) : text;
  if (translated === text) return;
  setTimeout(() => {
    for (const node of nodes()) {
      const widget = node.comfyClass?.startsWith("Quadtree") && findShown(node, text);
      if (widget) widget.value = translated;
    }
  });
}

const findShown = (node, text) => node.widgets?.find(({ value }) => value === text);
