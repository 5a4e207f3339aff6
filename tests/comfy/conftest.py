"""The real ComfyUI, on the CPU: these tests run its own samplers, schedulers and model code."""

import gc
import os

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
    from quadtree_pack.image import decoder, decoding

    monkeypatch.setattr(decoder, "WINDOW_PX", 256)
    monkeypatch.setattr(decoding, "FEW_CELLS", 0)


# ---- a cluster of two nodes on loopback


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Return the base directories of two machines."""
    folder = tmp_path_factory.mktemp("cluster")
    return folder / "first", folder / "second"


@pytest.fixture(scope="module")
def only_first():
    """Fill a base directory with what the other machine has not: a module may say what."""
    return lambda base: None


@pytest.fixture(scope="module")
def loopback_cluster(bases, only_first):
    """Start a cluster of two nodes; this machine has the files of the first."""
    import folder_paths
    from quadtree_pack.cluster import crew
    from quadtree_pack.testing import cluster, shared_runs

    only_first(bases[0])
    with cluster.running_cluster(bases) as started:
        for base, seed in zip(bases, (1, 2), strict=True):
            shared_runs.write_loras(base, seed)
        folder_paths.add_model_folder_path("loras", str(bases[0] / "models/loras"), is_default=True)
        yield started
        crew.CREW.dismiss()


@pytest.fixture(scope="module")
def machines(bases, loopback_cluster):
    """Return the folder in which orders to the workers of the cluster are left."""
    return bases[0].parent


@pytest.fixture
def orders(machines):
    """Return what leaves orders to a process; this one is slow, so that workers take part."""

    def order(pid, what, seconds=""):
        (machines / f"{pid}.{what}").write_text(str(seconds))

    order(os.getpid(), "slow")
    yield order
    for left in machines.glob("*.*"):
        left.unlink()
