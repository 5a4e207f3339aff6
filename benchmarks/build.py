"""Time and memory of building a quadtree. Targets: 4096 px in 0.25 s and 8192 px in 1.0 s on two cores, memory 1.5 images.

Three kinds of image: a photo scaled up (the usual case), flat (the fewest leaves) and noise (the most). Memory is the peak of
the process above what it held before, against the float32 image; each is measured in a process of its own. By colour, by
colour and edges, and by the former with a cost budget, whose limit is twice the time of a build without.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from statistics import median

PHOTO = Path(__file__).resolve().parent.parent / "demo" / "photo.png"
SIZES_PX = (1024, 2048, 4096, 8192)
KINDS = ("photo", "flat", "noise")
MIN_TILES_PX = (64, 16)
REPEATS = 5
LIMIT_S = {4096: 0.25, 8192: 1.0}
WAYS = {"color": {}, "both": {"detail_metric": "both"}, "budget": {"budget": 0.4}}


def image_of(kind: str, side: int):
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image

    torch.manual_seed(0)
    if kind == "noise":
        return torch.rand(side, side, 3)
    if kind == "flat":
        return torch.full((side, side, 3), 0.9)
    photo = (
        torch.from_numpy(np.asarray(Image.open(PHOTO).convert("RGB"))).permute(2, 0, 1)[None] / 255
    )
    return F.interpolate(photo, size=(side, side), mode="bilinear")[0].permute(1, 2, 0).contiguous()


def peak_bytes() -> int:
    """The most memory this process has held; Linux only, where it can be reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(kind: str, side: int, min_tile_px: int, way: str) -> dict:
    """One case, in this process."""
    from quadtree_pack.tree.detail import CellSums, needs_edges
    from quadtree_pack.ui.budget import build_for_cost

    options = {
        "budget": 0.0,
        "detail_metric": "color",
        "content_threshold": 25.0,
        "mask": None,
        "mask_mode": "multiply",
    }
    options |= {"min_tile_px": min_tile_px, "min_denoise": 0.0, **WAYS[way]}

    def build(image):
        return build_for_cost(
            CellSums.of_image(image, needs_edges(options["detail_metric"])), **options
        )[0]

    image = image_of(kind, side)
    build(image[:512, :512])  # warm-up
    reset = Path("/proc/self/clear_refs")
    extra = None
    if reset.exists():
        reset.write_text("5")
        before = peak_bytes()
        build(image)
        extra = (peak_bytes() - before) / (image.numel() * 4)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        tree = build(image)
        seconds.append(time.perf_counter() - start)
    return {
        "kind": kind,
        "side_px": side,
        "min_tile_px": min_tile_px,
        "way": way,
        "leaves": len(tree.leaves),
        "seconds_median": median(seconds),
        "seconds_min": min(seconds),
        "ns_per_px": median(seconds) / side**2 * 1e9,
        "extra_memory_images": extra,
        "limit_s": LIMIT_S.get(side),
    }


def run() -> list[dict]:
    rows = []
    print(" image  side px min tile    way   leaves  median s   min s  ns/px  memory  limit s")
    for kind, min_tile_px, side, way in cases():
        row = in_own_process(kind, side, min_tile_px, way)
        rows.append(row)
        if way == "budget":
            row["limit_s"] = round(2 * rows[-len(WAYS)]["seconds_median"], 3)
        memory = "-" if row["extra_memory_images"] is None else f"{row['extra_memory_images']:.2f}"
        print(
            f"{kind:>6} {side:>8} {min_tile_px:>8} {way:>6} {row['leaves']:>8} {row['seconds_median']:>9.3f} "
            f"{row['seconds_min']:>7.3f} {row['ns_per_px']:>6.1f} {memory:>7} {row['limit_s'] or '':>8}",
            flush=True,
        )
    return rows


def cases() -> Iterable[tuple[str, int, int, str]]:
    """(kind of image, smallest tile in px, side in px, way), the ways of one image together."""
    return product(KINDS, MIN_TILES_PX, SIZES_PX, WAYS)


def in_own_process(*case: str | int) -> dict:
    code = "import json; from testing.registration import register_pack; register_pack(); "
    code += (
        f"from quadtree_pack.benchmarks import build; print(json.dumps(build.measure(*{case!r})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout.splitlines()[-1])
