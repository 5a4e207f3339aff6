"""Quadtree VAE Decode against a full decode: seconds, peak memory, and error.

What may change is a square in a corner of the picture; the rest is kept. On a CUDA device the VAEs
have their real widths and the picture 4096 px; on a CPU they are thinner (not TAESD) and it has
768 px. Weights are random.

Columns: the share of the picture that may change; seconds of our decode and of the full one, and
their ratio; GiB beyond what was held before, of both; and the largest error against the full
decode, in levels of 255, where the picture may change. "sd ~" and "flux ~" are approximate: with
random weights their error says nothing about trained VAEs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from quadtree_pack.testing.registration import register_comfyui

from .build import RESET_PEAK, peak_bytes

SHARES = (0.05, 0.25, 0.5)
VAES = ("sd", "sd ~", "flux", "flux ~", "qwen", "taesd")
REAL_WIDTH = {"sd": 128, "flux": 128, "qwen": 96}
CUDA_PX, CPU_PX = 4096, 768
WARM_UP_CELLS = 40
HEAD = (
    f"{'vae':>6} {'side px':>7} {'changed':>7} {'s':>7} {'full s':>7} {'ratio':>6} {'GiB':>6} "
    f"{'full':>6} {'error/255':>9}"
)


@torch.inference_mode()
def run() -> list[dict]:
    cuda = torch.cuda.is_available()
    register_comfyui(*(() if cuda else ("--cpu",)))
    # Core would name every parameter of the encoders, which these VAEs lack.
    logging.getLogger().setLevel(logging.ERROR)
    print(HEAD)
    rows = []
    for name in VAES:
        for row in measure_vae(name, cuda):
            rows.append(row)
            print_row(row)
    return rows


def print_row(row: dict) -> None:
    memory = []
    for key in ("bytes", "full_bytes"):
        memory.append("-" if row[key] is None else f"{row[key] / 2**30:.2f}")
    print(
        f"{row['vae']:>6} {row['side_px']:>7} {row['changed']:>7.3f} {row['seconds']:>7.2f} "
        f"{row['full_seconds']:>7.2f} {row['seconds'] / row['full_seconds']:>6.2f} "
        f"{memory[0]:>6} {memory[1]:>6} {row['largest_error_of_255']:>9.4f}",
        flush=True,
    )


def measure_vae(case: str, cuda: bool) -> list[dict]:
    """Measure one of VAES, a row for each of SHARES."""
    from quadtree_pack.image.composite import build_canvases
    from quadtree_pack.image.decoder import Decoder
    from quadtree_pack.image.decoding import decode_changed
    from quadtree_pack.testing import tiny_vaes

    name, _, tilde = case.partition(" ")
    vae = make_vae(name, cuda)
    px = vae.spacial_compression_decode()
    side = (CUDA_PX if cuda else CPU_PX) // px
    samples, decoder = tiny_vaes.vae_latent(vae, side, side), Decoder(vae)
    original = torch.rand(1, side * px, side * px, 3)

    def make_canvas(share: float, cells: int) -> list:
        tree = make_tree(share, cells, cells, px)
        size = (cells * px, cells * px)
        return build_canvases(original[:, : cells * px, : cells * px], [tree], size, 1)

    warm_up = samples[..., :WARM_UP_CELLS, :WARM_UP_CELLS]
    decode_changed(vae, warm_up, make_canvas(0.25, WARM_UP_CELLS), 0)
    full, full_seconds, full_bytes = measure(lambda: decoder.decode_whole(samples), cuda)
    rows = []
    for share in SHARES:
        canvas = make_canvas(share, side)
        decode = partial(decode_changed, vae, samples, canvas, 0, approximate=bool(tilde))
        result, seconds, extra_bytes = measure(decode, cuda)
        free = canvas[0].free
        rows.append(
            {
                "vae": case,
                "side_px": side * px,
                "changed": float(free.float().mean()),
                "seconds": seconds,
                "full_seconds": full_seconds,
                "bytes": extra_bytes,
                "full_bytes": full_bytes,
                "largest_error_of_255": float((result[0] - full[0]).abs()[free].max() * 255),
            }
        )
    return rows


def make_vae(name: str, cuda: bool) -> Any:
    """Return the VAE of this name with random weights: of real width on a CUDA device."""
    from quadtree_pack.testing import tiny_vaes

    make = getattr(tiny_vaes, name)
    return make(REAL_WIDTH[name]) if cuda and name in REAL_WIDTH else make()


def make_tree(share: float, height: int, width: int, px: int) -> Any:
    """Return a tree of tiles of 8 cells where a square at the top left may change.

    `share` is that of the square in the area; height and width are in cells of `px`.
    """
    from quadtree_pack.testing.support import SIDE, tree_of

    rows, columns = height // SIDE, width // SIDE
    high, wide = round(rows * share**0.5), round(columns * share**0.5)
    denoise = [[float(y < high and x < wide) for x in range(columns)] for y in range(rows)]
    return tree_of(denoise, height, width, px)


def measure(
    decode: Callable[[], torch.Tensor], cuda: bool
) -> tuple[torch.Tensor, float, int | None]:
    """Return the result, the seconds it took, and its peak bytes beyond what was held before.

    The bytes are None on a CPU whose system cannot reset the peak.
    """
    if cuda:
        return measure_on_cuda(decode)
    before = None
    if RESET_PEAK.exists():
        RESET_PEAK.write_text("5")  # resets the peak, says proc(5)
        before = peak_bytes()
    start = time.perf_counter()
    result = decode()
    seconds = time.perf_counter() - start
    return result, seconds, None if before is None else peak_bytes() - before


def measure_on_cuda(decode: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, int]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    result = decode()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return result, seconds, torch.cuda.max_memory_allocated() - before
