"""Masks that other packs keep in patches of attention are cut with the window; other pictures, and
wrappers that hold one, are told."""

import contextlib
import functools
import logging
import types

import pytest
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_freelunch
from quadtree_pack.sampling.cropping import RunMemory, Tokens
from quadtree_pack.sampling.model import Settings
from quadtree_pack.sampling.patches import PatchCutter
from quadtree_pack.testing.local_models import HEIGHT, WIDTH, local
from quadtree_pack.testing.support import Spy, error, patched, tree_of
from quadtree_pack.testing.tiny_models import transformers
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import attach
from quadtree_pack.utils import Box

BLOCKS = [("input", 1), ("input", 2), ("middle", 0), ("output", 3), ("output", 4)]
PX = 8


def make_cutter(rows=1, conds=1):
    """A cutter for a call on HEIGHT x WIDTH cells, with 77 tokens of text and 2 x 4 of an image."""
    noisy = torch.empty(rows, 4, HEIGHT, WIDTH)
    return PatchCutter(noisy, Tokens(77, (2, 4)), RunMemory(unit=8), conds)


def make_mask(height, width, rows=1):
    """Stripes at an angle, so that no two windows see the same."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    return torch.stack([torch.sin(x + (row + 1) * y).clamp(0, 1) for row in range(rows)])


def fit_mask(mask, options, tokens, rows):
    """Resize a mask to the tokens of a layer, a row for each of the batch, as IP-Adapter does."""
    height, width = options["original_shape"][-2:]
    scale = (height * width / tokens) ** 0.5
    planes = F.interpolate(mask[:, None], size=(round(height / scale), round(width / scale)))
    conds = len(options["cond_or_uncond"])
    planes = planes[:, 0].flatten(1)[..., None]
    planes = torch.cat([planes, planes[-1:].repeat(max(0, rows // conds - len(planes)), 1, 1)])
    return planes[: rows // conds].repeat(conds, 1, 1)


class Adapter:
    """Adds the same to the attention of every token that its mask names."""

    def __init__(self, mask):
        self.kwargs = [{"mask": mask, "weight": 2.0}]
        self.calls = []

    def __call__(self, q, k, v, options):
        out = v.mean(1, keepdim=True) * torch.sigmoid(q)
        for kwargs in self.kwargs:
            out = out + kwargs["weight"] * fit_mask(kwargs["mask"], options, q.shape[1], len(q))
        return out

    def add(self, out, options, strength=2.0):
        mask = self.kwargs[0]["mask"]
        return out + strength * fit_mask(mask, options, out.shape[1], len(out))


def replacing(model, mask):
    for block in BLOCKS:
        model.set_model_attn2_replace(Adapter(mask), *block)


def closure(model, mask):
    def add(out, options):
        return out + 2.0 * fit_mask(mask, options, out.shape[1], len(out))

    model.set_model_attn2_output_patch(add)


def bound_method(model, mask):
    model.set_model_attn2_output_patch(Adapter(mask).add)


def partial(model, mask):
    def add(region_masks, out, options):
        return out + 2.0 * fit_mask(region_masks[0], options, out.shape[1], len(out))

    masks = [mask]
    model.set_model_attn2_output_patch(lambda *arguments: functools.partial(add, masks)(*arguments))


def attn1_closure_in_closure(model, mask):
    def outer(regions):
        return lambda out, options: (
            out + 2.0 * fit_mask(regions["mask"], options, out.shape[1], len(out))
        )

    model.set_model_attn1_output_patch(outer({"mask": mask}))


def default_argument(model, mask):
    def add(out, options, mask=mask, *, strength=2.0):
        return out + strength * fit_mask(mask, options, out.shape[1], len(out))

    model.set_model_attn2_output_patch(add)


def keyword_default(model, mask):
    def add(out, options, *, region_mask=mask):
        return out + 2.0 * fit_mask(region_mask, options, out.shape[1], len(out))

    model.set_model_attn2_output_patch(add)


def array(model, mask):
    mask = mask.numpy()

    def add(out, options):
        return out + 2.0 * fit_mask(torch.from_numpy(mask), options, out.shape[1], len(out))

    model.set_model_attn2_output_patch(add)


class Processor(torch.nn.Module):
    """A patch that is a module, with layers of its own, as attention processors are."""

    def __init__(self, mask):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(HEIGHT, WIDTH)])
        self.register_buffer("mask", mask)

    def forward(self, out, options):
        return out + 2.0 * fit_mask(self.mask, options, out.shape[1], len(out))


def module(model, mask):
    model.set_model_attn2_output_patch(Processor(mask))


class Remembering(Adapter):
    """Resizes its mask once for each number of tokens."""

    def __init__(self, mask):
        super().__init__(mask)
        self.resized = {}

    def __call__(self, out, options):
        tokens = out.shape[1]
        if tokens not in self.resized:
            self.resized[tokens] = fit_mask(self.kwargs[0]["mask"], options, tokens, len(out))
        return out + 2.0 * self.resized[tokens]


def remembering(model, mask):
    model.set_model_attn2_output_patch(Remembering(mask))


def remembering_closure(model, mask):
    resized = {}

    def add(out, options):
        tokens = out.shape[1]
        if tokens not in resized:
            resized[tokens] = fit_mask(mask, options, tokens, len(out))
        return out + 2.0 * resized[tokens]

    model.set_model_attn2_output_patch(add)


def function_wrapper(model, mask):
    def fade(apply_model, call):
        noisy = call["input"]
        cells = F.interpolate(mask[None], size=noisy.shape[-2:], mode="nearest-exact")
        return apply_model(noisy, call["timestep"], **call["c"]) * (1 - cells / 2)

    model.set_model_unet_function_wrapper(fade)


def with_mask(how, model, mask):
    model = model.clone()
    how(model, mask)
    return model


@pytest.mark.parametrize(
    "how",
    [
        *(replacing, closure, bound_method, partial, attn1_closure_in_closure),
        *(default_argument, keyword_default, array, module, remembering, remembering_closure),
        function_wrapper,
    ],
)
@pytest.mark.parametrize(
    ("size", "tolerance"),
    [
        ((HEIGHT * PX, WIDTH * PX), 1e-5),
        ((HEIGHT, WIDTH), 1e-5),
        ((64, 64), 1e-5),
        ((300, 600), 2e-2),  # 18.75 px per cell: resized twice
    ],
    ids=["px", "cells", "other aspect", "other px"],
)
def test_a_mask_in_a_patch_of_attention_is_cut_with_the_window(how, size, tolerance):
    entry = local("sd15_fine")
    latent = entry.latent(HEIGHT, WIDTH)
    mask = make_mask(*size)
    kept = mask.clone()
    model = with_mask(how, entry.model, mask)
    spy = Spy(model)
    everything = tree_of([[1.0]], HEIGHT, WIDTH)
    plain = sample(entry, latent, model=model, steps=3)
    without = sample(entry, latent, steps=3)
    assert error(plain, without) > 0.02
    tiled = patched(entry, everything, model=spy.model, overlap_px=0, method="MultiDiffusion")
    for _ in range(2):
        assert error(sample(entry, latent, model=tiled, steps=3), plain) < tolerance
    assert torch.equal(mask, kept) and spy.calls > 6
    assert torch.equal(sample(entry, latent, model=model, steps=3), plain)


class AddedFeatures:
    """Adds a feature map of the whole image to that of a block, as Fooocus Inpaint does.

    It keeps what it made for the last shape that it saw.
    """

    def __init__(self, features, block):
        self.features, self.block = features, block
        self.fitted = None

    def __call__(self, h, options):
        if options["block"] != self.block:
            return h
        if self.fitted is None or self.fitted.shape != h.shape:
            self.fitted = self.features.repeat(len(h) // len(self.features), 1, 1, 1)
        return h + self.fitted


@pytest.mark.parametrize(("block", "channels", "reduction"), [(0, 32, 1), (3, 64, 2)])
def test_a_feature_map_in_a_patch_of_blocks_is_cut_with_the_window(block, channels, reduction):
    entry = local("sd15_fine")
    latent, model = entry.latent(HEIGHT, WIDTH), entry.model.clone()
    features = 3 * torch.randn(1, channels, HEIGHT // reduction, WIDTH // reduction)
    model.set_model_input_block_patch(AddedFeatures(features, ("input", block)))
    plain = sample(entry, latent, model=model, steps=3)
    assert error(plain, sample(entry, latent, steps=3)) > 0.02
    everything, how = tree_of([[1.0]], HEIGHT, WIDTH), {"overlap_px": 0, "method": "MultiDiffusion"}
    tiled = patched(entry, everything, model=model, **how)
    for _ in range(2):
        assert error(sample(entry, latent, model=tiled, steps=3), plain) < 1e-5


@pytest.mark.parametrize("shape", [(1, 4, HEIGHT, WIDTH), (1, 64, 8, 8), (64, 64, 3, 3)], ids=str)
def test_reference_latents_and_weights_are_no_feature_maps(shape):
    assert not make_cutter().note_maps({"given": torch.ones(shape)})


class Difference:
    """Adds how much a block's features changed since the last call, which it keeps."""

    def __init__(self):
        self.earlier = None

    def __call__(self, h, options):
        if options["block"] != ("input", 0):
            return h
        earlier, self.earlier = self.earlier, h
        return h if earlier is None else h + 0.1 * (h - earlier)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_features_that_a_patch_keeps_of_a_window_are_told_and_not_cut(cfg, caplog):
    """They have the size of a feature map of the image at half its resolution."""
    entry = local("sd15_fine")
    model, keeping = entry.model.clone(), Difference()
    model.set_model_input_block_patch(keeping)
    tiled = patched(entry, tree_of([[1.0]], 32, 32), model=model, method="MultiDiffusion")
    with caplog.at_level(logging.WARNING):
        sample(entry, entry.latent(32, 32), model=tiled, steps=4, cfg=cfg)
    assert caplog.text.count("Difference keeps what it saw of one window") == 1
    assert keeping.earlier.shape[-2:] == (16, 16)


def test_features_with_a_row_for_each_cond_are_no_map_of_the_image():
    features, cutter = torch.ones(2, 64, HEIGHT, WIDTH), make_cutter(rows=2, conds=2)
    assert not cutter.note_maps({"earlier": features})
    assert make_cutter(rows=2, conds=1).note_maps({"of_two_images": features})


def test_masks_for_the_images_of_a_batch_stay_with_them():
    entry = local("sd15_fine")
    latent = entry.latent(HEIGHT, WIDTH, batch=2)
    model = with_mask(replacing, entry.model, make_mask(HEIGHT * PX, WIDTH * PX, rows=2))
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=model, overlap_px=0)
    plain = sample(entry, latent, model=model, steps=3)
    assert error(sample(entry, latent, model=tiled, steps=3), plain) < 1e-5


def free_u(model):
    return nodes_freelunch.FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).args[0]


def test_windows_are_evaluated_together_where_every_patch_is_comfyui_s_own():
    entry = local("sd15_fine")
    foreign = with_mask(closure, entry.model, torch.ones(1, 1, 1))  # holds nothing of the canvas
    spies = [Spy(free_u(entry.model)), Spy(foreign)]
    for spy in spies:
        tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=spy.model)
        sample(entry, entry.latent(HEIGHT, WIDTH), model=tiled, steps=2)
    together, singly = ({shape[0] for shape in spy.shapes} for spy in spies)
    assert max(together) > 1 and singly == {1}


def mix_two(out):
    return torch.cat([out[:1] + 0.1 * out[1:2], out[1:]]) if len(out) == 2 else out


def mix_all(out):
    return out + 0.1 * out.mean(0, keepdim=True)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("mix", [mix_two, mix_all])
def test_a_patch_that_mixes_the_rows_of_a_call_gets_one_window(mix, order):
    def patch(model):
        model = model.clone()
        model.set_model_attn1_output_patch(lambda out, options: mix(out))
        model.set_model_output_block_patch(lambda out, skip, options: (mix(out), skip))
        return model

    entry = local("sd15_fine")
    latent, tree = entry.latent(HEIGHT, WIDTH), tree_of([[1.0]], HEIGHT, WIDTH)
    before = patch(entry.model) if order == "before" else entry.model
    tiled = patched(entry, tree, model=before, overlap_px=0)
    tiled = patch(tiled) if order == "after" else tiled
    for cfg in (1.0, 4.0):
        plain = sample(entry, latent, model=patch(entry.model), steps=3, cfg=cfg)
        assert error(sample(entry, latent, model=tiled, steps=3, cfg=cfg), plain) < 1e-5


class JointAttention:
    """What packs for regional prompts set on a joint transformer: who may attend to whom."""

    def __init__(self, mask):
        self.attn_mask = mask

    def __call__(self, args, extra):
        return extra["original_block"]({**args, "attn_mask": self.attn_mask})


def blind_flux():
    """Flux whose tokens weigh all that they may attend to alike, wherever that is."""
    entry = transformers.flux()
    for name, weight in entry.model.model.diffusion_model.named_parameters():
        if "query_norm" in name:
            weight.data.zero_()
    return entry


def make_joint_mask(text):
    """Text sees text, each token of the image itself, and those of a region also the text."""
    image = (HEIGHT // 2) * (WIDTH // 2)
    mask = torch.eye(text + image, dtype=torch.bool)
    mask[:text, :text] = True
    region = torch.rand(image, generator=torch.Generator().manual_seed(5)) < 0.5
    mask[text:, :text] = region[:, None]
    return mask


def weigh(may):
    """Return what ComfyUI adds to the weights of attention, from who may attend to whom."""
    return torch.zeros(may.shape).masked_fill(~may, -1e9)


@pytest.mark.parametrize("rank", [2, 4])
def test_a_mask_between_text_and_image_is_cut_with_the_window(rank):
    entry, everything = blind_flux(), tree_of([[1.0]], HEIGHT, WIDTH)
    latent = entry.latent(HEIGHT, WIDTH)
    text = entry.positive[0][0].shape[1]
    mask = make_joint_mask(text)
    mask = mask.view(*[1] * (rank - 2), *mask.shape)
    elsewhere = mask.clone()
    elsewhere[..., text:, :text] ^= True

    def masked(mask):
        model = entry.model.clone()
        for kind in ("double_block", "single_block"):
            model.set_model_patch_replace(JointAttention(weigh(mask)), "dit", kind, 0)
        return model

    plain = sample(entry, latent, model=masked(mask), steps=3)
    assert error(sample(entry, latent, model=masked(elsewhere), steps=3), plain) > 0.01
    tiled = patched(entry, everything, model=masked(mask), overlap_px=0, method="MultiDiffusion")
    assert error(sample(entry, latent, model=tiled, steps=3), plain) < 1e-5


@pytest.mark.parametrize("image_first", [False, True])
def test_a_window_keeps_its_tokens_of_a_mask_in_their_order(image_first):
    text, units = 3, (4, 6)
    image = torch.arange(24).view(units)
    words = torch.arange(24, 27)
    box = Box(1, 2, 3, 4)
    inside = image[box.y0 : box.y1, box.x0 : box.x1].flatten()
    order = [image.flatten(), words] if image_first else [words, image.flatten()]
    kept = [inside, words] if image_first else [words, inside]
    everyone, ours = torch.cat(order), torch.cat(kept)
    mask = everyone[:, None] * 100 + everyone
    cut = Tokens(text, units, image_first=image_first).crop(mask, box)
    assert torch.equal(cut, ours[:, None] * 100 + ours)


def test_a_mask_between_words_is_no_picture():
    options = {"patches": {"attn2_patch": [Adapter(torch.ones(1, 77, 77))]}}
    cutter = PatchCutter(torch.empty(1, 4, 64, 64), Tokens(77, (8, 8)), RunMemory())
    assert cutter.cut(options, Box(0, 0, 32, 32)) is options
    assert not cutter.find_masks(options)


def test_what_holds_no_mask_is_the_same_object_and_cycles_end():
    patch = Adapter(make_mask(HEIGHT, WIDTH))
    patch.itself = patch
    other = Adapter(torch.ones(3))
    options = {"patches": {"attn2_patch": [patch, other]}, "sigmas": torch.ones(3)}
    cut = make_cutter().cut(options, Box(8, 4, 24, 12))
    new, same = cut["patches"]["attn2_patch"]
    assert same is other and new is not patch and cut["sigmas"] is options["sigmas"]
    mask = new.kwargs[0]["mask"]
    assert torch.equal(mask, patch.kwargs[0]["mask"][..., 4:12, 8:24])
    assert new.kwargs[0]["weight"] == 2.0


def test_what_two_patches_share_beside_their_masks_they_share_in_a_window():
    first, second = (Adapter(make_mask(HEIGHT, WIDTH)) for _ in range(2))
    second.calls = first.calls
    options = {"patches": {"attn1_patch": [first], "attn2_patch": [second]}}
    cut = make_cutter().cut(options, Box(8, 4, 24, 12))
    (one,), (other,) = cut["patches"].values()
    assert one.calls is other.calls and one.calls is not first.calls


@pytest.mark.parametrize(
    ("size", "is_cut"), [((48, 48), True), ((20, 20), False), ((HEIGHT, WIDTH), True)]
)
def test_a_mask_of_two_dimensions_is_a_picture_if_it_has_more_rows_than_a_call(size, is_cut):
    options = {"region_mask": torch.ones(size)}
    cutter = make_cutter()
    assert bool(cutter.find_masks(options)) == is_cut


def test_an_unnamed_picture_of_two_dimensions_is_told_and_weights_are_not():
    cutter = make_cutter()
    picture = torch.rand(HEIGHT * PX, WIDTH * PX)
    assert cutter.find_unknown({"where": picture}) and not cutter.find_masks({"where": picture})
    assert not cutter.find_unknown({"where": picture - 0.5})
    assert not cutter.find_unknown({"layer": torch.nn.Linear(WIDTH * PX, HEIGHT * PX)})


class Overlay:
    """A patch of another pack that holds a picture over the canvas under a name of its own."""

    def __init__(self):
        self.layers = {"picture": torch.rand(1, 3, HEIGHT * PX, WIDTH * PX)}

    def __call__(self, out, options):
        return out


def sample_told(entry, model, steps):
    """Sample in windows, and return the last text that the node shows."""
    told = []
    tree, settings = tree_of([[1.0]], HEIGHT, WIDTH), Settings(tile_px=128, overlap_px=0)
    tiled = attach(model, [tree], settings, progress=told.append)
    sample(entry, entry.latent(HEIGHT, WIDTH), model=tiled, steps=steps)
    return told[-1]


def test_an_unknown_picture_in_a_patch_is_told_once_and_shown_on_the_node(caplog):
    entry = local("sd15_fine")
    model = entry.model.clone()
    model.set_model_attn2_output_patch(Overlay())
    with caplog.at_level(logging.WARNING):
        assert "Warning: Overlay holds a picture" in sample_told(entry, model, steps=3)
    assert caplog.text.count("Overlay holds a picture that is not cut into windows") == 1
    caplog.clear()
    assert "Warning" not in sample_told(entry, entry.model, steps=3)
    assert not caplog.records


def test_a_wrapper_that_takes_two_rows_for_positive_and_negative_gets_one_window():
    """It adds a tenth of the second row to the first: with two windows, a tenth of another one."""

    def mixing(apply_model, call):
        out = apply_model(call["input"], call["timestep"], **call["c"])
        return torch.cat([out[:1] + 0.1 * out[1:2], out[1:]]) if len(out) == 2 else out

    entry = local("sd15_fine")
    latent = entry.latent(HEIGHT, WIDTH)
    model = entry.model.clone()
    model.set_model_unet_function_wrapper(mixing)
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=model, overlap_px=0)
    for cfg in (1.0, 4.0):
        plain = sample(entry, latent, model=model, steps=3, cfg=cfg)
        assert error(sample(entry, latent, model=tiled, steps=3, cfg=cfg), plain) < 1e-5


def tea_cache(model):
    model.model_options["transformer_options"]["rel_l1_thresh"] = 0.4


def block_cache(model):
    def unet_wrapper_function(apply_model, call):
        return apply_model(call["input"], call["timestep"], **call["c"])

    unet_wrapper_function.__qualname__ = "ApplyFBCacheOnModel.patch.<locals>.wrapper"
    model.set_model_unet_function_wrapper(unet_wrapper_function)


def cache_around_the_network(model):
    def wrapper(executor, *args, **kwargs):
        return executor(*args, **kwargs)

    wrapper.__module__ = "/comfy/custom_nodes/ComfyUI-MagCache.nodes"
    model.add_wrapper_with_key("diffusion_model", "fast", wrapper)


class CachedTransformer:
    """Stands in for a cache that replaces blocks."""

    def __call__(self, args, extra):
        return extra["original_block"](args)


def cache_in_blocks(model):
    model.set_model_patch_replace(CachedTransformer(), "dit", "double_block", 0)


def cache_on_the_network(model):
    def teacache_forward(*args, **options):
        return type(network).forward(network, *args, **options)

    network = model.model.diffusion_model
    model.add_object_patch("diffusion_model.forward", functools.partial(teacache_forward))


@pytest.mark.parametrize(
    "cache",
    [
        *(tea_cache, block_cache, cache_around_the_network),
        *(cache_in_blocks, cache_on_the_network),
    ],
)
def test_caches_of_other_packs_are_refused_in_words(cache):
    """They keep one residual for the model, and a window would get that of another."""
    entry = local("sd15_fine")
    model = entry.model.clone()
    cache(model)
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=model)
    with pytest.raises(ValueError, match=r"cache .* Use LazyCache"):
        sample(entry, entry.latent(HEIGHT, WIDTH), model=tiled)


def cached_by_name(network):
    def cached_forward(*args, **options):
        return type(network).forward(network, *args, **options)

    return cached_forward


def cached_under_its_name(network):
    """As the package cache-dit does: the code is another's, and all names are ComfyUI's."""
    own = cached_by_name(network)
    of_the_package = types.FunctionType(
        own.__code__, {"__name__": "cache_dit.blocks"}, closure=own.__closure__
    )
    return functools.wraps(network.forward)(of_the_package)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("cached", [cached_by_name, cached_under_its_name])
def test_a_cache_that_replaces_the_network_s_code_when_sampling_starts_is_refused(cached, order):
    """CacheDiT does, and leaves it there when its node is removed."""
    entry = local("sd15_fine")
    network = entry.model.model.diffusion_model
    latent, tree = entry.latent(HEIGHT, WIDTH), tree_of([[1.0]], HEIGHT, WIDTH)

    def replace_code(executor, *args, **options):
        network.forward = cached(network)
        return executor(*args, **options)

    def accelerate(model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "fast", replace_code)
        return model

    if order == "before":
        model = patched(entry, tree, model=accelerate(entry.model))
    else:
        model = accelerate(patched(entry, tree))
    try:
        for tiled in (model, patched(entry, tree)):
            with pytest.raises(ValueError, match=r"cache .* load the model anew .* LazyCache"):
                sample(entry, latent, model=tiled)
    finally:
        del network.forward
    sample(entry, latent, model=patched(entry, tree))


class Keeping:
    """Returns every second time what it kept of the time before, as caches do."""

    def __init__(self):
        self.kept, self.times = None, 0

    def replace(self, q, k, v, options):
        self.times += 1
        if self.kept is None or self.times % 2:
            self.kept = v.mean(1, keepdim=True) * torch.sigmoid(q)
        return self.kept

    def wrap(self, apply_model, call):
        self.times += 1
        if self.kept is None or self.times % 2:
            self.kept = apply_model(call["input"], call["timestep"], **call["c"])
        return self.kept


def kept_in_a_block(model):
    model.set_model_attn2_replace(Keeping().replace, "input", 1)


def kept_by_a_wrapper(model):
    model.set_model_unet_function_wrapper(Keeping().wrap)


class Motion:
    """What AnimateDiff-Evolved attaches to the motion model that comes along with a model."""

    def __init__(self, effect):
        self.effect_multival = effect


@pytest.mark.parametrize(("tile_px", "is_cut"), [(0, False), (128, True)])
def test_masks_inside_the_network_are_refused_where_windows_are_cut(tile_px, is_cut):
    entry = local("sd15")
    for effect in (make_mask(HEIGHT * PX, WIDTH * PX), 0.7):
        model, motion = entry.model.clone(), entry.model.clone()
        motion.set_attachments("motion", Motion(effect))
        model.set_additional_models("motion", [motion])
        tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=model, tile_px=tile_px)
        refused = is_cut and isinstance(effect, torch.Tensor)
        words = pytest.raises(ValueError, match=r"effect_multival \(Motion\).* Use a number there")
        with words if refused else contextlib.nullcontext():
            sample(entry, entry.latent(HEIGHT, WIDTH), model=tiled, steps=2)


@pytest.mark.parametrize("how", [kept_in_a_block, kept_by_a_wrapper])
def test_what_a_patch_keeps_of_windows_is_told_once_and_shown_on_the_node(how, caplog):
    entry = local("sd15_fine")
    model = entry.model.clone()
    how(model)
    with caplog.at_level(logging.WARNING):
        assert "Warning: Keeping keeps" in sample_told(entry, model, steps=4)
    assert caplog.text.count("Keeping keeps what it saw of one window") == 1


@pytest.mark.parametrize("how", [replacing, remembering, function_wrapper])
def test_a_patch_that_keeps_nothing_of_windows_is_not_reported(how, caplog):
    entry = local("sd15_fine")
    model = with_mask(how, entry.model, make_mask(HEIGHT * PX, WIDTH * PX))
    tiled = patched(entry, tree_of([[1.0]], HEIGHT, WIDTH), model=model)
    with caplog.at_level(logging.WARNING):
        sample(entry, entry.latent(HEIGHT, WIDTH), model=tiled, steps=4)
    assert not caplog.records
