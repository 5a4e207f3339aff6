"""Wrappers, guidance and caches of other nodes, set before or after ours."""

import copy
import logging

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from quadtree_pack.testing.local_models import HEIGHT, WIDTH, local
from quadtree_pack.testing.support import (
    Spy,
    error,
    free_cells,
    half_kept,
    patched,
    pointwise,
    tree_of,
)
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import KEY


def test_a_wrapper_that_was_set_before_is_called_for_every_window():
    entry = entry_of("flux")
    seen = []
    earlier = entry.model.clone()
    earlier.set_model_unet_function_wrapper(
        lambda apply_model, args: (
            seen.append(args["input"].shape)
            or apply_model(args["input"], args["timestep"], **args["c"])
        )
    )
    latent = entry.latent()
    spy = Spy(patched(entry, half_kept(32, 40), model=earlier))
    samples = sample(entry, latent, model=spy.model)
    assert seen == spy.shapes and len(seen) > 6
    alone = patched(entry, half_kept(32, 40), batch=1)  # a foreign wrapper gets one window per call
    assert torch.equal(samples, sample(entry, latent, model=alone))


def test_of_two_nodes_in_a_row_the_later_one_wins(caplog):
    entry = entry_of("flux")
    latent = entry.latent()
    once = patched(entry, half_kept(32, 40))
    with caplog.at_level(logging.INFO):
        twice = patched(entry, half_kept(32, 40), model=patched(entry, tree_of([[0.0]], 32, 40)))
    assert "replaces" in caplog.text
    assert torch.equal(sample(entry, latent, model=twice), sample(entry, latent, model=once))


def rescale_cfg(model):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, 0.7)[0]


def lazy_cache(model):
    from comfy_extras.nodes_easycache import LazyCacheNode

    return LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("node", [rescale_cfg, lazy_cache])
def test_guidance_and_caches_that_mix_the_image_do_not_move_what_is_held(node, order):
    entry = entry_of("sd15")
    latent = entry.latent()
    tree = tree_of([[0.0, 0.5], [0.5, 0.0]], 32, 40)
    held = ~free_cells(tree, latent)
    model = (
        patched(entry, tree, model=node(entry.model))
        if order == "before"
        else node(patched(entry, tree))
    )
    spy = Spy(model)
    sample(entry, latent, model=spy.model, steps=8, cfg=5.0, denoise=0.7)
    clean = entry.model.model.process_latent_in(latent)
    assert (spy.samples[..., held] - clean[..., held]).abs().max() < 1e-5


def test_differential_diffusion_and_the_tree_both_hold():
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    entry = entry_of("flux")
    latent = entry.latent()
    mask = torch.ones(1, 1, 32, 40)
    mask[..., :20] = 0.5
    model = pointwise(entry.model)
    differential = DifferentialDiffusion.execute(model).args[0]
    both = DifferentialDiffusion.execute(
        patched(entry, tree_of([[1.0]], 32, 40), model=model)
    ).args[0]
    run = {"noise_mask": mask, "denoise": 0.8}
    assert (
        error(
            sample(entry, latent, model=both, **run),
            sample(entry, latent, model=differential, **run),
        )
        < 1e-5
    )


def with_spy_set_afterwards(tiled, inner=None):
    """Return a model with a wrapper set after ours, which calls `inner` or the model, and what it
    saw."""
    seen = []

    def spying(apply_model, args):
        seen.append(tuple(args["input"].shape[-2:]))
        if inner is not None:
            return inner(apply_model, args)
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = tiled.clone()
    model.set_model_unet_function_wrapper(spying)
    return model, seen


def test_a_wrapper_set_afterwards_that_drops_ours_is_called_for_every_window():
    entry = entry_of("flux")
    latent = entry.latent()
    tiled = patched(entry, half_kept(32, 40), batch=1)
    model, seen = with_spy_set_afterwards(tiled)
    assert torch.equal(sample(entry, latent, model=model), sample(entry, latent, model=tiled))
    assert seen and (32, 40) not in seen
    dropping = model.model_options["model_function_wrapper"]
    assert dropping is not tiled.model_options["model_function_wrapper"]  # the graph's is as it was


def test_a_wrapper_set_afterwards_that_calls_ours_sees_the_whole_canvas():
    entry = entry_of("flux")
    latent = entry.latent()
    tiled = patched(entry, half_kept(32, 40))
    model, seen = with_spy_set_afterwards(tiled, tiled.model_options["model_function_wrapper"])
    assert torch.equal(sample(entry, latent, model=model), sample(entry, latent, model=tiled))
    assert set(seen) == {(32, 40)}


def test_a_node_that_answers_the_model_s_calls_itself_is_reported(caplog):
    entry = entry_of("flux")
    model = patched(entry, half_kept(32, 40))
    model.model_options["sampler_calc_cond_batch_function"] = lambda args: [
        args["input"] for _ in args["conds"]
    ]
    latent = entry.latent()
    with caplog.at_level(logging.WARNING):
        samples = sample(entry, latent, model=model, steps=2)
    held = ~free_cells(half_kept(32, 40), latent)
    assert torch.equal(samples[..., held], latent[..., held])
    assert "no effect on the model" in caplog.text and "kept all the same" in caplog.text
    assert "replaced" not in caplog.text


def test_a_chaining_wrapper_between_two_of_our_nodes_leaves_the_later_one_in_charge():
    entry = entry_of("flux")
    latent = entry.latent()
    inner = patched(entry, tree_of([[0.0]], 32, 40))
    ours = inner.model_options["model_function_wrapper"]
    inner.set_model_unet_function_wrapper(lambda apply_model, args: ours(apply_model, args))
    chained = patched(entry, half_kept(32, 40), model=inner)
    assert torch.equal(
        sample(entry, latent, model=chained),
        sample(entry, latent, model=patched(entry, half_kept(32, 40), batch=1)),
    )


def test_a_call_outside_of_core_s_hooks_runs_in_windows_and_says_so(caplog):
    entry = entry_of("flux")
    model = pointwise(entry.model)
    tiled = patched(entry, half_kept(32, 40), model=model)
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE):
        tiled.remove_wrappers_with_key(kind, KEY)
    latent = entry.latent()
    with caplog.at_level(logging.WARNING):
        samples = sample(entry, latent, model=tiled, steps=2)
    assert "outside of core's sampling hooks" in caplog.text
    assert error(samples, sample(entry, latent, model=model, steps=2)) < 1e-5


@pytest.mark.parametrize("copied", [dict, copy.copy, copy.deepcopy], ids=lambda how: how.__name__)
def test_who_evaluates_a_prompt_again_with_copied_options_gets_the_same_windows(copied):
    """Guidance of other packs does, with a patch of its own in the copy (Pre CFG PAG)."""
    entry = entry_of("flux")
    latent, tree = entry.latent(), half_kept(32, 40)
    spy = Spy(patched(entry, tree))

    def evaluate_again(args):
        positive, model = args["conds"][0], args["model"]
        call = args["input"], args["timestep"], copied(args["model_options"])
        again = comfy.samplers.calc_cond_batch(model, [positive], *call)
        return [*again, *args["conds_out"][1:]]

    spy.model.set_model_sampler_pre_cfg_function(evaluate_again)
    samples = sample(entry, latent, model=spy.model, cfg=3.0)
    assert max(shape[-1] for shape in spy.shapes) < latent.shape[-1]
    assert error(samples, sample(entry, latent, model=patched(entry, tree), cfg=3.0)) < 1e-4


def test_an_interrupt_is_honoured_between_the_windows_of_one_step():
    entry = entry_of("flux")
    seen = []

    def interrupting(apply_model, args):
        seen.append(1)
        comfy.model_management.interrupt_current_processing()
        return args[
            "input"
        ]  # core looks for an interrupt inside the model, which is not entered here

    model = entry.model.clone()
    model.set_model_unet_function_wrapper(interrupting)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(entry, entry.latent(), model=patched(entry, half_kept(32, 40), model=model, batch=1))
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["noisy", "timestep", "text"])
def test_what_a_wrapper_writes_into_its_tensors_does_not_reach_the_next_window(name):
    def writing(apply_model, args):
        given = {"noisy": args["input"], "timestep": args["timestep"]}
        given["text"] = args["c"]["c_crossattn"]
        given[name].mul_(0.8)
        return apply_model(args["input"], args["timestep"], **args["c"])

    entry = local("sd15")
    latent = entry.latent(HEIGHT, WIDTH)
    model = entry.model.clone()
    model.set_model_unet_function_wrapper(writing)
    plain = sample(entry, latent, model=model, steps=3)
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=model, overlap_px=64)
    assert error(plain, sample(entry, latent, steps=3)) > 0.01
    assert error(sample(entry, latent, model=tiled, steps=3), plain) < 1e-5


def test_what_a_window_s_model_call_writes_into_its_options_does_not_reach_the_next():
    entry = entry_of("flux")
    found = []

    def writing(apply_model, args):
        found.append(args["c"]["transformer_options"].get("scribble"))
        args["c"]["transformer_options"]["scribble"] = 1
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = entry.model.clone()
    model.set_model_unet_function_wrapper(writing)
    sample(
        entry,
        entry.latent(),
        model=patched(entry, half_kept(32, 40), model=model, batch=1),
        steps=2,
    )
    assert len(found) > 2 and set(found) == {None}
