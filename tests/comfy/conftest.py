"""The real ComfyUI, on the CPU: these tests run its own samplers, schedulers and model code."""

import gc

import pytest
import torch
from quadtree_pack.testing.registration import register_comfyui

register_comfyui("--cpu")
torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it gains


@pytest.fixture(scope="module", autouse=True)
def entries_are_freed_before_the_interpreter_ends():
    from quadtree_pack.testing import local_models, tiny_models

    yield
    for kept in (tiny_models.entry_of, local_models.entry_of, local_models.local):
        kept.cache_clear()
    gc.collect()


@pytest.fixture
def entry(request):
    """Return the tiny model that `families` names."""
    from quadtree_pack.testing.tiny_models import entry_of

    return entry_of(request.param)


@pytest.fixture(scope="module")
def vaes():
    """Return one tiny VAE of each kind, by name."""
    from quadtree_pack.testing.tiny_vaes import VAES

    return {name: make() for name, make in VAES.items()}


@pytest.fixture
def small_windows(monkeypatch):
    """Let even the tiny pictures of these tests be decoded in windows."""
    from quadtree_pack.image import decoding

    monkeypatch.setattr(decoding, "WINDOW_PX", 256)
    monkeypatch.setattr(decoding, "FEW_CELLS", 0)
