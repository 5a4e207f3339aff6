"""ComfyUI's context windows sample some frames of a clip at a time; each is cut into windows."""

import pytest
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from quadtree_pack.quadtree import FrameTrees
from quadtree_pack.sampling.model import Settings
from quadtree_pack.testing.local_models import local
from quadtree_pack.testing.support import Spy, error, free_cells, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import clean_latent, sample
from quadtree_pack.tiled_diffusion import attach

HEIGHT, WIDTH, FRAMES = 16, 32, 7
RUN = {"steps": 4, "denoise": 0.8, "cfg": 3.0}


def context_windows(model, dim=2, retained="", fuse="pyramid"):
    return ContextWindowsManualNode.execute(
        model,
        3,
        1,
        "standard_static",
        1,
        False,
        fuse,
        dim,
        False,
        latent_retain_index_list=retained,
    ).args[0]


def clip_of(entry, canvas):
    channels = entry.model.model.latent_format.latent_channels
    return clean_latent((1, channels, FRAMES, *canvas), 5)


def both_orders(entry, tree, nodes, **settings):
    return nodes(patched(entry, tree, **settings)), patched(
        entry, tree, model=nodes(entry.model), **settings
    )


@pytest.mark.parametrize(
    ("family", "canvas", "retained"),
    [
        ("wan21_t2v", (HEIGHT, WIDTH), ""),
        ("wan21_t2v", (HEIGHT, WIDTH), "0"),
        ("wan21_t2v", (18, 34), ""),
        ("hunyuan_video", (HEIGHT, WIDTH), ""),
    ],
)
def test_frames_in_context_windows_are_as_without_windows(family, canvas, retained):
    entry = local(family)
    clip = clip_of(entry, canvas)
    everything = tree_of([[1.0]], *canvas, entry.px_per_cell)
    plain = sample(entry, clip, model=context_windows(entry.model, retained=retained), **RUN)
    for model in both_orders(
        entry, everything, lambda model: context_windows(model, retained=retained)
    ):
        assert error(sample(entry, clip, model=model, **RUN), plain) < 1e-5


@pytest.mark.parametrize("fuse", ["pyramid", "relative"])
def test_what_is_kept_in_a_clip_stays_with_context_windows(fuse):
    entry = local("wan21_t2v")
    clip = clip_of(entry, (HEIGHT, WIDTH))
    tree = half_kept(HEIGHT, WIDTH, entry.px_per_cell, free=0.5)
    kept = ~free_cells(tree, clip)
    for model in both_orders(entry, tree, lambda model: context_windows(model, fuse=fuse)):
        samples = sample(entry, clip, model=model, **RUN)
        assert torch.equal(samples[..., kept], clip[..., kept])
        assert not torch.equal(samples[..., ~kept], clip[..., ~kept])


def test_a_frame_follows_its_own_tree_in_every_context_window():
    """Kept in the last frames only: those are held, and the others are as without a tree."""
    entry = local("wan21_t2v")
    clip = clip_of(entry, (HEIGHT, WIDTH))
    free, kept = (tree_of([[denoise]], HEIGHT, WIDTH, entry.px_per_cell) for denoise in (1.0, 0.0))
    frames_px, kept_px = 1 + 4 * (FRAMES - 1), 4 * 2
    trees = FrameTrees([free] * (frames_px - kept_px) + [kept] * kept_px)
    settings = Settings(feather_px=0, tile_px=128, overlap_px=0)
    spy = Spy(context_windows(attach(entry.model, trees, settings)))
    samples = sample(entry, clip, model=spy.model, **RUN)
    clean = entry.model.model.process_latent_in(clip)
    assert error(spy.samples[:, :, -2:], clean[:, :, -2:]) < 1e-5
    plain = sample(entry, clip, model=context_windows(entry.model), **RUN)
    assert error(samples[:, :, :3], plain[:, :, :3]) < 1e-5


def test_partly_free_frames_are_drawn_to_their_own_clean_frames():
    """On a local network context windows do not show, whatever each frame's denoise is."""
    entry = local("wan21_t2v")
    clip = clip_of(entry, (HEIGHT, WIDTH))
    trees = FrameTrees(
        tree_of([[number / 32, 0.3]], HEIGHT, WIDTH, entry.px_per_cell)
        for number in range(1 + 4 * (FRAMES - 1))
    )
    settings = Settings(feather_px=0, tile_px=128, overlap_px=0, schedule="constant")
    model = attach(entry.model, trees, settings)
    whole = sample(entry, clip, model=model, **RUN)
    assert error(sample(entry, clip, model=context_windows(model), **RUN), whole) < 1e-5


@pytest.mark.parametrize("order", [0, 1], ids=["before", "after"])
def test_context_windows_over_images_are_refused_where_they_cut(order):
    entry = entry_of("sd15")
    models = both_orders(entry, half_kept(32, 40), lambda model: context_windows(model, dim=0))
    with pytest.raises(ValueError, match=r"over a batch of images[^\d]*Remove one of the two"):
        sample(entry, entry.latent(batch=4), model=models[order])
    plain = patched(entry, half_kept(32, 40))
    latent = entry.latent(batch=3)  # which fits in one context window
    assert (
        error(sample(entry, latent, model=models[order]), sample(entry, latent, model=plain)) == 0
    )


def test_context_windows_over_other_dimensions_of_a_clip_are_refused():
    entry = local("wan21_t2v")
    model = context_windows(patched(entry, half_kept(HEIGHT, WIDTH, entry.px_per_cell)), dim=3)
    with pytest.raises(ValueError, match="Set their dim to 2"):
        sample(entry, clip_of(entry, (HEIGHT, WIDTH)), model=model, **RUN)
