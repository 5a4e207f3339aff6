"""Time and memory of building a quadtree.

Three kinds of image: a photo scaled up (the usual case), flat (the fewest leaves) and noise (the
most leaves). Five ways: by color, by color and edges, by both with a cost budget, the measure of
fine detail alone, and the tree by coverage, which measures it and chooses tiles by their windows.
The sixth row of an image is the overlay that Quadtree Visualizer draws of the tree by coverage.

Memory is the peak of the process above what it held before, in float32 images; it is measured on
Linux only, and every case in a process of its own. The limits are targets on two CPU cores;
memory is to stay below 1.5 images. A build with a budget may take twice as long as one without;
the tree by coverage has no limit, since the choice takes as long for every size.
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
from typing import Any

PHOTO = Path(__file__).resolve().parent.parent / "demo" / "photo.png"
SIZES_PX = (1024, 2048, 4096, 8192)
KINDS = ("photo", "flat", "noise")
MIN_TILES_PX = (64, 16)
REPEATS = 5
LIMIT_S = {4096: 0.25, 8192: 1.0}  # by the image's side in px
BUDGET_LIMIT = 2  # times the seconds of the same build without a budget
WAYS: dict[str, dict] = {  # the first has no budget
    "color": {},
    "both": {"detail_metric": "both"},
    "budget": {"budget": 0.4},
    "detail": {},
    "coverage": {"content_threshold": 0.0},
    "overlay": {"content_threshold": 0.0},
}
WITHOUT_LIMIT = ("coverage", "overlay")
LINE_PX = 2
OPTIONS = {  # of every build, unless its way says otherwise; the others are the node's defaults
    "detail_metric": "color",
    "content_threshold": 25.0,
    "max_tile_px": 1024,
    "min_denoise": 0.0,
}
WARM_UP_PX = 512
RESET_PEAK = Path("/proc/self/clear_refs")  # on Linux
HEAD = " image  side px min tile      way   leaves  median s   min s  ns/px  memory  limit s"


def run() -> list[dict]:
    rows = []
    seconds_without_budget = 0.0
    print(HEAD)
    for kind, min_tile_px, side, way in cases():
        row = measure_in_own_process(kind, side, min_tile_px, way)
        if way == "color":
            seconds_without_budget = row["seconds_median"]
        elif way == "budget":
            row["limit_s"] = round(BUDGET_LIMIT * seconds_without_budget, 3)
        rows.append(row)
        print_row(row)
    return rows


def cases() -> Iterable[tuple[str, int, int, str]]:
    """Return (kind of image, smallest tile in px, side in px, way); `color` is an image's first."""
    return product(KINDS, MIN_TILES_PX, SIZES_PX, WAYS)


def print_row(row: dict) -> None:
    memory = "-" if row["extra_memory_images"] is None else f"{row['extra_memory_images']:.2f}"
    print(
        f"{row['kind']:>6} {row['side_px']:>8} {row['min_tile_px']:>8} {row['way']:>8} "
        f"{row['leaves']:>8} {row['seconds_median']:>9.3f} {row['seconds_min']:>7.3f} "
        f"{row['ns_per_px']:>6.1f} {memory:>7} {row['limit_s'] or '':>8}",
        flush=True,
    )


def measure_in_own_process(*case: str | int) -> dict:
    code = (
        "import json; from testing.registration import register_pack; register_pack(); "
        f"from quadtree_pack.benchmarks import build; print(json.dumps(build.measure(*{case!r})))"
    )
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def measure(kind: str, side: int, min_tile_px: int, way: str) -> dict:
    """Measure one case, in this process."""
    from quadtree_pack.tree.detail import BlockSums, needs_edges
    from quadtree_pack.tree.octaves import sum_octaves
    from quadtree_pack.ui.building import build_tree
    from quadtree_pack.ui.overlay import draw_overlay

    options: dict[str, Any] = {**OPTIONS, "min_tile_px": min_tile_px, **WAYS[way]}
    by_coverage = not options["content_threshold"]
    with_edges = needs_edges(options["detail_metric"])

    def build_from(image: Any) -> Any:
        sums = BlockSums.of_image(image, with_edges, by_coverage)
        return build_tree(sums, **options)[0]

    def build(image: Any) -> int:
        if way == "detail":
            return sum_octaves(image)[..., 0].numel()
        if way == "overlay" and image.shape[0] == side:
            draw_overlay(image, denoise, tree, LINE_PX)
            return len(tree.leaves)
        return len(build_from(image).leaves)

    image = make_image(kind, side)
    if way == "overlay":
        tree = build_from(image)
        denoise = tree.denoise_map(side, side).float()
    build(image[:WARM_UP_PX, :WARM_UP_PX])
    extra_memory = None
    if RESET_PEAK.exists():
        RESET_PEAK.write_text("5")  # resets the peak, says proc(5)
        before = peak_bytes()
        build(image)
        extra_memory = (peak_bytes() - before) / (image.numel() * 4)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        leaves = build(image)
        seconds.append(time.perf_counter() - start)
    return {
        "kind": kind,
        "side_px": side,
        "min_tile_px": min_tile_px,
        "way": way,
        "leaves": leaves,
        "seconds_median": median(seconds),
        "seconds_min": min(seconds),
        "ns_per_px": median(seconds) / side**2 * 1e9,
        "extra_memory_images": extra_memory,
        "limit_s": None if way in WITHOUT_LIMIT else LIMIT_S.get(side),
    }


def make_image(kind: str, side: int) -> Any:
    """Return a square image of this kind, [side, side, 3] in 0..1."""
    import numpy as np
    import torch
    import torch.nn.functional as F
    from PIL import Image

    torch.manual_seed(0)
    if kind == "noise":
        return torch.rand(side, side, 3)
    if kind == "flat":
        return torch.full((side, side, 3), 0.9)
    levels = torch.from_numpy(np.asarray(Image.open(PHOTO).convert("RGB")))
    photo = levels.permute(2, 0, 1)[None] / 255
    scaled = F.interpolate(photo, size=(side, side), mode="bilinear")[0]
    return scaled.permute(1, 2, 0).contiguous()


def peak_bytes() -> int:
    """Return the most memory that this process has held since the reset; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")
