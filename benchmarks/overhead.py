"""What the pack itself costs, beside the model. Targets: 1% over no node with one window; with 25 windows of a 4096 px image
the wrapper's own work is at most 3 times one read and write of the windows' cells.

The first is a tiny Flux on the real ComfyUI, with and without the node in turn; the second a model that costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from quadtree_pack.testing.registration import register_comfyui

REPEATS = 9


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_window() -> dict:
    """A run of a tiny Flux on 128 x 128 cells with the node, over the same run without it; medians of runs in turn."""
    from quadtree_pack.testing.support import patched, tree_of
    from quadtree_pack.testing.tiny_models.building import sample
    from quadtree_pack.testing.tiny_models.transformers import flux

    entry = flux()
    latent = entry.latent(128, 128)
    model = patched(entry, tree_of([[1.0]], 128, 128), tile_px=0)
    run = {"steps": 2, "denoise": 0.6}
    sample(entry, latent, model=model, **run)
    pairs = [
        (
            seconds(lambda: sample(entry, latent, model=model, **run)),
            seconds(lambda: sample(entry, latent, **run)),
        )
        for _ in range(REPEATS)
    ]
    return {
        "case": "one window, tiny Flux, 128 x 128 cells",
        "with_s": median(mine for mine, _ in pairs),
        "without_s": median(plain for _, plain in pairs),
        "ratio": median(mine / plain for mine, plain in pairs),
        "target": 1.01,
        "bound": 1.0,
    }


def many_windows() -> list[dict]:
    """One call of the wrapper on 512 x 512 cells in 25 windows, with a model that returns what it gets."""
    from quadtree_pack.sampling.model import Settings
    from quadtree_pack.sampling.run import Mode, build_denoise_maps, create_run
    from quadtree_pack.testing.support import tree_of
    from quadtree_pack.testing.tiny_models.transformers import flux
    from quadtree_pack.tiled_diffusion import KEY, attach
    from quadtree_pack.windows.shapes import batch_windows

    rows = []
    entry = flux()
    noisy = torch.randn(1, 16, 512, 512)
    tree = tree_of([[1.0, 0.9], [0.8, 1.0]], 512, 512)
    for batch in (1, 4):
        settings = Settings(method="MultiDiffusion", tile_px=1024, overlap_px=128, batch=batch)
        patch = attach(entry.model, [tree], settings).model_options["model_function_wrapper"]
        denoise = build_denoise_maps([tree], settings, patch.geometry, 512, 512)
        run = create_run(patch, settings, patch.geometry, denoise, mode=Mode.PRESERVE)
        run.start([1.0, 0.0], torch.randn_like(noisy))
        args = {
            "input": noisy,
            "timestep": torch.ones(1),
            "c": {"transformer_options": {KEY: run}},
            "cond_or_uncond": [0],
        }
        windows = [window.box for window in run.windows(0)]

        def free(x: torch.Tensor, _sigma: torch.Tensor, **_c: Any) -> torch.Tensor:
            return x

        copies = [torch.empty_like(noisy[(..., *box.slices)]) for box in windows]

        def read_and_write(windows: list = windows, copies: list = copies) -> None:
            for box, copy in zip(windows, copies, strict=True):
                copy.copy_(noisy[(..., *box.slices)])

        def wrapper(patch: Any = patch, args: dict = args) -> None:
            patch(free, args)

        step = run.step(args["timestep"], noisy)
        groups = batch_windows(step.windows, batch)

        def least_tensor_work(
            windows: list = windows, groups: list = groups, step: Any = step, run: Any = run
        ) -> None:
            """What no wrapper can leave out: stack each batch, start from what is held, add every window by its weight."""
            total = run.clean * (1 - step.model_weight)
            for group in groups:
                views = [noisy[(..., *windows[number].slices)] for number in group]
                parts = views if len(views) == 1 else torch.cat(views).split(1)
                for number, part in zip(group, parts, strict=True):
                    total[(..., *windows[number].slices)].addcmul_(
                        part, step.window_weights[number]
                    )

        wrapper()  # plans the step
        times = [
            [
                median(seconds(work) for _ in range(3))
                for work in (wrapper, read_and_write, least_tensor_work)
            ]
            for _ in range(REPEATS)
        ]
        rows.append(
            {
                "case": f"{len(windows)} windows of 4096 px, {batch} at a time, model free",
                "with_s": median(mine for mine, _, _ in times),
                "without_s": 0.0,
                "ratio": median(mine / copying for mine, copying, _ in times),
                "target": 3.0,
                "bound": median(least / copying for _, copying, least in times),
            }
        )
    return rows


def run() -> list[dict]:
    register_comfyui("--cpu")
    torch.set_num_threads(1)  # two threads of a shared machine wait for each other
    rows = [one_window(), *many_windows()]
    print(f"{'case':>52} {'with s':>8} {'without':>8} {'ratio':>7} {'target':>7} {'bound':>7}")
    for row in rows:
        figures = f"{row['with_s']:>8.4f} {row['without_s']:>8.4f} {row['ratio']:>7.3f} {row['target']:>7.2f}"
        print(f"{row['case']:>52} {figures} {row['bound']:>7.3f}")
    print(
        "ratio: with / without the node; with the free model, its time over one read and write of the windows' cells"
    )
    print(
        "bound: the same for the tensor operations alone that blending takes, without any wrapper"
    )
    return rows
