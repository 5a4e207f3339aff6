"""Graphs of ComfyUI's own nodes around ours: on the model, on the conditioning, guiders and
samplers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.hooks
import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from comfy_extras import (
    nodes_apg,
    nodes_cfg,
    nodes_chroma_radiance,
    nodes_custom_sampler,
    nodes_easycache,
    nodes_eps,
    nodes_fresca,
    nodes_hooks,
    nodes_mahiro,
    nodes_model_advanced,
    nodes_nag,
    nodes_pag,
    nodes_perpneg,
    nodes_slg,
    nodes_tcfg,
    nodes_video_model,
)
from quadtree_pack.testing.support import patched, tree_of
from quadtree_pack.testing.tiny_models.building import (
    Entry,
    cond,
    gauss,
)
from torch import Tensor

import nodes as core

from .local_models import HEIGHT, WIDTH, local

LORA = "tiny.safetensors"


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
    """What stands around our node: another on the model, nodes on the conditioning, a guider, a
    sampler."""

    model: Callable[[Any], Any] = unchanged
    conds: Callable[[Entry], tuple[list, list]] = own_conds
    guider: Callable = field(default_factory=lambda: cfg_guider(3.0))
    family: str = "sd15"
    sampler: Any = "euler"  # its name, or what a node that makes samplers put out
    steps: int = 3
    sigmas: Tensor | None = None  # in place of the scheduler's, as a node put them out
    neutral: bool = False  # it changes nothing, with or without us
    tolerance: float = 1e-5


def sampled(
    graph: Graph,
    entry: Entry,
    model: Any,
    latent: Tensor,
    noise_mask: Tensor | None = None,
    seed: int = 42,
) -> Tensor:
    guider = graph.guider(model, *graph.conds(entry))
    sigmas = graph.sigmas
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "normal", graph.steps
        )
    inputs = (
        {"samples": latent} if noise_mask is None else {"samples": latent, "noise_mask": noise_mask}
    )
    named = isinstance(graph.sampler, str)
    sampler = comfy.samplers.sampler_object(graph.sampler) if named else graph.sampler
    noise = nodes_custom_sampler.Noise_RandomNoise(seed)
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
    """A wrapper of core's own kind that changes what passes through it, per cond where it sees
    conds."""

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
    """An image prompt for the positive alone: rows are told apart by cond_or_uncond, tokens are
    added per row."""
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
    # Its first sigma is 4518, so core's own rounding shows: 3e-5 between rows together and row by
    # row, without us.
    "v-prediction at zero SNR": Graph(
        node(advanced.ModelSamplingDiscrete, "v_prediction", True), tolerance=1e-3
    ),
    "LCM": Graph(node(advanced.ModelSamplingDiscrete, "lcm", False), sampler="lcm"),
}


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
