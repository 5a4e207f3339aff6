"""What the pack itself costs, beside the model, on one CPU thread.

- One window: a run of a tiny Flux on the real ComfyUI with the node, over the same run without it.
  The time in the network itself is left out of their difference: it is the same work, and swings
  by more than 1% from run to run. Target: 1% more.
- Many windows: one call of the wrapper on a 4096 px image in 25 windows, with a model that returns
  its input, over one read and write of the windows' cells. Target: at most 3 times.

Columns: seconds of CPU time with and without the node; "ratio" as above; "bound" is the ratio for
the tensor operations alone that blending takes, without any wrapper. All are the least of many
repeats, which another program on the machine disturbs least.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from quadtree_pack.testing.registration import register_comfyui

REPEATS = 9
STEPS = 2  # of each run in one window
CALLS = 7  # of the wrapper, in each repeat
ONE_WINDOW_TARGET, MANY_WINDOWS_TARGET = 1.01, 3.0
SMALL_CELLS, LARGE_CELLS = 128, 512  # sides of the two latents
BATCHES = (1, 4)  # windows at a time
HEAD = f"{'case':>52} {'with s':>8} {'without':>8} {'ratio':>7} {'target':>7} {'bound':>7}"


def run() -> list[dict]:
    register_comfyui("--cpu")
    torch.set_num_threads(1)  # two threads of a shared machine wait for each other
    rows = [measure_one_window()]
    for batch in BATCHES:
        rows.append(measure_many_windows(batch))
    print(HEAD)
    for row in rows:
        print(
            f"{row['case']:>52} {row['with_s']:>8.4f} {row['without_s']:>8.4f} "
            f"{row['ratio']:>7.3f} {row['target']:>7.2f} {row['bound']:>7.3f}"
        )
    print(
        "ratio: with the node over without it, the network taken as equal; for the model that "
        "returns its input, the wrapper's time over one read and write of the windows' cells"
    )
    print("bound: the same for the tensor operations of blending alone, without a wrapper")
    return rows


def measure_seconds(work: Callable[[], Any]) -> float:
    """Return the CPU time of this thread, which does all the work."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def measure_one_window() -> dict:
    """Time runs of a tiny Flux with and without the node in turn."""
    from quadtree_pack.testing.support import patched, tree_of
    from quadtree_pack.testing.tiny_models.building import sample
    from quadtree_pack.testing.tiny_models.transformers import flux

    entry = flux()
    latent = entry.latent(SMALL_CELLS, SMALL_CELLS)
    model = patched(entry, tree_of([[1.0]], SMALL_CELLS, SMALL_CELLS), tile_px=0)
    network = NetworkClock(entry.model.model.diffusion_model)

    def measure(**given: Any) -> tuple[float, float]:
        """Return the seconds of a run, and those outside the network."""
        network.seconds, network.calls = 0.0, 0
        total = measure_seconds(lambda: sample(entry, latent, steps=STEPS, denoise=0.6, **given))
        assert network.calls == STEPS
        return total, total - network.seconds

    measure(model=model)  # warm-up
    pairs = [(measure(model=model), measure()) for _ in range(REPEATS)]
    (mine, mine_outside), (plain, plain_outside) = (
        tuple(map(min, zip(*runs, strict=True))) for runs in zip(*pairs, strict=True)
    )
    return {
        "case": f"one window, tiny Flux, {SMALL_CELLS} x {SMALL_CELLS} cells",
        "with_s": mine,
        "without_s": plain,
        "ratio": 1 + (mine_outside - plain_outside) / plain,
        "target": ONE_WINDOW_TARGET,
        "bound": 1.0,
    }


class NetworkClock:
    """Counts the seconds that a network takes of this thread's CPU time."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.seconds, self.calls = 0.0, 0
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self.calls += 1
        self.seconds -= time.thread_time()

    def _end(self, *_: Any) -> None:
        self.seconds += time.thread_time()


def measure_many_windows(batch: int) -> dict:
    """Time one call of the wrapper, and the least work that could do the same."""
    call = prepare_call(batch)
    call.run_wrapper()  # warm-up: plans the step
    works = (call.run_wrapper, call.read_and_write, call.blend_only)
    times = [[measure_seconds(work) for work in works] for _ in range(REPEATS * CALLS)]
    mine, copying, least = map(min, zip(*times, strict=True))
    return {
        "case": f"{len(call.boxes)} windows of 4096 px, {batch} at a time, model free",
        "with_s": mine,
        "without_s": 0.0,
        "ratio": mine / copying,
        "target": MANY_WINDOWS_TARGET,
        "bound": least / copying,
    }


@dataclass(frozen=True)
class Call:
    """One call of the wrapper on `noisy` in the windows `boxes`, which `groups` batches."""

    noisy: torch.Tensor
    boxes: list
    copies: list[torch.Tensor]
    groups: list[list[int]]
    wrapper: Any
    arguments: dict
    run: Any
    step: Any

    def run_wrapper(self) -> None:
        self.wrapper(return_input, self.arguments)

    def read_and_write(self) -> None:
        for box, copy in zip(self.boxes, self.copies, strict=True):
            copy.copy_(crop(self.noisy, box))

    def blend_only(self) -> None:
        """Do what no wrapper can leave out.

        Copy the windows of each batch, start from what is held, and add every window by its weight.
        """
        total = self.run.begin_blend(self.noisy, self.step, conds=1)
        for group in self.groups:
            parts = torch.cat([crop(self.noisy, self.boxes[number]) for number in group]).split(1)
            for number, part in zip(group, parts, strict=True):
                weight = self.step.window_weights[number]
                total.add(part, weight, self.boxes[number], conds=(0,))
        total.finish()


def crop(latent: torch.Tensor, box: Any) -> torch.Tensor:
    """Return a view of the latent [..., h, w] in a box of cells."""
    index = (..., *box.slices)
    return latent[index]


def return_input(noisy: torch.Tensor, _sigma: torch.Tensor, **_conditioning: Any) -> torch.Tensor:
    """Return the input: a model that costs nothing."""
    return noisy


def prepare_call(batch: int) -> Call:
    """Return a call on LARGE_CELLS squared, in windows of 1024 px with 128 px overlap."""
    from quadtree_pack.sampling.maps import build_denoise_maps
    from quadtree_pack.sampling.model import Settings
    from quadtree_pack.sampling.plan import Mode
    from quadtree_pack.sampling.run import create_run
    from quadtree_pack.testing.support import tree_of
    from quadtree_pack.testing.tiny_models.transformers import flux
    from quadtree_pack.tiled_diffusion import KEY, attach
    from quadtree_pack.windows.shapes import batch_windows

    entry = flux()
    noisy = torch.randn(1, 16, LARGE_CELLS, LARGE_CELLS)
    tree = tree_of([[1.0, 0.9], [0.8, 1.0]], LARGE_CELLS, LARGE_CELLS)
    settings = Settings(method="MultiDiffusion", tile_px=1024, overlap_px=128, batch=batch)
    patch = attach(entry.model, [tree], settings).model_options["model_function_wrapper"]
    denoise = build_denoise_maps([tree], settings, patch.inputs.geometry, LARGE_CELLS, LARGE_CELLS)
    run = create_run(patch, settings, patch.inputs.geometry, denoise, mode=Mode.PRESERVE)
    run.start([1.0, 0.0], torch.randn_like(noisy))
    arguments: dict[str, Any] = {
        "input": noisy,
        "timestep": torch.ones(1),
        "c": {"transformer_options": {KEY: run}},
        "cond_or_uncond": [0],
    }
    boxes = [window.box for window in run.layouts.windows(0)]
    step = run.step(arguments["timestep"], noisy)
    return Call(
        noisy=noisy,
        boxes=boxes,
        copies=[torch.empty_like(crop(noisy, box)) for box in boxes],
        groups=batch_windows(step.windows, batch),
        wrapper=patch,
        arguments=arguments,
        run=run,
        step=step,
    )
