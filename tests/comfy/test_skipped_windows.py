"""EasyCache keeps a state for every window, which is skipped by what happens in it alone."""

import copy
import logging

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheHolder, EasyCacheNode
from quadtree_pack.testing.local_models import HEIGHT, WIDTH, entry_of
from quadtree_pack.testing.support import error, free_cells, patched, tree_of
from quadtree_pack.testing.tiny_models.building import sample

STEPS = 12
RUN = {"steps": STEPS, "cfg": 3.0, "denoise": 0.7}
FIXED = {"method": "Mixture of Diffusers"}


@pytest.fixture
def core_leaves_its_input_alone(monkeypatch):
    """In float32 ComfyUI's code adds to the sampler's latent, which is wrong without us, too."""
    add_kept = EasyCacheHolder.apply_cache_diff
    monkeypatch.setattr(
        EasyCacheHolder,
        "apply_cache_diff",
        lambda cache, x, *args, **kwargs: add_kept(cache, x.clone(), *args, **kwargs),
    )


def easy_cache(model, threshold=0.5):
    return EasyCacheNode.execute(model, threshold, 0.15, 0.95, False).args[0]


class Forwards:
    """Notes what goes through the network itself, behind the cache, on a clone."""

    def __init__(self, model):
        self.shapes = []
        self.model = model.clone()
        self.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "forwards", self._forward)

    def _forward(self, executor, noisy, *args, **kwargs):
        self.shapes.append(tuple(noisy.shape))
        return executor(noisy, *args, **kwargs)

    @property
    def cells(self):
        return sum(shape[0] * shape[-1] * shape[-2] for shape in self.shapes)


def both_orders(entry, tree, **settings):
    before = easy_cache(patched(entry, tree, **settings))
    after = patched(entry, tree, model=easy_cache(entry.model), **settings)
    return before, after


def replace_prompts(entry, positive):
    other = copy.copy(entry)
    other.positive = positive
    return other


def noise_of(latent):
    return torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))


CANVASES = {"usual": ((HEIGHT, WIDTH), 1), "batch": ((HEIGHT, WIDTH), 2)}
CANVASES["odd"] = ((HEIGHT - 1, WIDTH - 1), 1)


@pytest.mark.usefixtures("core_leaves_its_input_alone")
@pytest.mark.parametrize(
    ("family", "canvas", "batch"),
    [
        *[pytest.param("flux", *case, id=f"flux {name}") for name, case in CANVASES.items()],
        *[(name, *CANVASES["usual"]) for name in ("z_image", "qwen_image", "wan21_t2v")],
    ],
)
def test_every_window_is_what_easycache_makes_of_its_crop(family, canvas, batch):
    entry = entry_of(family)
    latent = entry.latent(*canvas, batch=batch)
    noise = noise_of(latent)
    for calm in (latent, noise):  # so that the two windows are skipped at different steps
        calm[..., WIDTH // 2 :] *= 0.02
    crops, forwards = [], []
    for half in (slice(0, WIDTH // 2), slice(WIDTH // 2, None)):
        plain = Forwards(easy_cache(entry.model))
        crops.append(
            sample(entry, latent[..., half], model=plain.model, noise=noise[..., half], **RUN)
        )
        forwards.append(len(plain.shapes))
    everything = tree_of([[1.0]], *canvas, entry.px_per_cell)
    for model in both_orders(entry, everything, tile_px=16 * entry.px_per_cell, **FIXED):
        tiled = Forwards(model)
        samples = sample(entry, latent, model=tiled.model, noise=noise, **RUN)
        assert error(samples, torch.cat(crops, -1)) < 1e-5
        assert len(tiled.shapes) == sum(forwards)
    assert forwards[0] < forwards[1] or family == "z_image"


def test_overlapping_windows_do_not_reach_each_other_through_the_cache(monkeypatch):
    entry = entry_of("flux")
    latent = entry.latent(HEIGHT, WIDTH)
    everything = tree_of([[1.0]], HEIGHT, WIDTH)
    tiled = easy_cache(patched(entry, everything, overlap_px=32, **FIXED))
    samples = sample(entry, latent, model=tiled, **RUN)
    add_kept = EasyCacheHolder.apply_cache_diff
    monkeypatch.setattr(
        EasyCacheHolder,
        "apply_cache_diff",
        lambda cache, x, *args, **kwargs: add_kept(cache, x.clone(), *args, **kwargs),
    )
    assert torch.equal(samples, sample(entry, latent, model=tiled, **RUN))


@pytest.mark.parametrize("method", ["Shifted Feather", "Mixture of Diffusers"])
def test_windows_are_skipped_and_what_is_kept_stays(method, caplog):
    entry = entry_of("flux")
    latent = entry.latent(HEIGHT, WIDTH)
    tree = tree_of([[0.0, 1.0, 1.0, 1.0]], HEIGHT, WIDTH)
    kept = ~free_cells(tree, latent)
    plain = Forwards(patched(entry, tree, method=method))
    sample(entry, latent, model=plain.model, **RUN)
    for model in both_orders(entry, tree, method=method):
        tiled = Forwards(model)
        with caplog.at_level(logging.INFO):
            samples = sample(entry, latent, model=tiled.model, **RUN)
        assert torch.equal(samples[..., kept], latent[..., kept])
        assert tiled.cells < 0.75 * plain.cells
        assert "of the windows skipped by EasyCache" in caplog.text


def test_one_window_over_everything_is_easycache_itself(caplog):
    entry = entry_of("flux")
    latent = entry.latent(HEIGHT, WIDTH)
    model = easy_cache(entry.model)
    everything = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=model, tile_px=512)
    with caplog.at_level(logging.INFO):
        samples = sample(entry, latent, model=everything, **RUN)
    assert torch.equal(samples, sample(entry, latent, model=model, **RUN))
    assert "of the windows skipped by EasyCache" in caplog.text


@pytest.mark.usefixtures("core_leaves_its_input_alone")
def test_a_prompt_for_an_area_has_states_of_its_own():
    """As two runs: in each half there is one prompt, whose windows are those of its half."""
    entry = entry_of("flux")
    latent = entry.latent(HEIGHT, WIDTH)
    noise = noise_of(latent)
    half = WIDTH // 2
    prompts = entry.make_cond(11), entry.make_cond(12)
    areas = [
        [[text, {**values, "area": (HEIGHT, half, 0, x), "strength": 1.0}]]
        for x, ((text, values),) in zip((0, half), prompts, strict=True)
    ]
    model = patched(
        entry, tree_of([[1.0]], HEIGHT, WIDTH), model=easy_cache(entry.model), tile_px=64, **FIXED
    )
    both = replace_prompts(entry, areas[0] + areas[1])
    samples = sample(both, latent, model=model, noise=noise, steps=STEPS)
    for x, prompt in zip((0, half), prompts, strict=True):
        part = slice(x, x + half)
        alone = patched(
            entry,
            tree_of([[1.0]], HEIGHT, half),
            model=easy_cache(entry.model),
            tile_px=64,
            **FIXED,
        )
        expected = sample(
            replace_prompts(entry, prompt),
            latent[..., part],
            model=alone,
            noise=noise[..., part],
            steps=STEPS,
        )
        assert error(samples[..., part], expected) < 1e-5
