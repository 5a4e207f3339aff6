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
 * Draws the leaves, tinted by their denoise.
 *
 * Leaves are in px of the image; `x` and `y` are the image's top left corner in CSS px, and `scale`
 * is CSS px per px of the image.
 */
export function drawLeaves(context, leaves, { scale, x, y }) {
  const addLeaf = (path, leaf) =>
    path.rect(x + leaf.x * scale, y + leaf.y * scale, leaf.width * scale, leaf.height * scale);
  // One path per shade: thousands of leaves are drawn with a few calls.
  const shades = Array.from({ length: SHADES + 1 }, () => new Path2D());
  for (const leaf of leaves) addLeaf(shades[Math.round(leaf.denoise * SHADES)], leaf);
  context.lineWidth = 1;
  shades.forEach((path, shade) => {
    const colour = colourOf(shade / SHADES);
    context.fillStyle = `rgb(${colour} / 0.3)`;
    context.strokeStyle = `rgb(${colour} / 0.9)`;
    context.fill(path);
    context.stroke(path);
  });
}

/** Draws a white frame around a leaf; see drawLeaves. */
export function frameLeaf(context, leaf, { scale, x, y }) {
  context.lineWidth = 2;
  context.strokeStyle = "white";
  const size = [leaf.width * scale, leaf.height * scale];
  context.strokeRect(x + leaf.x * scale, y + leaf.y * scale, ...size);
}

const HATCHES = { keep: [-1], full: [1], value: [-1, 1] }; // slopes of the lines
const HATCH_CSS_PX = 9; // between two lines

/** Makes the pattern that marks what is painted, of lines with these slopes. */
function makeHatch(context, slopes) {
  const density = pixelsPerCssPx();
  const side = HATCH_CSS_PX * density;
  const tile = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const lines = tile.getContext("2d");
  for (const [width, colour] of [[2.2, "rgb(0 0 0 / 0.5)"], [1, "rgb(255 255 255 / 0.9)"]])
    for (const slope of slopes)
      for (const shift of [-side, 0, side]) {
        lines.lineWidth = width * density;
        lines.strokeStyle = colour;
        lines.beginPath();
        lines.moveTo(shift - side, slope > 0 ? -side : 2 * side);
        lines.lineTo(shift + 2 * side, slope > 0 ? 2 * side : -side);
        lines.stroke();
      }
  const pattern = context.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(1 / density));
  return pattern;
}

/**
 * Draws what is painted: `regions` that do not overlap with a hatch of their kind, and their
 * `borders`, all in fractions of the image of width x height px. See drawLeaves for the place.
 */
export function drawPainted(context, { regions, borders }, { width, height }, { scale, x, y }) {
  const [across, down] = [width * scale, height * scale];
  for (const [kind, slopes] of Object.entries(HATCHES)) {
    const path = new Path2D();
    for (const [what, x0, y0, x1, y1] of regions)
      if (what === kind)
        path.rect(x + x0 * across, y + y0 * down, (x1 - x0) * across, (y1 - y0) * down);
    context.fillStyle = makeHatch(context, slopes);
    context.fill(path);
  }
  const path = new Path2D();
  for (const [x0, y0, x1, y1] of borders) {
    path.moveTo(x + x0 * across, y + y0 * down);
    path.lineTo(x + x1 * across, y + y1 * down);
  }
  context.lineCap = "square";
  for (const [lineWidth, strokeStyle] of [[3, "rgb(0 0 0 / 0.7)"], [1.5, "white"]]) {
    Object.assign(context, { lineWidth, strokeStyle });
    context.stroke(path);
  }
}

/**
 * Draws one step of a run: leaves that are held are darkened, and the windows of the model framed.
 *
 * `held` counts the steps that hold each leaf; `windows` are x0, y0, x1 and y1 one after the other.
 */
export function drawStep(context, leaves, { held, windows, index }, { scale, x, y }) {
  const dark = new Path2D();
  leaves.forEach((leaf, number) => {
    if (held[number] <= index) return;
    dark.rect(x + leaf.x * scale, y + leaf.y * scale, leaf.width * scale, leaf.height * scale);
  });
  context.fillStyle = "rgb(0 0 0 / 0.65)";
  context.fill(dark);
  const frames = new Path2D();
  for (let at = 0; at < windows.length; at += 4) {
    const [x0, y0, x1, y1] = windows.slice(at, at + 4);
    frames.rect(x + x0 * scale, y + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
  }
  for (const [lineWidth, strokeStyle] of [[3, "rgb(0 0 0 / 0.7)"], [1.5, "rgb(255 221 87)"]]) {
    Object.assign(context, { lineWidth, strokeStyle });
    context.stroke(frames);
  }
}
