"""What a node can be given, as hypothesis draws it: pictures, masks, paintings, trees, VAEs, and
inputs that are wrong."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import torch
from comfy_api.latest import io
from hypothesis import strategies as st
from quadtree_pack.nodes import (
    QuadtreeVisualizer,
)
from quadtree_pack.quadtree import Quadtree
from quadtree_pack.testing.hostile import JUNK, damaged
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import clean_latent
from quadtree_pack.testing.tiny_vaes import VAES
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
ODD_KINDS = (torch.uint8, torch.int64, torch.bool, torch.complex64)


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """0..1, one half of it flat."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return values.index_fill_(
        -2 if len(shape) == 4 else -1, torch.arange(shape[-2 if len(shape) == 4 else -1] // 2), 0.5
    )


@st.composite
def images(draw: st.DrawFn, odd: bool = False) -> Tensor:
    """IMAGE [B, H, W, C] in 0..1; odd: another rank, empty, of another kind, with NaN, or far
    outside 0..1."""
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
    lambda what, x, y: [*what[:1], x[0], y[0], x[1], y[1], *what[1:]],
    st.sampled_from([["keep"], ["full"], ["auto"], ["value", 0], ["value", 0.4]]),
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
    """QUADTREE: of an image of this size or a copy of another size, kept and free in parts, with
    and without a mask."""
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


LATENTS = st.just({"samples": clean_latent((1, 16, 8, 8))})
OTHER_LATENTS = st.sampled_from(
    [torch.zeros(1), torch.zeros(0, 16, 8, 8), None, [1], torch.full((1, 16, 8, 8), math.nan)]
)
OTHER_SIGMAS = st.sampled_from(
    [torch.ones(1), torch.ones(2, 2), torch.tensor([1.0, math.nan]), torch.tensor([0.0, 1.0]), [1]]
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
    "CONDITIONING": (
        st.integers(11, 12).map(entry_of("flux").make_cond),
        st.sampled_from([[], [1], [[1]], "a photo", [["a", "b"]]]),
    ),
    "SIGMAS": (st.none() | st.just(torch.linspace(1, 0, 5)), OTHER_SIGMAS),
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
