"""What a Ray cluster costs per call, and how well a step is shared by many workers.

The first table is measured here: a message of so many MB to an actor and back, packed as windows
are, on one node and between two nodes on loopback; the median of 30 calls, one at a time and with
two in flight.

The second table is simulated. The plans are the ones that runs on `coffee` make (20 steps, denoise
0.2 to 0.8), with windows priced by the measured times of Flux-dev on an H200 (h200_cost.json).
Batches go out as in a run, the dearest first, each to whoever would be done with it first; all
windows pass the head's network card. Efficiency is the time of one GPU with the default settings
over that of all, times their number (slow ones count as halves); 1 means that nothing is lost.
Numbers are Gbit/s; with "halves" every second GPU is half as fast, and with "busy head" its CPU
takes HEAD_S for each window that it sends. With "workers 0" windows are those of a run without
Quadtree Cluster, one per call; with "workers N" they are cut for as many as there are. "bound" is
what no plan reaches, since the head's network card sends one worker's first window after the other,
and so receives the last ones. Planning is not counted.

The third table tells where the rest of the time goes, with "workers N" and 10 Gbit/s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from quadtree_pack.testing.photos import photo

from ..cluster.joining import SEND_DIRECTLY
from .plan import CELL_PX, LONG_SIDE_PX, STEPS, per_cell

SIZES_MB = (0.1, 0.5, 1, 2, 4, 8)
CALLS, IN_FLIGHT = 30, 2
PHOTO, DENOISE = "coffee", (0.2, 0.8)
SIDES_PX = (4096, 8192, 16384)
WORKERS = (1, 2, 4, 8, 16, 32, 64)
LATENCY_S = 0.003  # per call, between two nodes
HEAD_S = 0.0008  # to cut, pack and send a window, on a busy core of the head
CHANNELS, BYTES = 16, 2  # of a window on its way, there and back, in bfloat16

Batch = tuple[float, int]  # of windows: its seconds on one GPU, and its cells


class Network(NamedTuple):
    """How windows travel; `head_s` are the head's seconds for each, in which it sends no other."""

    gbit: float
    latency_s: float = LATENCY_S
    head_s: float = 0.0

    def travel(self, cells: float) -> float:
        """Return the seconds for which a window of so many cells keeps the head's network card."""
        return cells * CHANNELS * BYTES * 8 / (self.gbit * 1e9)

    def send(self, cells: float) -> float:
        """Return the seconds between a window of so many cells and the next that is sent."""
        return max(self.head_s, self.travel(cells))


NETWORK = Network(10.0)
IDEAL = Network(float("inf"), latency_s=0.0)
# A name, the network, and whether halves take part.
CASES = (
    ("10", NETWORK, False),
    ("25", Network(25.0), False),
    ("1", Network(1.0), False),
    ("10, halves", NETWORK, True),
    ("10, busy head", NETWORK._replace(head_s=HEAD_S), False),
)


def run() -> list[dict]:
    return [*measure_calls(), *simulate_all()]


# --- Calls ----------------------------------------------------------------------------------------


def measure_calls() -> list[dict]:
    """Return the median milliseconds of a call, by size and place; print them."""
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="3b9a" * 16)
    os.environ.update(SEND_DIRECTLY, RAY_USAGE_STATS_ENABLED="0")
    import ray
    from ray.cluster_utils import Cluster

    common = {"num_cpus": 1, "object_store_memory": 200_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**common, "resources": {"here": 1}, "include_dashboard": False},
    )
    cluster.add_node(**common, resources={"there": 1})
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    rows = []
    try:
        print(
            f"{'MB':>6} {'one node':>10} {'in flight':>10} {'two nodes':>10} {'in flight':>10}  ms"
        )
        actors = [make_echo(ray, place) for place in ("here", "there")]
        for size_mb in SIZES_MB:
            row: dict[str, Any] = {"mb": size_mb}
            for name, echo in zip(("one_node", "two_nodes"), actors, strict=True):
                row[f"{name}_ms"] = time_calls(ray, echo, size_mb, 1)
                row[f"{name}_in_flight_ms"] = time_calls(ray, echo, size_mb, IN_FLIGHT)
            rows.append(row)
            print(" ".join(f"{value:>10.1f}" for value in row.values())[4:], flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return rows


def make_echo(ray: Any, place: str) -> Any:
    """Return an actor at a place that answers what it is sent."""

    class Echo:
        def answer(self, message: Any) -> Any:
            kind, (name, shape, data) = message
            return kind, (name, shape, data.copy())

    return ray.remote(Echo).options(num_cpus=0, resources={place: 1}).remote()


def time_calls(ray: Any, echo: Any, size_mb: float, in_flight: int) -> float:
    """Return the median milliseconds between answers, with so many calls in flight."""
    message = ("tensor", ("torch.float32", (1,), np.zeros(int(size_mb * 1e6), np.uint8)))
    ray.get(echo.answer.remote(message))
    flying = [echo.answer.remote(message) for _ in range(in_flight - 1)]
    seconds = []
    for _ in range(CALLS):
        start_s = time.perf_counter()
        flying.append(echo.answer.remote(message))
        ray.get(flying.pop(0))
        seconds.append(time.perf_counter() - start_s)
    ray.get(flying)
    return 1000 * median(seconds)


# --- Simulation -----------------------------------------------------------------------------------


def simulate_all() -> list[dict]:
    """Return the efficiency of each case, and what is lost to what; print them."""
    from quadtree_pack.quadtree import build_quadtree

    least, most = DENOISE
    tree = build_quadtree(photo(PHOTO, LONG_SIDE_PX), min_denoise=least, max_denoise=most)
    columns = " ".join(f"{workers:>5}" for workers in WORKERS)
    print(f"\n{'px':>6} {'windows':>10} {'Gbit/s':>14} {columns}  GPUs")
    rows, losses = [], []
    for side_px in SIDES_PX:
        sides = (side * side_px // LONG_SIDE_PX // CELL_PX for side in (tree.height, tree.width))
        height, width = sides
        alone = plan_batches(tree, height, width)
        single = plan_batches(tree, height, width, shares=1)
        cut = {count: plan_batches(tree, height, width, shares=count) for count in WORKERS}
        for label, network, halves in CASES:
            values: dict[str, list[float]] = {"workers 0": [], "workers N": [], "bound": []}
            for count in WORKERS:
                speeds = speeds_of(count, halves=halves)
                values["workers 0"].append(simulate(single, speeds, network, time_alone(alone)))
                values["workers N"].append(simulate(cut[count], speeds, network, time_alone(alone)))
                values["bound"].append(bound(alone, cut[count], speeds, network))
            for name, row in values.items():
                facts = {"px": side_px, "windows": name, "network": label}
                rows.append({**facts, **dict(zip(map(str, WORKERS), row, strict=True))})
                numbers = " ".join(f"{value:>5.2f}" for value in row)
                print(f"{side_px:>6} {name:>10} {label:>14} {numbers}", flush=True)
        for count in WORKERS[1:]:
            lost = find_losses(alone, cut[count], count)
            losses.append({"px": side_px, "gpus": count, **lost})
    print_losses(losses)
    return rows + losses


def print_losses(losses: Sequence[dict]) -> None:
    names = [name for name in losses[0] if name not in ("px", "gpus")]
    print(f"\n{'px':>6} {'GPUs':>5} " + " ".join(f"{name:>16}" for name in names))
    for row in losses:
        numbers = " ".join(f"{row[name]:>16.1%}" for name in names)
        print(f"{row['px']:>6} {row['gpus']:>5} {numbers}")


def speeds_of(workers: int, *, halves: bool) -> list[float]:
    """Return how fast each is, the head first; with `halves` every second one is half as fast."""
    return [0.5 if halves and number % 2 else 1.0 for number in range(workers)]


def plan_batches(
    tree: Any, height: int, width: int, shares: int | None = None
) -> list[list[Batch]]:
    """Return the batches of windows of each step.

    `shares` is what Quadtree Cluster has windows cut for, 1 for none; None: without that node.
    """
    from quadtree_pack.sampling.maps import build_denoise_maps
    from quadtree_pack.sampling.model import TRANSFORMER_COST, Geometry, Settings
    from quadtree_pack.sampling.run import create_run
    from quadtree_pack.windows.shapes import batch_windows

    geometry = Geometry(px_per_cell=CELL_PX, unit=2, native_px=1024, cost=TRANSFORMER_COST)
    settings = Settings(overlap_px=64)
    maps = build_denoise_maps([tree], settings, geometry, height, width)
    run = create_run(None, settings, geometry, maps)
    if shares is not None:
        run.expect_helpers(shares)
    run.start([float(STEPS - step) for step in range(STEPS + 1)])
    steps = []
    for step in range(STEPS):
        windows = run.layouts.windows(step)
        batches = []
        for numbers in batch_windows(windows, run.choose_batch(windows)):
            box = windows[numbers[0]].box
            cells = box.height * box.width
            batches.append((price(cells, len(numbers)), cells * len(numbers)))
        steps.append(batches)
    return steps


def price(cells: int, windows: int) -> float:
    """Return the seconds of one batch of windows of so many cells."""
    alone, together = per_cell(cells, 1), min(per_cell(cells, 1), per_cell(cells, 4))
    return windows * cells * (alone + (together - alone) * (windows - 1) / 3)


def time_alone(steps: Sequence[Sequence[Batch]]) -> float:
    """Return the seconds of a run on one GPU."""
    return sum(seconds for batches in steps for seconds, _ in batches)


def simulate(
    steps: Sequence[Sequence[Batch]], speeds: Sequence[float], network: Network, alone_s: float
) -> float:
    """Return the efficiency of GPUs of these speeds, the first the head's, against one alone."""
    together_s = sum(time_step(batches, speeds, network) for batches in steps)
    return alone_s / (together_s * sum(speeds))


def find_losses(
    alone: Sequence[Sequence[Batch]], steps: Sequence[Sequence[Batch]], gpus: int
) -> dict[str, float]:
    """Return which share of all time of so many equal GPUs is lost to what, and what is left."""
    speeds = [1.0] * gpus
    without_travel = NETWORK._replace(gbit=float("inf"))
    times = [time_alone(alone) / gpus, time_alone(steps) / gpus]
    for network in (IDEAL, without_travel, NETWORK):
        times.append(sum(time_step(batches, speeds, network) for batches in steps))
    names = ("smaller windows", "uneven shares", "calls", "network")
    lost = {
        name: (later - earlier) / times[-1]
        for name, earlier, later in zip(names, times[:-1], times[1:], strict=True)
    }
    return {**lost, "used": times[0] / times[-1]}


def bound(
    alone: Sequence[Sequence[Batch]],
    steps: Sequence[Sequence[Batch]],
    speeds: Sequence[float],
    network: Network,
) -> float:
    """Return the efficiency if windows cost what they do alone and were shared without a rest.

    The k-th worker's first window has to wait for those of k - 1 others, or its last result for
    theirs: together they wait once for a window of every worker, half of it there and half back,
    and for the latency. Some may be left out.
    """
    fastest = sorted(speeds, reverse=True)
    together_s = 0.0
    for whole, cut in zip(alone, steps, strict=True):
        if whole:
            cells = median(cells for _, cells in cut)
            wait_s = (network.send(cells) + network.travel(cells)) / 2
            computing = sum(seconds for seconds, _ in whole)
            together_s += min(
                computing / sum(fastest[:count])
                + (count - 1) * (wait_s + network.latency_s / count)
                for count in range(1, len(speeds) + 1)
            )
    return time_alone(alone) / (together_s * sum(speeds))


def time_step(batches: Sequence[Batch], speeds: Sequence[float], network: Network) -> float:
    """Return the seconds of a step.

    A window travels while its worker computes the one before. The head sends one after the other,
    and so receives results, as they come.
    """
    free, sent = [0.0] * len(speeds), 0.0
    results: list[tuple[float, float]] = []  # when each leaves its worker, and its travel
    for seconds, cells in sorted(batches, reverse=True):
        arrival = sent + network.send(cells) + network.latency_s / 2
        ends = [
            max(ready, arrival if worker else 0.0) + seconds / speed
            for worker, (ready, speed) in enumerate(zip(free, speeds, strict=True))
        ]
        due = ends.index(min(ends))
        free[due] = ends[due]
        if due:
            sent += network.send(cells)
            results.append((ends[due], network.travel(cells)))
    received = 0.0
    for end, travel in sorted(results):
        received = max(received, end) + travel
    return max(free[0], received + network.latency_s / 2 if results else 0.0)
