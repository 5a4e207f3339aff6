"""300 runs in one process, of changing sizes and methods, with interrupts and errors: nothing
grows, nothing is held."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import comfy.model_management
import pytest
import torch
from quadtree_pack import quadtree, tiled_diffusion
from quadtree_pack.nodes import QuadtreeComposite, QuadtreeInfo, QuadtreeVisualizer
from quadtree_pack.sampling import (
    board,
    control,
    cropping,
    evaluation,
    parallel,
    rules,
    run,
    steps,
)
from quadtree_pack.testing.support import half_kept, patched
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import KEY
from quadtree_pack.tree import regions
from quadtree_pack.ui import preview
from quadtree_pack.velocity import SCHEDULES
from quadtree_pack.windows import blending, cutting, planning, shapes, strips, tiling
from quadtree_pack.windows.blending import METHODS

MODULES = (
    blending,
    board,
    control,
    cropping,
    evaluation,
    cutting,
    parallel,
    planning,
    preview,
    quadtree,
    regions,
    rules,
    run,
    steps,
    shapes,
    strips,
    tiled_diffusion,
    tiling,
)
OWN = {
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__ == module.__name__
}
RUNS, ROUND = 300, 60
PYTHON_BLOCK_BYTES = 64  # a small object's, about
GROWTH_BYTES = (
    500_000  # after two rounds; a [4, 40, 8] latent that each run left behind would be twice that
)
SIZES = [(8, 12), (24, 16), (17, 31), (32, 40), (40, 8), (16, 16)]


class Trouble:
    """A model function wrapper that passes calls on; at the one that is due it does what `how`
    says, once."""

    def __init__(self, how: str, at: int) -> None:
        self.how, self.left = how, at

    def __call__(self, apply_model: Callable, args: dict[str, Any]) -> Any:
        self.left -= 1
        if self.left == 0 and self.how == "broken":
            raise KeyError("broken")
        if self.left == 0 and self.how == "out of memory":
            raise torch.OutOfMemoryError("simulated")
        if self.left == 0 and self.how == "interrupted":
            comfy.model_management.interrupt_current_processing()
        return apply_model(args["input"], args["timestep"], **args["c"])


ERRORS = {
    "broken": KeyError,
    "interrupted": comfy.model_management.InterruptProcessingException,
    "out of memory": torch.OutOfMemoryError,  # where windows are the smallest already
    "refused": ValueError,
}
TROUBLES = ("", "", "broken", "", "interrupted", "", "out of memory", "", "refused")


def one_run(number: int) -> str:
    """A run of its own size and settings, with or without trouble; how it ended."""
    entry, size, how = (
        entry_of(("flux", "sd15")[number % 2]),
        SIZES[number % len(SIZES)],
        TROUBLES[number % len(TROUBLES)],
    )
    troubled = entry.model.clone()
    troubled.set_model_unet_function_wrapper(Trouble(how, 1 + number % 2))
    settings = {
        "method": list(METHODS)[number % len(METHODS)],
        "schedule": list(SCHEDULES)[number % len(SCHEDULES)],
    }
    trees = half_kept(9, 50) if how == "refused" else half_kept(*size)
    tiled = patched(entry, trees, model=troubled, batch=number % 5, overlap_px=32, **settings)
    latent = entry.latent(*size, seed=number)
    held_cells = trees.denoise_map(*size) == 0
    try:
        samples = sample(
            entry,
            latent,
            model=tiled,
            steps=2,
            cfg=1.0 + number % 2,
            sampler=("euler", "heun")[number // 2 % 2],
        )
    except tuple(ERRORS.values()) as error:
        assert isinstance(error, ERRORS.get(how, ())), repr(error)
        outcome = how
    else:
        assert samples.isfinite().all() and torch.equal(
            samples[..., held_cells], latent[..., held_cells]
        )
        outcome = f"went on: {how}" if how else "right"
    finally:
        comfy.model_management.interrupt_current_processing(
            False
        )  # as the server does before each prompt
    assert KEY not in tiled.model_options["transformer_options"]
    return outcome


def other_nodes(number: int, size: tuple[int, int]) -> None:
    """The nodes around the sampler, on an image of this size."""
    image = torch.rand(1, size[0] * 8, size[1] * 8, 3)
    values = {
        "content_threshold": 25.0,
        "min_tile_size": 16,
        "max_tile_size": 64,
        "min_denoise": 0.0,
        "max_denoise": 1.0,
    }
    picture, trees, *_ = QuadtreeVisualizer.execute(image, **values, line_thickness=1).args
    QuadtreeComposite.execute(image, picture, trees, number % 40)
    QuadtreeInfo.execute(trees, 2)


def held() -> Counter:
    """Live objects of the pack's own classes, and tensors, by name."""
    gc.collect()
    kinds = [type(one) for one in gc.get_objects()]
    return Counter(kind.__name__ for kind in kinds if kind in OWN or issubclass(kind, torch.Tensor))


class MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`, see mallinfo(3)."""

    FIELDS = (
        "arena",
        "ordblks",
        "smblks",
        "hblks",
        "hblkhd",
        "usmblks",
        "fsmblks",
        "uordblks",
        "fordblks",
        "keepcost",
    )
    _fields_ = tuple((name, ctypes.c_size_t) for name in FIELDS)


def allocated() -> int:
    """Bytes that are in use, of C libraries (tensors among them) where glibc tells, and of Python's
    small objects.

    Not the resident size, which grows and shrinks by what the allocators keep for later.
    """
    python = sys.getallocatedblocks() * PYTHON_BLOCK_BYTES
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "mallinfo2"):
        return python
    libc.mallinfo2.restype = MallInfo
    told = libc.mallinfo2()
    return python + told.uordblks + told.hblkhd


def sizes_of(model: Any) -> dict[str, int]:
    """How much each container on a model, and on what is patched, holds."""
    owners = {"patcher": model, "model": model.model}
    return {
        f"{owner}.{name}": len(value)
        for owner, thing in owners.items()
        for name, value in vars(thing).items()
        if isinstance(value, (dict, list, set, tuple))
    } | {
        "options": len(model.model_options),
        "transformer options": len(model.model_options.get("transformer_options", {})),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)  # it takes 3 minutes on two cores
def test_three_hundred_runs_leave_nothing_behind():
    models = [entry_of(name).model for name in ("flux", "sd15")]
    untouched, others = (
        [sizes_of(model) for model in models],
        held(),
    )  # what tests before this one keep
    outcomes, objects, memory = Counter(), [], []
    for number in range(1, RUNS + 1):
        outcomes[one_run(number)] += 1
        if number % 5 == 0:
            other_nodes(number, SIZES[number // 5 % len(SIZES)])
        if number % ROUND == 0:
            objects.append(held())
            memory.append(allocated())
    assert outcomes["right"] >= RUNS // 2 and all(
        outcomes[how] >= 10 for how in ("broken", "interrupted", "refused")
    ), outcomes
    assert outcomes["went on: out of memory"] >= 5, outcomes
    assert objects[1:] == objects[1:2] * (len(objects) - 1)
    assert (
        not {"Run", "RunPlan", "Step", "Planner", "TiledDiffusion", "Window", "DeferredControl"}
        & (objects[-1] - others).keys()
    )
    for model in models:  # ComfyUI takes a clone's object patches back when it loads another
        comfy.model_management.load_models_gpu([model])
    assert [sizes_of(model) for model in models] == untouched
    assert memory[-1] - memory[1] < GROWTH_BYTES, memory
