"""A refine on a CUDA device: seconds, peak memory, and what must hold there; on the real ComfyUI.

The models have the sizes of Flux-dev, SDXL, Z-Image and Qwen-Image, with random weights. The photo
is the demo's, at 2048 and 4096 px, with the tree of an untouched node; 20 euler steps. SDXL has CFG
and so evaluates two conds per step.

"runs": without the pack, uniform tiling (1024 px windows, 128 px overlap, everything at every
step), and the default tree with two methods. Of the first two a few steps are timed, since all
their steps are alike. Columns: seconds; GiB above the weights; how many times faster than the whole
image at once ("x whole") and than uniform tiling ("x uniform"); and by the planner's own prices
("x whole by plan").

"windows": milliseconds of a model call by window size and batch: what costs are fitted to.

"checks": where a run waits for the device; peak memory against what is asked for; runs that go out
of memory; torch.compile on and off, for a Flux of few blocks.

Needs torch and the requirements of ComfyUI's core, nothing else. Without a CUDA device nothing is
measured; QUADTREE_BENCH_TINY=1 runs it with tiny models on any device, to check the script.
QUADTREE_BENCH_PARTS="runs windows checks compile" chooses some of the parts,
QUADTREE_BENCH_MODELS="flux sdxl" some of the models.
"""

from __future__ import annotations

import os
from statistics import median
from typing import Any

import torch
from quadtree_pack.testing.registration import register_comfyui

STEPS, TINY_STEPS = 20, 2
SIDES_PX, TINY_SIDES_PX = (2048, 4096), (512,)
WINDOWS_PX, TINY_WINDOWS_PX = (256, 384, 512, 640, 768, 1024, 1280, 1536, 2048, 3072), (256,)
BATCHES = (1, 2, 4, 8)
MOST_BATCHED_PX = 1536  # windows beyond it are timed one at a time
PARTS = ("windows", "runs", "checks", "compile")
TIMED_STEPS = 3
HEAD = (
    f"{'model':>10} {'px':>6} {'case':>26} {'seconds':>8} {'GiB':>6} {'x whole':>8} "
    f"{'by plan':>8} {'x uniform':>10}"
)


def run() -> list[dict]:
    tiny = os.environ.get("QUADTREE_BENCH_TINY") == "1"
    cuda = torch.cuda.is_available()
    if not tiny and not cuda:
        print(
            "There is no CUDA device, so nothing is measured. QUADTREE_BENCH_TINY=1 checks the "
            "script with tiny models."
        )
        return []
    register_comfyui(*([] if cuda else ["--cpu"]))
    from .gpu_checks import check_compiling
    from .gpu_models import MODELS

    parts = os.environ.get("QUADTREE_BENCH_PARTS", " ".join(PARTS)).split()
    if cuda:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    rows: list[dict] = []
    for name in os.environ.get("QUADTREE_BENCH_MODELS", " ".join(MODELS)).split():
        model = MODELS[name](tiny)
        for part in PARTS:
            if part in parts and part in MEASURES:
                rows += MEASURES[part](model, tiny)
        del model
        if cuda:
            torch.cuda.empty_cache()
    if "compile" in parts and cuda:
        rows += check_compiling(tiny, SIDES_PX[0])
    return rows


def measure_windows(model: Any, tiny: bool) -> list[dict]:
    """Time model calls by window size and batch, without the pack."""
    from .gpu_runs import CELL_PX, peak_bytes, reset_peak, time_steps

    rows = []
    for px in TINY_WINDOWS_PX if tiny else WINDOWS_PX:
        for batch in BATCHES if px <= MOST_BATCHED_PX else BATCHES[:1]:
            latent = model.latent(batch, px // CELL_PX, px // CELL_PX)
            reset_peak()
            held = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
            seconds = median(time_steps(model, model.patcher, latent, TIMED_STEPS + 1)[1:])
            rows.append(
                {
                    "part": "windows",
                    "model": model.name,
                    "px": px,
                    "batch": batch,
                    "ms": 1000 * seconds,
                    "extra_gib": (peak_bytes() - held) / 2**30,
                }
            )
        timed = " ".join(f"{row['ms']:8.2f}" for row in rows if row["px"] == px)
        print(f"{model.name:>10} {px:>6} px, ms at batches {BATCHES}: {timed}", flush=True)
    return rows


def measure_runs(model: Any, tiny: bool) -> list[dict]:
    """Measure every case on the photo of each size, and print it."""
    from .gpu_runs import CELL_PX, UNIFORM, WHOLE, load_photo, make_cases, measure_run

    steps = TINY_STEPS if tiny else STEPS
    print(HEAD)
    rows = []
    for side in TINY_SIDES_PX if tiny else SIDES_PX:
        image = load_photo(side)
        latent = model.latent(1, image.shape[0] // CELL_PX, image.shape[1] // CELL_PX)
        cases = make_cases(model, image, steps)
        seconds_by_case: dict[str, float] = {}
        for name, case in cases.items():
            seconds, gib = measure_run(model, case, latent, steps)
            seconds_by_case[name] = seconds
            row = {
                "part": "runs",
                "model": model.name,
                "side_px": side,
                "case": name,
                "seconds": seconds,
                "peak_gib": gib,
                "x_whole": seconds_by_case[WHOLE] / seconds,
                "x_whole_by_plan": cases[WHOLE].predicted / case.predicted,
            }
            uniform = seconds_by_case.get(UNIFORM)
            print(
                f"{model.name:>10} {side:>6} {name:>26} {seconds:>8.2f} {gib:>6.2f} "
                f"{row['x_whole']:>8.2f} {row['x_whole_by_plan']:>8.2f} "
                + (f"{uniform / seconds:>10.2f}" if uniform else ""),
                flush=True,
            )
            rows.append(row)
    return rows


def run_checks(model: Any, tiny: bool) -> list[dict]:
    """Check waiting, memory and running out of it; nothing without a CUDA device."""
    from .gpu_checks import check_memory, check_out_of_memory, check_waiting
    from .gpu_runs import load_photo

    if not torch.cuda.is_available():
        return []
    image = load_photo((TINY_SIDES_PX if tiny else SIDES_PX)[0])
    return [
        *check_waiting(model, image),
        *check_memory(model, image),
        *check_out_of_memory(model, image),
    ]


MEASURES = {"windows": measure_windows, "runs": measure_runs, "checks": run_checks}
