"""Prompts with masks: only windows that a mask touches pay for its prompt, and the result is as if
every window had."""

from copy import copy

import pytest
import torch
from quadtree_pack.sampling.run import Run
from quadtree_pack.testing.support import Spy, error, families, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_controls import hint_image, sd15_controlnet, with_control
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample

HEIGHT, WIDTH = 32, 48  # cells; windows of 16 x 16 are 2 x 3
FIXED = {"method": "MultiDiffusion", "tile_px": 128, "overlap_px": 0, "batch": 1}
RUN = {"steps": 3, "cfg": 3.0}


def masked(conds, mask, **values):
    """The conditioning with a mask [B or 1, h, w], as Conditioning (Set Mask) gives it."""
    values = {"mask": mask, "set_area_to_bounds": False, "mask_strength": 1.0, **values}
    return [[text, {**options, **values}] for text, options in conds]


def columns(start, end, height=HEIGHT, width=WIDTH, batch=1):
    mask = torch.zeros(batch, height, width)
    mask[..., start:end] = 1
    return mask


def with_prompts(entry, *positive):
    entry = copy(entry)
    entry.positive = [cond for conds in positive for cond in conds]
    return entry


def evaluate_all(monkeypatch):
    """Let every window evaluate all conds of its call, as before there was a choice."""
    monkeypatch.setattr(
        Run,
        "group_windows",
        lambda run, ids, step: {tuple(range(len(ids))): list(range(len(step.windows)))},
    )


def sample_with(entry, latent, model, **options):
    return sample(entry, latent, model=model, **{**RUN, **options})


@families(["flux", "sd15", "qwen_image", "wan21_t2v"])
def test_each_window_pays_for_the_prompts_that_touch_it(entry):
    left, right = entry.make_cond(21), entry.make_cond(22)
    entry = with_prompts(
        entry, masked(left, columns(0, 16)), masked(right, columns(16, WIDTH)), entry.positive
    )
    latent = entry.latent(HEIGHT, WIDTH)
    spy = Spy(entry.model)
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=spy.model, **FIXED)
    sample_with(entry, latent, tiled)
    # The base prompt and the negative one in all 6 windows, left in 2, right in 4.
    assert spy.cells == RUN["steps"] * 16 * 16 * (6 + 6 + 2 + 4) * len(latent)


@families(["flux", "sd15", "qwen_image", "wan21_t2v"])
@pytest.mark.parametrize(
    "settings",
    [FIXED, {}, {"method": "SpotDiffusion"}, {"overlap_px": 64, "batch": 4}],
    ids=["fixed", "feather", "spot", "overlap"],
)
def test_leaving_out_prompts_changes_nothing(entry, settings, monkeypatch):
    latent = entry.latent(33, 43, batch=2 if entry.frames is None else 1)
    # Soft, and smaller than the latent: core enlarges them.
    ramp = torch.linspace(-3, 4, 12).clamp(0, 1).expand(1, 9, -1)
    entry = with_prompts(
        entry, masked(entry.make_cond(21), ramp), masked(entry.make_cond(22), 1 - ramp)
    )
    found = []
    for all_of_them in (False, True):
        if all_of_them:
            evaluate_all(monkeypatch)
        spy = Spy(entry.model)
        tiled = patched(entry, half_kept(33, 43), model=spy.model, **settings)
        found.append((sample_with(entry, latent, tiled), spy.cells))
    (chosen, fewer), (everything, all_cells) = found
    assert error(chosen, everything) < 1e-5
    assert fewer < all_cells


@families(["flux", "sd15"])
def test_a_window_inside_one_region_is_that_prompts_alone(entry):
    latent = entry.latent(HEIGHT, WIDTH)
    tree = tree_of([[1.0]], HEIGHT, WIDTH)
    prompts = [entry.make_cond(seed) for seed in (21, 22)]
    both = with_prompts(
        entry, masked(prompts[0], columns(0, 24)), masked(prompts[1], columns(24, WIDTH))
    )
    found = sample_with(both, latent, patched(both, tree, **FIXED))
    for prompt, inside in zip(prompts, (slice(0, 16), slice(32, WIDTH)), strict=True):
        alone = with_prompts(entry, prompt)
        expected = sample_with(alone, latent, patched(alone, tree, **FIXED))
        assert error(found[..., inside], expected[..., inside]) < 1e-6
        assert error(found, expected) > 0.01  # the prompts differ


def test_held_cells_of_a_region_do_not_pay_for_its_prompt():
    entry = entry_of("flux")
    tree = tree_of([[0.0, 0.0, 1.0, 1.0, 1.0, 1.0]], HEIGHT, WIDTH)
    entry = with_prompts(
        entry,
        masked(entry.make_cond(21), columns(0, 16)),
        masked(entry.make_cond(22), columns(16, WIDTH)),
    )
    calls = []
    for _ in range(2):
        spy = Spy(entry.model)
        settings = {**FIXED, "overlap_px": 64}  # windows reach into what is held
        sample_with(
            entry, entry.latent(HEIGHT, WIDTH), patched(entry, tree, model=spy.model, **settings)
        )
        calls.append(spy.cells)
        entry = with_prompts(entry, masked(entry.make_cond(22), columns(16, WIDTH)))
    assert calls[0] == calls[1]


def test_a_mask_that_touches_nothing_costs_nothing():
    entry = entry_of("flux")
    nothing = masked(entry.make_cond(21), torch.zeros(1, HEIGHT, WIDTH))
    silent = masked(entry.make_cond(22), torch.ones(1, HEIGHT, WIDTH), mask_strength=0.0)
    latent, tree = entry.latent(HEIGHT, WIDTH), tree_of([[1.0]], HEIGHT, WIDTH)
    for settings in (FIXED, {"tile_px": 8 * WIDTH}):
        cells, samples = [], []
        for extra in ([], nothing + silent):
            one = with_prompts(entry, entry.positive, extra)
            spy = Spy(one.model)
            samples.append(
                sample_with(one, latent, patched(one, tree, model=spy.model, **settings))
            )
            cells.append(spy.cells)
        assert cells[0] == cells[1] and error(samples[1], samples[0]) < 1e-6


def test_the_prompt_for_what_others_leave_counts_where_core_lets_it(monkeypatch):
    entry = entry_of("flux")
    # Core ignores the mask of a default cond.
    rest = masked(entry.positive, columns(0, 1), default=True)
    entry = with_prompts(entry, masked(entry.make_cond(21), columns(0, 16)), rest)
    latent, tree = entry.latent(HEIGHT, WIDTH), tree_of([[1.0]], HEIGHT, WIDTH)
    chosen = sample_with(entry, latent, patched(entry, tree, **FIXED))
    evaluate_all(monkeypatch)
    assert error(chosen, sample_with(entry, latent, patched(entry, tree, **FIXED))) < 1e-6


def test_prompts_of_regions_meet_a_controlnet_as_without_the_choice(monkeypatch):
    entry = entry_of("sd15")
    entry = with_prompts(
        entry,
        masked(entry.make_cond(21), columns(0, 16)),
        masked(entry.make_cond(22), columns(16, WIDTH)),
    )
    entry = with_control(entry, sd15_controlnet(), hint_image(8 * HEIGHT, 8 * WIDTH))
    latent, tree = entry.latent(HEIGHT, WIDTH), half_kept(HEIGHT, WIDTH)
    chosen = sample_with(entry, latent, patched(entry, tree))
    evaluate_all(monkeypatch)
    assert error(chosen, sample_with(entry, latent, patched(entry, tree))) < 1e-5


def test_a_mask_for_each_image_of_a_batch_counts_in_any_of_them(monkeypatch):
    entry = entry_of("flux")
    masks = torch.cat([columns(0, 16), columns(32, WIDTH)])
    entry = with_prompts(
        entry, masked(entry.make_cond(21), masks), masked(entry.positive, 1 - masks)
    )
    latent, tree = entry.latent(HEIGHT, WIDTH, batch=2), tree_of([[1.0]], HEIGHT, WIDTH)
    spy = Spy(entry.model)
    chosen = sample_with(entry, latent, patched(entry, tree, model=spy.model, **FIXED))
    assert spy.cells == RUN["steps"] * 16 * 16 * (6 + 6 + 4) * 2
    evaluate_all(monkeypatch)
    assert error(chosen, sample_with(entry, latent, patched(entry, tree, **FIXED))) < 1e-6


def test_prompts_of_regions_count_in_all_images_that_share_a_clean_latent():
    entry = entry_of("flux")
    latent = entry.latent(HEIGHT, WIDTH, batch=2)
    tree = half_kept(HEIGHT, WIDTH)
    entry = with_prompts(
        entry,
        masked(entry.make_cond(21), columns(0, 16)),
        masked(entry.make_cond(22), columns(16, WIDTH)),
    )
    results = []
    for clean in (latent[:1], latent[:1].repeat(2, 1, 1, 1)):
        model = patched(entry, tree, tile_px=128, clean_latent=clean)
        results.append(sample(entry, latent, model=model, steps=3))
    assert torch.equal(*results)
