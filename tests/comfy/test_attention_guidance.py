"""Self-Attention Guidance blurs by the attention in every window."""

import threading
from collections import Counter

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_sag
from quadtree_pack.sampling.attention_guidance import (
    AreaScores,
    find_token_grid,
    find_variable,
)
from quadtree_pack.testing.features import blur_in_its_cell, guided
from quadtree_pack.testing.local_models import HEIGHT, WIDTH, entry_of
from quadtree_pack.testing.support import Spy, error, free_cells, on_devices, patched, tree_of
from quadtree_pack.testing.tiny_models import ZOO
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.utils import Box

RUN = {"steps": 4, "cfg": 3.0, "denoise": 0.7}
FIXED = {"method": "MultiDiffusion", "tile_px": 128}


def both_orders(entry, tree, **settings):
    before = guided(patched(entry, tree, **settings))
    after = patched(entry, tree, model=guided(entry.model), **settings)
    return before, after


def everything():
    return tree_of([[1.0]], HEIGHT, WIDTH)


@pytest.fixture
def blur_stays_in_its_cell(monkeypatch):
    monkeypatch.setattr(nodes_sag, "gaussian_blur_2d", blur_in_its_cell)


@pytest.mark.usefixtures("blur_stays_in_its_cell")
@pytest.mark.parametrize(("together", "rounding"), [(1, 1e-6), (4, 1e-4)])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_window_is_what_the_guidance_makes_of_its_crop(batch, together, rounding):
    entry = entry_of("sd15")
    latent = entry.latent(HEIGHT, WIDTH, batch=batch)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    halves = slice(0, WIDTH // 2), slice(WIDTH // 2, None)
    plain, alone = (
        torch.cat(
            [
                sample(entry, latent[..., half], model=model, noise=noise[..., half], **RUN)
                for half in halves
            ],
            -1,
        )
        for model in (entry.model, guided(entry.model))
    )
    assert error(alone, plain) > 0.05
    for model in both_orders(entry, everything(), batch=together, **FIXED):
        spy = Spy(model)
        assert error(sample(entry, latent, model=spy.model, noise=noise, **RUN), alone) < rounding
        assert {shape[-2:] for shape in spy.shapes} == {(16, 16)}


def test_one_window_over_everything_is_the_guidance_itself():
    entry = entry_of("sd15")
    latent = entry.latent(HEIGHT, WIDTH, batch=2)
    plain = sample(entry, latent, model=guided(entry.model), **RUN)
    for model in both_orders(entry, everything(), tile_px=512):
        assert torch.equal(sample(entry, latent, model=model, **RUN), plain)


@pytest.mark.parametrize("method", ["Shifted Feather", "Mixture of Diffusers"])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (HEIGHT + 1, WIDTH + 3)])
def test_what_is_kept_stays_and_steps_without_windows_pass(method, size):
    """No tile is free before the second of the four steps."""
    entry = entry_of("sd15")
    latent = entry.latent(*size)
    tree = tree_of([[0.0, 0.6, 0.6, 0.6]], *size)
    kept = ~free_cells(tree, latent)
    settings = {"method": method, "overlap_px": 32}
    without = patched(entry, tree, **settings)
    assert (
        error(
            sample(entry, latent, model=without, steps=4, cfg=3.0),
            sample(entry, latent, model=guided(without), steps=4, cfg=3.0),
        )
        > 0.01
    )
    for model in both_orders(entry, tree, **settings):
        spy = Spy(model)
        samples = sample(entry, latent, model=spy.model, steps=4, cfg=3.0)
        assert torch.equal(samples[..., kept], latent[..., kept])
        assert len(set(spy.sigmas)) < 4
        assert samples.isfinite().all()


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "uni_pc"])
def test_the_guidance_s_own_calls_do_not_count_as_steps(sampler):
    """At every sigma the windows of a run without it are evaluated for one more cond."""
    entry = entry_of("sd15")
    latent = entry.latent(HEIGHT, WIDTH)
    tree = tree_of([[0.0, 0.25, 0.5, 1.0]], HEIGHT, WIDTH)
    cells = []
    for patch in (lambda model: model, guided):
        spy = Spy(patch(patched(entry, tree, tile_px=64)))
        sample(entry, latent, model=spy.model, steps=6, cfg=3.0, sampler=sampler)
        counted = Counter()
        for sigma, shape in zip(spy.sigmas, spy.shapes, strict=True):
            counted[sigma] += shape[0] * shape[-1] * shape[-2]
        cells.append(counted)
    assert len(set(cells[0].values())) > 1
    assert cells[1] == {sigma: 1.5 * count for sigma, count in cells[0].items()}


def test_several_devices_leave_the_windows_to_one():
    """ComfyUI's patch has one variable, which calls at the same time would share."""
    entry = entry_of("sd15")
    latent = entry.latent(HEIGHT, WIDTH)
    model = guided(patched(entry, everything(), batch=1, **FIXED))
    threads = set()

    def look(executor, *args, **kwargs):
        threads.add(threading.current_thread().name)
        return executor(*args, **kwargs)

    spread = on_devices(model, 2, ZOO["sd15"])
    spread.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "look", look)
    samples = sample(entry, latent, model=spread, **RUN)
    assert torch.equal(samples, sample(entry, latent, model=model, **RUN))
    assert threads == {threading.current_thread().name}


def test_scores_lie_where_their_windows_do_and_are_averaged():
    entry = entry_of("sd15")
    options = guided(entry.model).model_options["transformer_options"]
    variable = find_variable(options)
    call = {
        "input": torch.zeros(4, 4, 16, 40),
        "c": {"transformer_options": options},
        "cond_or_uncond": [1, 0],
    }
    scores = AreaScores(call)
    assert variable.cell_contents is None
    attention = torch.rand(2 * 2 * 3, 4, 4)  # of two windows, two images, three heads
    variable.cell_contents = attention
    scores.add([Box(0, 0, 16, 16), Box(8, 0, 24, 16)])
    scores.add([Box(24, 0, 40, 16)])  # a cache skipped this one
    scores.hand_on()
    found = variable.cell_contents.view(2, 16, 40)
    of_keys = attention.unflatten(0, (2, 2, 3)).mean(2).sum(2).unflatten(-1, (2, 2))
    first, second = of_keys.repeat_interleave(8, -1).repeat_interleave(8, -2)
    torch.testing.assert_close(found[..., :8], first[..., :8])
    torch.testing.assert_close(found[..., 8:16], (first[..., 8:] + second[..., :8]) / 2)
    torch.testing.assert_close(found[..., 16:24], second[..., 8:])
    assert found[..., 24:].eq(0).all()


@pytest.mark.parametrize("reduction", [4, 8, 16])
@pytest.mark.parametrize("height", [16, 17, 23, 64, 65, 100])
@pytest.mark.parametrize("width", [16, 31, 33, 96, 121])
def test_tokens_are_those_of_a_reduced_grid(height, width, reduction):
    grid = -(-height // reduction), -(-width // reduction)
    assert find_token_grid(grid[0] * grid[1], (height, width)) == grid
