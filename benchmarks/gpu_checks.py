"""Checks on a CUDA device, for `bench gpu`: waits, memory, running out of it, compiling."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from quadtree_pack.testing.refiner import record_runs
from quadtree_pack.testing.registration import ROOT
from quadtree_pack.testing.trees import build_default_tree

from .gpu_models import SHALLOW, GpuModel, make_flux
from .gpu_runs import (
    CELL_PX,
    load_photo,
    peak_bytes,
    reset_peak,
    sample,
    synchronize,
)

STEPS = 8
# Memory that is left to a run that is to go out of it, in windows of the size it plans first. A
# batch of several does not fit; at 0.6 not even one does.
ROOM_IN_WINDOWS = (1.5, 0.6)


def check_waiting(model: GpuModel, image: torch.Tensor) -> list[dict]:
    """Count where a run waits for the device, after its first step, with and without the pack."""
    patched = _attach(model, image)
    latent = _make_latent(model, image)
    rows = []
    for case, which in (("without the pack", model.patcher), ("Shifted Feather", patched)):
        waits = _find_waits(model, which, latent)
        ours = [place for place in waits if Path(place[0]).is_relative_to(ROOT)]
        lines = sorted({f"{Path(name).name}:{line}" for name, line in ours})
        rows.append(
            {
                "check": "waits for the device",
                "model": model.name,
                "case": case,
                "all": len(waits),
                "ours": len(ours),
                "lines": lines,
            }
        )
        print(
            f"{model.name:>10} {case}: waits for the device {len(waits)} times in {STEPS - 1} "
            f"steps, {len(ours)} of them in the pack's own code {' '.join(lines)}",
            flush=True,
        )
    return rows


def _find_waits(model: GpuModel, patched: Any, latent: torch.Tensor) -> list[tuple[str, int]]:
    """Return file and line of every wait of a run after its first step."""
    sample(model, patched, latent, STEPS)  # what is done once per process is done
    first: list[int] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def note(*_: Any) -> None:
            first.append(len(caught))

        torch.cuda.set_sync_debug_mode("warn")
        try:
            sample(model, patched, latent, STEPS, callback=note)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    inside = caught[first[0] : first[-1]]
    return [
        (entry.filename, entry.lineno) for entry in inside if "synchronizing" in str(entry.message)
    ]


def check_memory(model: GpuModel, image: torch.Tensor) -> list[dict]:
    """Compare the peak of a run with what the pack asks ComfyUI to free for it."""
    from quadtree_pack.sampling.fitting import shape_batch

    latent = _make_latent(model, image)
    patched = _attach(model, image)
    tiling, batch = _choose_tiling(model, latent)
    shapes = (list(latent.shape), shape_batch(latent.shape, tiling, batch))
    # As the pack's PREPARE_SAMPLING hook asks; core asks for two conds where there are two.
    conds = 2 if model.cfg != 1 else 1
    whole, windows = (model.patcher.model.memory_required([conds * n, *s]) for n, *s in shapes)
    asked = min(whole, windows)
    reset_peak()
    before = torch.cuda.memory_allocated()
    sample(model, patched, latent, STEPS)
    peak = peak_bytes() - before
    row = {
        "check": "memory",
        "model": model.name,
        "peak_gib": peak / 2**30,
        "asked_gib": asked / 2**30,
        "whole_asked_gib": whole / 2**30,
    }
    print(
        f"{model.name:>10} peak {row['peak_gib']:.2f} GiB above the weights; asked for "
        f"{row['asked_gib']:.2f}, without the pack {row['whole_asked_gib']:.2f}",
        flush=True,
    )
    return [row]


def check_out_of_memory(model: GpuModel, image: torch.Tensor) -> list[dict]:
    """Run with less memory than the windows take, and compare with the run that had enough."""
    latent = _make_latent(model, image)
    runs: list[Any] = []
    patched = _attach(model, image, runs)
    expected = sample(model, patched, latent, STEPS)
    window_bytes = _measure_window(model, latent)
    total = torch.cuda.get_device_properties(0).total_memory
    rows = []
    for room in ROOM_IN_WINDOWS:
        torch.cuda.empty_cache()
        limit = torch.cuda.memory_allocated() + room * window_bytes
        torch.cuda.set_per_process_memory_fraction(limit / total)
        try:
            got = sample(model, patched, latent, STEPS)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        run = runs[-1]
        kept = run.kept()[0].expand_as(got)
        row = {
            "check": "out of memory",
            "model": model.name,
            "room_windows": room,
            "times_shrunk": run.times_shrunk,
            "batch": run.batch,
            "tile_px": run.tiling.tile * run.tiling.unit * CELL_PX,
            "kept_equal": bool(torch.equal(got[kept], latent[kept])),
            "change_error": float((got - expected).norm() / (expected - latent).norm()),
        }
        rows.append(row)
        print(
            f"{model.name:>10} memory for {room} windows: ran out {row['times_shrunk']} times, "
            f"went on with {row['batch']} windows of {row['tile_px']} px at a time; kept cells "
            f"equal: {row['kept_equal']}; difference {row['change_error']:.4f} of the change",
            flush=True,
        )
    return rows


def check_compiling(tiny: bool, side_px: int) -> list[dict]:
    """Count compiled graphs and time two runs of a shallow Flux, with and without the pack."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
    from torch._dynamo.utils import counters

    model = make_flux(tiny, **SHALLOW)
    image = load_photo(side_px)
    latent = _make_latent(model, image)
    rows = []
    for case in ("without the pack", "Shifted Feather"):
        for compiled in (False, True):
            torch._dynamo.reset()
            counters.clear()
            patcher = model.patcher.clone()
            if compiled:
                set_torch_compile_wrapper(
                    model=patcher,
                    backend="inductor",
                    options={"guard_filter_fn": skip_torch_compile_dict},
                )
            wrapped = patcher
            if case != "without the pack":
                wrapped = _attach(model, image, base=patcher)
            seconds = []
            for _ in range(2):
                synchronize()
                start = time.perf_counter()
                sample(model, wrapped, latent, STEPS)
                synchronize()
                seconds.append(time.perf_counter() - start)
            row = {
                "check": "torch.compile",
                "case": case,
                "compiled": compiled,
                "graphs": counters["stats"]["unique_graphs"],
                "first_s": seconds[0],
                "second_s": seconds[1],
            }
            rows.append(row)
            print(
                f"{case:>18} {'compiled' if compiled else 'eager':>9}: {row['graphs']} graphs, "
                f"first run {seconds[0]:.2f} s, second {seconds[1]:.2f} s",
                flush=True,
            )
    return rows


def _measure_window(model: GpuModel, latent: torch.Tensor) -> int:
    """Return the peak bytes above the weights of one window of the size that is planned first."""
    tiling, _ = _choose_tiling(model, latent)
    side = tiling.tile * tiling.unit
    window = model.latent(1, min(side, latent.shape[-2]), min(side, latent.shape[-1]))
    reset_peak()
    before = torch.cuda.memory_allocated()
    sample(model, model.patcher, window, 1)
    return peak_bytes() - before


def _choose_tiling(model: GpuModel, latent: torch.Tensor) -> tuple[Any, int]:
    from quadtree_pack.sampling.model import Geometry, Settings

    settings = Settings()
    tiling = Geometry.of(model.patcher).choose_tiling(settings, *latent.shape[-2:])
    return tiling, settings.batch


def _attach(
    model: GpuModel, image: torch.Tensor, runs: list[Any] | None = None, base: Any = None
) -> Any:
    """Return the model with the default tree; every run it opens is put into `runs`."""
    from quadtree_pack.sampling.model import Settings
    from quadtree_pack.tiled_diffusion import attach

    patched = attach(base or model.patcher, [build_default_tree(image)], Settings())
    if runs is not None:
        record_runs(patched.model_options["model_function_wrapper"], runs)
    return patched


def _make_latent(model: GpuModel, image: torch.Tensor) -> torch.Tensor:
    return model.latent(1, image.shape[0] // CELL_PX, image.shape[1] // CELL_PX)
