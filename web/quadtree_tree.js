/**
 * Reads the server's answer and the painted regions; touches neither the page nor the graph.
 *
 * A region is [kind, x0, y0, x1, y1]: the kind is "keep", "full" or "auto" (as computed), and the
 * edges are fractions of the image's width and height.
 */
import { describePrice } from "./quadtree_price.js";

/** Returns the regions in the text of the widget `regions`; none if the text is not valid. */
export function readRegions(text) {
  try {
    const data = text ? JSON.parse(text) : [];
    const list = Array.isArray(data) ? data : data?.regions;
    if (!Array.isArray(list)) return [];
    return list.filter((region) => Array.isArray(region) && region.length === 5);
  } catch {
    return [];
  }
}

/** Returns the region of this kind that covers a leaf of a tree. */
export function regionOf(leaf, tree, kind) {
  const fraction = (px, side) => Math.min(1, Math.round((1e6 * px) / side) / 1e6);
  return [
    kind,
    fraction(leaf.x, tree.width),
    fraction(leaf.y, tree.height),
    fraction(leaf.x + leaf.width, tree.width),
    fraction(leaf.y + leaf.height, tree.height),
  ];
}

function covers([, x0, y0, x1, y1], [, left, top, right, bottom]) {
  return x0 <= left && y0 <= top && x1 >= right && y1 >= bottom;
}

function overlaps([, x0, y0, x1, y1], [, left, top, right, bottom]) {
  return x0 < right && left < x1 && y0 < bottom && top < y1;
}

/**
 * Returns the regions with another one on top. Regions that it hides are dropped, and so is an
 * "auto" region that has nothing left to cover.
 */
export function addRegion(regions, region) {
  const rest = regions.filter((other) => !covers(region, other));
  if (region[0] === "auto" && !rest.some((other) => overlaps(region, other))) return rest;
  return [...rest, region];
}

/** Returns the kind of the topmost region at the centre of a leaf; "auto" where there is none. */
export function kindAt(regions, leaf, tree) {
  const x = (leaf.x + leaf.width / 2) / tree.width;
  const y = (leaf.y + leaf.height / 2) / tree.height;
  const region = regions.findLast(([, x0, y0, x1, y1]) => x0 <= x && x < x1 && y0 <= y && y < y1);
  return region?.[0] ?? "auto";
}

/** Returns the leaves of the server's answer; lengths in px of the image. */
export function readLeaves(tree) {
  return tree.denoise.map((denoise, number) => {
    const [x, y, side] = tree.tiles.slice(3 * number, 3 * number + 3);
    return {
      x,
      y,
      side,
      width: Math.min(side, tree.width - x),
      height: Math.min(side, tree.height - y),
      denoise: denoise / 1000,
      detail: tree.detail[number] / 10,
      key: `${x},${y},${side}`,
    };
  });
}

/**
 * Returns a lookup table of the leaves in blocks of the smallest side: for each block the number of
 * its leaf plus one, 0 where the server left the leaf out.
 */
export function buildGrid(tree, leaves) {
  const side = tree.sides[0];
  const [columns, rows] = [Math.ceil(tree.width / side), Math.ceil(tree.height / side)];
  const blocks = new Int32Array(columns * rows);
  leaves.forEach((leaf, number) => {
    const left = leaf.x / side;
    const right = Math.min(columns, (leaf.x + leaf.side) / side);
    const bottom = Math.min(rows, (leaf.y + leaf.side) / side);
    for (let row = leaf.y / side; row < bottom; row++)
      blocks.fill(number + 1, row * columns + left, row * columns + right);
  });
  return { side, columns, blocks };
}

/** Returns the status line for a tree. */
export function describeTree(tree) {
  const { count, found, notice } = tree;
  const [smallest, largest] = tree.sides;
  const shown = tree.denoise.length;
  let text = `${count} ${count === 1 ? "tile" : "tiles"}, `;
  text += smallest === largest ? `${largest} px` : `${smallest}-${largest} px`;
  if (shown < count) text += ` (only the largest ${shown} are shown)`;
  text += describePrice(tree);
  if (found) text += `, ${found}`;
  return notice ? `${text}; ${notice}` : text;
}
