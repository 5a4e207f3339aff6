"""Every spatial entry that a model call may hold: a network that works cell by cell gives the same
in windows and without.

The entries are put into real model calls of core, as a model's own `extra_conds` does.
"""

import copy
import logging

import comfy.conds
import pytest
import torch
from quadtree_pack.testing.support import (
    error,
    half_kept,
    patched,
    pointwise,
    tree_of,
    with_extra_conds,
)
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import gauss, sample

EVEN, ODD = (32, 40), (33, 43)
TEXT = 12  # tokens of the tiny Flux and Wan


def still(channels, scale=1.0, *depth):
    """An entry of an image model, at a multiple of the canvas' resolution."""
    return lambda height, width: gauss(
        (1, channels, *depth, -int(-height * scale // 1), -int(-width * scale // 1)), 5
    )


def token_mask(height, width):
    tokens = TEXT + -(-height // 2) * -(-width // 2)
    return gauss((1, tokens, tokens), 5)


def masked(height, width):
    return (gauss((2, 1, height, width), 5) > 0).float()


STILLS = {
    "c_concat": still(5),
    "image_cond": still(16),
    "denoise_mask": masked,
    "ref_latents": lambda height, width: [
        gauss((1, 16, height, width), 5),
        gauss((1, 16, 18, 22), 6),
    ],
    "camera_conditions": still(3, 8),
    "pose_latents": still(16, 0.5),
    "lq_latent": still(16, 0.25),
    "attention_mask": token_mask,
    "somebody_s_map": still(2),
    "y": lambda height, width: gauss((1, 32), 5),
}
VIDEOS = {
    "c_concat": still(20, 1, 3),
    "time_dim_concat": still(16, 1, 2),
    "vace_context": lambda height, width: gauss((1, 2, 24, 3, height, width), 5),
    "reference_latent": still(16),
    "camera_conditions": still(6, 8, 3),
    "pose_latents": still(16, 0.5, 3),
    "denoise_mask": still(1, 1, 3),
    "context_latents": lambda height, width: [
        gauss((1, 16, 1, height, width), 5),
        gauss((1, 16, 2, 18, 22), 6),
    ],
}


def with_entry(entry, key, value):
    """A clone of the entry's model whose calls hold `key`, with a network that works cell by
    cell."""
    kind = comfy.conds.CONDList if isinstance(value, list) else comfy.conds.CONDRegular
    kind = comfy.conds.CONDNoiseShape if key in ("c_concat", "image_cond") else kind
    return pointwise(with_extra_conds(entry.model, {key: kind(value)}))


def check(family, key, value, size, batch):
    entry = entry_of(family)
    latent = entry.latent(*size, batch=batch)
    model = with_entry(entry, key, value)
    run = {"steps": 3, "cfg": 3.0, "denoise": 0.8}
    plain = sample(entry, latent, model=model, **run)
    assert (
        error(sample(entry, latent, model=pointwise(entry.model), **run), plain) > 1e-3
    )  # the entry is heard
    everything = tree_of([[1.0]], *size)
    for tile_px, overlap_px, windows in ((128, 32, 1), (192, 0, 3), (256, 64, 4)):
        tiled = patched(
            entry, everything, model=model, tile_px=tile_px, overlap_px=overlap_px, batch=windows
        )
        assert error(sample(entry, latent, model=tiled, **run), plain) < 1e-5


@pytest.mark.parametrize(("size", "batch"), [(EVEN, 1), (EVEN, 2), (ODD, 1), (ODD, 2)])
@pytest.mark.parametrize("key", STILLS)
def test_an_entry_of_an_image_model_is_cut_with_the_canvas(key, size, batch):
    if key == "lq_latent":
        size = (size[0] // 4 * 4, size[1] // 4 * 4)  # a quarter lies on whole cells only
    check("flux", key, STILLS[key](*size), size, batch)


@pytest.mark.parametrize(("size", "batch"), [(EVEN, 2), (ODD, 1)])
@pytest.mark.parametrize("key", VIDEOS)
def test_an_entry_of_a_video_model_is_cut_with_the_canvas(key, size, batch):
    check("wan21_t2v", key, VIDEOS[key](*size), size, batch)


def test_a_network_that_takes_one_row_of_a_text_mask_gets_one_window_per_call(caplog):
    entry = copy.copy(entry_of("hunyuan_video"))
    latent = entry.latent()
    ((text, options),) = entry.positive
    mask = torch.ones(1, text.shape[1])
    mask[:, -1] = 0
    entry.positive = [[text, {**options, "attention_mask": mask}]]
    tree = half_kept(*latent.shape[-2:])
    with caplog.at_level(logging.WARNING):
        together = 4 * latent.shape[2]  # a window of a clip counts as many as its frames
        several = sample(entry, latent, model=patched(entry, tree, batch=together), steps=3)
    assert caplog.text.count("it gets one per call") == 1
    assert torch.equal(several, sample(entry, latent, model=patched(entry, tree, batch=1), steps=3))
