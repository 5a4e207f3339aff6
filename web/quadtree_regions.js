/**
 * Painted regions as the widget `regions` holds them; touches neither the page nor the graph.
 *
 * A region is [kind, x0, y0, x1, y1]: the kind is "keep", "full" or "auto" (as computed), or
 * "value" with a denoise in 0..1 behind the edges, which are fractions of the image's width and
 * height. Where regions overlap, the later one counts.
 */

/** Returns the regions in the text of the widget `regions`; none if the text is not valid. */
export function readRegions(text) {
  try {
    const data = text ? JSON.parse(text) : [];
    const list = Array.isArray(data) ? data : data?.regions;
    return Array.isArray(list) ? list.filter(isRegion) : [];
  } catch {
    return [];
  }
}

const isRegion = (region) =>
  Array.isArray(region) && region.length === (region[0] === "value" ? 6 : 5);

/** Returns the text of the widget for regions painted on an image of this size. */
export function writeRegions(regions, { width, height }) {
  return regions.length ? JSON.stringify({ size: [width, height], regions }) : "";
}

/** Returns the region over a rectangle in px of the image, of a kind and, maybe, a value. */
export function regionOf({ x, y, width, height }, image, [kind, ...value]) {
  const fraction = (px, side) => Math.min(1, Math.round((1e6 * px) / side) / 1e6);
  const [x0, x1] = [x, x + width].map((px) => fraction(px, image.width));
  const [y0, y1] = [y, y + height].map((px) => fraction(px, image.height));
  return [kind, x0, y0, x1, y1, ...value];
}

/** Returns the topmost region at the centre of a leaf, or undefined. */
export function regionAt(regions, leaf, { width, height }) {
  const x = (leaf.x + leaf.width / 2) / width;
  const y = (leaf.y + leaf.height / 2) / height;
  return regions.findLast(([, x0, y0, x1, y1]) => x0 <= x && x < x1 && y0 <= y && y < y1);
}

/** Lays regions on the grid that their edges make: per cell what is painted, "" for nothing. */
function layOut(regions) {
  const sides = [[1, 3], [2, 4]];
  const [xs, ys] = sides.map((side) => {
    const edges = regions.flatMap((region) => side.map((edge) => region[edge]));
    return [...new Set(edges)].sort((a, b) => a - b);
  });
  const [columns, rows] = [Math.max(0, xs.length - 1), Math.max(0, ys.length - 1)];
  const cells = new Array(columns * rows).fill("");
  for (const [kind, x0, y0, x1, y1, value = ""] of regions) {
    const paint = kind === "auto" ? "" : `${kind} ${value}`;
    const [left, right] = [xs.indexOf(x0), xs.indexOf(x1)];
    for (let row = ys.indexOf(y0); row < ys.indexOf(y1); row++)
      cells.fill(paint, row * columns + left, row * columns + right);
  }
  return { xs, ys, columns, rows, cells };
}

/**
 * Joins equal cells of a grid into rectangles [value, left, top, right, bottom]; cells that hold
 * nothing (0 or "") are left out.
 */
export function joinCells(cells, columns, rows) {
  const joined = [];
  let above = new Map();
  for (let row = 0; row < rows; row++) {
    const here = new Map();
    for (let left = 0, right; left < columns; left = right) {
      const value = cells[row * columns + left];
      for (right = left + 1; right < columns && cells[row * columns + right] === value; ) right++;
      if (!value) continue;
      const key = `${value} ${left} ${right}`;
      const known = above.get(key);
      const rectangle = known ?? [value, left, row, right, row];
      if (!known) joined.push(rectangle);
      rectangle[4] = row + 1;
      here.set(key, rectangle);
    }
    above = here;
  }
  return joined;
}

/** Returns the same painting in few regions that do not overlap. */
export function simplify(regions) {
  const { xs, ys, columns, rows, cells } = layOut(regions);
  return joinCells(cells, columns, rows).map(([paint, left, top, right, bottom]) => {
    const [kind, value] = paint.split(" ");
    return [kind, xs[left], ys[top], xs[right], ys[bottom], ...(value ? [Number(value)] : [])];
  });
}

/** Returns the borders of what is painted, as lines [x0, y0, x1, y1]. */
export function findBorders(regions) {
  const { xs, ys, columns, rows, cells } = layOut(regions);
  const at = (column, row) =>
    column < 0 || row < 0 || column >= columns || row >= rows ? "" : cells[row * columns + column];
  const lines = [];
  for (let row = 0; row <= rows; row++)
    for (let column = 0; column <= columns; column++) {
      const here = at(column, row);
      const [x, y] = [xs[column], ys[row]];
      if (row < rows && here !== at(column - 1, row)) lines.push([x, y, x, ys[row + 1]]);
      if (column < columns && here !== at(column, row - 1)) lines.push([x, y, xs[column + 1], y]);
    }
  return lines;
}
