"""What happens to each conditioning entry, patch and option in windows: the tables.

A new entry of ComfyUI gets a line in RULES, a patch that cannot be cropped one in UNCUT_PATCHES,
and an option that does not work together with windows one in REFUSALS.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import Module

from ..utils import comes_with_comfyui, name_module
from .cropping import Cropper
from .protocols import Conds, ModelFunctionWrapper, Options

Rule = Callable[[Cropper, Any], Any]


def refusal(what: str, advice: str) -> ValueError:
    """Return the error for something that windows cannot be cut from."""
    return ValueError(
        f"Quadtree Diffusion cannot cut {what} into windows. {advice}, or bypass Quadtree "
        "Diffusion."
    )


# Text, vectors and numbers; pictures that do not lie on the canvas.
WHOLE_ENTRIES = (
    "c_crossattn",
    "crossattn_controlnet",
    "y",
    "guidance",
    "text_embedding_mask",
    "encoder_hidden_states_llama3",
    "txt_byt5",
    "clip",
    "clip_text",
    "clip_text_pooled",
    "clip_img",
    "clip_fea",
    "clip_fea_ref",
    "time_context",
    "t5xxl_ids",
    "t5xxl_weights",
    "num_tokens",
    "num_video_frames",
    "frame_rate",
    "fps",
    "image_meta_size",
    "c_size",
    "c_ar",
    "sca",
    "crp",
    "siglip_feats",
    "ref_contexts",
    "ref_latents_method",
    "vace_strength",
    "face_pixel_values",
    "audio_embed",
    "guiding_frame_index",
    "degrade_sigma",
    "ofs",
    "image_only_indicator",
    "disable_time_r",
    "quadtree_audio",  # see audio.py
    "audio_denoise_mask",
    "ref_audio",
    "latent_shapes",
)
# What belongs to the cells of the canvas.
LATENT_ENTRIES = (
    "c_concat",
    "image_cond",
    "denoise_mask",
    "time_dim_concat",
    "time_dim_replace",
    "vace_context",
    "camera_conditions",
    "control_video",
    "pose_latents",
    "sam_latents",
    "lq_latent",
    "condition",
)
# Pictures to look at: on the canvas if they have its size.
REFERENCE_ENTRIES = (
    "ref_latents",
    "ref_latent",
    "reference_latent",
    "context_latents",
    "reference_motion",
    "ref_mask_latents",
)

# Every entry of `c` that ComfyUI's models know; `Cropper.crop_by_shape` takes any other.
RULES: dict[str, Rule] = {
    **dict.fromkeys(WHOLE_ENTRIES, Cropper.pass_whole),
    **dict.fromkeys(LATENT_ENTRIES, Cropper.crop_latent),
    **dict.fromkeys(REFERENCE_ENTRIES, Cropper.crop_reference),
    "effnet": Cropper.crop_effnet,
    "attention_mask": Cropper.crop_token_mask,
}

# Of what lies on the canvas, ComfyUI crops these to a conditioning area (`comfy.conds` with
# CONDNoiseShape) and leaves the others at the canvas' size.
CROPPED_BY_CORE = frozenset({"c_concat", "image_cond"})
LEFT_BY_CORE = (frozenset(LATENT_ENTRIES) - CROPPED_BY_CORE) | {"reference_latent"}

# Patches and wrappers that look at a picture of the whole image, by their class: how the user
# knows them.
UNCUT_PATCHES = {
    "MultiTalkGetAttnMapPatch": "MultiTalk's masks",
    "MultiTalkApplyModelWrapper": "InfiniteTalk's first frames",
}
# Where ComfyUI's sampler ar_video keeps what the model saw of earlier blocks of frames.
BLOCKWISE = "ar_state"
# Flux KV Cache keeps what references look like beside one window, in the two patches that it sets.
# Without them references are evaluated with each window; the rest of the node only tells how.
KV_CACHE_PATCHES = frozenset({"KV_Attn_Input", "FluxKVCache"})
# These fail on more than one row at a time, in ComfyUI itself too.
ONE_ROW_PATCHES = frozenset({"UsoStyleProjectorPatch"})

# Kinds of wrappers that run inside a call of the model (`comfy.patcher_extension.WrappersMP`).
MODEL_WRAPPERS = ("apply_model", "diffusion_model")

FRAMES_DIM = 2  # of a video's latent [B, C, T, H, W]

# In the names of what other packs' caches set on a model. "rel_l1_thresh" is TeaCache's.
CACHE_WORDS = ("cache", "rel_l1_thresh", "taylorseer", "tgate", "t_gate")
CACHE = (
    "A cache of another pack (TeaCache, MagCache, CacheDiT, First Block Cache) keeps one result "
    "per model call"
)
# Where `refuse_options` looks for what is patched on the model's own objects.
OBJECT_PATCHES = "object_patches"


def name_patches(transformer_options: Options) -> set[str]:
    """Return the class names of the patches in a model's transformer options."""
    return {_name_patch(patch) for patch in _list_patches(transformer_options)}


def _list_patches(transformer_options: Options) -> list[Any]:
    """Return the patches that add to what a network computes, not those that replace a part."""
    listed = transformer_options.get("patches", {}).values()
    return [patch for patches in listed for patch in patches]


def _name_patch(patch: Any) -> str:
    qualified: str = getattr(patch, "__qualname__", type(patch).__qualname__)
    return qualified.split(".")[0]


def has_kv_cache(transformer_options: Options) -> bool:
    """Tell whether the model has ComfyUI's Flux KV Cache."""
    return not KV_CACHE_PATCHES.isdisjoint(name_patches(transformer_options))


def leave_out_kv_cache(transformer_options: Options) -> Options:
    """Return the options without the patches of Flux KV Cache; the same where there are none."""
    if not has_kv_cache(transformer_options):
        return transformer_options
    patches = {
        kind: [patch for patch in listed if _name_patch(patch) not in KV_CACHE_PATCHES]
        for kind, listed in transformer_options["patches"].items()
    }
    return {**transformer_options, "patches": patches}


def fit_to_windows(transformer_options: Options) -> Options:
    """Return the options of a call for its windows, without patches that keep what one window saw.

    ValueError for a patch that needs the whole image.
    """
    refuse_patches(transformer_options)
    return leave_out_kv_cache(transformer_options)


def refuse_patches(transformer_options: Options) -> None:
    """Raise ValueError if a patch or a wrapper needs the whole image."""
    wrappers = {type(wrapper).__name__ for wrapper in _list_wrappers(transformer_options, None)}
    for name in UNCUT_PATCHES.keys() & (name_patches(transformer_options) | wrappers):
        raise refusal(UNCUT_PATCHES[name], "Remove it")


def refuse_blocks(transformer_options: Options) -> None:
    """Raise ValueError for a call on a block of frames that depends on those before it."""
    if BLOCKWISE in transformer_options:
        raise ValueError(
            "Sampler AR Video samples a clip in blocks of frames, each of which sees all of those "
            "before it, which no window of Quadtree Diffusion does. Sample without this node, and "
            "refine the finished clip with another sampler."
        )


def needs_one_row(transformer_options: Options) -> bool:
    """Tell whether a patch takes one row at a time only."""
    return not ONE_ROW_PATCHES.isdisjoint(name_patches(transformer_options))


def reads_first_row(c: Conds) -> bool:
    """Tell whether the model takes the first row's masks for those of all rows of a call `c`.

    The attention mask of an LTXV guide has no rows, and LTX-2, whose calls tell `latent_shapes`,
    asks the first row whether noise masks differ within a frame.
    """
    guides = c.get("guide_attention_entries") or ()
    has_noise_mask = c.get("denoise_mask") is not None
    return (has_noise_mask and "latent_shapes" in c) or any(
        guide.get("pixel_mask") is not None for guide in guides
    )


def has_frames(c: Conds) -> bool:
    """Tell whether the rows of a call `c` are the frames of a clip (Stable Video Diffusion)."""
    return "num_video_frames" in c


def has_foreign(
    transformer_options: Options, function_wrapper: ModelFunctionWrapper | None
) -> bool:
    """Tell whether another pack wraps the model or its network, or patches what is inside of it.

    `function_wrapper` is one such wrapper.
    """
    return bool(_list_foreign_functions(transformer_options, function_wrapper))


def _list_foreign_functions(
    transformer_options: Options, function_wrapper: ModelFunctionWrapper | None
) -> list[Any]:
    functions = _list_wrappers(transformer_options, function_wrapper)
    functions += _list_patch_functions(transformer_options)
    return [each for each in functions if not comes_with_comfyui(each)]


def list_foreign(
    transformer_options: Options, function_wrapper: ModelFunctionWrapper | None
) -> list[Any]:
    """Return what other packs set on a model: patches, wrappers and options of their own."""
    of_functions = ("patches", "patches_replace", "wrappers")
    options = [value for key, value in transformer_options.items() if key not in of_functions]
    return [*_list_foreign_functions(transformer_options, function_wrapper), *options]


def _list_patch_functions(transformer_options: Options) -> list[Any]:
    """Return the patches that add to what a network computes, and those that replace a part."""
    keyed = transformer_options.get("patches_replace", {}).values()
    patches = _list_patches(transformer_options)
    patches += [patch for one in keyed for patch in one.values()]
    # One of ComfyUI's may also be a tuple of a class and a method.
    return [patch[-1] if isinstance(patch, tuple) else patch for patch in patches]


def _list_wrappers(
    transformer_options: Options, function_wrapper: ModelFunctionWrapper | None
) -> list[Any]:
    wrappers = transformer_options.get("wrappers", {})
    functions: list[Any] = [] if function_wrapper is None else [function_wrapper]
    for kind in MODEL_WRAPPERS:
        for keyed in wrappers.get(kind, {}).values():
            functions += keyed
    return functions


class Refusal(NamedTuple):
    """Something in a model's options that does not work together with windows of a latent."""

    is_in: Callable[[Options, Tensor], bool]
    what: str
    advice: str


def _has_foreign_cache(model_options: Options, _latent: Tensor) -> bool:
    """Tell by its names whether a pack keeps what blocks returned, as TeaCache and others do."""
    options = model_options.get("transformer_options", {})
    wrapper = model_options.get("model_function_wrapper")
    objects = model_options.get(OBJECT_PATCHES, {}).values()
    functions = _list_foreign_functions(options, wrapper)
    functions += [each for each in objects if not comes_with_comfyui(each)]
    named = [key for key in options if isinstance(key, str) and key != "easycache"]
    return _name_cache(named) or _name_cache(map(_name_in_full, functions))


def _name_cache(names: Iterable[str]) -> bool:
    return any(word in name.lower() for name in names for word in CACHE_WORDS)


def _name_in_full(function: Any) -> str:
    """Return the last part of a function's or an object's module, and its name there."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{name_module(named)}.{named.__qualname__}"


def _name_code(function: Any) -> str:
    """Return the module where a function's code is, which `functools.wraps` does not tell."""
    name: str = getattr(function, "__globals__", {}).get("__name__", "")
    return name


def _cuts_images(model_options: Options, latent: Tensor) -> bool:
    """Tell whether context windows cut a batch of images, or an image."""
    return latent.ndim < 5 and _is_cut(model_options, latent)


def _cuts_clip_wrongly(model_options: Options, latent: Tensor) -> bool:
    """Tell whether context windows cut anything but the frames of a clip."""
    dim = getattr(model_options.get("context_handler"), "dim", None)
    return latent.ndim == 5 and dim != FRAMES_DIM and _is_cut(model_options, latent)


def _is_cut(model_options: Options, latent: Tensor) -> bool:
    """Tell whether context windows are set that are shorter than the latent, as core decides it."""
    handler: Any = model_options.get("context_handler")
    if handler is None:
        return False
    dim = getattr(handler, "dim", None)
    if not isinstance(dim, int) or dim >= latent.ndim:
        return True  # another pack's, of which nothing is known
    return latent.shape[dim] > int(getattr(handler, "context_length", 0))


REFUSALS = (
    Refusal(_has_foreign_cache, CACHE, "Use LazyCache."),
    Refusal(
        _cuts_images,
        "Context windows over a batch of images cut the latent, too",
        "Remove one of the two.",
    ),
    Refusal(
        _cuts_clip_wrongly,
        "Context windows over another dimension than a video's frames cut the latent, too",
        "Set their dim to 2, or remove one of the two.",
    ),
)


# ComfyUI gives each context window some of the guides only.
CONTEXT_WITH_GUIDES = Refusal(
    _is_cut,
    "Context windows cut a clip with LTXV guide frames",
    "Remove the context windows, or take the guides out of latent and prompts with LTXVCropGuides.",
)


# It takes a part of the audio with a part of the frames.
CONTEXT_WITH_AUDIO = Refusal(
    _is_cut, "Context windows cut the audio that is packed with a video", "Remove one of the two."
)


def refuse_options(
    model_options: Options, latent: Tensor, *, guides: int = 0, packed: bool = False
) -> None:
    """Raise ValueError if the model's options hold what does not work with windows of a latent.

    With them may come the patcher's OBJECT_PATCHES. `guides` counts the LTXV guide frames at the
    latent's end; it may be `packed` with an audio.
    """
    with_guides = [CONTEXT_WITH_GUIDES] if guides else []
    with_audio = [CONTEXT_WITH_AUDIO] if packed else []
    for refused in (*REFUSALS, *with_guides, *with_audio):
        if refused.is_in(model_options, latent):
            raise _refuse(refused.what, refused.advice)


def refuse_network(network: Module) -> None:
    """Raise ValueError if a cache of another pack stands in the place of a network's `forward`.

    CacheDiT puts it there when sampling starts, and leaves it there: no option of the model tells
    of it.
    """
    forward = vars(network).get("forward")
    if forward is not None and _name_cache([_name_in_full(forward), _name_code(forward)]):
        raise _refuse(
            CACHE,
            "Disable its node, or load the model anew if the node was removed: the cache stays on "
            "the model. Use LazyCache.",
        )


def _refuse(what: str, advice: str) -> ValueError:
    return ValueError(f"{what}, which does not work together with Quadtree Diffusion. {advice}")
