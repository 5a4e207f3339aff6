"""Nodes that cannot work together with Quadtree Diffusion are refused, or run where nothing is
cut."""

from dataclasses import dataclass
from typing import Any

import comfy.hooks
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras import (
    nodes_advanced_samplers,
    nodes_context_windows,
    nodes_flux,
    nodes_model_patch,
)
from quadtree_pack.testing.features import without_kv_patches
from quadtree_pack.testing.local_models import HEIGHT, WIDTH, entry_of, local
from quadtree_pack.testing.neighbours import (
    Graph,
    around,
    basic,
    cfg_guider,
    everything,
    node,
    sampled,
)
from quadtree_pack.testing.support import Spy, error, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_models.building import (
    gauss,
)
from torch import Tensor


def test_context_windows_over_a_batch_are_refused_before_our_node_too():
    entry = entry_of("sd15")
    patch = node(
        nodes_context_windows.ContextWindowsManualNode,
        *(2, 1, "standard_static", 1, False, "pyramid", 0, False),
    )
    with pytest.raises(ValueError, match="Context windows"):
        sampled(
            Graph(),
            entry,
            patched(entry, half_kept(HEIGHT, WIDTH), model=patch(entry.model)),
            entry.latent(HEIGHT, WIDTH, batch=3),
        )


def two_images_at_a_time(executor: Any, model: Any, conds: Any, noisy: Tensor, *args: Any) -> Any:
    """Sample a batch in parts, as the context options of AnimateDiff do."""
    sigma, options = args
    parts = [
        executor(model, conds, noisy[first : first + 2], sigma[first : first + 2], options)
        for first in range(0, len(noisy), 2)
    ]
    return [torch.cat(each) for each in zip(*parts, strict=True)]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_batch_that_is_sampled_in_parts_is_refused(order, cfg):
    def patch(model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "parts", two_images_at_a_time)
        return model

    entry = entry_of("sd15")
    graph = Graph(patch, guider=cfg_guider(cfg))
    model = around(graph, entry, order, half_kept(HEIGHT, WIDTH))
    with pytest.raises(ValueError, match=r"on 2 images reached .* latent has 4"):
        sampled(graph, entry, model, entry.latent(HEIGHT, WIDTH, batch=4))
    latent = entry.latent(HEIGHT, WIDTH, batch=2)  # which is sampled at once
    plain = sampled(graph, entry, patched(entry, half_kept(HEIGHT, WIDTH)), latent)
    assert torch.equal(sampled(graph, entry, model, latent), plain)


class Patch(torch.nn.Module):
    """The weights of a model patch: none."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.mean(0)


def model_patch() -> Any:
    return comfy.model_patcher.ModelPatcher(Patch(), torch.device("cpu"), torch.device("cpu"))


@dataclass
class ClipVisionStates:
    all_hidden_states: Tensor
    penultimate_hidden_states: Tensor


def uso_style(model: Any) -> Any:
    states = ClipVisionStates(gauss((1, 27, 6, 64), 1), gauss((1, 6, 64), 2))
    return node(nodes_model_patch.USOStyleReference, model_patch(), states)(model)


def test_a_uso_style_reference_samples_in_windows_where_it_samples_without():
    entry, graph = local("flux"), Graph(uso_style, guider=cfg_guider(1.0), family="flux")
    latent = entry.latent(HEIGHT, WIDTH)
    plain = sampled(graph, entry, graph.model(entry.model), latent)
    one = sampled(graph, entry, around(graph, entry, "after", everything(), batch=1), latent)
    assert error(one, plain) < 1e-5
    assert (
        error(sampled(graph, entry, around(graph, entry, "after", everything()), latent), plain)
        < 1e-5
    )


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_leave_the_flux_kv_cache_out_and_say_so(order, batch, caplog):
    entry = local("flux2")
    graph = Graph(node(nodes_flux.FluxKVCache), guider=basic, family="flux2")
    latent = entry.latent(HEIGHT, WIDTH, batch=batch)
    plain = sampled(graph, entry, without_kv_patches(entry.model), latent)
    tree = tree_of([[1.0]], HEIGHT, WIDTH, entry.px_per_cell)
    tiled = around(graph, entry, order, tree, tile_px=8 * entry.px_per_cell)
    spy = Spy(tiled)
    assert error(sampled(graph, entry, spy.model, latent), plain) < 1e-5
    assert {shape[-2:] for shape in spy.shapes} != {(HEIGHT, WIDTH)}
    assert caplog.text.count("without Flux KV Cache") == 1


def test_a_sampler_that_enlarges_the_latent_is_refused_for_what_it_does():
    entry = entry_of("sd15")
    model = patched(entry, half_kept(HEIGHT, WIDTH))
    sampler = nodes_advanced_samplers.SamplerLCMUpscale.execute(2.0, -1, "bislerp").args[0]
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 4)
    noise = comfy.sample.prepare_noise(entry.latent(HEIGHT, WIDTH), 42)
    guider = cfg_guider(3.0)(model, entry.positive, entry.negative)
    with pytest.raises(
        ValueError, match="Use a sampler, and nodes, that do not change or cut the latent"
    ):
        guider.sample(noise, entry.latent(HEIGHT, WIDTH), sampler, sigmas, disable_pbar=True)
