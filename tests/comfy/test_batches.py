"""An image becomes the same picture wherever it lies in a batch, and alone."""

from copy import copy

import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from quadtree_pack.testing.features import gligen_for, guided, with_gligen
from quadtree_pack.testing.support import Spy, families, free_cells, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_controls import hint_image, sd15_controlnet, with_control
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import TOKENS, gauss, sample
from quadtree_pack.windows.blending import METHODS

HEIGHT, WIDTH = 34, 45
RUN = {"steps": 4, "cfg": 2.0, "denoise": 0.7}


def trees_of(px_per_cell=8):
    """Return trees that need other windows at nearly every step; the first and last are equal."""
    left = tree_of([[0.9, 0.0, 0.0, 0.0, 0.0, 0.0]], HEIGHT, WIDTH, px_per_cell)
    below = tree_of([[0.0], [0.0], [0.3], [0.5], [1.0]], HEIGHT, WIDTH, px_per_cell)
    return left, below, half_kept(HEIGHT, WIDTH, px_per_cell), left


def sample_batch_and_each(make_entry, latent, trees, **settings):
    """Return the batch, each image alone, and the cells that the model saw in both."""
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    spy = Spy(make_entry(range(len(latent))).model)

    def run(images):
        entry = make_entry(images)
        chosen = [trees[image] for image in images]
        model = patched(entry, *chosen, model=spy.model, **settings)
        spy.shapes = []
        some = list(images)
        done = sample(entry, latent[some], model=model, noise=noise[some], **RUN)
        return done, spy.cells

    together, cells = run(range(len(latent)))
    each = [run([image]) for image in range(len(latent))]
    return together, [alone[0] for alone, _ in each], cells, sum(seen for _, seen in each)


def check_images(together, each, latent, trees, rounding=1e-5):
    for found, alone, image, tree in zip(together, each, latent, trees, strict=True):
        held = ~free_cells(tree, image)
        assert torch.equal(found[..., held], image[..., held])
        change = float((alone - image).abs().max())
        assert float((found - alone).abs().max()) < rounding * change


@families(["sd15", "flux", "qwen_image"])
@pytest.mark.parametrize("method", METHODS)
def test_an_image_of_a_batch_becomes_what_it_becomes_alone_and_costs_as_much(entry, method):
    trees = trees_of(entry.px_per_cell)
    latent = entry.latent(HEIGHT, WIDTH, batch=len(trees))
    together, each, cells, cells_alone = sample_batch_and_each(
        lambda images: entry, latent, trees, method=method, overlap_px=32
    )
    check_images(together, each, latent, trees)
    assert cells == cells_alone


def test_each_image_of_a_batch_keeps_its_own_hint_and_mask():
    plain, trees = entry_of("sd15"), trees_of()
    control = sd15_controlnet()
    hints = torch.cat([hint_image(HEIGHT * 8, WIDTH * 8).roll(97 * n, 2) for n in range(4)])
    masks = torch.zeros(4, HEIGHT, WIDTH)
    for image in range(4):
        masks[image, 5 * image :, 7:40] = 1

    def make_entry(images):
        entry = with_control(plain, control, hints[list(images)])
        (text, options), *others = entry.positive
        masked = {**options, "mask": masks[list(images)], "mask_strength": 1.0}
        entry.positive = [[text, masked], *others]
        return entry

    latent = plain.latent(HEIGHT, WIDTH, batch=4)
    together, each, _, _ = sample_batch_and_each(make_entry, latent, trees, overlap_px=32)
    check_images(together, each, latent, trees)


def with_attention_guidance(entry):
    changed = copy(entry)
    changed.model = guided(entry.model)
    return changed


def with_easy_cache(entry):
    changed = copy(entry)
    changed.model = EasyCacheNode.execute(entry.model, 0.5, 0.15, 0.95, False).args[0]
    return changed


def with_boxes(entry):
    words = [gauss((1, TOKENS), seed) for seed in (1, 2)]
    positions = [(words[0], 9, 8, 2, 4), (words[1], 20, 22, 10, 10)]  # height, width, y, x
    return with_gligen(entry, gligen_for(entry.model), positions)


def with_area(entry):
    changed = copy(entry)
    (text, options), *others = entry.positive
    changed.positive = [[text, {**options, "area": (21, 30, 6, 9), "strength": 1.0}], *others]
    changed.positive += entry.negative
    return changed


@pytest.mark.parametrize(
    "add",
    [with_attention_guidance, with_easy_cache, with_boxes, with_area],
    ids=lambda add: add.__name__,
)
def test_what_comes_with_a_model_or_a_prompt_comes_to_each_image(add):
    entry, trees = entry_of("flux" if add is with_easy_cache else "sd15"), trees_of()[:3]
    latent, changed = entry.latent(HEIGHT, WIDTH, batch=3), add(entry)
    together, each, _, _ = sample_batch_and_each(
        lambda images: changed, latent, trees, method="Mixture of Diffusers", overlap_px=32
    )
    check_images(together, each, latent, trees, rounding=1e-4)


def test_images_with_equal_trees_share_the_calls_of_their_windows():
    entry = entry_of("flux")
    one, other = trees_of()[:2]
    latent = entry.latent(HEIGHT, WIDTH, batch=4)

    def count_calls(*trees):
        spy = Spy(entry.model)
        sample(entry, latent[: len(trees)], model=patched(entry, *trees, model=spy.model), **RUN)
        return spy.calls

    assert count_calls(one, other, one, other) == count_calls(one, other)


def test_images_that_the_model_takes_for_frames_of_a_clip_are_evaluated_together():
    entry = entry_of("svd")
    latent = entry.latent(HEIGHT, WIDTH)
    trees = (trees_of(entry.px_per_cell) * len(latent))[: len(latent)]
    spy = Spy(entry.model)
    samples = sample(entry, latent, model=patched(entry, *trees, model=spy.model), **RUN)
    assert {shape[0] % len(latent) for shape in spy.shapes} == {0}
    for row, tree in enumerate(trees):
        held = ~free_cells(tree, latent)
        assert torch.equal(samples[row][:, held], latent[row][:, held])


@pytest.mark.parametrize("kind", ["a wrapper", "a patch", "an injection"])
def test_images_are_evaluated_together_where_another_pack_may_mix_them(kind):
    entry = entry_of("sd15")
    latent, trees = entry.latent(HEIGHT, WIDTH, batch=4), trees_of()
    spy = Spy(entry.model)
    model = spy.model
    if kind == "a wrapper":
        model.add_wrapper_with_key("diffusion_model", "test", lambda call, *a, **k: call(*a, **k))
    elif kind == "a patch":
        model.set_model_attn1_patch(lambda q, k, v, options: (q, k, v))
    else:
        model.set_injections("test", [])
    samples = sample(entry, latent, model=patched(entry, *trees, model=model), **RUN)
    assert {shape[0] % 4 for shape in spy.shapes} == {0}
    for row, tree in enumerate(trees):
        held = ~free_cells(tree, latent)
        assert torch.equal(samples[row][:, held], latent[row][:, held])
