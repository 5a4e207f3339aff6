/** Reads the server's answer about a tree; touches neither the page nor the graph. */
import { describePrice } from "./quadtree_price.js";
import { translate } from "./quadtree_texts.js";

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
    };
  });
}

/**
 * Returns a lookup table of the leaves in blocks, the smallest squares that can be painted: for
 * each block the number of its leaf plus one, 0 where the server left the leaf out.
 */
export function buildGrid(tree, leaves) {
  const side = tree.block;
  const [columns, rows] = [Math.ceil(tree.width / side), Math.ceil(tree.height / side)];
  const blocks = new Int32Array(columns * rows);
  leaves.forEach((leaf, number) => {
    const left = leaf.x / side;
    const right = Math.min(columns, (leaf.x + leaf.side) / side);
    const bottom = Math.min(rows, (leaf.y + leaf.side) / side);
    for (let row = leaf.y / side; row < bottom; row++)
      blocks.fill(number + 1, row * columns + left, row * columns + right);
  });
  return { side, columns, rows, blocks };
}

/** Returns the status line for a tree. */
export function describeTree(tree) {
  const { count, found, notice } = tree;
  const [smallest, largest] = tree.sides;
  const shown = tree.denoise.length;
  let text = `${count === 1 ? translate("1 tile") : translate("{count} tiles", { count })}, `;
  text += smallest === largest ? `${largest} px` : `${smallest}-${largest} px`;
  if (shown < count)
    text += ` (${translate("only the largest {count} are shown", { count: shown })})`;
  text += describePrice(tree);
  if (found) text += `, ${found}`;
  const isTypical = !tree.assumed || tree.assumed.includes("run");
  if (found && !isTypical) text += ` (${translate("cost_budget is of a typical run")})`;
  return notice ? `${text}; ${translate(notice)}` : text;
}
