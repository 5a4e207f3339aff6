"""The table of graphs with nodes of public packs; packs.py calls them, beside.py checks them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import comfy.samplers
import torch
from torch import Tensor

import nodes as core

from .animate_diff import FRAMES, animated, animated_by_mask
from .local_models import HEIGHT, WIDTH, local, localize
from .neighbours import Graph, left_mask, other, sampled
from .packs import Neighbour, call, call_all, module_beside, patched_by
from .tiny_controls import FakeVAE, hint_image, unet_controlnet
from .tiny_models.building import TOKENS, Entry, gauss
from .tiny_models.unets import UNET

STEPS = 10
CFG = 3.0


# --- Samplers, guiders and sigmas


def sampled_by(node_id: str, family: str = "flux", **inputs: Any) -> Callable[[], Graph]:
    """Return what makes the graph of a node that puts out a sampler."""
    return lambda: Graph(sampler=call(node_id, **inputs), family=family, steps=STEPS)


def wrapped_euler(node_id: str, **inputs: Any) -> Callable[[], Graph]:
    """The same, for a node that makes its sampler of another one."""
    euler = comfy.samplers.sampler_object("euler")
    return lambda: sampled_by(node_id, sampler=euler, **inputs)()


def multiplied_sigmas() -> Graph:
    sampling = local("flux").model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    scaled = call("MultiplySigmas", sigmas=sigmas, factor=0.95, start=0.2, end=0.8)
    return Graph(family="flux", sigmas=scaled, steps=STEPS)


def custom_sigmas() -> Graph:
    return Graph(sigmas=call("CustomSigmas", interpolate_to_steps=STEPS), steps=STEPS)


def scheduled_guider() -> Graph:
    def guider(model: Any, positive: list, negative: list) -> Any:
        conds = {"positive": positive, "negative": negative}
        return call("ScheduledCFGGuidance", model=model, cfg=CFG, end_percent=0.6, **conds)

    return Graph(guider=guider, steps=6)


def clownshark(
    graph: Graph, entry: Entry, model: Any, latent: Tensor, *, seed: int, **inputs: Any
) -> Tensor:
    """Sample with RES4LYF's own node, which makes noise and sigmas, too."""
    run = {"steps": graph.steps, "cfg": CFG, "seed": seed, "scheduler": "normal"}
    conds = {"positive": entry.positive, "negative": entry.negative}
    latent_image = {"samples": latent.clone()}
    return call(
        "ClownsharKSampler_Beta", model=model, latent_image=latent_image, **run, **conds, **inputs
    )["samples"]


def clownshark_without_noise(*args: Any, **kwargs: Any) -> Tensor:
    return clownshark(*args, eta=0.0, bongmath=False, **kwargs)


def clownshark_in_tiles(*args: Any, **kwargs: Any) -> Tensor:
    """With tiles of its own, which are half of the image."""
    tiles = call("ClownOptions_Tile_Beta", tile_width=8 * HEIGHT, tile_height=8 * HEIGHT)
    return clownshark(*args, options=tiles, **kwargs)


def clownshark_implicit(*args: Any, **kwargs: Any) -> Tensor:
    """With a second evaluation of every step."""
    options = call("ClownOptions_ImplicitSteps_Beta", implicit_steps=1)
    return clownshark(*args, options=options, **kwargs)


def clownshark_guided(*args: Any, **kwargs: Any) -> Tensor:
    """With a guide: a latent that the left half is drawn towards."""
    guide = {"samples": local("flux").latent(HEIGHT, WIDTH, seed=3)}
    guides = call("ClownGuide_Beta", guide=guide, mask=left_mask(), weight=0.5, end_step=4)
    return clownshark(*args, guides=guides, **kwargs)


def differential(*args: Any, **kwargs: Any) -> Tensor:
    """With a noise mask that lets the right half change later."""
    mask = torch.ones(1, 1, HEIGHT, WIDTH)
    mask[..., WIDTH // 2 :] = 0.7
    return sampled(*args, noise_mask=mask, **kwargs)


# --- Attention and ControlNets


def ip_adapter(**inputs: Any) -> Callable[[], Graph]:
    """IPAdapter Embeds with a random image projection, of a width that fits each attention."""

    def patch(model: Any) -> Any:
        adapter = {"image_proj": image_projection(), "ip_adapter": keys_and_values(model)}
        embeds = {"pos_embed": gauss((1, 32), 1), "neg_embed": gauss((1, 32), 2)}
        return call("IPAdapterEmbeds", model=model, ipadapter=adapter, **embeds, **inputs)

    return lambda: Graph(patch, steps=6)


def image_projection(tokens: int = 4) -> dict[str, Tensor]:
    return {
        "proj.weight": gauss((tokens * TOKENS, 32), 3),
        "proj.bias": gauss((tokens * TOKENS,), 4),
        "norm.weight": torch.ones(TOKENS),
        "norm.bias": torch.zeros(TOKENS),
    }


def keys_and_values(model: Any) -> dict[str, Tensor]:
    """The adapter's weights, in the order in which IPAdapter numbers the blocks of SD1.5."""
    network = model.model.diffusion_model
    inputs = [(network.input_blocks, number) for number in (1, 2, 4, 5, 7, 8)]
    outputs = [(network.output_blocks, number) for number in range(3, 12)]
    widths = [width_of(blocks, number) for blocks, number in inputs + outputs]
    weights = {}
    for number, width in enumerate([*widths, 64]):
        for seed, kind in enumerate(("k", "v")):
            weight = gauss((width, TOKENS), 10 * number + seed) / TOKENS**0.5
            weights[f"{2 * number + 1}.to_{kind}_ip.weight"] = weight
    return weights


def width_of(blocks: Any, number: int) -> int:
    """The width of a block's attention; any where there is none."""
    modules = blocks[number].named_modules() if number < len(blocks) else ()
    return next((one.out_features for name, one in modules if name.endswith("attn2.to_q")), 64)


def regional_flux() -> Graph:
    """Two prompts, left and right, by RES4LYF's masks of attention."""

    def patch(model: Any) -> Any:
        return call("ReFluxPatcher", model=model, style_dtype="float32")

    def conds(entry: Entry) -> tuple[list, list]:
        parts = {"conditioning_masked": entry.positive, "conditioning_unmasked": entry.negative}
        positive = call("ClownRegionalConditioning2", mask=left_mask(), **parts)
        return positive, entry.negative

    return Graph(patch, conds, family="flux", steps=STEPS)


def clownshark_regional(graph: Graph, entry: Entry, *args: Any, **kwargs: Any) -> Tensor:
    entry = copy.copy(entry)
    entry.positive, entry.negative = graph.conds(entry)
    return clownshark(graph, entry, *args, **kwargs)


def patched_wan(node_id: str, **inputs: Any) -> Callable[[], Graph]:
    latent = {"samples": torch.zeros(1, 16, 3, HEIGHT, WIDTH)}

    def patch(model: Any) -> Any:
        given = {"conditioning": other(), "latent": latent}
        wanted = core.NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES()["required"]
        given = {name: value for name, value in given.items() if name in wanted}
        return call(node_id, model=model, **given, **inputs)

    return lambda: Graph(patch, family="wan21_t2v", steps=6)


def lan_painted(graph: Graph, entry: Entry, model: Any, latent: Tensor, *, seed: int) -> Tensor:
    """Inpaint the left part with LanPaint, which calls the model several times in a step."""
    return call(
        "LanPaint_KSampler",
        model=model,
        latent_image={"samples": latent.clone(), "noise_mask": left_mask()[None]},
        positive=entry.positive,
        negative=entry.negative,
        seed=seed,
        steps=graph.steps,
        cfg=CFG,
        sampler_name="euler",
        scheduler="normal",
        LanPaint_NumSteps=2,
    )["samples"]


def attended_by_regions() -> Graph:
    """A prompt for the left part and one for the rest, by the masks of Krita's plugin."""

    def patch(model: Any) -> Any:
        background = call("ETN_BackgroundRegion", conditioning=other())
        mask = left_mask()
        regions = call("ETN_DefineRegion", mask=mask, conditioning=other(), regions=background)
        return call("ETN_AttentionMask", model=model, regions=regions)

    return Graph(patch, steps=6)


def inpainted_by_features() -> Graph:
    """Fooocus' inpainting: a feature map of the whole image, added to the first block's."""

    def patch(model: Any) -> Any:
        head = torch.nn.Conv2d(5, UNET["model_channels"], 3, padding=1, bias=False)
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
        samples = gauss((1, 4, HEIGHT, WIDTH), seed=2)
        latent = {"samples": samples, "noise_mask": left_mask()[None]}
        return call("INPAINT_ApplyFooocusInpaint", model=model, patch=(head, {}), latent=latent)

    return Graph(patch, steps=6)


def coupled(entry: Entry) -> tuple[list, list]:
    """Two prompts, left and right, by prompt-control's attention couple."""
    mask = left_mask()
    region = [other()[0][0], {"mask": mask, "mask_strength": 1.0}]
    couple = module_beside("PCAttentionCoupleBatchNegative", "attention_couple_ppm")
    positive = couple.set_cond_attnmask(entry.positive, [region], fill=True)
    conds = {"positive": positive, "negative": entry.negative}
    positive, negative = call_all("PCAttentionCoupleBatchNegative", **conds)
    return positive, negative


def advanced_control(
    control: Callable[[], Any], family: str = "sd15", **make: Callable[[], Any]
) -> Callable[[], Graph]:
    def conds(entry: Entry) -> tuple[list, list]:
        node, picture = "ACN_AdvancedControlNetApply_v2", hint_image(8 * HEIGHT, 8 * WIDTH)
        inputs = {name: value() for name, value in make.items()}
        given = {"positive": entry.positive, "negative": entry.negative, "image": picture}
        given |= {"control_net": control(), **inputs}
        positive, negative = call_all(node, **given)
        return positive, negative

    return lambda: Graph(conds=conds, family=family, steps=6)


def local_control() -> Any:
    """A ControlNet without attention, whose features at a cell depend on that cell."""
    without = {"transformer_depth": [0, 0, 0, 0], "transformer_depth_middle": -1}
    control = unet_controlnet({**UNET, **without}, num_heads=8)
    localize(control.control_model)
    return control


def strengths() -> Any:
    """The control is strong at first and weak from the middle on."""
    first = call("TimestepKeyframe", strength=1.0)
    return call("TimestepKeyframe", start_percent=0.5, strength=0.2, prev_timestep_kf=first)


def weights() -> Any:
    return call("ACN_ScaledSoftControlNetWeights")


def weights_by_mask() -> Any:
    return call("ScaledSoftMaskedUniversalWeights", mask=left_mask())


def reference(kind: str) -> Callable[[], Any]:
    return lambda: call("ACN_ReferenceControlNet", reference_type=kind)


class CroppingVAE(FakeVAE):
    def __init__(self) -> None:
        super().__init__(channels=4)

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        return pixels


def reference_image() -> Any:
    size = {"samples": torch.zeros(1, 4, HEIGHT, WIDTH)}
    picture = hint_image(8 * HEIGHT, 8 * WIDTH)
    return call("ACN_ReferencePreprocessor", image=picture, vae=CroppingVAE(), latent_size=size)


# --- Nodes that sample parts of an image, or through ComfyUI's queue

LARGE = 64, 128  # cells of an image, so that its parts can be told from each other
LEVEL = 0.02  # more than a latent's change where a px of 8 bits is one level higher


class FlatVAE:
    """Three of four channels are the mean colour of a cell, so that both ways can be told."""

    latent_channels = 4
    downscale_ratio = 8

    def encode(self, pixels: Tensor) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(pixels[..., :3].movedim(-1, 1), 8)
        return torch.nn.functional.pad(cells * 4 - 2, (0, 0, 0, 0, 0, 1))

    def decode(self, latent: Tensor) -> Tensor:
        colours = (latent[:, :3] + 2) / 4
        return colours.repeat_interleave(8, 2).repeat_interleave(8, 3).movedim(1, -1).clamp(0, 1)

    def spacial_compression_encode(self) -> int:
        return 8


def changed_cells(latent: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return the latent of an image, with the cells of the one before where no pixel changed.

    Such nodes give images of 8 bits, rounded down once or twice, so that encoding again would tell
    nothing about what is kept.
    """
    changed = ((before - after) * 255).abs().amax(-1, keepdim=True) > 2
    changed = torch.nn.functional.max_pool2d(changed.float().movedim(-1, 1), 8) > 0
    return torch.where(changed, FlatVAE().encode(after), latent)


def ultimate(
    graph: Graph,
    entry: Entry,
    model: Any,
    latent: Tensor,
    *,
    seed: int,
    tile_cells: tuple[int, int],
) -> Tensor:
    """Tiles of the image, one after the other."""
    vae = FlatVAE()
    before = vae.decode(latent)
    height, width = tile_cells
    side = {"tile_width": 8 * width, "tile_height": 8 * height, "tile_padding": 0, "mask_blur": 0}
    run = {"seed": seed, "steps": graph.steps, "cfg": CFG, "denoise": 0.5}
    conds = {"positive": entry.positive, "negative": entry.negative}
    image = call(
        "UltimateSDUpscaleNoUpscale",
        upscaled_image=before,
        model=model,
        vae=vae,
        **{**conds, **run, **side},
    )
    return changed_cells(latent, before, image)


def detailer(
    graph: Graph, entry: Entry, model: Any, latent: Tensor, *, seed: int, aspect: int = 1
) -> Tensor:
    """Impact Pack's detailer on a rectangle in the image, a square unless told otherwise."""
    vae = FlatVAE()
    before = vae.decode(latent)
    mask = torch.zeros(before.shape[:3])
    mask[:, 128:384, 320 : 320 + 256 * aspect] = 1  # over both halves of the image
    segments = call("MaskToSEGS", mask=mask, crop_factor=1.5)
    run = {"seed": seed, "steps": graph.steps, "cfg": CFG, "guide_size": 256, "wildcard": ""}
    conds = {"positive": entry.positive, "negative": entry.negative, "clip": None}
    image = call(
        "DetailerForEach",
        image=before,
        segs=segments,
        model=model,
        vae=vae,
        **{**conds, **run},
    )
    return changed_cells(latent, before, image)


def provided(graph: Graph, entry: Entry, model: Any, latent: Tensor, *, seed: int) -> Tensor:
    """Impact Pack's own sampler, which its regional nodes use."""
    pipe = model, None, None, entry.positive, entry.negative
    sampler = call("KSamplerAdvancedProvider", cfg=CFG, scheduler="normal", basic_pipe=pipe)
    run = (True, seed, graph.steps, {"samples": latent.clone()}, 0, graph.steps, False)
    return sampler.sample_advanced(*run)["samples"]


class Given:
    """A node of the queued prompt: what it puts out was given by its number."""

    objects: ClassVar[dict[int, tuple]] = {}
    numbers = itertools.count()
    RETURN_TYPES = ("MODEL", "CONDITIONING", "CONDITIONING", "LATENT")
    FUNCTION = "give"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802
        return {"required": {"number": ("INT", {"default": 0})}}

    def give(self, number: int) -> tuple:
        return self.objects[number]


class Keep:
    """The queued prompt's end."""

    kept: ClassVar[list[Tensor]] = []
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "keep"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802
        return {"required": {"samples": ("LATENT",)}}

    def keep(self, samples: dict) -> tuple:
        self.kept.append(samples["samples"])
        return ()


def queued(graph: Graph, entry: Entry, model: Any, latent: Tensor, *, seed: int) -> Tensor:
    """ComfyUI's own executor runs a prompt in which the model goes through a context node."""
    import execution
    import server

    core.NODE_CLASS_MAPPINGS |= {"QuadtreeGiven": Given, "QuadtreeKeep": Keep}
    number = next(Given.numbers)
    Given.objects[number] = model, entry.positive, entry.negative, {"samples": latent}
    links = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2], "latent": ["1", 3]}
    context = {"model": ["2", 1], "positive": ["2", 4], "negative": ["2", 5]}
    run = {"seed": seed, "steps": graph.steps, "cfg": CFG, "denoise": 1.0}
    run |= {"sampler_name": "euler", "scheduler": "normal", "latent_image": ["2", 6]}
    prompt = {
        "1": {"class_type": "QuadtreeGiven", "inputs": {"number": number}},
        "2": {"class_type": "Context (rgthree)", "inputs": links},
        "3": {"class_type": "KSampler", "inputs": {**context, **run}},
        "4": {"class_type": "QuadtreeKeep", "inputs": {"samples": ["3", 0]}},
    }
    caching = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
    executor = execution.PromptExecutor(server.PromptServer.instance, cache_args=caching)
    executor.execute(prompt, str(number), {}, ["4"])
    del Given.objects[number]
    if not executor.success:
        raise ValueError(executor.status_messages[-1][1]["exception_message"])
    return Keep.kept.pop()


def three_at_once() -> Graph:
    """IPAdapter on the model, Advanced ControlNet on the conditioning, Detail Daemon around."""
    on_model, on_conds = ip_adapter()(), advanced_control(local_control, timestep_kf=strengths)()
    euler = comfy.samplers.sampler_object("euler")
    sampler = call("DetailDaemonSamplerNode", sampler=euler, detail_amount=1.0)
    return Graph(on_model.model, on_conds.conds, sampler=sampler, steps=STEPS)


# A row begins with the node's id. Its inputs are those at which it does something to the models.
NEIGHBOURS: dict[str, Neighbour] = {
    "DetailDaemonSamplerNode": Neighbour(
        wrapped_euler("DetailDaemonSamplerNode", detail_amount=2.0, cfg_scale_override=2.0)
    ),
    "DetailDaemonSamplerNode, with IPAdapter and Advanced ControlNet": Neighbour(
        three_at_once, needs=("IPAdapterEmbeds", "ACN_AdvancedControlNetApply_v2")
    ),
    "LyingSigmaSampler": Neighbour(wrapped_euler("LyingSigmaSampler")),
    "MultiplySigmas": Neighbour(multiplied_sigmas),
    "ClownSampler_Beta, res_2m": Neighbour(
        sampled_by("ClownSampler_Beta", sampler_name="multistep/res_2m", seed=1)
    ),
    "ClownSampler_Beta, res_3s": Neighbour(
        sampled_by("ClownSampler_Beta", sampler_name="exponential/res_3s", seed=1)
    ),
    "ClownsharKSampler_Beta": Neighbour(lambda: Graph(family="flux", steps=STEPS), clownshark),
    "ClownsharKSampler_Beta, eta 0": Neighbour(
        lambda: Graph(family="flux", steps=STEPS), clownshark_without_noise
    ),
    "ClownOptions_Tile_Beta": Neighbour(
        lambda: Graph(family="flux", steps=STEPS), clownshark_in_tiles
    ),
    "ClownOptions_ImplicitSteps_Beta": Neighbour(
        lambda: Graph(family="flux", steps=STEPS), clownshark_implicit
    ),
    "ClownGuide_Beta": Neighbour(lambda: Graph(family="flux", steps=STEPS), clownshark_guided),
    "ClownRegionalConditioning2": Neighbour(regional_flux, clownshark_regional),
    "TeaCache": Neighbour(
        patched_by("TeaCache", "flux", rel_l1_thresh=10.0, cache_device="cpu"), mixes=True
    ),
    "ApplyFBCacheOnModel": Neighbour(
        patched_by("ApplyFBCacheOnModel", residual_diff_threshold=0.3), mixes=True
    ),
    "CacheDiT_Model_Optimizer": Neighbour(
        patched_by("CacheDiT_Model_Optimizer", "flux", warmup_steps=1, skip_interval=2), mixes=True
    ),
    "WanCacheOptimizer": Neighbour(
        patched_wan("WanCacheOptimizer", warmup_steps=1, skip_interval=2), mixes=True
    ),
    "TaylorSeer": Neighbour(patched_by("TaylorSeer", "flux"), mixes=True),
    "TaylorSeerLite": Neighbour(patched_by("TaylorSeerLite", "flux"), mixes=True),
    "DyPE_FLUX": Neighbour(patched_by("DyPE_FLUX", "flux"), mixes=True),
    "IPAdapterEmbeds": Neighbour(ip_adapter()),
    "IPAdapterEmbeds, attn_mask": Neighbour(ip_adapter(attn_mask=left_mask())),
    "PCAttentionCoupleBatchNegative": Neighbour(lambda: Graph(conds=coupled, steps=6)),
    "ACN_AdvancedControlNetApply_v2, strength by step": Neighbour(
        advanced_control(local_control, timestep_kf=strengths)
    ),
    "ACN_AdvancedControlNetApply_v2, soft weights": Neighbour(
        advanced_control(local_control, weights_override=weights)
    ),
    "ACN_AdvancedControlNetApply_v2, weights by mask": Neighbour(
        advanced_control(local_control, weights_override=weights_by_mask)
    ),
    "ACN_AdvancedControlNetApply_v2, mask": Neighbour(
        advanced_control(local_control, mask_optional=left_mask)
    ),
    "ACN_ReferenceControlNet, attention": Neighbour(
        advanced_control(reference("reference_attn"), "sd15_deep", image=reference_image),
        mixes=True,
    ),
    "ACN_ReferenceControlNet, adain": Neighbour(
        advanced_control(reference("reference_adain"), "sd15_deep", image=reference_image),
        mixes=True,
    ),
    "ADE_UseEvolvedSampling": Neighbour(animated(), images=FRAMES),
    "ADE_UseEvolvedSampling, effect_multival with a mask": Neighbour(
        animated_by_mask("effect_multival"), images=FRAMES
    ),
    "ADE_UseEvolvedSampling, scale_multival with a mask": Neighbour(
        animated_by_mask("scale_multival"), images=FRAMES
    ),
    "ADE_UseEvolvedSampling, context_options": Neighbour(
        animated(context_length=FRAMES // 2, context_overlap=1), images=FRAMES
    ),
    "CFGZeroStarAndInit": Neighbour(patched_by("CFGZeroStarAndInit")),
    "WanVideoNAG": Neighbour(patched_wan("WanVideoNAG")),
    "WanVideoEnhanceAVideoKJ": Neighbour(
        patched_wan("WanVideoEnhanceAVideoKJ", weight=5.0), mixes=True
    ),
    "DifferentialDiffusionAdvanced": Neighbour(
        patched_by(
            "DifferentialDiffusionAdvanced",
            samples={"samples": torch.zeros(1, 4, HEIGHT, WIDTH)},
            mask=torch.ones(1, HEIGHT, WIDTH),
        ),
        differential,
    ),
    "PerturbedAttention": Neighbour(patched_by("PerturbedAttention")),
    "SlidingWindowGuidanceAdvanced": Neighbour(patched_by("SlidingWindowGuidanceAdvanced")),
    "TokenPerturbationGuidance": Neighbour(patched_by("TokenPerturbationGuidance")),
    "SmoothedEnergyGuidanceAdvanced": Neighbour(
        patched_by("SmoothedEnergyGuidanceAdvanced"), mixes=True
    ),
    "BlehDeepShrink": Neighbour(patched_by("BlehDeepShrink"), mixes=True),
    "Pre CFG PAG": Neighbour(patched_by("Pre CFG PAG")),
    "Pre CFG zero attention": Neighbour(patched_by("Pre CFG zero attention", "sd15_deep")),
    "Pre CFG subtract mean": Neighbour(patched_by("Pre CFG subtract mean")),
    "Excellent attention": Neighbour(patched_by("Excellent attention"), mixes=True),
    "ETN_AttentionMask": Neighbour(attended_by_regions),
    "INPAINT_ApplyFooocusInpaint": Neighbour(inpainted_by_features),
    "LanPaint_KSampler": Neighbour(lambda: Graph(steps=6), lan_painted),
    "ScheduledCFGGuidance": Neighbour(scheduled_guider),
    "CustomSigmas": Neighbour(custom_sigmas),
    "TiledDiffusion": Neighbour(
        patched_by("TiledDiffusion", tile_width=128, tile_height=128), mixes=True
    ),
    "UltimateSDUpscaleNoUpscale": Neighbour(
        lambda: Graph(steps=4, tolerance=LEVEL), partial(ultimate, tile_cells=(32, 32)), cells=LARGE
    ),
    "UltimateSDUpscaleNoUpscale, tiles of the image's aspect": Neighbour(
        lambda: Graph(steps=4, tolerance=LEVEL), partial(ultimate, tile_cells=(32, 64)), cells=LARGE
    ),
    "DetailerForEach": Neighbour(lambda: Graph(steps=4), detailer, cells=LARGE),
    "DetailerForEach, a crop of the image's aspect": Neighbour(
        lambda: Graph(steps=4), partial(detailer, aspect=2), cells=LARGE
    ),
    "KSamplerAdvancedProvider": Neighbour(lambda: Graph(steps=6, neutral=True), provided),
    "Context (rgthree), in a queued prompt": Neighbour(
        lambda: Graph(steps=6, neutral=True), queued
    ),
}
