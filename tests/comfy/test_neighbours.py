"""Quadtree Diffusion among other nodes: on ComfyUI's own nodes, a graph with it equals the same graph without it.

The networks are the tiny real ones, made local: what leaves them at a unit (a patch, or what a UNet reduces to one cell)
depends on what goes in at that unit only. So tiling must not show, whatever a neighbour does to attention, blocks or weights.
"""

import copy
import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import comfy.hooks
import comfy.sample
import comfy.samplers
import comfy.supported_models as supported
import folder_paths
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from comfy.ldm.supir.supir_patch import SUPIRPatch
from comfy.patcher_extension import WrappersMP
from comfy_extras import (
    nodes_advanced_samplers,
    nodes_apg,
    nodes_cfg,
    nodes_chroma_radiance,
    nodes_context_windows,
    nodes_custom_sampler,
    nodes_differential_diffusion,
    nodes_easycache,
    nodes_eps,
    nodes_flux,
    nodes_freelunch,
    nodes_fresca,
    nodes_hooks,
    nodes_hypertile,
    nodes_mahiro,
    nodes_model_advanced,
    nodes_model_downscale,
    nodes_model_patch,
    nodes_nag,
    nodes_pag,
    nodes_perpneg,
    nodes_sag,
    nodes_slg,
    nodes_tcfg,
    nodes_tomesd,
    nodes_torch_compile,
    nodes_video_model,
)
from quadtree_pack.testing.support import Spy, error, free_cells, half_kept, patched, tree_of
from quadtree_pack.testing.tiny_models import ZOO
from quadtree_pack.testing.tiny_models.building import (
    Entry,
    build,
    clean_latent,
    cond,
    gauss,
    sample,
)
from quadtree_pack.testing.tiny_models.transformers import FLUX
from quadtree_pack.testing.tiny_models.unets import UNET
from quadtree_pack.tiled_diffusion import KEY
from quadtree_pack.windows.blending import METHODS
from torch import Tensor

import nodes as core

HEIGHT, WIDTH = 16, 32
LORA = "tiny.safetensors"


# ---- networks in which a unit sees itself only


def own_token(
    attention: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *args: Any,
    skip_reshape: bool = False,
    **options: Any,
):
    """Self-attention in which each token sees itself; cross-attention is left as it is. Rotary positions cancel in q * k."""
    if q.shape != k.shape:
        return attention(q, k, v, *args, skip_reshape=skip_reshape, **options)
    found = v * torch.sigmoid((q * k).mean(-1, keepdim=True))
    return found.transpose(1, 2).flatten(2) if skip_reshape else found


class CellNorm(torch.nn.Module):
    """A GroupNorm's parameters over the channels of every cell."""

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(
            x.movedim(1, -1), x.shape[1:2], self.norm.weight, self.norm.bias
        ).movedim(-1, 1)


def made_local(entry: Entry) -> Entry:
    for module in list(entry.model.model.diffusion_model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, CellNorm(child))
            elif isinstance(child, torch.nn.Conv2d) and child.kernel_size == (3, 3):
                child.weight.data *= F.pad(torch.full((1, 1), 3.0), (1, 1, 1, 1))
    entry.model.model_options["transformer_options"]["optimized_attention_override"] = own_token
    return entry


def sd15_fine() -> Entry:
    """SD1.5 with attention at full resolution, too, where HyperTile and token merging act."""
    depths = {
        "transformer_depth": [1, 1, 1, 0],
        "transformer_depth_output": [0, 0, 1, 1, 1, 1, 1, 1],
    }
    return Entry(
        "sd15_fine", build(supported.SD15, {**UNET, **depths}), lambda seed: cond(77, seed)
    )


def unclip() -> Entry:
    shape = {
        "adm_in_channels": 1536,
        "num_classes": "sequential",
        "use_linear_in_transformer": True,
    }
    model = build(
        supported.SD21UnclipL, {**UNET, **shape}, after={"num_head_channels": 32, "num_heads": -1}
    )
    return Entry("unclip", model, lambda seed: cond(77, seed))


def flux2() -> Entry:
    """With a reference of the canvas' size, whose windows go with the canvas'."""
    shape = {
        "image_model": "flux2",
        "in_channels": 128,
        "out_channels": 128,
        "axes_dim": [4, 4, 4, 4],
        "patch_size": 1,
    }
    kind = {
        "global_modulation": True,
        "mlp_silu_act": True,
        "qkv_bias": False,
        "ops_bias": False,
        "vec_in_dim": None,
    }
    references = {"default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3]}
    values = {"reference_latents": [clean_latent((1, 128, HEIGHT, WIDTH), 90)]}
    model = build(supported.Flux2, {**FLUX, **shape, **kind, **references})
    return Entry("flux2", model, lambda seed: cond(12, seed, **values))


FAMILIES = {**ZOO, "sd15_fine": sd15_fine, "unclip": unclip, "flux2": flux2}


@cache
def entry_of(name: str) -> Entry:
    return FAMILIES[name]()


@cache
def local(name: str) -> Entry:
    return made_local(FAMILIES[name]())


@pytest.fixture(scope="module", autouse=True)
def models_are_freed_before_the_interpreter_ends():
    gc.freeze()  # core collects all garbage whenever a model's clone has died: half of the time here
    yield
    gc.unfreeze()
    for kept in (entry_of, local, untouched):
        kept.cache_clear()
    gc.collect()


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


# ---- graphs


def node(kind: Any, *values: Any) -> Callable:
    """What a node, of ComfyUI's new kind or its old, makes of its first input."""

    def applied(first: Any) -> Any:
        execute = kind.execute if hasattr(kind, "execute") else getattr(kind(), kind.FUNCTION)
        output = execute(first, *values)
        return getattr(output, "args", output)[0]

    return applied


def unchanged(model: Any) -> Any:
    return model


def own_conds(entry: Entry) -> tuple[list, list]:
    return entry.positive, entry.negative


def cfg_guider(cfg: float) -> Callable:
    return lambda model, positive, negative: nodes_custom_sampler.CFGGuider.execute(
        model, positive, negative, cfg
    ).args[0]


@dataclass(frozen=True)
class Graph:
    """What stands around our node: another on the model, nodes on the conditioning, a guider, a sampler."""

    model: Callable[[Any], Any] = unchanged
    conds: Callable[[Entry], tuple[list, list]] = own_conds
    guider: Callable = field(default_factory=lambda: cfg_guider(3.0))
    family: str = "sd15"
    sampler: str = "euler"
    steps: int = 3
    neutral: bool = False  # it changes nothing, with or without us
    tolerance: float = 1e-5


def sampled(
    graph: Graph, entry: Entry, model: Any, latent: Tensor, noise_mask: Tensor | None = None
) -> Tensor:
    guider = graph.guider(model, *graph.conds(entry))
    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "normal", graph.steps
    )
    inputs = (
        {"samples": latent} if noise_mask is None else {"samples": latent, "noise_mask": noise_mask}
    )
    sampler = comfy.samplers.sampler_object(graph.sampler)
    noise = nodes_custom_sampler.Noise_RandomNoise(42)
    torch.manual_seed(0)  # HyperTile and token merging draw from the global generator
    return nodes_custom_sampler.SamplerCustomAdvanced.execute(
        noise, guider, sampler, sigmas, inputs
    ).args[0]["samples"]


def around(graph: Graph, entry: Entry, order: str, *trees: Any, **settings: Any) -> Any:
    """The entry's model with the graph's node before or after ours."""
    if order == "before":
        return patched(entry, *trees, model=graph.model(entry.model), **settings)
    return graph.model(patched(entry, *trees, **settings))


def everything(value: float = 1.0) -> Any:
    return tree_of([[value]], HEIGHT, WIDTH)


@cache
def untouched(family: str, sampler: str, steps: int) -> Tensor:
    entry = local(family)
    return sampled(
        Graph(family=family, sampler=sampler, steps=steps),
        entry,
        entry.model,
        entry.latent(HEIGHT, WIDTH, batch=2),
    )


# ---- neighbours on the model


def chained(model: Any) -> Any:
    """A model function wrapper that calls the one before it, if any, and weakens the negative."""
    earlier = model.model_options.get("model_function_wrapper")
    model = model.clone()

    def wrapper(apply_model: Callable, args: dict[str, Any]) -> Tensor:
        if earlier is not None:
            return weakened(earlier(apply_model, args), args["cond_or_uncond"])
        return weakened(
            apply_model(args["input"], args["timestep"], **args["c"]), args["cond_or_uncond"]
        )

    model.set_model_unet_function_wrapper(wrapper)
    return model


def weakened(rows: Tensor, cond_or_uncond: list[int]) -> Tensor:
    """As patches of other packs do: chunk by cond, change the negative's rows only."""
    parts = rows.chunk(len(cond_or_uncond))
    return torch.cat(
        [part * (0.5 if kind else 1.0) for part, kind in zip(parts, cond_or_uncond, strict=True)]
    )


def wrapped(kind: str) -> Callable:
    """A wrapper of core's own kind that changes what passes through it, per cond where it sees conds."""

    def wrapper(executor: Callable, *args: Any, **options: Any) -> Any:
        result = executor(*args, **options)
        if kind == WrappersMP.CALC_COND_BATCH:
            return [0.9 * denoised for denoised in result]
        if kind == WrappersMP.PREDICT_NOISE:
            return 0.9 * result
        transformer_options = options.get("transformer_options") or next(
            a for a in args[::-1] if isinstance(a, dict)
        )
        return weakened(result, transformer_options["cond_or_uncond"])

    def patch(model: Any) -> Any:
        model = model.clone()
        model.add_wrapper_with_key(kind, "neighbour", wrapper)
        return model

    return patch


def ip_adapter(model: Any) -> Any:
    """An image prompt for the positive alone: rows are told apart by cond_or_uncond, tokens are added per row."""
    model = model.clone()

    def attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        conds = extra_options["cond_or_uncond"]
        image = torch.cat(
            [
                gauss((1, 4, k.shape[-1]), 5 + kind).expand(len(k) // len(conds), -1, -1)
                for kind in conds
            ]
        )
        heads = extra_options["n_heads"]
        text = comfy.ldm.modules.attention.optimized_attention(q, k, v, heads)
        return text + weakened(
            comfy.ldm.modules.attention.optimized_attention(q, image, image, heads), conds
        )

    for block in [("input", 3), ("middle", 0), ("output", 4)]:
        model.set_model_attn2_replace(attention, *block)
    return model


def attention_patches(model: Any) -> Any:
    """The lists of patches at the entry and the exit of both kinds of attention."""
    model = model.clone()
    model.set_model_attn1_patch(
        lambda q, k, v, options: (weakened(q, options["cond_or_uncond"]), k, 1.1 * v)
    )
    model.set_model_attn2_patch(
        lambda q, k, v, options: (q, k, weakened(v, options["cond_or_uncond"]))
    )
    model.set_model_attn1_output_patch(lambda n, options: weakened(n, options["cond_or_uncond"]))
    model.set_model_attn2_output_patch(lambda n, options: weakened(n, options["cond_or_uncond"]))
    return model


def calc_cond_batch(model: Any) -> Any:
    """Positive and negative in calls of their own."""
    model = model.clone()

    def alone(args: dict[str, Any]) -> list[Tensor]:
        rest = args["model"], args["input"], args["sigma"], args["model_options"]
        single = [
            comfy.samplers.calc_cond_batch(rest[0], [one], *rest[1:])[0] for one in args["conds"]
        ]
        return [single[0], 0.5 * single[1]]

    model.set_model_sampler_calc_cond_batch_function(alone)
    return model


def without_cfg1_optimization(model: Any) -> Any:
    model = model.clone()
    model.set_model_sampler_cfg_function(
        lambda args: args["cond"] + 0.1 * args["uncond"], disable_cfg1_optimization=True
    )
    return model


def radiance_options(model: Any) -> Any:
    """Core's own node that chains the model function wrapper before it."""
    options = {
        "start_sigma": 1e9,
        "end_sigma": 0.0,
        "nerf_tile_size": 32,
        "force_sequential_txt_ids": False,
    }
    return nodes_chroma_radiance.ChromaRadianceOptions.execute(
        model=model, preserve_wrapper=True, **options
    ).args[0]


def many_at_once(model: Any) -> Any:
    for patch in [
        node(core.LoraLoaderModelOnly, LORA, 1.0),
        wrapped(WrappersMP.APPLY_MODEL),
        chained,
        node(nodes_nag.NAGuidance, 5.0, 0.5, 1.5),
        ip_adapter,
        wrapped(WrappersMP.PREDICT_NOISE),
        node(nodes_pag.PerturbedAttentionGuidance, 1.0),
        node(advanced.RescaleCFG, 0.7),
    ]:
        model = patch(model)
    return model


advanced = nodes_model_advanced
ON_MODEL = {
    "a chaining model function wrapper": Graph(chained),
    "Chroma Radiance options": Graph(radiance_options, family="flux", neutral=True),
    "many at once": Graph(many_at_once),
    "an apply_model wrapper": Graph(wrapped(WrappersMP.APPLY_MODEL)),
    "a predict_noise wrapper": Graph(wrapped(WrappersMP.PREDICT_NOISE)),
    "a calc_cond_batch wrapper": Graph(wrapped(WrappersMP.CALC_COND_BATCH)),
    "a diffusion_model wrapper": Graph(wrapped(WrappersMP.DIFFUSION_MODEL)),
    "a diffusion_model wrapper on Flux": Graph(wrapped(WrappersMP.DIFFUSION_MODEL), family="flux"),
    "a calc_cond_batch function": Graph(calc_cond_batch),
    "LoRA": Graph(node(core.LoraLoaderModelOnly, LORA, 1.0)),
    "IP-Adapter": Graph(ip_adapter),
    "attention patches": Graph(attention_patches),
    "NAG": Graph(node(nodes_nag.NAGuidance, 5.0, 0.5, 1.5)),
    "NAG on Flux at cfg 1": Graph(
        node(nodes_nag.NAGuidance, 5.0, 0.5, 1.5), guider=cfg_guider(1.0), family="flux"
    ),
    "PAG": Graph(node(nodes_pag.PerturbedAttentionGuidance, 3.0)),
    "SLG": Graph(node(nodes_slg.SkipLayerGuidanceDiT, 3.0, 0.0, 1.0, "0", "0", 0.5), family="flux"),
    "SLG simple": Graph(
        node(nodes_slg.SkipLayerGuidanceDiTSimple, 0.0, 1.0, "0", "0"), family="flux"
    ),
    "RescaleCFG": Graph(node(advanced.RescaleCFG, 0.7)),
    "APG": Graph(node(nodes_apg.APG, 0.5, 5.0, -0.5)),
    "CFGZeroStar": Graph(node(nodes_cfg.CFGZeroStar), family="flux"),
    "CFGNorm": Graph(node(nodes_cfg.CFGNorm, 1.0)),
    "TCFG": Graph(node(nodes_tcfg.TCFG)),
    "Mahiro": Graph(node(nodes_mahiro.Mahiro)),
    "Epsilon Scaling": Graph(node(nodes_eps.EpsilonScaling, 1.05)),
    "FreSca": Graph(node(nodes_fresca.FreSca, 1.0, 1.25, 4)),
    "linear CFG for video": Graph(node(nodes_video_model.VideoLinearCFGGuidance, 1.0)),
    "CFG override": Graph(node(nodes_custom_sampler.CFGOverride, 1.0, 0.0, 0.5), steps=4),
    "no cfg 1 optimization": Graph(without_cfg1_optimization, guider=cfg_guider(1.0)),
    "LazyCache": Graph(
        node(nodes_easycache.LazyCacheNode, 10.0, 0.15, 0.95, False), family="flux", steps=6
    ),
    "shift of SD3": Graph(node(advanced.ModelSamplingSD3, 5.0), family="flux"),
    "shift of AuraFlow": Graph(node(advanced.ModelSamplingAuraFlow, 1.73), family="flux"),
    "shift of Flux": Graph(node(advanced.ModelSamplingFlux, 1.15, 0.5, 1024, 768), family="flux"),
    "v-prediction": Graph(node(advanced.ModelSamplingDiscrete, "v_prediction", False)),
    # Its first sigma is 4518, so core's own rounding shows: 3e-5 between rows together and row by row, without us.
    "v-prediction at zero SNR": Graph(
        node(advanced.ModelSamplingDiscrete, "v_prediction", True), tolerance=1e-3
    ),
    "LCM": Graph(node(advanced.ModelSamplingDiscrete, "lcm", False), sampler="lcm"),
}


# ---- neighbours on the conditioning


def on_positive(*steps: Callable) -> Callable[[Entry], tuple[list, list]]:
    def conds(entry: Entry) -> tuple[list, list]:
        positive = entry.positive
        for step in steps:
            positive = step(positive)
        return positive, entry.negative

    return conds


def other(seed: int = 33) -> list:
    return cond(77, seed)


def left_mask() -> Tensor:
    mask = torch.zeros(1, HEIGHT * 8, WIDTH * 8)
    mask[..., : WIDTH * 3] = 1
    return mask


def regional(entry: Entry) -> tuple[list, list]:
    """One prompt on the left, another everywhere."""
    return node(core.ConditioningSetMask, left_mask(), "default", 0.8)(
        other()
    ) + entry.positive, entry.negative


def scheduled(entry: Entry) -> tuple[list, list]:
    """One prompt for the first half, another with more tokens for the rest."""
    late = node(core.ConditioningConcat, other())(other(34))
    first = node(core.ConditioningSetTimestepRange, 0.0, 0.5)(entry.positive)
    return first + node(core.ConditioningSetTimestepRange, 0.5, 1.0)(late), entry.negative


def hooked(*, keyframes: bool) -> Callable[[Entry], tuple[list, list]]:
    """A LoRA on the positive alone, of one strength or one that rises."""

    def conds(entry: Entry) -> tuple[list, list]:
        (hooks,) = nodes_hooks.CreateHookLora().create_hook(LORA, 1.0, 0.0)
        if keyframes:
            rising = nodes_hooks.CreateHookKeyframesInterpolated().create_hook_keyframes(
                0.1, 1.0, "linear", 0.0, 1.0, 4
            )
            (hooks,) = nodes_hooks.SetHookKeyframes().set_hook_keyframes(hooks, *rising)
        (positive,) = nodes_hooks.ConditioningSetProperties().set_properties(
            entry.positive, 1.0, "default", hooks=hooks
        )
        return positive, entry.negative

    return conds


def with_default(entry: Entry) -> tuple[list, list]:
    """A masked pair, and a default pair with a LoRA where no mask is."""
    masked = [
        node(core.ConditioningSetMask, left_mask(), "default", 1.0)(one)
        for one in (entry.positive, entry.negative)
    ]
    (hooks,) = nodes_hooks.CreateHookLora().create_hook(LORA, 1.0, 0.0)
    return nodes_hooks.PairConditioningSetDefaultAndCombine().set_default_and_combine(
        *masked, other(), other(34), hooks
    )


def patched_by_hook(entry: Entry) -> tuple[list, list]:
    """An attention patch that the positive brings along."""
    patches = {"patches": {"attn1_output_patch": [lambda n, options: 0.7 * n]}}
    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook(patches, comfy.hooks.EnumHookScope.HookedOnly))
    return comfy.hooks.set_hooks_for_conditioning(entry.positive, group), entry.negative


class AverageVAE:
    """Stands in for a VAE: four channels of averages."""

    def encode(self, pixels: Tensor) -> Tensor:
        colours = F.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([colours, colours[:, :1]], 1)


def inpainted(entry: Entry) -> tuple[list, list]:
    pixels = torch.rand(1, HEIGHT * 8, WIDTH * 8, 3, generator=torch.Generator().manual_seed(7))
    bare = [[[conditioning[0][0], {}]] for conditioning in (entry.positive, entry.negative)]
    return core.InpaintModelConditioning().encode(*bare, pixels, AverageVAE(), left_mask())[:2]


@dataclass
class ClipVision:
    image_embeds: Tensor


def with_image_prompt(entry: Entry) -> tuple[list, list]:
    image = ClipVision(gauss((1, 1, 768), 3))
    return node(core.unCLIPConditioning, image, 1.0, 0.1)(entry.positive), entry.negative


ON_CONDITIONING = {
    "combined": Graph(
        conds=on_positive(lambda positive: core.ConditioningCombine().combine(positive, other())[0])
    ),
    "averaged": Graph(conds=on_positive(node(core.ConditioningAverage, other(), 0.3))),
    "concatenated": Graph(conds=on_positive(node(core.ConditioningConcat, other()))),
    "masked": Graph(conds=regional),
    "scheduled": Graph(conds=scheduled, steps=4),
    "a LoRA hook": Graph(conds=hooked(keyframes=False)),
    "a LoRA hook with keyframes": Graph(conds=hooked(keyframes=True), steps=4),
    "a patch by hook": Graph(conds=patched_by_hook),
    "a default pair": Graph(conds=with_default),
    "an inpainting model": Graph(conds=inpainted, family="sd15_inpaint"),
    "unCLIP": Graph(conds=with_image_prompt, family="unclip"),
}


# ---- guiders and samplers


def dual_cfg(style: str) -> Callable:
    def guider(model: Any, positive: list, negative: list) -> Any:
        return nodes_custom_sampler.DualCFGGuider.execute(
            model, positive, other(), negative, 3.0, 2.0, style
        ).args[0]

    return guider


def perp_neg(model: Any, positive: list, negative: list) -> Any:
    return nodes_perpneg.PerpNegGuider.execute(model, positive, negative, other(), 3.0, 1.0).args[0]


def dual_model(model: Any, positive: list, negative: list) -> Any:
    """The negative on a model of its own, with a LoRA."""
    lora = node(core.LoraLoaderModelOnly, LORA, 1.0)(copy.copy(local("sd15").model))
    return nodes_custom_sampler.DualModelGuider.execute(model, positive, 3.0, lora, negative).args[
        0
    ]


def basic(model: Any, positive: list, negative: list) -> Any:
    return nodes_custom_sampler.BasicGuider.execute(model, positive).args[0]


GUIDED = {
    "BasicGuider": Graph(guider=basic),
    "cfg 1 with a negative": Graph(guider=cfg_guider(1.0)),
    "DualCFG": Graph(guider=dual_cfg("regular")),
    "DualCFG nested": Graph(guider=dual_cfg("nested")),
    "DualModel": Graph(guider=dual_model, neutral=True),
    "PerpNeg": Graph(guider=perp_neg),
    "CFG++": Graph(sampler="euler_cfg_pp", neutral=True),
    "ancestral CFG++": Graph(sampler="dpmpp_2s_ancestral_cfg_pp", neutral=True),
}
GRAPHS = {**ON_MODEL, **ON_CONDITIONING, **GUIDED}


def graphs(table: dict[str, Graph]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("graph", table.values(), ids=table)


def orders(graph: Graph) -> list[str]:
    return ["after"] if graph.model is unchanged else ["before", "after"]


# ---- what holds next to all of them


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


# ---- neighbours that mix a whole window, so that tiling shows: windows must not see each other


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


# ---- masks, several samplers, several of our nodes


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


# ---- compilers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_few_shapes_reach_a_compiled_model(family, method):
    entry = entry_of(family)
    tree = tree_of([[0.0, 0.6, 0.3], [1.0, 0.1, 0.0]], 40, 56)
    spy = Spy(patched(entry, tree, method=method, overlap_px=32))
    sampled(Graph(family=family, steps=4), entry, spy.model, entry.latent(40, 56))
    assert len({shape[-2:] for shape in spy.shapes}) == 1 and len(set(spy.shapes)) <= 3


@pytest.mark.slow
def test_a_compiled_model_samples_as_it_does_uncompiled():
    entry, graph = entry_of("flux"), Graph(family="flux")
    latent = entry.latent(HEIGHT, WIDTH)
    tiled = patched(entry, everything())
    compiled = nodes_torch_compile.TorchCompileModel.execute(tiled, "eager").args[0]
    assert (
        error(sampled(graph, entry, compiled, latent), sampled(graph, entry, tiled, latent)) < 1e-5
    )


# ---- refusals


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (node(nodes_easycache.EasyCacheNode, 0.2, 0.15, 0.95, False), "EasyCache .* Use LazyCache"),
        (node(nodes_sag.SelfAttentionGuidance, 0.5, 2.0), "Self-Attention Guidance"),
        (
            node(
                nodes_context_windows.ContextWindowsManualNode,
                2,
                1,
                "standard_static",
                1,
                False,
                "pyramid",
                0,
                False,
            ),
            "Context windows",
        ),
    ],
    ids=["EasyCache", "SAG", "context windows"],
)
def test_what_cannot_work_together_is_refused_before_our_node_too(patch, words):
    entry = entry_of("sd15")
    with pytest.raises(ValueError, match=words):
        sampled(
            Graph(),
            entry,
            patched(entry, half_kept(HEIGHT, WIDTH), model=patch(entry.model)),
            entry.latent(HEIGHT, WIDTH),
        )


# ---- refused


class Patch(torch.nn.Module):
    """The weights of a model patch: none, and how many channels its image has."""

    cond_in_channels = 3

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.mean(0)


def model_patch() -> Any:
    return comfy.model_patcher.ModelPatcher(Patch(), torch.device("cpu"), torch.device("cpu"))


def anima_lllite(model: Any) -> Any:
    return node(
        nodes_model_patch.AnimaLLLiteApply, model_patch(), torch.rand(1, 128, 256, 3), 1.0, 0.0, 1.0
    )(model)


def supir(model: Any) -> Any:
    model = model.clone()
    SUPIRPatch(
        model_patch(), torch.nn.ModuleList(), torch.zeros(1, 4, HEIGHT, WIDTH), 1.0, 1.0
    ).register(model)
    return model


@dataclass
class ClipVisionStates:
    all_hidden_states: Tensor
    penultimate_hidden_states: Tensor


def uso_style(model: Any) -> Any:
    states = ClipVisionStates(gauss((1, 27, 6, 64), 1), gauss((1, 6, 64), 2))
    return node(nodes_model_patch.USOStyleReference, model_patch(), states)(model)


@pytest.mark.parametrize(
    ("patch", "family", "name"),
    [(anima_lllite, "flux", "LLLite"), (supir, "sd15", "SUPIR")],
    ids=["Anima LLLite", "SUPIR"],
)
def test_a_model_patch_with_an_image_is_refused(patch, family, name):
    entry = entry_of(family)
    model = patch(patched(entry, half_kept(HEIGHT, WIDTH)))
    with pytest.raises(ValueError, match=f"Quadtree Diffusion cannot cut .*{name}"):
        sampled(Graph(), entry, model, entry.latent(HEIGHT, WIDTH))


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


def test_a_kv_cache_that_keeps_the_first_window_is_refused():
    entry = entry_of("flux2")
    graph = Graph(node(nodes_flux.FluxKVCache), guider=basic, family="flux2")
    tree = tree_of([[1.0]], HEIGHT, WIDTH, entry.px_per_cell)
    with pytest.raises(ValueError, match="cannot cut the Flux KV cache"):
        sampled(graph, entry, around(graph, entry, "after", tree), entry.latent(HEIGHT, WIDTH))


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
