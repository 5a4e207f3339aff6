"""Every input of every node, as it should be and as it should not: a clear error or a right result,
nothing between.

`python dev.py fuzz` runs more of it. A new node, or an input of a kind that is not here, fails the
first test until it is.
"""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from quadtree_pack.image import decoding
from quadtree_pack.nodes import (
    QuadtreeCluster,
    QuadtreeComposite,
    QuadtreeCrops,
    QuadtreeDiffusion,
    QuadtreeExtension,
    QuadtreeInfo,
    QuadtreePrompts,
    QuadtreeVAEDecode,
    QuadtreeVisualizer,
)
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.testing.hostile import fuzz
from quadtree_pack.testing.outcomes import clear_error_or_right, names_of
from quadtree_pack.testing.strategies import (
    KINDS,
    SIDES_PX,
    inputs_of,
    noise,
    quadtrees,
    vae_of,
    values_of,
)
from quadtree_pack.testing.tiny_vaes import vae_latent
from torch import Tensor


@pytest.fixture(scope="module", autouse=True)
def _vaes_are_freed_before_the_interpreter_ends():
    yield
    vae_of.cache_clear()
    gc.collect()


def copies(values: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in values.items() if isinstance(value, Tensor)}


def check_untouched(before: dict[str, Tensor], values: dict[str, Any]) -> None:
    for name, tensor in before.items():
        assert (
            torch.equal(tensor.view(-1), values[name].view(-1))
            or tensor.is_complex()
            or tensor.isnan().any()
        ), name


def check_picture(picture: Tensor, shape: tuple[int, ...]) -> None:
    assert picture.shape == shape and picture.isfinite().all()


def visualize(values: dict[str, Any]) -> None:
    image = values["image"]
    pictures, trees, maps, painted = QuadtreeVisualizer.execute(**values).args
    count, height, width, _ = image.shape
    batch = values.get("batch", "images")
    one_tree = batch in ("clip", "clip maximum")
    cell = 8 if batch == "clip per frame" else 1
    check_picture(pictures, (count, height, width, 3))
    check_picture(maps, (1 if one_tree else count, -(-height // cell), -(-width // cell)))
    assert pictures.min() >= 0 and pictures.max() <= 1 and maps.min() >= 0 and maps.max() <= 1
    assert len(trees) == len(maps)
    check_picture(painted, (1, height, width))
    mask, mode = values.get("mask"), values.get("mask_mode", "multiply")
    if mask is None and not values.get("regions"):
        # The automatic tree keeps tiles, whatever min_denoise is.
        refined = maps if values["content_threshold"] else maps[maps > 0]
        assert bool((refined >= values["min_denoise"] - 1e-6).all())
        assert maps.max() <= values["max_denoise"] + 1e-6
    elif mask is not None and mode in ("multiply", "limit", "replace") and mask.max() <= 0:
        assert maps.eq(0).all()


def check_kept(pictures: Tensor, original: Tensor, trees: tuple[Quadtree, ...]) -> None:
    """The original's own px, to the bit, where the tree has denoise 0; of a larger original those
    of its middle."""
    size, (height, width) = original.shape[1:3], pictures.shape[1:3]
    y, x = (size[0] - height) // 2, (size[1] - width) // 2
    for number, picture in enumerate(pictures):
        tree = trees[number % len(trees)]
        if (tree.height, tree.width) == (height, width):
            kept = tree.denoise_map(height, width) == 0
        else:
            kept = tree.denoise_map(*size)[y : y + height, x : x + width] == 0
        own = original[number % len(original), y : y + height, x : x + width, :3].expand(-1, -1, 3)
        assert torch.equal(picture[kept], own[kept].to(picture))


def compose(values: dict[str, Any]) -> None:
    original, refined, trees = (values[name] for name in ("original", "refined", "quadtree"))
    result = QuadtreeComposite.execute(**values).args[0]
    check_picture(result, (max(len(original), len(refined)), *refined.shape[1:3], 3))
    check_kept(result, original, trees)


def tell(values: dict[str, Any]) -> None:
    text, tiles, kept, denoise, cost = QuadtreeInfo.execute(**values).args
    assert f"{tiles} tiles" in text and tiles == sum(
        len(tree.leaves) for tree in values["quadtree"]
    )
    assert 0 <= kept <= 1 and 0 <= denoise <= 1 and 0 <= cost < 4 and math.isfinite(cost)


def join(values: dict[str, Any]) -> None:
    """A cluster takes its model from a prompt, and there is none: whatever is right is refused."""
    QuadtreeCluster.execute(**values)
    raise AssertionError("the cluster was joined without a prompt")


def decode(values: dict[str, Any]) -> None:
    vae, samples, original, trees = (
        values[name] for name in ("vae", "samples", "original", "quadtree")
    )
    result = QuadtreeVAEDecode.execute(**values).args[0]
    height, width = (
        length * vae.spacial_compression_decode() for length in samples["samples"].shape[-2:]
    )
    check_picture(result, (max(len(samples["samples"]), len(original)), height, width, 3))
    check_kept(result, original, trees)


def patch(values: dict[str, Any]) -> None:
    patched = QuadtreeDiffusion.execute(**values).args[0]
    assert patched is not values["model"] and patched.is_clone(values["model"])
    assert (
        "model_function_wrapper"
        in patched.model_options.keys() - values["model"].model_options.keys()
    )


def cut(values: dict[str, Any]) -> None:
    image, trees = values["image"], values["quadtree"]
    crops, regions = QuadtreeCrops.execute(**values).args
    assert 1 <= len(crops) == len(regions) <= values["max_crops"]
    for crop, region in zip(crops, regions, strict=True):
        assert crop.isfinite().all() and max(crop.shape[1:3]) <= values["crop_size"]
        check_picture(region, (1, *image.shape[1:3]))
    total = torch.stack(regions).sum(0)[0]
    assert total.max() == 1
    cells = [-(-length // 8) for length in image.shape[1:3]]
    refined = trees[0].denoise_map(*cells) > 0
    assert total.any() and (len(crops) == 1 or refined.any())


def weigh(values: dict[str, Any]) -> None:
    """Every input takes a list; each gets one value."""
    found = QuadtreePrompts.execute(**{name: [value] for name, value in values.items()}).args[0]
    assert found and all(options.get("mask", torch.ones(1)).any() for _, options in found)


RUNS: dict[type, Callable[[dict[str, Any]], None]] = {
    QuadtreeVisualizer: visualize,
    QuadtreeDiffusion: patch,
    QuadtreeComposite: compose,
    QuadtreeInfo: tell,
    QuadtreeVAEDecode: decode,
    QuadtreeCluster: join,
    QuadtreeCrops: cut,
    QuadtreePrompts: weigh,
}


def test_the_fuzz_knows_every_node_and_every_kind_of_input():
    nodes = asyncio.run(QuadtreeExtension().get_node_list())
    assert set(nodes) == set(RUNS)
    unknown = [
        (node.__name__, entry.id)
        for node in nodes
        for entry in node.define_schema().inputs
        if values_of(entry) is None
    ]
    assert not unknown, "add these to BY_TYPE or BY_NAME"


def check_node(node: type, values: dict[str, Any]) -> None:
    before = copies(values)
    with clear_error_or_right(*names_of(node)):
        RUNS[node](values)
        event("right")
    check_untouched(before, values)


@given(values=inputs_of(QuadtreeVisualizer))
@fuzz(50)
def test_the_visualizer_refuses_in_words_or_is_right(values):
    check_node(QuadtreeVisualizer, values)


@st.composite
def composites(draw: st.DrawFn) -> dict[str, Any]:
    """Two images of one size, as often as not, and a tree that fits them."""
    height, width = draw(SIDES_PX), draw(SIDES_PX)
    cell = draw(
        st.sampled_from([1, 1, 8, 16])
    )  # what fills none of these may be missing in the refined one
    sizes = (height, width), tuple(max(cell, length // cell * cell) for length in (height, width))
    pair = (
        noise((draw(st.integers(1, 2)), *size, draw(st.sampled_from([3, 1, 4]))), seed).to(
            draw(st.sampled_from(KINDS))
        )
        for seed, size in enumerate(sizes, 1)
    )
    named = dict(
        zip(("original", "refined"), pair, strict=True), quadtree=draw(quadtrees(height, width))
    )
    return draw(inputs_of(QuadtreeComposite, **named))


@given(values=composites() | composites() | inputs_of(QuadtreeComposite))
@fuzz(50)
def test_the_composite_refuses_in_words_or_keeps_to_the_bit(values):
    check_node(QuadtreeComposite, values)


@st.composite
def decodes(draw: st.DrawFn) -> dict[str, Any]:
    """A latent, its VAE, and the original and a tree of its size."""
    vae = vae_of(draw(st.sampled_from(["taesd", "taesd", "qwen", "sd"])))
    cells = draw(st.tuples(*[st.integers(1, 12)] * 2))
    height, width = (length * vae.spacial_compression_decode() for length in cells)
    height, width = (length + draw(st.sampled_from([0, 0, 3, 7])) for length in (height, width))
    original = noise(
        (draw(st.integers(1, 2)), height, width, draw(st.sampled_from([3, 3, 1, 4])))
    ).to(draw(st.sampled_from(KINDS)))
    named = {"vae": vae, "samples": {"samples": vae_latent(vae, *cells)}, "original": original}
    return draw(inputs_of(QuadtreeVAEDecode, **named, quadtree=draw(quadtrees(height, width))))


@given(values=decodes(), few=st.sampled_from([0, decoding.FEW_CELLS]))
@fuzz(50)
def test_the_decode_refuses_in_words_or_keeps_to_the_bit(values, few):
    with mock.patch.object(decoding, "FEW_CELLS", few):  # these latents are small: in parts, too
        check_node(QuadtreeVAEDecode, values)


@given(values=inputs_of(QuadtreeInfo))
@fuzz(50)
def test_the_info_refuses_in_words_or_adds_up(values):
    values["steps"] = (
        min(values["steps"], 60) if type(values.get("steps")) is int else values.get("steps")
    )
    check_node(QuadtreeInfo, values)


@given(values=inputs_of(QuadtreeCluster))
@fuzz(20)
def test_the_cluster_node_refuses_in_words(values):
    check_node(QuadtreeCluster, values)


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, Any]:
    """An image and a tree that fits it."""
    height, width = draw(SIDES_PX), draw(SIDES_PX)
    image = noise((1, height, width, draw(st.sampled_from([3, 1, 4]))))
    named = {"image": image, "quadtree": draw(quadtrees(height, width, most=1))}
    return draw(inputs_of(QuadtreeCrops, **named))


@given(values=cuts() | cuts() | inputs_of(QuadtreeCrops))
@fuzz(50)
def test_the_crops_refuse_in_words_or_hold_what_is_refined(values):
    check_node(QuadtreeCrops, values)


@given(values=inputs_of(QuadtreePrompts))
@fuzz(50)
def test_the_prompts_refuse_in_words_or_weigh(values):
    check_node(QuadtreePrompts, values)


@given(values=inputs_of(QuadtreeDiffusion))
@fuzz(50)
def test_the_diffusion_node_refuses_in_words_or_patches_a_copy(values):
    check_node(QuadtreeDiffusion, values)
