/**
 * Which blocks of the image a stroke of the brush touches; touches neither the page nor the graph.
 *
 * Points are [x, y] in px of the image, and a block is the smallest square that can be painted.
 */
import { joinCells } from "./quadtree_regions.js";

export class Stroke {
  /** `grid` is that of the tree, see buildGrid; `radius` in px, 0 paints whole tiles. */
  constructor(grid, leaves, radius) {
    Object.assign(this, { grid, leaves, radius });
    this.touched = new Uint8Array(grid.blocks.length);
  }

  /** Adds what lies under the brush on its straight way between two points. */
  addLine(from, to) {
    const { side } = this.grid;
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    const stops = Math.ceil((2 * Math.hypot(dx, dy)) / side) || 1;
    for (let stop = 0; stop <= stops; stop++) {
      const at = [from[0] + (dx * stop) / stops, from[1] + (dy * stop) / stops];
      this.addTile(this.blockAt(...at));
      if (this.radius) this.addDisc(at);
    }
  }

  /** Returns the number of the block at a point, or -1 outside of the image. */
  blockAt(x, y) {
    const { side, columns, rows } = this.grid;
    const [column, row] = [Math.floor(x / side), Math.floor(y / side)];
    const inside = column >= 0 && row >= 0 && column < columns && row < rows;
    return inside ? row * columns + column : -1;
  }

  /** Adds a block, and with a brush of whole tiles all blocks of its tile. */
  addTile(block) {
    if (block < 0) return;
    const leaf = this.leaves[this.grid.blocks[block] - 1];
    if (this.radius || !leaf) this.touched[block] = 1;
    else this.addBox([leaf.x, leaf.y], [leaf.x + leaf.width - 1, leaf.y + leaf.height - 1]);
  }

  /** Adds the blocks whose centres lie under the brush. */
  addDisc([x, y]) {
    const { side, columns, rows } = this.grid;
    const first = (at) => Math.max(0, Math.floor((at - this.radius) / side));
    const last = (at, count) => Math.min(count - 1, Math.floor((at + this.radius) / side));
    for (let row = first(y); row <= last(y, rows); row++)
      for (let column = first(x); column <= last(x, columns); column++) {
        const away = Math.hypot((column + 0.5) * side - x, (row + 0.5) * side - y);
        if (away <= this.radius) this.touched[row * columns + column] = 1;
      }
  }

  /** Adds every block that a rectangle between two corners touches. */
  addBox(one, other) {
    const { side, columns, rows } = this.grid;
    const ends = [0, 1].map((axis) => {
      const count = axis ? rows : columns;
      const clamp = (px) => Math.min(count - 1, Math.max(0, Math.floor(px / side)));
      return [one[axis], other[axis]].map(clamp).sort((a, b) => a - b);
    });
    for (let row = ends[1][0]; row <= ends[1][1]; row++)
      this.touched.fill(1, row * columns + ends[0][0], row * columns + ends[0][1] + 1);
  }

  /** Touches a rectangle between two corners and nothing else. */
  setBox(one, other) {
    this.touched.fill(0);
    this.addBox(one, other);
  }

  /** Adds the connected blocks around a point whose leaves get one label from `label`. */
  flood(at, label) {
    const { columns, blocks } = this.grid;
    const start = this.blockAt(...at);
    if (start < 0) return;
    const labels = this.leaves.map(label);
    const wanted = labels[blocks[start] - 1];
    const due = [start];
    while (due.length) {
      const block = due.pop();
      if (this.touched[block] || labels[blocks[block] - 1] !== wanted) continue;
      this.touched[block] = 1;
      if (block % columns) due.push(block - 1);
      if ((block + 1) % columns) due.push(block + 1);
      if (block >= columns) due.push(block - columns);
      if (block + columns < blocks.length) due.push(block + columns);
    }
  }

  /** Returns what was touched as rectangles in px, clipped at the edge of the image. */
  findRectangles({ width, height }) {
    const { side, columns, rows } = this.grid;
    return joinCells(this.touched, columns, rows).map(([, left, top, right, bottom]) => ({
      x: left * side,
      y: top * side,
      width: Math.min(right * side, width) - left * side,
      height: Math.min(bottom * side, height) - top * side,
    }));
  }
}
