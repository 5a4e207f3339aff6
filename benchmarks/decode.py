"""Quadtree VAE Decode against a full decode: seconds, peak memory, and how far what changed is from the full decode.

On a CUDA device the VAEs have their real widths and the picture 4096 px; else they are thinner (not TAESD) and it has 768 px.
Weights are random. What changes is a square in a corner; the rest is kept. Memory is the peak above what was held before.
"sd ~" and "flux ~" are approximate; how far off that is with random weights says nothing of trained ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from quadtree_pack.testing.registration import register_comfyui

from .build import peak_bytes

SHARES = (0.05, 0.25, 0.5)
VAES = ("sd", "sd ~", "flux", "flux ~", "qwen", "taesd")
REAL_WIDTH = {"sd": 128, "flux": 128, "qwen": 96}
RESET = Path("/proc/self/clear_refs")


def changed_tree(share: float, height: int, width: int, px: int) -> Any:
    """The square at the top left that has this share of the area may change, in tiles of 8 cells."""
    from quadtree_pack.testing.support import SIDE, tree_of

    rows, columns = height // SIDE, width // SIDE
    high, wide = round(rows * share**0.5), round(columns * share**0.5)
    return tree_of(
        [[float(y < high and x < wide) for x in range(columns)] for y in range(rows)],
        height,
        width,
        px,
    )


def measured(
    work: Callable[[], torch.Tensor], cuda: bool
) -> tuple[torch.Tensor, float, int | None]:
    """The result, the seconds it took, and the bytes it needed beyond what was held."""
    before = None
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    elif RESET.exists():
        RESET.write_text("5")
        before = peak_bytes()
    start = time.perf_counter()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = (
        torch.cuda.max_memory_allocated() if cuda else peak_bytes() if before is not None else None
    )
    return result, seconds, None if before is None else peak - before


def rows_of(case: str, cuda: bool) -> list[dict]:
    from quadtree_pack.image.composite import build_canvases
    from quadtree_pack.image.decoder import Decoder
    from quadtree_pack.image.decoding import decode_changed
    from quadtree_pack.testing import tiny_vaes

    name, _, tilde = case.partition(" ")
    vae = getattr(tiny_vaes, name)(*((REAL_WIDTH[name],) if cuda and name in REAL_WIDTH else ()))
    px = vae.spacial_compression_decode()
    side = (4096 if cuda else 768) // px
    samples, decoder = tiny_vaes.vae_latent(vae, side, side), Decoder(vae)
    original = torch.rand(1, side * px, side * px, 3)

    def canvas_of(share: float, side: int) -> list:
        return build_canvases(
            original[:, : side * px, : side * px],
            [changed_tree(share, side, side, px)],
            (side * px,) * 2,
            1,
        )

    decode_changed(vae, samples[..., :40, :40], canvas_of(0.25, 40), 0)  # warm-up
    full, full_s, full_bytes = measured(lambda: decoder.decode_whole(samples), cuda)
    rows = []
    for wanted in SHARES:
        canvas = canvas_of(wanted, side)
        work = partial(decode_changed, vae, samples, canvas, 0, approximate=bool(tilde))
        result, seconds, extra = measured(work, cuda)
        free = canvas[0].free
        rows.append(
            {
                "vae": case,
                "side_px": side * px,
                "changed": float(free.float().mean()),
                "seconds": seconds,
                "full_seconds": full_s,
                "bytes": extra,
                "full_bytes": full_bytes,
                "largest_error_of_255": float((result[0] - full[0]).abs()[free].max() * 255),
            }
        )
    return rows


@torch.inference_mode()
def run() -> list[dict]:
    cuda = torch.cuda.is_available()
    register_comfyui(*(() if cuda else ("--cpu",)))
    logging.getLogger().setLevel(
        logging.ERROR
    )  # core would name every parameter of the encoders that are not there
    print(
        f"{'vae':>6} {'side px':>7} {'changed':>7} {'s':>7} {'full s':>7} {'ratio':>6} {'GiB':>6} {'full':>6} {'error/255':>9}"
    )
    rows = []
    for name in VAES:
        for row in rows_of(name, cuda):
            rows.append(row)
            memory = [
                "-" if row[key] is None else f"{row[key] / 2**30:.2f}"
                for key in ("bytes", "full_bytes")
            ]
            error = row["largest_error_of_255"]
            print(
                f"{name:>6} {row['side_px']:>7} {row['changed']:>7.3f} {row['seconds']:>7.2f} {row['full_seconds']:>7.2f}"
                f" {row['seconds'] / row['full_seconds']:>6.2f} {memory[0]:>6} {memory[1]:>6} {error:>9.4f}",
                flush=True,
            )
    return rows
