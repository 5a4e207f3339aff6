"""What a run asks for, and what it does when memory runs out."""

import logging

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from quadtree_pack.testing.support import (
    SIDE,
    error,
    free_cells,
    half_kept,
    patched,
    pointwise,
    tree_of,
)
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample


def test_memory_is_asked_for_windows_not_for_the_whole_latent():
    entry = entry_of("flux")
    asked = []
    model = patched(entry, half_kept(32, 40), tile_px=64, batch=2)
    model.add_wrapper_with_key(
        WrappersMP.PREPARE_SAMPLING,
        "spy",
        lambda executor, model, shape, *args, **kwargs: (
            asked.append(shape) or executor(model, shape, *args, **kwargs)
        ),
    )
    sample(entry, entry.latent(), model=model, steps=1)
    assert asked == [[2, 16, SIDE, SIDE]]


def out_of_memory_above(model, cells, seen):
    """A clone that has memory for so many latent cells (times rows) in one call."""

    def limited(apply_model, args):
        seen.append(tuple(args["input"].shape))
        if args["input"][:, 0].numel() > cells:
            raise torch.OutOfMemoryError("simulated")
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(limited)
    return model


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        (2559, "the whole canvas"),
        (640, "two windows of a batch"),
        (512, "one window"),
        (140, "half a window"),
    ],
)
def test_a_run_that_is_out_of_memory_goes_on_smaller_and_ends_right(cells, what, caplog):
    entry = entry_of("flux")
    latent = entry.latent()
    seen = []
    model = pointwise(entry.model)
    limited = out_of_memory_above(model, cells, seen)
    tile = {"tile_px": 0} if what == "the whole canvas" else {"tile_px": 128}
    tiled = patched(entry, tree_of([[1.0]], 32, 40), model=limited, method="SpotDiffusion", **tile)
    run = {"steps": 3, "denoise": 0.7, "cfg": 3.0}
    with caplog.at_level(logging.WARNING):
        samples = sample(entry, latent, model=tiled, **run)
    assert error(samples, sample(entry, latent, model=model, **run)) < 1e-5
    assert caplog.text.count("out of memory") == 1
    failed = [shape for shape in seen if shape[0] * shape[-1] * shape[-2] > cells]
    assert 0 < len(failed) <= 7 and len(seen) > 2 * len(failed)


def test_out_of_memory_goes_down_to_the_smallest_windows_with_the_default_overlap():
    """SD1.5 is cut at 64 px, so the default overlap of 64 px is a single unit."""
    entry = entry_of("sd15")
    latent = entry.latent(64, 64)
    free = [[1.0 if 2 <= x < 6 and 2 <= y < 6 else 0.0 for x in range(8)] for y in range(8)]
    tree = tree_of(free, 64, 64)
    held = ~free_cells(tree, latent)
    seen = []
    limited = out_of_memory_above(entry.model, 256, seen)
    samples = sample(
        entry,
        latent,
        model=patched(entry, tree, model=limited, tile_px=512, overlap_px=64),
        steps=2,
    )
    assert (
        torch.equal(samples[..., held], latent[..., held])
        and max(shape[-1] for shape in seen[-4:]) <= 16
    )


def test_without_any_memory_the_error_is_core_s_own(caplog):
    entry = entry_of("flux")
    tiled = patched(entry, half_kept(32, 40), model=out_of_memory_above(entry.model, 0, []))
    with pytest.raises(torch.OutOfMemoryError), caplog.at_level(logging.WARNING):
        sample(entry, entry.latent(), model=tiled)
    assert "even with the smallest windows" in caplog.text


def test_other_errors_of_the_model_are_not_retried():
    entry = entry_of("flux")
    calls = []

    def broken(apply_model, args):
        calls.append(1)
        raise KeyError("broken")

    model = entry.model.clone()
    model.set_model_unet_function_wrapper(broken)
    with pytest.raises(KeyError, match="broken"):
        sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40), model=model))
    assert len(calls) == 1


def test_an_automatic_batch_follows_the_free_memory(monkeypatch):
    entry = entry_of("flux")
    latent = entry.latent(64, 64)
    seen = []
    model = out_of_memory_above(entry.model, 10**9, seen)
    tiled = patched(entry, tree_of([[1.0]], 64, 64), model=model, batch=0, method="SpotDiffusion")
    free = comfy.model_management.get_free_memory(latent.device)
    sizes = {}
    for windows in (1, 5, 1000):
        seen.clear()
        needed = free / 1.5 / (windows + 0.5)
        with monkeypatch.context() as patch:
            patch.setattr(
                entry.model.model, "memory_required", lambda *_, needed=needed, **__: needed
            )
            sample(entry, latent, model=tiled, steps=1)
        sizes[windows] = max(shape[0] for shape in seen)
    assert sizes[1] == 1 < sizes[5] <= 5 < sizes[1000] <= 16


def test_nothing_in_the_loop_waits_for_the_device(monkeypatch):
    """On a GPU, reading a value of the latent or of sigma would drain its queue; here every such
    read is counted."""
    entry = entry_of("flux")
    latent = entry.latent()
    model = patched(entry, half_kept(32, 40), model=pointwise(entry.model))
    patch = model.model_options["model_function_wrapper"]
    reads = []

    def watched(apply_model, args):
        with monkeypatch.context() as watch:
            for name in (
                "item",
                "__float__",
                "__int__",
                "__bool__",
                "__index__",
                "tolist",
                "cpu",
                "nonzero",
            ):
                real = getattr(torch.Tensor, name)

                def read(tensor, *rest, name=name, real=real, **options):
                    if any(
                        tensor.data_ptr() == other.data_ptr()
                        for other in (args["input"], args["timestep"])
                    ):
                        reads.append(name)
                    return real(tensor, *rest, **options)

                watch.setattr(torch.Tensor, name, read)
            return patch(apply_model, args)

    model.set_model_unet_function_wrapper(watched)
    sample(entry, latent, model=model, steps=4, cfg=3.0)
    assert reads == []
    sample(entry, latent, model=model, steps=4, cfg=3.0, sampler="heun")
    assert reads == []
    # Its steps differ in their calls, so sigma tells the step.
    sample(entry, latent, model=model, steps=4, cfg=3.0, sampler="sa_solver_pece")
    assert "__float__" in reads or "item" in reads
