"""LTXV's guide frames, added by ComfyUI's own node, are cut into windows with the clip.

Exactness is measured on a network whose tokens see the frames and guides of their own cell: so a
guide's token that another cell's window gets, or that has another place, shows.
"""

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_lt import LTXVCropGuides
from quadtree_pack.quadtree import FrameTrees
from quadtree_pack.sampling.model import Settings
from quadtree_pack.testing.guided import FRAMES, HEIGHT, PX, TEXT, WIDTH, Scene
from quadtree_pack.testing.support import (
    Spy,
    error,
    free_cells,
    half_kept,
    on_devices,
    tree_of,
)
from quadtree_pack.testing.tiny_models.video import ltx2, ltxv
from quadtree_pack.tiled_diffusion import attach


def everything():
    return tree_of([[1.0]], HEIGHT, WIDTH, PX)


def ramp(height, width, frames=1):
    """A mask that says something else in every row and column, from 0.1 to 1."""
    rows = torch.linspace(0.2, 1, height)[:, None] * torch.linspace(0.5, 1, width)
    return rows * torch.linspace(0.7, 1, frames)[:, None, None]


FULL = (HEIGHT * PX // 4, WIDTH * PX // 4)  # a mask of another size than the picture's
GUIDES = {
    "one image": [{}],
    "weaker": [{"strength": 0.6}],
    "stronger than the clip": [{"strength": 1.7}],
    "several": [{}, {"frame": -1, "strength": 0.7, "seed": 1}, {"frame": 8, "seed": 2}],
    "a clip": [{"frames": 9, "strength": 0.8}],
    "a mask": [{"strength": 0.9, "mask": ramp(*FULL)}],
    "a mask of an odd size": [{"mask": ramp(67, 101)}, {"frame": 8, "strength": 0.5, "seed": 1}],
    "a clip with a mask": [{"frames": 9, "mask": ramp(*FULL, 9)}],
}


@pytest.mark.parametrize("family", [ltxv, ltx2], ids=["LTXV", "LTX-2"])
@pytest.mark.parametrize("guides", GUIDES.values(), ids=GUIDES)
def test_guides_in_windows_are_as_without_windows(guides, family):
    scene = Scene(*guides, family=family)
    model = scene.column_model()
    plain = scene.sample(model)
    for settings in ({"batch": 1}, {"batch": 24, "overlap_px": 4 * PX}):
        spy = Spy(scene.tiled(everything(), model, **settings))
        assert error(scene.sample(spy.model), plain) < 1e-5
        assert {shape[-2:] for shape in spy.shapes} == {(8, 8)}
    tree = half_kept(HEIGHT, WIDTH, PX)
    free = free_cells(tree, scene.latent)
    samples = scene.sample(scene.tiled(tree, model))
    assert torch.equal(samples[..., ~free], scene.latent[..., ~free])
    assert error(samples[..., free], plain[..., free]) < 1e-5


@pytest.mark.parametrize("family", [ltxv, ltx2], ids=["LTXV", "LTX-2"])
@pytest.mark.parametrize("guides", [[], [{"strength": 0.6}]], ids=["no guide", "a guide"])
def test_a_noise_mask_within_frames_holds_in_windows_that_share_a_call(guides, family):
    """LTX-2 asks the first row of a call whether its mask is one number for each frame."""
    scene = Scene(*guides, family=family)
    mask = torch.ones(1, 1, FRAMES, 1, 1) if scene.mask is None else scene.mask
    scene.mask = mask.repeat(1, 1, 1, HEIGHT, WIDTH)
    scene.mask[:, :, :2, 9:12, 10:13] = 0.4
    model = scene.column_model()
    plain = scene.sample(model)
    tiled = scene.tiled(everything(), model, batch=24)
    assert error(scene.sample(tiled), plain) < 1e-5


def test_guides_go_to_several_devices():
    scene = Scene(*GUIDES["a mask of an odd size"])
    model = scene.tiled(everything())
    several = on_devices(model, 3, ltxv)
    assert error(scene.sample(several), scene.sample(model)) < 1e-5


def test_guides_are_heard():
    """Otherwise nothing is told by the runs above: another guide, place or mask is another run."""
    runs = []
    for guides in ({}, {"seed": 1}, {"frame": 8}, {"mask": ramp(*FULL)}):
        scene = Scene(guides)
        runs.append(scene.sample(scene.column_model())[:, :, :FRAMES])
    for other in runs[1:]:
        assert error(other, runs[0]) > 1e-3


@pytest.mark.parametrize("guides", [GUIDES["several"], [{"downscale": 2}]])
def test_one_window_is_the_plain_run_to_the_bit(guides):
    """Cells of guides without a token, whose mask is negative, reach no model and mean nothing."""
    scene = Scene(*guides)
    model = scene.tiled(everything(), tile_px=0)
    shown = (scene.mask >= 0).expand_as(scene.latent)
    assert torch.equal(scene.sample(model)[shown], scene.sample()[shown])


def test_what_the_real_network_keeps_stays_to_the_bit_in_clip_and_guides():
    scene = Scene(*GUIDES["several"])
    tree = half_kept(HEIGHT, WIDTH, PX, free=0.7)
    free = free_cells(tree, scene.latent)
    samples = scene.sample(scene.tiled(tree))
    assert torch.equal(samples[..., ~free], scene.latent[..., ~free])
    assert not torch.equal(samples[:, :, 0][..., free], scene.latent[:, :, 0][..., free])
    positive, _, cropped = LTXVCropGuides.execute(
        scene.entry.positive,
        scene.entry.negative,
        {"samples": samples, "noise_mask": scene.mask},
    ).args
    assert cropped["samples"].shape == scene.clip.shape
    assert positive[0][1]["keyframe_idxs"] is None


def test_guides_of_an_area_lie_in_it():
    scene = Scene(*GUIDES["several"])
    model = scene.column_model()
    plain = scene.sample(model, cfg=1.0)
    text, values = scene.entry.positive[0]
    area = {"area": (HEIGHT, WIDTH // 2, 0, WIDTH // 2), "strength": 1.0}
    half = {"area": (HEIGHT, WIDTH // 2, 0, 0), "strength": 1.0}
    scene.entry.positive = [[text, {**values, **area}], [text, {**values, **half}]]
    samples = scene.sample(scene.tiled(everything(), model), cfg=1.0)
    assert error(samples, plain) < 1e-5


def test_trees_of_frames_are_for_the_clip_and_guides_follow_the_freest():
    scene = Scene(*GUIDES["several"])
    free, kept = (tree_of([[one, 0.0]], HEIGHT, WIDTH, PX) for one in (1.0, 0.0))
    settings = Settings(feather_px=0, tile_px=8 * PX, overlap_px=0)
    frames_px = 1 + 8 * (FRAMES - 1)
    trees = FrameTrees([kept] * (frames_px - 8) + [free] * 8)
    samples = scene.sample(attach(scene.entry.model, trees, settings))
    assert torch.equal(samples[:, :, : FRAMES - 1], scene.latent[:, :, : FRAMES - 1])
    changed = (samples - scene.latent)[0].abs().amax((0, 2, 3)) > 1e-3
    assert changed[FRAMES - 1]
    # Of the guides, the mask closes those of strength 1.
    assert changed[FRAMES:].tolist() == [False, True, False]
    every = free_cells(free, scene.latent)
    assert torch.equal(samples[..., ~every], scene.latent[..., ~every])
    with pytest.raises(ValueError, match=r"25 frames of a clip, .* the 17 frames"):
        scene.sample(attach(scene.entry.model, FrameTrees([free] * 25), settings))


def test_an_empty_clip_with_guides_is_the_plain_run():
    """From text and guides to video: there is nothing to preserve."""
    clip = torch.zeros(1, 128, FRAMES, HEIGHT, WIDTH)
    scene = Scene({}, {"frame": -1, "strength": 0.7, "seed": 1}, clip=clip)
    model = scene.column_model()
    tiled = scene.tiled(half_kept(HEIGHT, WIDTH, PX), model)
    plain = scene.sample(model, denoise=1.0)
    assert error(scene.sample(tiled, denoise=1.0), plain) < 1e-5


def block_model(scene, side=4):
    """A clone whose tokens see, in self-attention, those of their own block of cells only.

    Its positions turn slowly: at ComfyUI's speed their rounding shows, up to 3e-4.
    """
    network, blocks = scene.entry.model.model.diffusion_model, []
    generate = network.freq_grid_generator
    network.freq_grid_generator = lambda _theta, *others: generate(10.0, *others)

    def note_blocks(executor, noisy, sigma, *args, **entries):
        rows, columns = (torch.arange(length) // side for length in noisy.shape[-2:])
        every = (rows[:, None] * len(columns) + columns).expand(noisy.shape[2], -1, -1)
        shown = entries["denoise_mask"][0].amin(0) >= 0
        blocks[:] = [every[shown.expand_as(every)]]
        return executor(noisy, sigma, *args, **entries)

    def own_block(attention, q, k, v, heads, *args, mask=None, **options):
        if k.shape[1] == TEXT:
            return attention(q, k, v, heads, *args, mask=mask, **options)
        (seen,) = blocks
        of_guides = mask is not None and mask.shape[2] > 1
        asking = seen[-q.shape[1] :] if of_guides else seen[: q.shape[1]]
        apart = torch.zeros(len(asking), len(seen)).masked_fill(asking[:, None] != seen, -1e9)
        return attention(q, k, v, heads, *args, mask=apart if mask is None else mask + apart)

    model = scene.entry.model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "blocks", note_blocks)
    options = model.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = own_block
    return model


SPARSE = {
    "half": [{"downscale": 2, "strength": 1.0, "seed": 1}],
    "half and whole": [{}, {"downscale": 2, "strength": 0.7, "seed": 1}],
    "half, a quarter and a mask": [
        {"downscale": 2, "seed": 1, "mask": ramp(*FULL)},
        {"downscale": 4, "frame": 8, "strength": 0.6, "seed": 2, "mask": ramp(67, 101)},
    ],
}


@pytest.mark.parametrize("family", [ltxv, ltx2], ids=["LTXV", "LTX-2"])
@pytest.mark.parametrize("guides", SPARSE.values(), ids=SPARSE)
def test_guides_of_a_lower_resolution_are_as_without_windows(guides, family):
    scene = Scene(*guides, family=family)
    model = block_model(scene)
    plain = scene.sample(model)
    shown = (scene.mask >= 0).expand_as(scene.latent)
    for settings in ({"batch": 1}, {"batch": 24, "overlap_px": 4 * PX}):
        spy = Spy(scene.tiled(everything(), model, **settings))
        assert error(scene.sample(spy.model)[shown], plain[shown]) < 1e-5
        assert {shape[-2:] for shape in spy.shapes} == {(8, 8)}
    tree = half_kept(HEIGHT, WIDTH, PX)
    free = free_cells(tree, scene.latent)
    samples = scene.sample(scene.tiled(tree, model))
    assert torch.equal(samples[..., ~free], scene.latent[..., ~free])
    other = Scene(*[{**guide, "seed": 7} for guide in guides], family=family)
    frames = slice(0, FRAMES)
    assert error(other.sample(model)[:, :, frames], plain[:, :, frames]) > 1e-3


def test_windows_begin_on_the_blocks_of_guides():
    scene = Scene({"downscale": 4, "seed": 1})
    spy = Spy(scene.tiled(tree_of([[1.0]], HEIGHT, WIDTH, PX), tile_px=12 * PX, overlap_px=2 * PX))
    scene.sample(spy.model)
    assert all(side % 4 == 0 for shape in spy.shapes for side in shape[-2:])


def test_an_area_that_divides_the_block_of_a_guide_is_refused_in_words():
    scene = Scene({"downscale": 2, "seed": 1})
    text, values = scene.entry.positive[0]
    area = {"area": (HEIGHT, WIDTH - 3, 0, 3), "strength": 1.0}
    scene.entry.positive = [[text, values], [text, {**values, **area}]]
    with pytest.raises(ValueError, match=r"2 x 2 cells that a conditioning area divides"):
        scene.sample(scene.tiled(everything()))


def test_guides_with_context_windows_are_refused_in_words():
    scene = Scene({}, frames=7)
    model = ContextWindowsManualNode.execute(
        scene.tiled(everything()), 3, 1, "standard_static", 1, False, "pyramid", 2, False
    ).args[0]
    with pytest.raises(ValueError, match=r"clip with LTXV guide frames.* Remove the context"):
        scene.sample(model)
