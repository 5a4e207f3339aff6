"""The checks of `python dev.py neighbours` find what is wrong with a node beside ours."""

import comfy.patcher_extension
import pytest
import torch
from comfy_extras import nodes_context_windows
from quadtree_pack.testing.beside import judge
from quadtree_pack.testing.documents import ROOT, rows
from quadtree_pack.testing.neighbours import Graph, chained, node, sampled
from quadtree_pack.testing.pack_graphs import NEIGHBOURS
from quadtree_pack.testing.packs import Neighbour

REFUSED = node(
    nodes_context_windows.ContextWindowsManualNode,
    *(2, 1, "standard_static", 1, False, "pyramid", 3, False),
)


def wrapped(wrap):
    """Return a node that sets an apply_model wrapper, which `wrap` makes anew for each model."""

    def patch(model):
        model = model.clone()
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        model.add_wrapper_with_key(kind, "neighbour", wrap())
        return model

    return patch


def remember_first():
    """A cache that gives all windows of one sigma the change that it made to the first."""
    seen = {}

    def wrapper(executor, noisy, sigma, *args, **kwargs):
        denoised = executor(noisy, sigma, *args, **kwargs)
        change = seen.setdefault((float(sigma[0]), noisy.shape), 0.5 * denoised)
        return denoised + change

    return wrapper


def brighten_by_place():
    """A picture that belongs to the canvas, and is squeezed into every window."""

    def wrapper(executor, noisy, *args, **kwargs):
        ramp = torch.linspace(0, 1, noisy.shape[-1])
        return executor(noisy, *args, **kwargs) + ramp

    return wrapper


def moved(*args, **kwargs):
    return sampled(*args, **kwargs) + 1e-6


def in_steps(patch):
    return lambda: Graph(patch, steps=6)


JUDGED = {
    "nothing": (Neighbour(in_steps(chained)), "right"),
    "a refused node": (Neighbour(in_steps(REFUSED)), "refused: Context windows"),
    "kept cells": (Neighbour(in_steps(chained), moved), "wrong: kept cells move by"),
    "a place": (Neighbour(in_steps(wrapped(brighten_by_place))), "wrong: windows differ by"),
    "a cache": (
        Neighbour(in_steps(wrapped(remember_first)), mixes=True),
        "wrong: a window differs by",
    ),
    "a node that fails": (Neighbour(in_steps(lambda model: model.no)), "error on its own: Attr"),
    "no effect": (Neighbour(in_steps(lambda model: model.clone())), "right; the node changes"),
}


@pytest.mark.parametrize(("neighbour", "words"), JUDGED.values(), ids=JUDGED)
def test_a_graph_is_judged_by_what_it_does(neighbour, words):
    assert judge(neighbour).startswith(words)


def test_the_documented_verdicts_are_on_graphs_of_the_table():
    """All of a pack's, or none: then each of its nodes was tried that needs a model only."""
    document = (ROOT / "docs" / "neighbours.md").read_text(encoding="utf-8")
    named = {(pack, node) for pack, _, _, node, _ in rows(document, "pack | commit")}
    with_graphs = {pack for pack, node in named if node in NEIGHBOURS}
    assert len(with_graphs) > 15
    assert all(node in NEIGHBOURS for pack, node in named if pack in with_graphs)
