"""Every input of every node, as it should be and as it should not: a clear error or a right result, nothing between.

`python dev.py fuzz` runs more of it. A new node, or an input of a kind that is not here, fails the first test until it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import json
import math
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.samplers
import pytest
import torch
from comfy_api.latest import io
from hypothesis import event, given
from hypothesis import strategies as st
from quadtree_pack.image import decoding
from quadtree_pack.nodes import (
    QuadtreeComposite,
    QuadtreeDiffusion,
    QuadtreeExtension,
    QuadtreeInfo,
    QuadtreeVAEDecode,
    QuadtreeVisualizer,
)
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.sampling.model import Geometry
from quadtree_pack.sampling.run import estimate
from quadtree_pack.testing.hostile import JUNK, damaged, fuzz, is_clear
from quadtree_pack.testing.registration import pack_files
from quadtree_pack.testing.support import Spy
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import clean_latent, sample
from quadtree_pack.testing.tiny_vaes import VAES, vae_latent
from quadtree_pack.tiled_diffusion import KEY, ONE_CALL_PER_STEP
from torch import Tensor

FAMILIES = (
    "flux",
    "sd15",
    "sd2_v",
    "sd15_inpaint",
    "sd3",
    "cascade_c",
    "qwen_image",
    "wan21_t2v",
    "cosmos",
    "chroma_radiance",
)
SIDES_PX = st.one_of(st.integers(1, 40), st.sampled_from([1, 7, 8, 9, 64, 97, 200]))
KINDS = (torch.float32, torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64)
PACK_FILES = frozenset(pack_files())
ODD_KINDS = (torch.uint8, torch.int64, torch.bool, torch.complex64)


# --- What a node can be given -----------------------------------------------------------------------------------------


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """0..1, one half of it flat."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return values.index_fill_(
        -2 if len(shape) == 4 else -1, torch.arange(shape[-2 if len(shape) == 4 else -1] // 2), 0.5
    )


@st.composite
def images(draw: st.DrawFn, odd: bool = False) -> Tensor:
    """IMAGE [B, H, W, C] in 0..1; odd: another rank, empty, of another kind, with NaN, or far outside 0..1."""
    shape = [
        draw(st.integers(1, 2)),
        draw(SIDES_PX),
        draw(SIDES_PX),
        draw(st.sampled_from([3, 3, 3, 1, 4])),
    ]
    what = draw(st.sampled_from(["rank", "empty", "kind", "value", "channels"])) if odd else ""
    if what == "rank":
        shape = shape[: draw(st.integers(0, 3))] if draw(st.booleans()) else [*shape, 1]
    elif what == "empty":
        shape[draw(st.integers(0, 3))] = 0
    elif what == "channels":
        shape[3] = draw(st.sampled_from([2, 5, 32]))
    picture = noise(tuple(shape)) if len(shape) == 4 and math.prod(shape) else torch.rand(shape)
    if what == "value" and picture.numel():
        at = draw(st.integers(0, picture.numel() - 1))
        picture.view(-1)[at] = draw(
            st.sampled_from([math.nan, math.inf, -math.inf, -3.0, 1e6, 1e30])
        )
    return picture.to(draw(st.sampled_from(ODD_KINDS if what == "kind" else KINDS)))


@st.composite
def masks(draw: st.DrawFn, odd: bool = False) -> Tensor | None:
    """MASK [B, H, W] or [H, W], of any size."""
    shape = [1, draw(SIDES_PX), draw(SIDES_PX)][draw(st.integers(0, 1)) :]
    what = draw(st.sampled_from(["rank", "empty", "kind", "value", "batch"])) if odd else ""
    shape = {"rank": [1, *shape, 1], "empty": [*shape[:-1], 0], "batch": [3, *shape[-2:]]}.get(
        what, shape
    )
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    if what == "value":
        mask.view(-1)[0] = draw(st.sampled_from([math.nan, math.inf, -5.0, 5.0]))
    return mask.to(draw(st.sampled_from(ODD_KINDS if what == "kind" else KINDS)))


SHARES = st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True).map(
    lambda ends: [end / 8 for end in sorted(ends)]
)
REGION = st.builds(
    lambda what, x, y: [what, x[0], y[0], x[1], y[1]],
    st.sampled_from(["keep", "full", "auto"]),
    SHARES,
    SHARES,
)
PAINTED = st.one_of(
    st.lists(REGION, max_size=3).map(json.dumps),
    st.builds(
        lambda some: json.dumps({"size": [320, 256], "regions": some}), st.lists(REGION, max_size=2)
    ),
)
PAINTINGS = st.just("") | PAINTED


def trees_of(image: Tensor, **changes: Any) -> tuple[Quadtree, ...]:
    values = {
        "content_threshold": 25.0,
        "min_tile_size": 16,
        "max_tile_size": 64,
        "min_denoise": 0.0,
        "max_denoise": 1.0,
    }
    return QuadtreeVisualizer.execute(image, **{**values, "line_thickness": 0, **changes}).args[1]


@st.composite
def quadtrees(
    draw: st.DrawFn, height_px: int | None = None, width_px: int | None = None, most: int = 2
) -> tuple:
    """QUADTREE: of an image of this size or a copy of another size, kept and free in parts, with and without a mask."""
    height_px, width_px = height_px or draw(SIDES_PX), width_px or draw(SIDES_PX)
    scale = draw(st.sampled_from([1, 1, 2]))
    size = max(1, height_px // scale), max(1, width_px // scale)
    low = draw(st.sampled_from([0.0, 0.0, 0.3]))
    smallest = draw(st.sampled_from([8, 16, 24]))
    values = {
        "min_tile_size": smallest,
        "max_tile_size": max(smallest, draw(st.sampled_from([32, 64, 1024]))),
        "min_denoise": low,
        "max_denoise": draw(st.sampled_from([low, 0.5, 1.0])),
        "mask": draw(st.none() | st.just(noise((1, 9, 13)).round())),
        "mask_mode": draw(st.sampled_from(["multiply", "limit", "at least", "replace"])),
        "regions": draw(PAINTINGS),
        "denoise_by": draw(st.sampled_from(["area", "depth", "detail"])),
        "invert": draw(st.booleans()),
    }
    return trees_of(
        noise((draw(st.integers(1, most)), *size, 3), draw(st.integers(0, 9))), **values
    )


@cache
def vae_of(name: str) -> Any:
    return VAES[name]()


@pytest.fixture(scope="module", autouse=True)
def _vaes_are_freed_before_the_interpreter_ends():
    yield
    vae_of.cache_clear()
    gc.collect()


LATENTS = st.just({"samples": clean_latent((1, 16, 8, 8))})
OTHER_LATENTS = st.sampled_from(
    [torch.zeros(1), torch.zeros(0, 16, 8, 8), None, [1], torch.full((1, 16, 8, 8), math.nan)]
)
BY_TYPE: dict[str, tuple[st.SearchStrategy, st.SearchStrategy]] = {  # what fits, and what does not
    "IMAGE": (images(), images(odd=True)),
    "MASK": (st.none() | masks(), masks(odd=True)),
    "QUADTREE": (quadtrees(), st.sampled_from([(), [], (1,), None])),
    "MODEL": (st.sampled_from(FAMILIES).map(lambda name: entry_of(name).model), st.just(object())),
    "LATENT": (
        st.none() | LATENTS,
        st.just({}) | OTHER_LATENTS.map(lambda samples: {"samples": samples}),
    ),
    "BOOLEAN": (st.booleans(), JUNK),
    "VAE": (st.sampled_from(["taesd", "qwen", "sd"]).map(vae_of), st.just(object())),
}
BY_NAME = {"regions": (PAINTINGS, damaged(PAINTED))}


def values_of(entry: Any) -> tuple[st.SearchStrategy, st.SearchStrategy] | None:
    """(what fits an input of a schema, what does not); None for a kind that nobody told."""
    if isinstance(entry, io.Combo.Input):
        return st.sampled_from(entry.options), JUNK
    if isinstance(entry, (io.Int.Input, io.Float.Input)):
        near = [
            entry.default,
            entry.min,
            entry.max,
            *(value for value in (8, 16, 64, 128) if entry.min <= value <= entry.max),
        ]
        inside = (
            st.integers(entry.min, entry.max)
            if isinstance(entry, io.Int.Input)
            else st.floats(entry.min, entry.max)
        )
        beyond = st.sampled_from(
            [entry.min - 1, entry.max + 1, 1 << 16, float(near[0]), str(near[0]), [near[0]]]
        )
        return st.one_of(st.sampled_from(near), inside), beyond | JUNK
    return BY_NAME.get(entry.id, BY_TYPE.get(entry.get_io_type()))


@st.composite
def inputs_of(draw: st.DrawFn, node: type, **given_values: Any) -> dict[str, Any]:
    """Values for every input of a node: all fitting, or one or two of them not."""
    entries = node.define_schema().inputs
    wrong = draw(
        st.sets(st.sampled_from([entry.id for entry in entries]), min_size=1, max_size=2)
        | st.just(set())
    )
    values = {}
    for entry in entries:
        fitting, odd = values_of(entry)
        if entry.id in wrong:
            values[entry.id] = draw(
                odd | JUNK if entry.id in given_values else st.one_of(odd, odd, JUNK)
            )
        elif not (entry.optional and draw(st.booleans())):
            values[entry.id] = given_values[entry.id] if entry.id in given_values else draw(fitting)
    for low in [name for name in values if name.startswith("min_") and name not in wrong]:
        high = low.replace("min_", "max_")
        if high in values.keys() - wrong:
            values[low], values[high] = sorted((values[low], values[high]))
    return values


# --- What may come of it ----------------------------------------------------------------------------------------------


def of_the_pack(error: BaseException) -> bool:
    """Whether the pack itself raised an error, and not something that it called."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return last in PACK_FILES


@contextlib.contextmanager
def clear_error_or_right(*named: str):
    """An error must be the pack's own, in words, and name what it is about."""
    try:
        yield
    except ValueError as error:
        words = str(error)
        assert of_the_pack(error) and is_clear(words), traceback.format_exc()
        assert any(name in words for name in named), f"names none of the inputs: {words}"
        event(f"refused: {re.sub('[^a-z_ ].*', '', words, flags=re.I)[:50]}")


def names_of(node: type) -> list[str]:
    """Words by which an error can name an input of a node."""
    return [
        *(entry.id for entry in node.define_schema().inputs),
        "image",
        "mask",
        "latent",
        "tree",
        "VAE",
    ]


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
    pictures, trees, maps = QuadtreeVisualizer.execute(**values).args
    batch, height, width, _ = image.shape
    check_picture(pictures, (batch, height, width, 3))
    check_picture(maps, (batch, height, width))
    assert pictures.min() >= 0 and pictures.max() <= 1 and maps.min() >= 0 and maps.max() <= 1
    assert len(trees) == batch
    mask, mode = values.get("mask"), values.get("mask_mode", "multiply")
    if mask is None and not values.get("regions"):
        assert (
            maps.min() >= values["min_denoise"] - 1e-6
            and maps.max() <= values["max_denoise"] + 1e-6
        )
    elif mask is not None and mode in ("multiply", "limit", "replace") and mask.max() <= 0:
        assert maps.eq(0).all()


def check_kept(pictures: Tensor, original: Tensor, trees: tuple[Quadtree, ...]) -> None:
    """The original's own px, to the bit, where the tree has denoise 0; of a larger original those of its middle."""
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


RUNS: dict[type, Callable[[dict[str, Any]], None]] = {
    QuadtreeVisualizer: visualize,
    QuadtreeDiffusion: patch,
    QuadtreeComposite: compose,
    QuadtreeInfo: tell,
    QuadtreeVAEDecode: decode,
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


@given(values=inputs_of(QuadtreeDiffusion))
@fuzz(50)
def test_the_diffusion_node_refuses_in_words_or_patches_a_copy(values):
    check_node(QuadtreeDiffusion, values)


# --- Runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One sampling run; `options` are those of `sample`, `values` those of the node, `extra` a second prompt."""

    family: str
    size: tuple[int, int]
    batch: int
    filled: str
    values: dict[str, Any]
    options: dict[str, Any]
    extra: dict[str, Any] | None

    @property
    def latent(self) -> Tensor:
        latent = entry_of(self.family).latent(*self.size, batch=self.batch)
        if self.filled == "nothing":
            latent.zero_()
        elif self.filled == "NaN":
            latent.view(-1)[-1] = math.nan
        elif self.filled == "half":
            latent[: len(latent) // 2] = 0
        return latent[:0] if self.filled == "empty batch" else latent

    def sample(self, model: Any) -> Tensor:
        entry = copy.copy(entry_of(self.family))
        if self.extra is not None:
            entry.positive = entry.positive + [
                [text, {**values, **self.extra}] for text, values in entry.make_cond(21)
            ]
        return sample(entry, self.latent, model=model, **self.options)


EXTRAS = st.one_of(
    st.builds(
        lambda *area: {"area": area, "strength": 0.7},
        *[st.integers(1, 24)] * 2,
        *[st.integers(0, 30)] * 2,
    ),
    st.builds(
        lambda *area: {"area": ("percentage", *area)},
        *[st.sampled_from([0.1, 0.5, 1.0])] * 2,
        *[st.sampled_from([0.0, 0.4])] * 2,
    ),
    st.builds(
        lambda high, wide, bounds: {
            "mask": noise((1, high, wide)).round(),
            "set_area_to_bounds": bounds,
        },
        SIDES_PX,
        SIDES_PX,
        st.booleans(),
    ),
    st.builds(
        lambda ends: {"start_percent": min(ends), "end_percent": max(ends)},
        st.tuples(*[st.sampled_from([0.0, 0.3, 1.0])] * 2),
    ),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    entry = entry_of(draw(st.sampled_from(FAMILIES)))
    few = 4 * Geometry.of(entry.model).unit
    size = draw(st.tuples(*[st.one_of(st.integers(1, 24), st.integers(few, max(few, 24)))] * 2))
    batch = draw(st.sampled_from([1, 1, 2, 3]))
    odd = draw(
        st.sampled_from(
            [""] * 20
            + ["free", "free", "half", "NaN", "empty batch", "tree", "clean_latent", "overlap"]
        )
    )
    filled = (
        odd
        if odd in ("half", "NaN", "empty batch")
        else draw(st.sampled_from(["all"] * 6 + ["nothing"]))
    )
    trees = draw(
        quadtrees() if odd == "tree" else quadtrees(*(side * entry.px_per_cell for side in size))
    )
    trees = trees if batch % len(trees) == 0 or odd == "tree" else trees[:1]
    clean = draw(st.sampled_from([None] * 4 + [entry.latent(*size, seed=5)]))
    clean = entry.latent(3, 3) if odd == "clean_latent" else clean
    values = {one.id: draw(values_of(one)[0]) for one in QuadtreeDiffusion.define_schema().inputs}
    values |= {
        "model": entry.model,
        "quadtree": trees,
        "clean_latent": clean if clean is None else {"samples": clean},
    }
    values["tile_size"] = draw(st.sampled_from([0, few, 2 * few, 1 << 10])) * entry.px_per_cell
    if odd == "free":
        values["quadtree"] = trees_of(
            torch.zeros(1, *(side * entry.px_per_cell for side in size), 3), min_denoise=1.0
        )
        values |= {"tile_size": 1 << 15, "skip_diffusion_below": 0}
    if values["tile_size"] and odd != "overlap":
        values["tile_overlap"] = min(values["tile_overlap"], values["tile_size"] // 4)
    options = {
        "steps": draw(st.integers(1, 4)),
        "cfg": draw(st.sampled_from([1.0, 3.0])),
        "sampler": draw(st.sampled_from(["euler", "euler", *comfy.samplers.KSampler.SAMPLERS])),
        "scheduler": draw(st.sampled_from(comfy.samplers.KSampler.SCHEDULERS)),
        "denoise": draw(st.sampled_from([1.0, 0.7, 0.3, 0.01])),
        "noise_mask": draw(
            st.none()
            | st.none()
            | st.builds(lambda *size: noise((1, *size)).round(), SIDES_PX, SIDES_PX)
        ),
    }
    return Case(entry.name, size, batch, filled, values, options, draw(st.none() | EXTRAS))


def check_samples(case: Case, spy: Spy, samples: Tensor) -> None:
    """What a run promises: the shape, no NaN, kept cells to the bit, the predicted cost, and all of it free is a plain run."""
    latent, values, geometry = case.latent, case.values, Geometry.of(entry_of(case.family).model)
    assert samples.shape == latent.shape and samples.isfinite().all()
    clean = (
        latent
        if values["clean_latent"] is None
        else values["clean_latent"]["samples"].expand_as(latent)
    )
    trees = [tree.keep_below(values["skip_diffusion_below"]) for tree in values["quadtree"]]
    if clean.any():
        for number, (row, own) in enumerate(zip(samples, clean, strict=True)):
            kept = trees[number % len(trees)].denoise_map(*latent.shape[-2:]) == 0
            assert torch.equal(row[..., kept], own[..., kept])
    if case.extra or case.options["noise_mask"] is not None or not clean.any():
        return
    function = comfy.samplers.sampler_object(case.options["sampler"]).sampler_function.__name__
    if function in ONE_CALL_PER_STEP:
        sigmas = comfy.samplers.KSampler(
            spy.model,
            case.options["steps"],
            "cpu",
            *(case.options[name] for name in ("sampler", "scheduler", "denoise")),
        ).sigmas
        settings = spy.model.model_options["model_function_wrapper"].settings
        steps, (height, width) = len(sigmas) - 1, latent.shape[-2:]
        cells = (
            estimate(trees, settings, geometry, steps, height, width)
            * steps
            * height
            * width
            * len(latent)
        )
        assert any(spy.cells == pytest.approx(conds * cells) for conds in (1, 2))
    one_window = (
        values["tile_size"] >= max(latent.shape[-2:]) * geometry.px_per_cell + geometry.px_per_unit
    )
    if one_window and all(tree.denoise_map(*latent.shape[-2:]).eq(1).all() for tree in trees):
        event("one free window")
        assert torch.equal(samples, case.sample(entry_of(case.family).model))


@given(case=cases())
@fuzz(50)
def test_a_run_refuses_in_words_or_keeps_to_the_bit_at_the_predicted_cost(case):
    model = entry_of(case.family).model
    with clear_error_or_right(*names_of(QuadtreeDiffusion), "conditioning"):
        patched = QuadtreeDiffusion.execute(**case.values).args[0]
        spy = Spy(patched)
        try:
            samples = case.sample(spy.model)
        except Exception as error:
            if of_the_pack(error):
                raise
            with pytest.raises(type(error)):
                case.sample(model)
            event(f"refused by core, too: {type(error).__name__}")
        else:
            check_samples(case, spy, samples)
            event("right")
    assert KEY not in patched.model_options["transformer_options"]
    assert not any(KEY in named for named in model.wrappers.values())
    event(case.family)
