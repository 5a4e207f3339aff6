/** Makes elements of the panel. Registers nothing. */

export function createElement(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Returns a slider that is read out as `label`; `limits` are its min, max, step and value. */
export function createSlider(label, title, limits) {
  const input = createElement("input", { type: "range", title, ...limits });
  input.setAttribute("aria-label", label);
  return input;
}
