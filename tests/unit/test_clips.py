"""Trees of clips: what moves is detail, what stands still is measured as in a still."""

import math
import weakref

import pytest
import torch
from quadtree_pack.quadtree import FrameTrees
from quadtree_pack.testing.clips import object_clip, soft_wall
from quadtree_pack.testing.photos import photo
from quadtree_pack.tree.clips import (
    ClipSums,
    average_frames,
    find_busiest,
    group_frames,
    measure_frames,
    sum_frames,
)
from quadtree_pack.tree.detail import BlockSums, detail_by_color
from quadtree_pack.tree.octaves import sum_motion, sum_octaves
from quadtree_pack.tree.regions import Region
from quadtree_pack.ui.building import build_tree
from quadtree_pack.ui.clips import BATCHES
from quadtree_pack.ui.facts import gather_facts

FRAMES, SIDE, START, STEP = 9, 64, (96, 32), (4, 24)
CLIPS = ["clip", "clip maximum", "clip per frame"]
OPTIONS = {"mask_mode": "multiply", "budget": 0.0, "content_threshold": 0.0, "coverage": 0.95}
OPTIONS |= {"min_tile_px": 32, "max_tile_px": 0, "min_denoise": 0.2, "max_denoise": 0.8}


def moving(background=None, frames=FRAMES):
    wall = soft_wall(256, 384) if background is None else background
    return object_clip(wall, frames, side=SIDE, start=START, step=STEP)


def path_of(frames, height=256, width=384):
    """Px that the object covers in some of these frames."""
    path = torch.zeros(height, width, dtype=torch.bool)
    for frame in frames:
        y, x = (START[axis] + frame * STEP[axis] for axis in (0, 1))
        path[y : y + SIDE, x : x + SIDE] = True
    return path


def build(batch, clip, masks=None, **changes):
    masks = [None] * len(clip) if masks is None else masks
    return BATCHES[batch](clip, masks, **{**OPTIONS, **changes})


def refined(tree):
    return tree.denoise_map(tree.height, tree.width) > 0


@pytest.mark.parametrize("batch", CLIPS)
def test_a_clip_of_one_channel_is_only_read_and_has_the_tree_of_its_colours(batch):
    grey = moving()[..., :1].contiguous()
    before = grey.clone()
    trees = [build(batch, clip) for clip in (grey, grey.repeat(1, 1, 1, 3))]
    assert torch.equal(grey, before)
    maps = [[refined(tree) for tree in found.trees] for found in trees]
    assert all(torch.equal(*pair) for pair in zip(*maps, strict=True))


@pytest.mark.parametrize("measure", [average_frames, find_busiest])
def test_equal_frames_have_the_sums_of_one(measure):
    still = photo("coffee", 256)
    clip = ClipSums.of_frames(still.repeat(5, 1, 1, 1))
    sums, one = measure(clip), BlockSums.of_image(still, True, True)
    assert torch.equal(sums.octaves, one.octaves) and torch.allclose(sums.sums, one.sums)
    assert sums.frames == 5 and (sums.width, sums.height) == (one.width, one.height)


def test_white_noise_shows_the_same_in_space_and_in_time():
    noise = 0.5 + 0.05 * torch.randn(2, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    space = sum_octaves(noise[0]).sum((0, 1))
    assert torch.allclose(sum_motion(*noise).sum((0, 1)), space, rtol=0.1)


class FrameFile:
    """A clip whose frames are made when they are read, as from a file; counts those in memory."""

    def __init__(self, count, height, width):
        self.count, self.size, self.read, self.alive = count, (height, width, 3), [], []

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        frame = torch.rand(self.size, generator=torch.Generator().manual_seed(number))
        self.read.append(number)
        self.alive.append(weakref.ref(frame))
        return frame

    def __iter__(self):
        return (self[number] for number in range(self.count))

    def count_alive(self):
        return sum(frame() is not None for frame in self.alive)


def test_frames_are_read_one_by_one_and_two_are_in_memory_at_a_time():
    clip = FrameFile(12, 128, 192)
    for number, _ in enumerate(sum_frames(clip), 1):
        assert max(clip.read) <= number and clip.count_alive() <= 2


def test_the_sums_of_a_clip_take_little_of_its_memory():
    clip = FrameFile(65, 128, 192)
    clip.shape = len(clip), *clip.size
    assert ClipSums.of_frames(clip).bytes < len(clip) * 4 * math.prod(clip.size) / 30


def test_the_sums_of_a_clip_are_those_of_its_frames():
    clip = moving(photo("coffee", 384)[:256], 18)
    sums, frames = ClipSums.of_frames(clip), list(sum_frames(clip))
    average, busiest = average_frames(sums), find_busiest(sums)
    each = torch.stack([one.octaves for one in frames])
    assert torch.allclose(average.octaves, each.mean(0), rtol=1e-12)
    assert torch.equal(busiest.octaves, each.amax(0))
    assert torch.equal(torch.stack(list(sums.octaves)), each.float())
    assert torch.allclose(average.sums, torch.stack([one.sums for one in frames]).mean(0))
    colours = torch.stack([detail_by_color(one.sums) for one in frames])
    assert torch.equal(detail_by_color(busiest.sums), colours.amax(0))
    groups = list(group_frames(18))
    assert groups == [slice(0, 1), slice(1, 9), slice(9, 17), slice(17, 18)]
    for group, most in zip(groups, sums.colours, strict=True):
        assert torch.equal(detail_by_color(most), colours[group].amax(0))


@pytest.mark.parametrize("batch", CLIPS)
def test_what_moves_is_refined_and_a_still_background_is_kept(batch):
    trees = build(batch, moving()).trees
    refines = torch.stack([refined(tree) for tree in trees]).any(0)
    path = path_of(range(FRAMES))
    assert refines[path].double().mean() > 0.9
    around = torch.nn.functional.max_pool2d(path[None].float(), 129, 1, 64)[0] > 0
    assert not refines[~around].any()


def test_the_still_of_a_first_frame_does_not_refine_what_moves_later():
    clip = moving()
    late = path_of([FRAMES - 1])
    first, _ = build_tree(BlockSums.of_image(clip[0], True, True), min_tile_px=32)
    assert not refined(first)[late].any()
    assert refined(build("clip", clip).trees[0])[late].double().mean() > 0.8


@pytest.mark.parametrize("batch", CLIPS)
def test_motion_is_detail_where_no_frame_has_any(batch):
    """A soft ball rolls over a wall: no frame has fine detail, and a still of it is kept."""
    y, x = torch.arange(256.0)[:, None], torch.arange(384.0)[None, :]
    places = [80 + 12 * frame for frame in range(FRAMES)]
    balls = [torch.exp(-((y - 128) ** 2 + (x - at) ** 2) / 2 / 30**2) for at in places]
    clip = soft_wall(256, 384) + 0.3 * torch.stack(balls)[..., None]
    still, _ = build_tree(BlockSums.of_image(clip[0], True, True), min_tile_px=32)
    assert not refined(still).any()
    refines = torch.stack([refined(tree) for tree in build(batch, clip).trees]).any(0)
    assert refines[112:144, 96:160].all() and not refines.all()


def test_a_short_motion_is_averaged_away_but_is_in_the_maximum():
    still = photo("coffee", 384)[:256].repeat(30, 1, 1, 1)
    still[3, 16:32, 16:32] += 0.04
    sums = ClipSums.of_frames(still)
    averages, most = average_frames(sums), find_busiest(sums)
    one = BlockSums.of_image(still[0], True, True).octaves[2:4, 2:4]
    assert (averages.octaves[2:4, 2:4] / one).max() < (most.octaves[2:4, 2:4] / one).max() / 5


def test_frames_share_the_detail_of_the_clip():
    detail = measure_frames(ClipSums.of_frames(moving()), 32)
    assert detail.shape == (FRAMES, 8, 12) and detail.sum() == pytest.approx(1)


def test_trees_per_frame_follow_what_moves_and_change_with_groups_of_frames():
    frames = 33
    clip = object_clip(soft_wall(256, 1280), frames, side=SIDE, start=START, step=(0, 32))
    trees = build("clip per frame", clip).trees
    assert isinstance(trees, FrameTrees) and len(trees) == frames
    groups = [trees[0], *(trees[start] for start in range(1, frames, 8))]
    assert all(trees[frame] is groups[(frame + 7) // 8] for frame in range(frames))
    for frame in (0, 16, 32):
        x = START[1] + 32 * frame
        here = refined(trees[frame])
        assert here[96:160, x : x + SIDE].double().mean() > 0.9
        assert not here[:, : max(0, x - 600)].any() and not here[:, x + 640 :].any()


@pytest.mark.parametrize("per_latent", [1, 2, 4, 8])
def test_frames_of_one_latent_frame_share_a_tree(per_latent):
    """So Quadtree Composite, which sees no latent, need not know how many frames one holds."""
    groups = list(group_frames(81))
    for first in range(1, 81, per_latent):
        frames = range(first, min(81, first + per_latent))
        assert sum(not set(frames).isdisjoint(range(81)[group]) for group in groups) == 1


def test_a_tile_near_the_limit_does_not_flicker():
    clip = moving(frames=33)
    clip[::2] *= 0.97  # a lamp that flickers
    maps = torch.stack([refined(tree) for tree in build("clip per frame", clip).trees])
    switches = (maps[1:] != maps[:-1]).sum(0)
    assert switches.max() <= 2


@pytest.mark.parametrize("batch", CLIPS)
def test_a_threshold_counts_motion_too(batch):
    limits = {"content_threshold": 25.0, "min_denoise": 0.0, "max_tile_px": 128}
    trees = build(batch, moving(), **limits).trees
    refines = torch.stack([refined(tree) for tree in trees]).any(0)
    path = path_of(range(FRAMES))
    assert refines[path].double().mean() > 0.7 and not refines.all()
    assert not refined(build(batch, moving()[:1] * 0 + 0.5, **limits).trees[0]).any()


@pytest.mark.parametrize("batch", CLIPS)
def test_masks_of_frames_are_joined_for_a_clip_and_kept_for_its_frames(batch):
    masks = [torch.zeros(256, 384) for _ in range(FRAMES)]
    masks[0][:] = 1
    trees = build(batch, moving(), masks).trees
    assert refined(trees[0]).any()
    assert not (batch == "clip per frame" and refined(trees[-1]).any())


@pytest.mark.parametrize("batch", CLIPS)
def test_painted_regions_and_budgets_hold_in_clips(batch):
    regions = (Region("keep", 0.0, 0.0, 1.0, 1.0),)
    trees = build(batch, moving(), regions=regions).trees
    assert not any(refined(tree).any() for tree in trees)
    built = build(batch, moving(photo("coffee", 384)[:256]), budget=0.4)
    assert built.choices[0].name == "coverage" and built.choices[0].cost < 0.9


def test_numbers_of_a_clip_name_its_frames_and_its_cost_is_that_of_all_frames():
    clip = moving()
    one, each = (build(batch, clip).trees for batch in ("clip maximum", "clip per frame"))
    assert f"384 x 256 px, {FRAMES} frames," in gather_facts(one, 20).text()
    facts = gather_facts(each, 20)
    assert f"{FRAMES} frames" in facts.text() and f"{FRAMES} trees" in facts.text()
    assert facts.cost == pytest.approx(gather_facts(one, 20).cost, abs=0.2)
