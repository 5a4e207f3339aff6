"""What a tile with a denoise gets, by sampler: our run against a plain img2img run.

Tiny models of SD1.5 and Flux, made local (what leaves them at a place depends on what goes in
there only), so that a tile's neighbours and the windows have no part in the result. One run of 20
steps has tiles of each denoise, and the rest of the canvas is kept, or free. The plain run has the
same noise and begins at the step that releases the tile.

- **difference**: of the two results deep inside the tile, as a root mean square divided by that of
  the change which the plain run made. A sampler is exact below EXACT; that is rounding.
- **from_euler**: the same for two plain runs, of euler and of the sampler.

Left out is a sampler that draws noise while it samples: it draws other noise in a run that begins
elsewhere, so two of its runs are never equal.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from quadtree_pack.testing.registration import register_comfyui

MODELS = ("sd15", "flux")
STEPS = 20
CEILING = 0.7  # KSampler's denoise
DENOISES = (0.3, 0.5, 0.8)
RESTS = {"kept": 0.0, "free": 1.0}
TILE = 16  # cells
INSIDE = 4  # cells from the tile's border on that are not compared
EXACT = 1e-4
SAMPLERS: tuple[str, ...] = ()  # all of ComfyUI's


def run() -> list[dict]:
    register_comfyui("--cpu")
    torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it gains
    logging.disable(logging.INFO)  # of ComfyUI and the pack: one line per run
    warnings.filterwarnings("ignore", category=UserWarning)  # of samplers of ComfyUI
    import comfy.samplers

    rows: list[dict] = []
    left_out = []
    heads = [f"{model} {denoise}" for model in MODELS for denoise in DENOISES]
    print(f"{'difference, % of the change':>28} " + " ".join(f"{head:>8}" for head in heads))
    for sampler in SAMPLERS or comfy.samplers.KSampler.SAMPLERS:
        if draws_noise(sampler):
            left_out.append(sampler)
            continue
        found = [row for model in MODELS for row in measure(model, sampler)]
        rows += found
        for column in ("difference", "from_euler"):
            label = sampler if column == "difference" else "euler's"
            print(f"{label:>28} " + " ".join(f"{one:>8}" for one in worst_of(found, column)))
    exact = [name for name in dict.fromkeys(row["sampler"] for row in rows) if is_exact(rows, name)]
    print("exact:", ", ".join(exact))
    print("left out, since they draw noise:", ", ".join(left_out))
    return rows


def worst_of(rows: Iterable[dict], column: str) -> list[str]:
    """Return the larger number of both canvases per model and denoise, as text in percent."""
    worst: dict[tuple, float] = {}
    for row in rows:
        key = row["model"], row["denoise"]
        worst[key] = max(worst.get(key, 0.0), row[column])
    return ["exact" if one < EXACT else f"{100 * one:.1f}" for one in worst.values()]


def is_exact(rows: Iterable[dict], sampler: str) -> bool:
    return all(row["difference"] < EXACT for row in rows if row["sampler"] == sampler)


def draws_noise(sampler: str) -> bool:
    """Tell whether a plain run with the same noise to begin with depends on the seed."""
    first, second = (sample_on(MODELS[0], sampler, seed=seed, size=1) for seed in (1, 2))
    return not torch.equal(first, second)


def measure(name: str, sampler: str) -> list[dict]:
    """Return a row per denoise and canvas."""
    from quadtree_pack.testing.local_models import local
    from quadtree_pack.testing.support import patched

    entry = local(name)
    latent = entry.latent(2 * TILE, 2 * TILE)
    rows = []
    for rest, filler in RESTS.items():
        samples = sample_on(name, sampler, model=patched(entry, build_tree(filler)))
        for number, denoise in enumerate(DENOISES):
            inside, start = look_inside(number), STEPS - round(denoise * STEPS)
            plain, euler = (sample_late(name, which, start)[inside] for which in (sampler, "euler"))
            change = plain - latent[inside]
            row = {"sampler": sampler, "model": name, "denoise": denoise, "rest": rest}
            row["difference"] = compare(samples[inside] - plain, change)
            row["from_euler"] = compare(euler - plain, change)
            rows.append(row)
    return rows


def compare(difference: torch.Tensor, change: torch.Tensor) -> float:
    """Return the root mean square of the difference, divided by that of the change."""
    return float(difference.square().mean().sqrt() / change.square().mean().sqrt())


def build_tree(rest: float) -> Any:
    """Return a tree of two by two tiles: those of DENOISES, and the rest."""
    from quadtree_pack.quadtree import Quadtree
    from quadtree_pack.tree.leaves import Leaf

    side = 8 * TILE  # px
    leaves = []
    for number, denoise in enumerate([*DENOISES, rest]):
        y, x = (side * place for place in divmod(number, 2))
        leaves.append(Leaf(x, y, x + side, y + side, side, 0.0, denoise))
    return Quadtree.from_leaves(2 * side, 2 * side, side, tuple(leaves))


def look_inside(number: int) -> tuple[Any, ...]:
    """Return where in a latent the tile of that number is, without its border."""
    starts = [TILE * place + INSIDE for place in divmod(number, 2)]
    return ..., *(slice(start, start + TILE - 2 * INSIDE) for start in starts)


@cache
def sample_late(name: str, sampler: str, start_step: int) -> torch.Tensor:
    """Return what a plain run makes that begins at this step."""
    return sample_on(name, sampler, start_step=start_step)


def sample_on(
    name: str, sampler: str, *, size: int = 2, seed: int = 42, **options: Any
) -> torch.Tensor:
    """Sample a latent of `size` by `size` tiles as core's KSampler does, from the same noise."""
    import comfy.sample
    from quadtree_pack.testing.local_models import local
    from quadtree_pack.testing.tiny_models.building import sample

    entry = local(name)
    latent = entry.latent(size * TILE, size * TILE)
    noise = comfy.sample.prepare_noise(latent, 42)
    run = {"steps": STEPS, "sampler": sampler, "denoise": CEILING, "seed": seed, "noise": noise}
    return sample(entry, latent, **run, **options)
