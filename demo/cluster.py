"""Refines the demo's photo on a cluster of two workers on this machine, and draws who did what.

python -m demo.cluster [--steps N]

COMFYUI_PATH names the ComfyUI folder; `python dev.py cluster-demo` sets it up. All runs on the CPU.
"""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path
from typing import Any

from testing.registration import register_comfyui, register_pack

WORKERS = 2
SCALE = 6  # of the photo: enough windows for three
DENOISE = 0.6
TINTS = ((240, 120, 40), (40, 150, 240), (90, 200, 90))
READY_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py cluster-demo", description=__doc__)
    parser.add_argument("--steps", type=int, default=8, metavar="N")
    steps = parser.parse_args().steps
    register_pack()
    register_comfyui("--cpu")
    import torch

    # Each process with its part of this machine's cores.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // (WORKERS + 1)))
    print(f"Starting a Ray cluster with {WORKERS} workers on this machine ...", flush=True)
    refined = refine(steps)
    print(refined["told"], *refined["notes"], sep="\n")
    print(
        f"alone {refined['alone_s']:.1f} s, with {WORKERS} workers {refined['together_s']:.1f} s "
        f"on {os.cpu_count()} cores; the same picture: {refined['equal']}"
    )
    print(f"Who evaluated what, at the step with most windows: {refined['picture']}")
    return 0 if refined["equal"] else 1


def refine(steps: int) -> dict[str, Any]:
    """Refine the photo with and without workers; leave the picture and return what is told."""
    import torch
    from quadtree_pack.cluster.crew import CREW, attach_cluster
    from quadtree_pack.demo import folders
    from quadtree_pack.sampling.parallel import TEAM
    from quadtree_pack.testing import refiner

    folders.prepare_base(folders.BASE)
    os.environ["COMFYUI_OPTIONS"] = shlex.join(["--cpu", "--base-directory", str(folders.BASE)])
    prompt = {
        "1": {"class_type": "TinyRefinerLoader", "inputs": {}},
        "2": {"class_type": "QuadtreeCluster", "inputs": {"model": ["1", 0], "workers": WORKERS}},
    }
    model, vae, cond = refiner.load_as_it_is()
    told: list[str] = []
    shared = attach_cluster(model, prompt, "2", WORKERS, told.append)
    try:
        cluster = shared.model_options[TEAM]
        await_workers(cluster.remotes, cluster.identity)
        single = shared.clone()
        single.model_options[TEAM] = cluster.without_workers()
        picture = load_photo(folders.DEMO / "photo.png")
        alone, _, alone_s = sample(single, vae, cond, picture, steps)
        together, run, together_s = sample(shared, vae, cond, picture, steps)
    finally:
        CREW.dismiss()
    folders.OUTPUT.mkdir(exist_ok=True)
    target = folders.OUTPUT / "cluster.png"
    draw_shares(vae.decode(together)[0], run.shares).save(target)
    return {
        "told": told[-1],
        "notes": run.notes,
        "alone_s": alone_s,
        "together_s": together_s,
        "equal": torch.equal(alone, together),
        "picture": target,
    }


def await_workers(remotes: list, identity: dict[str, str]) -> None:
    """Wait until all workers have the model; LostError in words where one cannot."""
    start_s = time.monotonic()
    for remote in remotes:
        remote.await_model(identity, lambda: time.monotonic() - start_s > READY_S)
        print(f"  {remote.name} is ready after {time.monotonic() - start_s:.0f} s", flush=True)


def load_photo(path: Path) -> Any:
    """Return the photo, enlarged, as [H, W, 3] in 0..1."""
    import numpy as np
    import torch
    from PIL import Image

    photo = Image.open(path).convert("RGB")
    large = photo.resize([SCALE * side for side in photo.size], Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(large).astype("float32") / 255)


def sample(model: Any, vae: Any, cond: list, picture: Any, steps: int) -> tuple[Any, Any, float]:
    """Return the refined latent, the run and its seconds."""
    import comfy.sample
    from quadtree_pack.sampling.model import Settings
    from quadtree_pack.testing import refiner
    from quadtree_pack.testing.trees import build_default_tree

    tree = build_default_tree(picture)
    runs: list = []
    model = refiner.attach_recorded(model, [tree], Settings(), runs, small_model=True)
    latent = vae.encode(picture[None])
    noise = comfy.sample.prepare_noise(latent, refiner.SEED)
    arguments = (model, noise, steps, 1.0, "euler", "simple", cond, cond, latent)
    start_s = time.monotonic()
    samples = comfy.sample.sample(*arguments, denoise=DENOISE, seed=1, disable_pbar=True)
    return samples, runs[0], time.monotonic() - start_s


def draw_shares(picture: Any, shares: list, cell_px: int = 8) -> Any:
    """Return the picture [H, W, 3] in 0..1 with the windows of its busiest step, tinted by whom."""
    from PIL import Image, ImageDraw

    names = sorted({share.name for share in shares})
    steps = [share.step for share in shares]
    busiest = max(set(steps), key=steps.count, default=0)
    image = Image.fromarray((picture.clamp(0, 1) * 255).byte().numpy())
    tinted = image.copy()
    draw = ImageDraw.Draw(tinted)
    for share in shares:
        if share.step == busiest:
            tint = TINTS[names.index(share.name) % len(TINTS)]
            edges = [edge * cell_px for edge in share.box]
            draw.rectangle((*edges[:2], edges[2] - 1, edges[3] - 1), fill=tint)
    image = Image.blend(image, tinted, 0.35)
    draw = ImageDraw.Draw(image)
    for share in shares:
        if share.step == busiest:
            edges = [edge * cell_px for edge in share.box]
            draw.rectangle((*edges[:2], edges[2] - 1, edges[3] - 1), outline="white", width=2)
    for number, name in enumerate(names):
        count = sum(share.name == name for share in shares)
        box = (16, 16 + 44 * number, 520, 52 + 44 * number)
        draw.rectangle(box, fill=TINTS[number % len(TINTS)])
        draw.text((28, 22 + 44 * number), f"{name}: {count} windows", fill="black", font_size=22)
    return image


if __name__ == "__main__":
    raise SystemExit(main())
