"""Videos: the promises with any number of frames, and trees over frames."""

import math

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from quadtree_pack.nodes import QuadtreeDiffusion, QuadtreeVAEDecode, QuadtreeVisualizer
from quadtree_pack.quadtree import FrameTrees
from quadtree_pack.sampling.conditioning import crop_call
from quadtree_pack.sampling.cost import Sampling, estimate_cost
from quadtree_pack.sampling.cropping import RunMemory
from quadtree_pack.sampling.frames import fit_maps
from quadtree_pack.sampling.model import Geometry, Settings
from quadtree_pack.sampling.run import create_run
from quadtree_pack.testing.clips import object_clip, soft_wall
from quadtree_pack.testing.support import Spy, error, free_cells, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_models import VIDEOS, entry_of
from quadtree_pack.testing.tiny_models.building import clean_latent, sample, with_frames
from quadtree_pack.testing.tiny_vaes import qwen
from quadtree_pack.tiled_diffusion import KEY, attach
from quadtree_pack.velocity import find_step
from quadtree_pack.windows.blending import compute_shares

# What image models make clips of: their batch is the clip.
BATCHES = ["svd", "animatediff"]
# Text only: their latents may have any size, too.
BY_TEXT = ["wan21_t2v", "hunyuan_video", "mochi", "cogvideox", "cosmos"]
FRAMES = [1, 2, 5, 13]
STEPS = 3
MOVING = {"content_threshold": 0.0, "min_tile_size": 32, "max_tile_size": 0}
MOVING |= {"min_denoise": 1.0, "max_denoise": 1.0, "line_thickness": 1}

families = pytest.mark.parametrize("entry", VIDEOS, indirect=True)
clips = pytest.mark.parametrize("name", VIDEOS + BATCHES)
text_families = pytest.mark.parametrize("entry", BY_TEXT, indirect=True)


def make_clip(name, frames, size=(16, 24)):
    """The model of a family, and a latent of so many frames of it."""
    if name not in BATCHES:
        entry = with_frames(entry_of(name), frames, size)
        return entry, entry.latent()
    entry = with_frames(entry_of("sd15" if name == "animatediff" else name), None, size)
    if name == "animatediff":
        entry.model = in_motion(entry.model, frames)
    return entry, entry.latent(batch=frames)


def in_motion(model, frames):
    """A clone whose images are the frames of a clip, each of which sees the others.

    As a motion module of AnimateDiff, it takes so many rows one after the other for a clip.
    """

    def apply_model(executor, noisy, *args, **entries):
        clips = executor(noisy, *args, **entries).unflatten(0, (-1, frames))
        return (0.8 * clips + 0.2 * clips.mean(1, keepdim=True)).flatten(0, 1)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "in motion", apply_model)
    return model


def clip_latent(entry, frames, height=16, width=24):
    """A latent of so many frames, for an entry of text only."""
    channels = entry.model.model.latent_format.latent_channels
    return clean_latent((1, channels, frames, height, width))


def frame_trees(entry, denoise, height, width):
    """One tree per frame in px with a denoise everywhere but in the first column of leaves."""
    return FrameTrees(
        tree_of([[0.0, value, value, value, value]], height, width, entry.px_per_cell)
        for value in denoise
    )


def attach_frames(entry, trees, **settings):
    """The entry's model with the trees of a clip's frames, in small windows."""
    chosen = {"feather_px": 0, "tile_px": 128, "overlap_px": 0, **settings}
    return attach(entry.model, trees, Settings(**chosen))


def ratio_of(entry):
    """Frames in px of every latent frame but the first."""
    return Geometry.of(entry.model).frames_per_latent


def by_frame(latent):
    """The frames of a clip, [T, C, H, W]."""
    return latent[0].movedim(1, 0) if latent.ndim == 5 else latent


@pytest.mark.parametrize("frames", FRAMES)
@clips
def test_the_promises_hold_with_any_number_of_frames(name, frames):
    """What is kept stays to the bit, one free window is the plain run, a denoise a late start."""
    entry, latent = make_clip(name, frames)
    size = *latent.shape[-2:], entry.px_per_cell
    tree = half_kept(*size)
    held = ~free_cells(tree, latent)
    samples = sample(entry, latent, model=patched(entry, tree), steps=STEPS, denoise=0.7)
    assert torch.equal(samples[..., held], latent[..., held])
    assert not torch.equal(samples[..., ~held], latent[..., ~held])

    whole, half = (patched(entry, tree_of([[one]], *size), tile_px=0) for one in (1.0, 0.5))
    run = {"steps": 4, "denoise": 0.6}
    assert torch.equal(sample(entry, latent, model=whole, **run), sample(entry, latent, **run))
    late = sample(entry, latent, start_step=2, **run)
    assert error(sample(entry, latent, model=half, **run), late) < 1e-5


@clips
def test_each_latent_frame_is_kept_to_the_bit_where_all_its_frames_are(name):
    entry, latent = make_clip(name, 3)
    # Of the last latent frame, only its last frame in px is free.
    trees = frame_trees(entry, [0.0] * (2 * ratio_of(entry)) + [1.0], *latent.shape[-2:])
    samples = sample(entry, latent, model=attach_frames(entry, trees), steps=STEPS, denoise=0.7)
    before, after = by_frame(latent), by_frame(samples)
    assert torch.equal(after[:-1], before[:-1])
    assert torch.equal(after[-1, ..., :8], before[-1, ..., :8])
    assert not torch.equal(after[-1, ..., 8:], before[-1, ..., 8:])


@pytest.mark.parametrize("frames", [2, 5, 13])
@text_families
def test_equal_trees_of_all_frames_are_one_tree_to_the_bit(entry, frames):
    latent = clip_latent(entry, frames)
    tree = half_kept(16, 24, entry.px_per_cell, free=0.7)
    trees = FrameTrees([tree] * (1 + ratio_of(entry) * (frames - 1)))
    many, one = attach_frames(entry, trees, feather_px=32), patched(entry, tree, feather_px=32)
    run = {"steps": STEPS, "denoise": 0.7, "sampler": "dpmpp_2m"}
    found = sample(entry, latent, model=many, **run)
    assert torch.equal(found, sample(entry, latent, model=one, **run))


def test_every_call_with_a_tree_per_frame_equals_a_naive_reference():
    """Blend each window by its share in float64, then hold each frame by its own denoise."""
    entry = entry_of("wan21_t2v")
    latent = clip_latent(entry, 5)
    trees = frame_trees(entry, [0.0, *[0.3] * 4, *[1.0] * 8, *[0.5] * 4], 16, 24)
    model = attach_frames(entry, trees, overlap_px=32, feather_px=8)
    patch = model.model_options["model_function_wrapper"]
    errors = []

    def both(apply_model, args):
        run = args["c"]["transformer_options"][KEY]
        index = find_step(float(args["timestep"][0]), run.clock.sigmas)
        windows, margin = run.layouts.windows(index), run.tiling.overlap * run.tiling.unit // 2
        total = torch.zeros_like(args["input"], dtype=torch.float64)
        shares = compute_shares(windows, (16, 24), run.plan.method, margin)
        for window, share in zip(windows, shares, strict=True):
            cut = crop_call(args, [window.box], unit=2, memory=RunMemory())
            denoised = apply_model(cut["input"], cut["timestep"], **cut["c"])
            total[(..., *window.box.slices)] += denoised.double() * share
        freedom = run.freedom(index)[:, None]
        assert freedom.shape == (1, 1, 5, 16, 24)
        expected = run.clean.double() + freedom * (total - run.clean.double())
        found = patch(apply_model, args)
        errors.append(error(found, expected))
        return found

    model.set_model_unet_function_wrapper(both)
    sample(entry, latent, model=model, steps=5)
    assert len(errors) == 5 and max(errors) < 1e-5


@text_families
def test_windows_whose_frames_are_all_held_are_not_evaluated(entry):
    ratio = ratio_of(entry)
    latent = clip_latent(entry, 5, 32, 48)
    moving = tree_of([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6, [0.0] * 6, [0.0] * 6], 32, 48)
    still = tree_of([[0.0]], 32, 48)
    trees = FrameTrees([*[still] * (1 + 2 * ratio), *[moving] * ratio, *[still] * ratio])
    spy = Spy(attach_frames(entry, trees))
    samples = sample(entry, latent, model=spy.model, steps=STEPS)
    assert spy.cells <= STEPS * 32 * 48 / 4
    held = torch.ones(5, 32, 48, dtype=torch.bool)
    held[3, :8, :8] = False
    assert torch.equal(samples[:, :, held], latent[:, :, held])


@pytest.mark.parametrize(("given", "frames"), [(3, 5), (5, 3), (1, 2)])
@clips
def test_a_clip_of_another_length_is_refused_in_words(name, given, frames):
    """The message names the frames of the trees and of the latent, and how many are right."""
    entry, latent = make_clip(name, frames)
    ratio = ratio_of(entry)
    px, right = (1 + ratio * (count - 1) for count in (given, frames))
    model = attach_frames(entry, frame_trees(entry, [1.0] * px, 16, 24))
    words = (
        f"{px} frames of a clip, which make {given} latent frames .* "
        f"latent has {frames}.* the {right} frames"
    )
    with pytest.raises(ValueError, match=words):
        sample(entry, latent, model=model, steps=STEPS)


def test_trees_of_single_images_are_refused_for_a_clip_in_words():
    entry = entry_of("wan21_t2v")
    trees = half_kept(16, 24), half_kept(16, 24)
    with pytest.raises(ValueError, match=r"video with 2 latent frames: .* choose clip"):
        sample(entry, clip_latent(entry, 2), model=patched(entry, *trees), steps=STEPS)


@pytest.mark.parametrize("name", ["wan21_t2v", "sd15"])
def test_a_still_takes_the_largest_denoise_of_a_clip(name):
    entry = entry_of(name)
    latent = entry.latent(16, 24)[:, :, :1] if entry.frames else entry.latent(16, 24)
    trees = frame_trees(entry, [0.0, 0.4, 0.8, 0.2, 0.0], 16, 24)
    run = {"steps": 5, "denoise": 0.8}
    found = sample(entry, latent, model=attach_frames(entry, trees), **run)
    assert torch.equal(found, sample(entry, latent, model=patched(entry, trees[2]), **run))


@pytest.mark.parametrize("name", ["wan21_t2v", "wan22_5b", "ltxv"])
def test_a_video_whose_first_frame_is_given_is_the_plain_run_of_core(name):
    """As image-to-video nodes make it: the others are empty, and a mask closes the first."""
    entry = entry_of(name)
    latent = entry.latent()
    latent[:, :, 1:] = 0
    mask = torch.ones(1, 1, latent.shape[2], 1, 1)
    mask[:, :, 0] = 0
    model = patched(entry, half_kept(*latent.shape[-2:], entry.px_per_cell), tile_px=0)
    run = {"steps": STEPS, "noise_mask": mask}
    samples = sample(entry, latent, model=model, **run)
    plain = sample(entry, latent, **run)
    assert torch.equal(samples[:, :, 1:], plain[:, :, 1:])
    assert error(samples[:, :, 0], latent[:, :, 0]) < 1e-5


def test_a_noise_mask_of_frames_closes_them_in_a_second_stage_too():
    entry = entry_of("wan21_t2v")
    latent = clip_latent(entry, 5)
    tree = half_kept(16, 24)
    mask = torch.ones(1, 1, 5, 16, 24)
    mask[:, :, 1:3] = 0
    first = sample(entry, latent, model=patched(entry, tree), steps=6, last_step=3)
    second = patched(entry, tree, clean_latent=latent)
    run = {"steps": 6, "start_step": 3, "disable_noise": True}
    samples = sample(
        entry, first, model=second, noise_mask=mask, noise=torch.zeros_like(latent), **run
    )
    assert torch.equal(samples[:, :, 1:3], latent[:, :, 1:3])
    free = free_cells(tree, latent)
    assert not torch.equal(samples[:, :, 3][..., free], latent[:, :, 3][..., free])


def test_windows_of_a_clip_come_one_by_one_and_are_smaller():
    geometry = Geometry.of(entry_of("wan21_t2v").model)
    denoise = torch.ones(1, 1, 136, 240, dtype=torch.float64)
    still, clip = (create_run(None, Settings(), geometry, denoise, frames=n) for n in (1, 21))
    assert (still.batch, clip.batch, clip.tiling.batch) == (4, 1, 1)
    for run in (still, clip):
        run.start([1.0, 0.0])
    sizes = [
        max(w.box.width * w.box.height for w in run.layouts.windows(0)) for run in (still, clip)
    ]
    assert sizes[1] < sizes[0]
    assert min(min(w.box.width, w.box.height) for w in clip.layouts.windows(0)) >= 512 // 8


def test_denoise_fades_in_and_out_over_frames_and_never_rises():
    latent = torch.zeros(1, 16, 7, 2, 2)
    values = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    px = [values[0], *(value for value in values[1:] for _ in range(4))]
    trees = FrameTrees([half_kept(2, 2)] * len(px))
    maps = torch.tensor(px, dtype=torch.float64)[:, None, None].expand(-1, 2, 2)
    assert fit_maps(maps, trees, latent, 4, fade=False)[0, :, 0, 0].tolist() == values
    faded = fit_maps(maps, trees, latent, 4, fade=True)[0, :, 0, 0]
    assert (faded <= torch.tensor(values)).all()
    steps = faded.diff().abs()
    assert faded.max() > 0.6 and steps.max() < 0.7


@pytest.mark.parametrize("batch", ["clip", "clip maximum", "clip per frame"])
@clips
def test_only_what_moves_over_a_still_background_is_evaluated(name, batch):
    """Through the nodes, from the frames in px to the latent."""
    entry, latent = make_clip(name, 3, (32, 40))
    frames, ratio = len(by_frame(latent)), ratio_of(entry)
    shape = {"side": 32, "start": (32, 32), "step": (1, 2)}
    clip = object_clip(soft_wall(256, 320), 1 + ratio * (frames - 1), **shape)
    trees = QuadtreeVisualizer.execute(clip, batch=batch, **MOVING).args[1]
    windows = {"tile_size": 16 * entry.px_per_cell, "tile_overlap": 0, "tile_batch_size": 4}
    plain = {"method": "Shifted Feather", "schedule": "hold", "feather": 0}
    model = QuadtreeDiffusion.execute(
        entry.model, trees, skip_diffusion_below=0, **windows, **plain
    ).args[0]
    spy = Spy(model)
    samples = sample(entry, latent, model=spy.model, steps=STEPS, denoise=0.7)

    evaluated = sum(math.prod(shape) // shape[1] for shape in spy.shapes)
    assert 0 < evaluated <= 0.4 * STEPS * latent[:, 0].numel()
    maps = torch.stack([tree.denoise_map(32, 40) for tree in trees])
    maps = maps.expand(1 + ratio * (frames - 1), -1, -1)
    groups = [maps[:1], *maps[1:].split(ratio)]
    held = torch.stack([group.amax(0) == 0 for group in groups])
    assert held.double().mean() > 0.6
    before, after = by_frame(latent).movedim(1, 0), by_frame(samples).movedim(1, 0)
    assert torch.equal(after[:, held], before[:, held])
    assert (after != before)[:, ~held].double().mean() > 0.99


def test_a_clip_whose_background_stands_still_is_refined_from_images_to_images():
    entry, vae = entry_of("wan21_t2v"), qwen(width=8)
    clip = object_clip(soft_wall(256, 384), 10, side=32, start=(32, 32), step=(2, 4))
    _, trees, masks, _ = QuadtreeVisualizer.execute(clip, batch="clip", **MOVING).args
    latent = vae.encode(clip)
    assert latent.shape == (1, 16, 3, 32, 48)
    spy = Spy(patched(entry, *trees))
    samples = sample(entry, latent, model=spy.model, steps=STEPS, denoise=0.7)
    assert 0 < spy.cells <= STEPS * 32 * 48 * 0.4
    price = estimate_cost(
        trees,
        Settings(feather_px=0, tile_px=128, overlap_px=0),
        Geometry.of(entry.model),
        sampling=Sampling(steps=STEPS),
        height=32,
        width=48,
        frames=3,
    )
    assert spy.cells / (STEPS * 32 * 48) == pytest.approx(price)
    held = masks[0].unflatten(1, (-1, 8)).unflatten(0, (-1, 8)).amax((1, 3)) == 0
    assert held.double().mean() > 0.6 and torch.equal(samples[..., held], latent[..., held])
    result = QuadtreeVAEDecode.execute({"samples": samples}, vae, trees, clip, 16).args[0]
    assert len(result) == 9
    assert torch.equal(result[:, masks[0] == 0], clip[:9, masks[0] == 0])
    assert not torch.equal(result, clip[:9])


@pytest.mark.parametrize(
    ("name", "frames", "latent_frames"),
    [
        *[("wan21_t2v", 81, 21), ("ltxv", 81, 11), ("mochi", 13, 3), ("seedvr2", 81, 21)],
        *[("sd15", 81, 1), ("flux", 1, 1)],
    ],
)
def test_a_clip_s_latent_frames_are_told_before_it_is_encoded(name, frames, latent_frames):
    """With a model of images, a clip is a batch."""
    assert Geometry.of(entry_of(name).model).count_frames(frames) == latent_frames
