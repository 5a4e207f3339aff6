"""Quadtree Crops and Quadtree Prompts: a prompt per region, at the price of its region."""

from copy import copy

import pytest
import torch
from quadtree_pack.nodes import QuadtreeCrops, QuadtreePrompts, QuadtreeVisualizer
from quadtree_pack.quadtree import FrameTrees
from quadtree_pack.sampling.prompts import weigh_regions
from quadtree_pack.testing.node_values import VISUALIZER
from quadtree_pack.testing.support import Spy, error, families, patched, tree_of
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import gauss, sample

HEIGHT, WIDTH = 32, 48  # cells; windows of 16 x 16 are 2 x 3
FIXED = {"method": "MultiDiffusion", "tile_px": 128, "overlap_px": 0, "batch": 1}
RUN = {"steps": 2, "cfg": 3.0}


def prompt_regions(base, prompts, regions, feather=0, strength=1.0):
    return QuadtreePrompts.execute([base], prompts, regions, [feather], [strength]).args[0]


def cut(image, trees, max_crops=6, crop_size=128):
    return QuadtreeCrops.execute(image, trees, max_crops, crop_size).args


def left_and_right(height=256, width=384, at=128):
    left = torch.zeros(1, height, width)
    left[..., :at] = 1
    return [left, 1 - left]


def with_positive(entry, positive):
    entry = copy(entry)
    entry.positive = positive
    return entry


def run(entry, positive, latent, tree, **settings):
    entry = with_positive(entry, positive)
    spy = Spy(entry.model)
    tiled = patched(entry, tree, model=spy.model, **{**FIXED, **settings})
    return sample(entry, latent, model=tiled, **RUN), spy.cells


# ---- what the sampler makes of it


@families(["flux", "sd15", "sdxl", "z_image", "qwen_image", "wan21_t2v"])
def test_windows_in_one_region_are_as_with_its_prompt_alone(entry):
    prompts = [entry.make_cond(seed) for seed in (21, 22)]
    px = entry.px_per_cell
    regions = left_and_right(HEIGHT * px, WIDTH * px, 16 * px)
    latent, tree = entry.latent(HEIGHT, WIDTH), tree_of([[1.0]], HEIGHT, WIDTH, px)
    settings = {"tile_px": 16 * px}
    positive = prompt_regions(entry.positive, prompts, regions)
    found, cells = run(entry, positive, latent, tree, **settings)
    for prompt, inside in zip(prompts, (slice(0, 16), slice(16, WIDTH)), strict=True):
        expected, alone = run(entry, prompt, latent, tree, **settings)
        assert error(found[..., inside], expected[..., inside]) < 1e-6
        assert error(found, expected) > 1e-3
        assert cells == alone  # every window evaluated one prompt, and the negative one


def test_a_region_costs_the_windows_that_touch_it():
    entry = entry_of("flux")
    base, prompt = entry.positive, entry.make_cond(21)
    latent, tree = entry.latent(HEIGHT, WIDTH), tree_of([[1.0]], HEIGHT, WIDTH)
    window = RUN["steps"] * 16 * 16
    (region, _), (across, _) = left_and_right(), left_and_right(at=192)
    for mask, feather, strength, positive in (
        (region, 0, 1.0, 6),  # 2 windows of the prompt, 4 of the base
        (across, 0, 1.0, 8),  # the border runs through 2 windows
        (region, 64, 1.0, 10),  # the transition reaches into 2 windows on either side
        (region, 0, 0.5, 8),  # both in the region's 2 windows
        (region, 0, 0.0, 6),
        (torch.zeros_like(region), 0, 1.0, 6),
    ):
        conds = prompt_regions(base, [prompt], [mask], feather, strength)
        assert run(entry, conds, latent, tree)[1] == window * (6 + positive)


def test_a_strength_blends_the_prompts_as_core_does():
    entry = entry_of("flux")
    base, prompt = entry.positive, entry.make_cond(21)
    latent, tree = entry.latent(HEIGHT, WIDTH), tree_of([[1.0]], HEIGHT, WIDTH)
    everywhere = torch.ones(1, 8, 12)
    found, _ = run(entry, prompt_regions(base, [prompt], [everywhere], 0, 0.25), latent, tree)
    weights = zip((base, prompt), (0.75, 0.25), strict=True)
    core = [
        [text, {**options, "mask": everywhere, "mask_strength": weight}]
        for conds, weight in weights
        for text, options in conds
    ]
    assert error(found, run(entry, core, latent, tree)[0]) < 1e-6


def test_prompts_work_in_a_run_without_the_tree():
    entry = entry_of("flux")
    prompts = [entry.make_cond(seed) for seed in (21, 22)]
    latent, tree = entry.latent(33, 43, batch=2), tree_of([[1.0]], 33, 43)
    positive = prompt_regions(entry.positive, prompts, left_and_right(264, 344), 48)
    one_window, _ = run(entry, positive, latent, tree, tile_px=1024)
    entry = with_positive(entry, positive)
    assert torch.equal(one_window, sample(entry, latent, **RUN))


def test_each_image_of_a_batch_can_have_masks_of_its_own():
    entry = entry_of("flux")
    latent, tree = entry.latent(HEIGHT, WIDTH, batch=2), tree_of([[1.0]], HEIGHT, WIDTH)
    left, right = left_and_right(at=192)
    prompt = entry.make_cond(21)
    both, _ = run(
        entry,
        prompt_regions(entry.positive, [prompt], [torch.cat([left, right])]),
        latent,
        tree,
        tile_px=1024,
    )
    for number, mask in enumerate((left, right)):
        positive = prompt_regions(entry.positive, [prompt], [mask])
        one, _ = run(entry, positive, latent, tree, tile_px=1024)
        assert error(both[number], one[number]) < 1e-6


# ---- the masks


@pytest.mark.parametrize("feather", [0, 16, 64, 4096])
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_masks_sum_to_1_everywhere(feather, strength):
    soft = gauss((2, 37, 53), 1).sigmoid()
    for regions in (
        left_and_right(37, 53, 20),
        [soft[:1], torch.ones(1, 37, 53), torch.zeros(1, 9, 7)],
        [soft, left_and_right(37, 53, 20)[0]],
        [torch.ones(1, 1, 1)],
    ):
        weights = weigh_regions(regions, feather, strength)
        total = torch.stack(torch.broadcast_tensors(*weights)).sum(0)
        assert error(total, torch.ones_like(total)) < 1e-6
        assert all(weight.min() >= 0 for weight in weights)


def test_prompts_of_regions_that_meet_leave_nothing_to_the_base():
    soft = gauss((5, 37, 53), 1).softmax(0).split(1)
    for regions in (left_and_right(), soft):
        outside, *_ = weigh_regions(regions, 40, 1.0)
        assert outside.eq(0).all()  # rounding noise would cost its evaluation


def test_a_transition_has_its_width_around_the_border():
    _, left, _ = weigh_regions(left_and_right(at=128), 64, 1.0)
    row = left[0, 100]
    assert row[:96].eq(1).all() and row[161:].eq(0).all()
    assert bool((row[96:161].diff() < 0).all()) and abs(float(row[128]) - 0.5) < 0.02


def test_an_image_of_16384_px_has_masks_no_finer_than_its_cells():
    (mask, _) = left_and_right(128, 16384, 8192)
    outside, inside = weigh_regions([mask], 64, 1.0)
    assert inside.shape == (1, 16, 2048)
    assert inside[..., :1019].eq(1).all() and outside[..., 1029:].eq(1).all()


def test_a_second_node_gives_a_region_inside_of_a_region():
    entry = entry_of("flux")
    prompts = [entry.make_cond(seed) for seed in (21, 22)]
    (left, _), (half, _) = left_and_right(at=256), left_and_right(at=128)
    first = prompt_regions(entry.positive, prompts[:1], [left])
    base, outer, inner = prompt_regions(first, prompts[1:], [half])
    assert torch.equal(inner[1]["mask"], half)
    assert torch.equal(outer[1]["mask"], left - half)
    assert torch.equal(base[1]["mask"], 1 - left)


def test_what_a_prompt_holds_already_stays():
    entry = entry_of("flux")
    own = torch.full((1, 4, 6), 0.5)
    options = {"mask": own, "mask_strength": 0.7, "start_percent": 0.2, "set_area_to_bounds": True}
    prompt = [[entry.make_cond(21)[0][0], options]]
    rest = [[entry.positive[0][0], {"default": True}]]
    base, found = prompt_regions(rest, [prompt], left_and_right()[:1])
    assert base[1] == {"default": True}  # core lets it have what others leave
    mask = found[1].pop("mask")
    assert found[1] == {key: value for key, value in options.items() if key != "mask"}
    assert torch.equal(mask, 0.5 * left_and_right()[0])
    assert options["mask"] is own


# ---- the crops


def test_crops_hold_what_the_tree_refines_and_nothing_twice():
    for height, width in ((256, 384), (250, 389), (397, 599)):
        image = torch.full((1, height, width, 3), 0.5)
        image[:, 60:150, 20:100] = torch.rand(1, 90, 80, 3)
        image[:, 130:, 220:] = torch.rand(1, height - 130, width - 220, 3)
        (tree,) = QuadtreeVisualizer.execute(image, **VISUALIZER).args[1]
        crops, regions = cut(image, (tree,))
        total = torch.stack(regions).sum(0)[0]
        assert len(crops) > 1 and total.max() == 1 and total.mean() < 0.8
        assert total[tree.denoise_map(height, width) > 0].eq(1).all()
        for crop, region in zip(crops, regions, strict=True):
            inside = image[0][region[0] == 1]
            assert max(crop.shape[1:3]) <= 128
            if len(inside) == crop.shape[1] * crop.shape[2]:
                assert torch.equal(crop.reshape(-1, 3), inside)


def test_a_crop_is_reduced_and_never_enlarged():
    tree = tree_of([[1.0]], 32, 48)
    ((crop,), (region,)) = cut(torch.rand(1, 256, 384, 4), (tree,), 1)
    assert crop.shape == (1, 85, 128, 3) and region.eq(1).all()
    ((crop,), _) = cut(torch.rand(1, 256, 384, 1), (tree,), 1, 4096)
    assert crop.shape == (1, 256, 384, 3)


def test_the_image_may_be_larger_than_the_trees():
    tree = tree_of([[0.0, 1.0]], 16, 16)
    crops, regions = cut(torch.rand(1, 512, 512, 3), (tree,), 1, 512)
    assert [region.shape for region in regions] == [(1, 512, 512)]
    # The refined half, and a cell of it before that.
    assert regions[0][..., 248:].eq(1).all() and regions[0][..., :248].eq(0).all()
    assert crops[0].shape == (1, 512, 264, 3)


def test_a_clip_shows_its_middle_frame():
    trees = FrameTrees([tree_of([[0.0, 1.0]], 16, 16), tree_of([[1.0, 0.0]], 16, 16)])
    frames = torch.rand(5, 128, 128, 3)
    ((crop,), (region,)) = cut(frames, trees, 1)
    assert torch.equal(crop, frames[2:3]) and region.eq(1).all()


def test_several_images_are_refused_in_words():
    tree = tree_of([[1.0]], 16, 16)
    with pytest.raises(ValueError, match="2 images and 1 trees came"):
        cut(torch.rand(2, 128, 128, 3), (tree,))
    with pytest.raises(ValueError, match="another aspect"):
        cut(torch.rand(1, 128, 200, 3), (tree,))


# ---- what does not fit together


@pytest.mark.parametrize(("prompts", "regions"), [(1, 2), (3, 2), (0, 1), (1, 0)])
def test_other_numbers_of_prompts_than_of_regions_are_refused_in_words(prompts, regions):
    entry = entry_of("flux")
    with pytest.raises(ValueError, match=f"{prompts} prompts came for {regions} regions; give one"):
        prompt_regions(entry.positive, [entry.positive] * prompts, [torch.ones(1, 8, 8)] * regions)


def test_one_batch_of_masks_is_a_region_for_each_prompt():
    entry = entry_of("flux")
    prompts = [entry.make_cond(seed) for seed in (21, 22)]
    masks = left_and_right()
    as_list = prompt_regions(entry.positive, prompts, masks)
    as_batch = prompt_regions(entry.positive, prompts, [torch.cat(masks)])
    for one, other in zip(as_list, as_batch, strict=True):
        assert torch.equal(one[1]["mask"], other[1]["mask"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regions": [torch.ones(2, 8, 8), torch.ones(3, 8, 8)]}, "batches of 2 and 3 masks"),
        ({"regions": [torch.ones(1, 8, 8, 3)] * 2}, "A mask in regions has shape"),
        ({"regions": ["a", "b"]}, "mask in regions is str"),
        ({"prompts": ["a photo", "of a cup"]}, "not a conditioning; connect CLIP Text Encode"),
        ({"prompts": [[], []]}, "not a conditioning"),
    ],
)
def test_what_is_no_mask_or_no_prompt_is_refused_in_words(changes, words):
    cond = entry_of("flux").positive
    given = {"prompts": [cond, cond], "regions": [torch.ones(1, 8, 8)] * 2, **changes}
    with pytest.raises(ValueError, match=words):
        prompt_regions(cond, **given)


def test_several_base_prompts_are_refused_in_words():
    cond = entry_of("flux").positive
    with pytest.raises(ValueError, match="conditioning is a list of 2 values; connect one"):
        QuadtreePrompts.execute([cond, cond], [cond], [torch.ones(1, 8, 8)], [0], [1.0])
