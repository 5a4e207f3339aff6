"""Merging tiles: the fewest leaves that say the same, against a naive recursion."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.tree.merging import merge_tiles
from quadtree_pack.tree.raster import rasterize

TILE = 8


def naive_leaves(denoise, sides):
    """Halve every square whose tiles differ, one at a time; return (row, column, side) in tiles."""
    leaves = []

    def visit(row, column, size):
        inside = denoise[row : row + size, column : column + size]
        if inside.numel() == 0:
            return
        if bool((inside == inside[0, 0]).all()):
            leaves.append((row, column, size))
            return
        for down in (0, size // 2):
            for right in (0, size // 2):
                visit(row + down, column + right, size // 2)

    root = sides[0] // TILE
    for row in range(0, denoise.shape[0], root):
        for column in range(0, denoise.shape[1], root):
            visit(row, column, root)
    return leaves


@given(
    st.integers(1, 140), st.integers(1, 140), st.integers(0, 3), st.integers(1, 3), st.integers(0)
)
@settings(max_examples=60, deadline=None)
def test_merged_tiles_are_the_leaves_of_a_naive_recursion(height, width, levels, grades, seed):
    generator = torch.Generator().manual_seed(seed % 1000)
    rows, columns = -(-height // TILE), -(-width // TILE)
    denoise = torch.randint(0, grades, (rows, columns), generator=generator).double() / 4
    denoise[: rows // 2] = 0.5  # something to merge
    detail = torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    sides = [TILE << level for level in range(levels, -1, -1)]
    leaves = merge_tiles(denoise, detail, width, height, sides)
    found = zip(leaves.y0.tolist(), leaves.x0.tolist(), leaves.side.tolist(), strict=True)
    expected = [(y * TILE, x * TILE, size * TILE) for y, x, size in naive_leaves(denoise, sides)]
    assert sorted(found) == sorted(expected)
    grid, side = rasterize(leaves, leaves.denoise, width, height, sides[0])
    step = side // TILE
    assert torch.equal(grid, denoise[::step, ::step])
    tree = Quadtree(width, height, sides[0], leaves)
    assert sum(leaf.box.width * leaf.box.height for leaf in tree.leaves) == width * height


def test_a_leaf_has_the_mean_detail_of_its_tiles():
    detail = torch.tensor([[1.0, 2.0, 9.0], [3.0, 6.0, 1.0]], dtype=torch.float64)
    leaves = merge_tiles(torch.zeros_like(detail), detail, 3 * TILE, 2 * TILE, [2 * TILE, TILE])
    assert leaves.detail.tolist() == [3.0, 5.0]
