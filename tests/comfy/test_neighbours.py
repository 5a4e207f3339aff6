"""Quadtree Diffusion among other nodes: on ComfyUI's own nodes, a graph with it equals the same
graph without it."""

import gc
import threading
from dataclasses import replace
from functools import cache

import folder_paths
import pytest
import safetensors.torch
import torch
from comfy_extras import (
    nodes_differential_diffusion,
    nodes_freelunch,
    nodes_hypertile,
    nodes_model_downscale,
    nodes_tomesd,
    nodes_torch_compile,
)
from quadtree_pack.testing.local_models import HEIGHT, WIDTH, entry_of, local
from quadtree_pack.testing.neighbours import (
    GRAPHS,
    LORA,
    ON_MODEL,
    Graph,
    around,
    cfg_guider,
    everything,
    graphs,
    inpainted,
    many_at_once,
    node,
    orders,
    sampled,
    unchanged,
    without_cfg1_optimization,
)
from quadtree_pack.testing.support import Spy, error, free_cells, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_models.building import (
    gauss,
    sample,
)
from quadtree_pack.tiled_diffusion import KEY
from quadtree_pack.windows.blending import METHODS
from torch import Tensor


@pytest.fixture(scope="module", autouse=True)
def garbage_is_collected_once():
    # Core collects all garbage whenever a model's clone has died: half of the time here
    gc.freeze()
    yield
    gc.unfreeze()
    untouched.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def a_lora_lies_in_the_folder(tmp_path_factory):
    """A rank-4 LoRA on text attention and a feed-forward layer, where ComfyUI looks for LoRAs."""
    folder = tmp_path_factory.mktemp("loras")
    blocks = "diffusion_model.middle_block.1.transformer_blocks.0"
    layers = {f"{blocks}.attn2.to_v": (64, 48), f"{blocks}.ff.net.2": (64, 256)}
    parts = {}
    for seed, (name, (rows, columns)) in enumerate(layers.items()):
        parts[f"{name}.lora_up.weight"] = gauss((rows, 4), seed)
        parts[f"{name}.lora_down.weight"] = gauss((4, columns), seed + 10)
    safetensors.torch.save_file(parts, folder / LORA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors"})
        )
        yield


@cache
def untouched(family: str, sampler: str, steps: int) -> Tensor:
    entry = local(family)
    return sampled(
        Graph(family=family, sampler=sampler, steps=steps),
        entry,
        entry.model,
        entry.latent(HEIGHT, WIDTH, batch=2),
    )


@graphs(GRAPHS)
def test_windows_do_not_show_next_to(graph):
    entry = local(graph.family)
    latent = entry.latent(HEIGHT, WIDTH, batch=2)
    plain = sampled(graph, entry, graph.model(entry.model), latent)
    assert graph.neutral or error(plain, untouched(graph.family, graph.sampler, graph.steps)) > 1e-3
    for order in orders(graph):
        spy = Spy(around(graph, entry, order, everything()))
        assert error(sampled(graph, entry, spy.model, latent), plain) < graph.tolerance
        assert max(shape[-1] for shape in spy.shapes) <= 16


@graphs(GRAPHS)
def test_what_is_held_stays_next_to(graph):
    entry = local(graph.family)
    latent = entry.latent(HEIGHT, WIDTH)
    tree = half_kept(HEIGHT, WIDTH)
    held = ~free_cells(tree, latent)
    clean = entry.model.model.process_latent_in(latent)
    for order in orders(graph):
        spy = Spy(around(graph, entry, order, tree))
        samples = sampled(graph, entry, spy.model, latent)
        assert torch.equal(samples[..., held], latent[..., held])
        assert (spy.samples[..., held] - clean[..., held]).abs().max() < 1e-4
        assert (samples != latent)[..., ~held].float().mean() > 0.99


@graphs(GRAPHS)
def test_one_window_is_the_plain_run_to_the_bit_next_to(graph):
    entry, graph = entry_of(graph.family), replace(graph, steps=2)
    latent = entry.latent(HEIGHT, WIDTH)
    plain = sampled(graph, entry, graph.model(entry.model), latent)
    for order in orders(graph):
        model = around(graph, entry, order, everything(), tile_px=0)
        assert torch.equal(sampled(graph, entry, model, latent), plain)


DEEP_SHRINK = (3, 2.0, 0.0, 0.7, True, "bicubic", "bicubic")
MIXING = {
    "HyperTile": Graph(node(nodes_hypertile.HyperTile, 32, 1, 2, False), family="sd15_fine"),
    "token merging": Graph(node(nodes_tomesd.TomePatchModel, 0.3), family="sd15_fine"),
    "FreeU": Graph(node(nodes_freelunch.FreeU, 1.1, 1.2, 0.9, 0.2)),
    "FreeU V2": Graph(node(nodes_freelunch.FreeU_V2, 1.3, 1.4, 0.9, 0.2)),
    "Deep Shrink": Graph(node(nodes_model_downscale.PatchModelAddDownscale, *DEEP_SHRINK)),
}


@graphs(MIXING)
@pytest.mark.parametrize("order", ["before", "after"])
def test_windows_do_not_see_each_other_next_to(graph, order, monkeypatch):
    """One window at a time equals batches; what is drawn at random is the same for all windows."""
    monkeypatch.setattr(
        torch, "randint", lambda *args, size, **options: torch.zeros(size, dtype=torch.int64)
    )
    entry = entry_of(graph.family)
    latent = entry.latent(HEIGHT, WIDTH, batch=2)
    found = {}
    for batch in (1, 4):
        spy = Spy(around(graph, entry, order, everything(), batch=batch))
        found[batch] = sampled(graph, entry, spy.model, latent)
        assert max(shape[0] for shape in spy.shapes) == 4 * min(batch, 2)
    assert error(found[4], found[1]) < 1e-4
    without = sampled(graph, entry, patched(entry, everything()), latent)
    assert error(found[4], without) > 1e-3


@graphs(MIXING)
def test_what_mixes_whole_windows_is_the_plain_run_in_one_and_keeps_what_is_held(graph):
    test_one_window_is_the_plain_run_to_the_bit_next_to(graph)
    test_what_is_held_stays_next_to(graph)


@pytest.mark.parametrize("differential", [False, True], ids=["a mask", "Differential Diffusion"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_an_inpainting_model_with_a_noise_mask_is_the_untiled_run(differential, order):
    patch = (
        node(nodes_differential_diffusion.DifferentialDiffusion, 1.0) if differential else unchanged
    )
    graph = Graph(patch, inpainted, family="sd15_inpaint", steps=4)
    entry = local(graph.family)
    latent = entry.latent(HEIGHT, WIDTH)
    mask = torch.linspace(0, 1, WIDTH).expand(1, 1, HEIGHT, WIDTH)
    plain = sampled(graph, entry, graph.model(entry.model), latent, mask)
    tiled = sampled(graph, entry, around(graph, entry, order, everything()), latent, mask)
    assert error(tiled, plain) < 1e-5


def test_two_threads_can_sample_one_patched_model():
    """They take every step together, with a cfg, a latent and a sampler of their own."""
    entry = entry_of("flux")
    half = tree_of(
        [[0.5, 1.0]], HEIGHT, WIDTH
    )  # with this schedule every cell leans on the clean latent of its own run
    model, *own = (
        around(ON_MODEL["PAG"], entry, "after", half, schedule="constant") for _ in range(3)
    )
    runs = [{"cfg": 3.0, "sampler": "euler"}, {"cfg": 1.0, "sampler": "dpmpp_2m", "seed": 7}]
    latents = [entry.latent(HEIGHT, WIDTH, seed=seed) for seed in (1, 2)]
    alone = [sample(entry, latents[number], model=own[number], **runs[number]) for number in (0, 1)]
    together, both = {}, threading.Barrier(2)

    def work(number: int) -> None:
        wait = {"callback": lambda *_: both.wait(timeout=30)}
        together[number] = sample(entry, latents[number], model=model, **runs[number], **wait)

    threads = [threading.Thread(target=work, args=[number]) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(torch.equal(together[number], alone[number]) for number in (0, 1))
    assert KEY not in model.model_options["transformer_options"]


def test_neighbours_between_two_of_our_nodes_act_once():
    entry = local("sd15")
    latent = entry.latent(HEIGHT, WIDTH)
    graph, tree = Graph(), half_kept(HEIGHT, WIDTH)
    between = many_at_once(patched(entry, tree_of([[0.0]], HEIGHT, WIDTH)))
    twice = patched(entry, tree, model=between)
    once = patched(entry, tree, model=many_at_once(entry.model))
    assert error(sampled(graph, entry, twice, latent), sampled(graph, entry, once, latent)) < 1e-5


@pytest.mark.parametrize(
    ("patch", "conds"),
    [(unchanged, 1), (without_cfg1_optimization, 2)],
    ids=["alone", "unless asked"],
)
def test_at_cfg_1_the_positive_is_evaluated(patch, conds):
    entry = entry_of("flux")
    spy = Spy(patch(patched(entry, everything())))
    sampled(Graph(guider=cfg_guider(1.0)), entry, spy.model, entry.latent(HEIGHT, WIDTH))
    assert {shape[0] for shape in spy.shapes} == {2 * conds}  # two windows


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_few_shapes_reach_a_model(family, method):
    entry = entry_of(family)
    tree = tree_of([[0.0, 0.6, 0.3], [1.0, 0.1, 0.0]], 40, 56)
    spy = Spy(patched(entry, tree, method=method, overlap_px=32))
    sampled(Graph(family=family, steps=4), entry, spy.model, entry.latent(40, 56))
    assert len({shape[-2:] for shape in spy.shapes}) <= 2 and len(set(spy.shapes)) <= 3


@pytest.mark.parametrize("first", [True, False], ids=["compiled first", "compiled last"])
def test_a_compiled_model_gets_fewer_shapes_of_one_window(first):
    """Every shape of a call would be compiled, and the number of windows is part of the shape."""

    def compiled(model):
        return nodes_torch_compile.TorchCompileModel.execute(model, "eager").args[0]

    def call_shapes(compiling):
        model = compiled(entry.model) if compiling and first else entry.model
        spy = Spy(patched(entry, tree, model=model, overlap_px=32))
        model = compiled(spy.model) if compiling and not first else spy.model
        sampled(Graph(steps=10), entry, model, entry.latent(80, 96))
        return set(spy.shapes)

    entry = entry_of("flux")
    tree = tree_of([[0.9, 0.0, 0.3, 0.0], [0.0, 0.6, 0.1, 0.2], [0.4, 0.0, 0.0, 0.9]], 80, 96)
    shapes = call_shapes(compiling=True)
    assert {shape[0] for shape in shapes} == {2}  # of one window, two conds
    assert len(shapes) <= 2 < len(call_shapes(compiling=False))


@pytest.mark.slow
def test_a_compiled_model_samples_as_it_does_uncompiled():
    entry, graph = entry_of("flux"), Graph(family="flux")
    latent = entry.latent(HEIGHT, WIDTH)
    tiled = patched(entry, everything())
    compiled = nodes_torch_compile.TorchCompileModel.execute(tiled, "eager").args[0]
    assert (
        error(sampled(graph, entry, compiled, latent), sampled(graph, entry, tiled, latent)) < 1e-5
    )
