"""Runs that hypothesis draws are refused in words, or keep what is kept at the predicted cost."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from quadtree_pack.nodes import (
    QuadtreeDiffusion,
)
from quadtree_pack.sampling.cost import Sampling, estimate_cost
from quadtree_pack.sampling.model import Geometry
from quadtree_pack.sampling.steps import CALLS_PER_STEP
from quadtree_pack.testing.hostile import fuzz
from quadtree_pack.testing.outcomes import clear_error_or_right, names_of, of_the_pack
from quadtree_pack.testing.strategies import (
    FAMILIES,
    SIDES_PX,
    noise,
    quadtrees,
    trees_of,
    values_of,
)
from quadtree_pack.testing.support import Spy
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import KEY
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One sampling run; `options` are those of `sample`, `values` those of the node, `extra` a
    second prompt."""

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
    """What a run promises: the shape, no NaN, kept cells to the bit, the predicted cost, and all of
    it free is a plain run."""
    latent, values, geometry = case.latent, case.values, Geometry.of(entry_of(case.family).model)
    assert samples.shape == latent.shape and samples.isfinite().all()
    clean = (
        latent
        if values["clean_latent"] is None
        else values["clean_latent"]["samples"].expand_as(latent)
    )
    given = values["quadtree"]
    trees = type(given)(tree.keep_below(values["skip_diffusion_below"]) for tree in given)
    if clean.any():
        for number, (row, own) in enumerate(zip(samples, clean, strict=True)):
            kept = trees[number % len(trees)].denoise_map(*latent.shape[-2:]) == 0
            assert torch.equal(row[..., kept], own[..., kept])
    if case.extra or case.options["noise_mask"] is not None or not clean.any():
        return
    function = comfy.samplers.sampler_object(case.options["sampler"]).sampler_function.__name__
    if CALLS_PER_STEP.get(function) == 1:
        sigmas = comfy.samplers.KSampler(
            spy.model,
            case.options["steps"],
            "cpu",
            *(case.options[name] for name in ("sampler", "scheduler", "denoise")),
        ).sigmas
        settings = spy.model.model_options["model_function_wrapper"].inputs.settings
        steps, (height, width) = len(sigmas) - 1, latent.shape[-2:]
        share = estimate_cost(
            trees, settings, geometry, sampling=Sampling(steps=steps), height=height, width=width
        )
        cells = share * steps * height * width * len(latent)
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
