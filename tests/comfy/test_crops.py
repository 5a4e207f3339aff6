"""Crops of the image that a quadtree was built from, as detailers and tile lists sample them."""

import logging
from dataclasses import replace

import pytest
import torch
from quadtree_pack.testing.support import free_cells, patched, tree_of
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample

ROWS = [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
TOP, LEFT = 12, 20


def whole_and_tree(entry):
    """Return the latent of an image, and its tree."""
    latent = entry.latent(64, 96)
    tree = tree_of(ROWS, 64, 96, entry.px_per_cell)
    return latent, replace(tree, luma=latent[0, :3].mean(0))


@pytest.mark.parametrize("size", [(40, 60), (40, 40), (64, 48)])
def test_a_crop_gets_its_part_of_the_tree(size):
    entry = entry_of("sd15")
    latent, tree = whole_and_tree(entry)
    height, width = size
    top = min(TOP, 64 - height)
    crop = latent[..., top : top + height, LEFT : LEFT + width]
    free = free_cells(tree, latent)[top : top + height, LEFT : LEFT + width]
    changed = (sample(entry, crop, model=patched(entry, tree)) != crop)[0].any(0)
    assert torch.equal(changed, free)


def test_crops_in_one_batch_get_each_their_own():
    entry = entry_of("sd15")
    latent, tree = whole_and_tree(entry)
    corners = [(0, 0), (12, 20)]
    crops = torch.cat([latent[..., y : y + 40, x : x + 60] for y, x in corners])
    free = free_cells(tree, latent)
    changed = (sample(entry, crops, model=patched(entry, tree)) != crops).any(1)
    for (y, x), found in zip(corners, changed, strict=True):
        assert torch.equal(found, free[y : y + 40, x : x + 60])


def test_a_crop_of_each_of_several_images_gets_its_part_of_its_own_tree():
    entry = entry_of("sd15")
    latents = torch.cat([entry.latent(64, 96, seed=seed) for seed in (0, 5)])
    trees = [
        replace(tree_of(rows, 64, 96, entry.px_per_cell), luma=latent[:3].mean(0))
        for rows, latent in zip((ROWS, ROWS[::-1]), latents, strict=True)
    ]
    corners = [(12, 20), (0, 8)]
    pairs = list(zip(latents, corners, strict=True))
    crops = torch.stack([latent[..., y : y + 40, x : x + 60] for latent, (y, x) in pairs])
    changed = (sample(entry, crops, model=patched(entry, *trees)) != crops).any(1)
    whole = (sample(entry, latents, model=patched(entry, *trees)) != latents).any(1)
    for tree, (y, x), found, all_of_it in zip(trees, corners, changed, whole, strict=True):
        free = free_cells(tree, latents)
        assert torch.equal(found, free[y : y + 40, x : x + 60]) and torch.equal(all_of_it, free)


def test_a_smaller_copy_of_the_image_is_no_crop_and_nothing_to_warn_of(caplog):
    entry = entry_of("sd15")
    latent, tree = whole_and_tree(entry)
    small = torch.nn.functional.avg_pool2d(latent, 2)
    with caplog.at_level(logging.WARNING):
        changed = (sample(entry, small, model=patched(entry, tree)) != small)[0].any(0)
    assert torch.equal(changed, free_cells(tree, small))
    assert "crops" not in caplog.text


def test_another_picture_of_the_image_s_aspect_is_warned_of_where_it_is_smaller(caplog):
    entry = entry_of("sd15")
    _, tree = whole_and_tree(entry)
    with caplog.at_level(logging.WARNING):
        sample(entry, entry.latent(32, 48, seed=5), model=patched(entry, tree))
    assert "crops of the image" in caplog.text


def test_another_aspect_that_is_no_part_of_the_image_is_refused():
    entry = entry_of("sd15")
    _, tree = whole_and_tree(entry)
    with pytest.raises(ValueError, match="another aspect"):
        sample(entry, entry.latent(40, 40, seed=5), model=patched(entry, tree))
