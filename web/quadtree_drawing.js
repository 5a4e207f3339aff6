/** Draws leaves on a canvas. Registers nothing, like every module here but quadtree.js. */

const SHADES = 24; // steps of the tint from keep to regenerate
const KEEP_RGB = [26, 89, 255];
const REGENERATE_RGB = [255, 38, 13];

// Zooming the graph is a CSS transform that fires no event, so the canvas is twice as fine.
const pixelsPerCssPx = () => 2 * (globalThis.devicePixelRatio || 1);

/**
 * Clears a canvas that is shown at a size in CSS px and returns its context, scaled to CSS px; null
 * if the size is 0.
 */
export function clearCanvas(canvas, cssWidth, cssHeight) {
  const density = pixelsPerCssPx();
  const [width, height] = [Math.round(cssWidth * density), Math.round(cssHeight * density)];
  if (!width || !height) return null;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  context.setTransform(density, 0, 0, density, 0, 0);
  return context;
}

/** Returns "r g b" between blue (denoise 0) and red (denoise 1), as in the node's output image. */
function colourOf(denoise) {
  const mix = (keep, band) => Math.round(keep + (REGENERATE_RGB[band] - keep) * denoise);
  return KEEP_RGB.map(mix).join(" ");
}

/**
 * Draws the leaves, tinted by their denoise, and a white frame around the chosen one, if any.
 *
 * Leaves are in px of the image; `x` and `y` are the image's top left corner in CSS px, and `scale`
 * is CSS px per px of the image.
 */
export function drawLeaves(context, leaves, chosen, { scale, x, y }) {
  const addLeaf = (path, leaf) =>
    path.rect(x + leaf.x * scale, y + leaf.y * scale, leaf.width * scale, leaf.height * scale);
  // One path per shade: thousands of leaves are drawn with a few calls.
  const shades = Array.from({ length: SHADES + 1 }, () => new Path2D());
  for (const leaf of leaves) addLeaf(shades[Math.round(leaf.denoise * SHADES)], leaf);
  context.lineWidth = 1 / pixelsPerCssPx();
  shades.forEach((path, shade) => {
    const colour = colourOf(shade / SHADES);
    context.fillStyle = `rgb(${colour} / 0.3)`;
    context.strokeStyle = `rgb(${colour} / 0.9)`;
    context.fill(path);
    context.stroke(path);
  });
  if (!chosen) return;
  const path = new Path2D();
  addLeaf(path, chosen);
  context.lineWidth = 2;
  context.strokeStyle = "white";
  context.stroke(path);
}
