"""The same work by Quadtree Diffusion, by other packs and without any, in one process.

Three photos, made soft as an upscale is, are refined with the demo's Tiny Refiner on the CPU: so
many of the last steps that the busiest tile gets as many. Tiles of 512 px and an overlap of 64 px
in every pack, else each pack's defaults; the tree is that of the untouched node. Everyone takes
turns, and the seconds are the median of the rounds. A last pair of rows is a transformer with
attention over the whole image, at 2048 px.

`cells` are evaluated model cells in canvases. `moved` is the largest change of a latent cell that
the tree keeps. `memory` is the peak of the process during a run above what it held before, in MB;
Linux only. Other packs are folders given by `--packs`; none of them is part of this project.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from quadtree_pack.testing.photos import photo
from quadtree_pack.testing.registration import ROOT, register_comfyui
from quadtree_pack.testing.trees import build_default_tree

from .build import RESET_PEAK, peak_bytes

PHOTOS = ("astronaut", "coffee", "chelsea")
LONG_SIDE_PX, SOFTER = 1536, 2  # px, and how many times the photo was shrunk before
TILE_PX, OVERLAP_PX = 512, 64
STEPS, DENOISE = 20, 0.8  # of the whole schedule, and the share of it that is refined
ROUNDS = 3
TRANSFORMER_PX, TRANSFORMER_STEPS = 2048, 5
TARGET = 1.7  # times as fast as TiledDiffusion
SEED = 7
CELL_PX = 8
HEAD = "picture       what                        seconds   cells     moved  memory MB"


@dataclass(frozen=True)
class Scene:
    """What everyone refines: a model, and a latent [1, C, h, w] with its tree."""

    name: str
    model: Any
    vae: Any
    conds: tuple[list, list]
    latent: torch.Tensor
    tree: Any
    steps: int


def run(packs: Iterable[Path] = ()) -> list[dict]:
    register_comfyui("--cpu")
    # The project's nodes.py would hide ComfyUI's own from other packs.
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    torch.set_num_threads(2)
    loaded = load_packs(list(packs))
    logging.disable(logging.INFO)  # of ComfyUI and the packs: lines for every run
    rows = []
    print(HEAD)
    for scene in make_scenes():
        rows += measure(scene, {**ours(), **others(loaded)})
    rows += measure(make_transformer_scene(), ours())
    report(rows)
    return rows


def load_packs(folders: list[Path]) -> set[str]:
    """Load packs as ComfyUI does, and return the ids of the nodes that there are now."""
    from .neighbours import load

    for pack in load(folders) if folders else ():
        if pack.problem:
            raise SystemExit(f"{pack.name} did not load: {pack.problem}")
    import nodes

    return set(nodes.NODE_CLASS_MAPPINGS)


# --- Who takes part -------------------------------------------------------------------------------


def ours() -> dict[str, Callable]:
    """Return the runs that need no other pack, by name."""
    return {
        "no pack": sample_last_steps,
        "Shifted Feather": partial(sample_with_tree, method="Shifted Feather"),
        "SpotDiffusion": partial(sample_with_tree, method="SpotDiffusion"),
    }


def others(loaded: set[str]) -> dict[str, Callable]:
    """Return the runs of those other packs' nodes that are loaded, by name."""
    known = {"TiledDiffusion": tiled_diffusion, "UltimateSDUpscaleNoUpscale": ultimate}
    return {node_id: refine for node_id, refine in known.items() if node_id in loaded}


def sample(scene: Scene, model: Any, skipped: int) -> torch.Tensor:
    import comfy.sample

    noise = comfy.sample.prepare_noise(scene.latent, SEED)
    run = (model, noise, scene.steps, 1.0, "euler", "simple", *scene.conds, scene.latent)
    return comfy.sample.sample(*run, start_step=skipped, seed=SEED, disable_pbar=True)


def sample_last_steps(scene: Scene, model: Any) -> torch.Tensor:
    return sample(scene, model, scene.steps - round(DENOISE * scene.steps))


def sample_with_tree(scene: Scene, model: Any, method: str) -> torch.Tensor:
    from quadtree_pack.sampling.model import Settings
    from quadtree_pack.tiled_diffusion import attach

    settings = Settings(method=method, tile_px=TILE_PX, overlap_px=OVERLAP_PX)
    return sample(scene, attach(model, [scene.tree], settings), 0)


def tiled_diffusion(scene: Scene, model: Any) -> torch.Tensor:
    from quadtree_pack.testing.packs import call

    tile = {"tile_width": TILE_PX, "tile_height": TILE_PX, "tile_overlap": OVERLAP_PX}
    return sample_last_steps(scene, call("TiledDiffusion", model=model, **tile))


def ultimate(scene: Scene, model: Any) -> torch.Tensor:
    """Return the latent of the node's image, which holds 8 bits a channel."""
    from quadtree_pack.testing.packs import call

    tile = {"tile_width": TILE_PX, "tile_height": TILE_PX, "tile_padding": OVERLAP_PX}
    run = {"seed": SEED, "steps": round(DENOISE * scene.steps), "denoise": DENOISE, "cfg": 1.0}
    image = call(
        "UltimateSDUpscaleNoUpscale",
        upscaled_image=scene.vae.decode(scene.latent),
        model=model,
        vae=scene.vae,
        positive=scene.conds[0],
        negative=scene.conds[1],
        scheduler="simple",
        **{**tile, **run},
    )
    return scene.vae.encode(image)


# --- What is refined ------------------------------------------------------------------------------


def make_scenes() -> Iterable[Scene]:
    from quadtree_pack.testing.refiner import load

    model, vae, cond = load()
    for name in PHOTOS:
        picture = soften(photo(name, LONG_SIDE_PX))
        tree = build_default_tree(picture)
        yield Scene(name, model, vae, (cond, cond), vae.encode(picture[None]), tree, STEPS)


def make_transformer_scene() -> Scene:
    from quadtree_pack.testing.tiny_models import entry_of

    entry = entry_of("flux")
    picture = soften(photo(PHOTOS[0], TRANSFORMER_PX))
    latent = entry.latent(*(side // CELL_PX for side in picture.shape[:2]))
    conds = (entry.positive, entry.negative)
    tree = build_default_tree(picture)
    return Scene("transformer", entry.model, None, conds, latent, tree, TRANSFORMER_STEPS)


def soften(picture: torch.Tensor) -> torch.Tensor:
    """Return a picture [H, W, 3] as an upscale leaves it, without its finest detail."""
    height, width = picture.shape[:2]
    image = picture.movedim(-1, 0)[None]
    small = torch.nn.functional.interpolate(image, scale_factor=1 / SOFTER, mode="area")
    large = torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic")
    return large[0].movedim(0, -1).clamp(0, 1).contiguous()


# --- Rows -----------------------------------------------------------------------------------------


def measure(scene: Scene, contestants: dict[str, Callable]) -> list[dict]:
    """Return a row for each contestant; all take their turn in every round."""
    rounds: dict[str, list[dict]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, refine in contestants.items():
            rounds[name].append(measure_run(scene, refine))
    rows = []
    for name, runs in rounds.items():
        seconds = median(run["seconds"] for run in runs)
        rows.append({"picture": scene.name, "what": name, **runs[-1], "seconds": seconds})
        print(format_row(rows[-1]), flush=True)
    return rows


def measure_run(scene: Scene, refine: Callable) -> dict:
    from quadtree_pack.testing.support import Spy

    spy = Spy(scene.model)
    memory = None
    if RESET_PEAK.exists():
        ctypes.CDLL(None).malloc_trim(0)  # what earlier runs freed would hide what this one takes
        RESET_PEAK.write_text("5")
        memory = -peak_bytes()
    start = time.perf_counter()
    samples = refine(scene, spy.model)
    seconds = time.perf_counter() - start
    kept = scene.tree.denoise_map(*scene.latent.shape[-2:]) == 0
    moved = (samples - scene.latent)[..., kept].abs().max() if bool(kept.any()) else 0
    return {
        "seconds": seconds,
        "cells": spy.cells / scene.latent[:, 0].numel(),
        "moved": float(moved),
        "memory_mb": None if memory is None else (memory + peak_bytes()) / 1e6,
    }


def format_row(row: dict) -> str:
    memory = "-" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
    return (
        f"{row['picture']:<13} {row['what']:<27} {row['seconds']:>7.2f} {row['cells']:>7.1f} "
        f"{row['moved']:>9.1e} {memory:>10}"
    )


def report(rows: list[dict]) -> None:
    """Print how many times as fast as others the pack is, picture by picture."""
    seconds = {(row["picture"], row["what"]): row["seconds"] for row in rows}
    for picture in dict.fromkeys(row["picture"] for row in rows):
        for method in ("Shifted Feather", "SpotDiffusion"):
            times = [
                f"{other} {seconds[picture, other] / seconds[picture, method]:.2f}"
                for name, other in seconds
                if name == picture and other not in ("Shifted Feather", "SpotDiffusion")
            ]
            print(f"{picture}: {method} is faster by: {', '.join(times)}")
    print(f"The target is {TARGET} times TiledDiffusion, and above 1 for the transformer.")
