"""Seconds and peak memory of a refine on a CUDA device, with real Flux-dev and SDXL sizes (random weights) on the real ComfyUI.

For a photo at 2048 and 4096 px, 20 euler steps: without the pack, uniform tiling (1024 px windows, 128 px overlap, all of it at
every step), and each method with the photo's quadtree. Needs torch and what ComfyUI's core needs, nothing else. Without a CUDA
device nothing is measured; QUADTREE_BENCH_TINY=1 runs it with tiny models on whatever there is, to check the script.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from quadtree_pack.testing.registration import ROOT, register_comfyui

STEPS = 20
SIDES_PX = (2048, 4096)
FLUX_DEV = {
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
}
SDXL_BASE = {
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}


def flux_dev(tiny: bool) -> tuple[Any, list]:
    import comfy.supported_models
    from quadtree_pack.testing.tiny_models.transformers import FLUX

    size = {} if tiny else FLUX_DEV
    model = random_model(
        comfy.supported_models.Flux, {**FLUX, **size}, {}, torch.float32 if tiny else torch.bfloat16
    )
    unet = {**FLUX, **size}
    return model, [
        [
            torch.randn(1, 512, unet["context_in_dim"]),
            {"pooled_output": torch.randn(1, unet["vec_in_dim"])},
        ]
    ]


def sdxl_base(tiny: bool) -> tuple[Any, list]:
    import comfy.supported_models
    from quadtree_pack.testing.tiny_models.unets import UNET

    small = {
        "model_channels": 32,
        "transformer_depth": [0, 0, 1, 1, 1, 1],
        "transformer_depth_middle": 1,
    }
    small |= {"transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1]}
    unet = {**UNET, **SDXL_BASE, **(small if tiny else {})}
    heads = {"num_head_channels": 32 if tiny else 64}
    model = random_model(
        comfy.supported_models.SDXL, unet, heads, torch.float32 if tiny else torch.float16
    )
    return model, [[torch.randn(1, 77, 2048), {"pooled_output": torch.randn(1, 1280)}]]


def random_model(config_class: type, unet_config: dict, after: dict, dtype: torch.dtype) -> Any:
    """A ModelPatcher of this size with small random weights, made on the device itself."""
    import comfy.model_management
    import comfy.model_patcher

    device = comfy.model_management.get_torch_device()
    config = config_class({**unet_config, "dtype": dtype})
    config.unet_config.update(after)
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device=device)
    for value in model.diffusion_model.parameters():
        value.data.normal_(0, 0.02)
    return comfy.model_patcher.ModelPatcher(
        model.to(device).eval(), load_device=device, offload_device=torch.device("cpu")
    )


def photo(side_px: int) -> torch.Tensor:
    """The demo's photo with its longer side at `side_px`, [H, W, 3]; sides are multiples of 64 px."""
    import numpy as np
    from PIL import Image

    image = Image.open(ROOT / "demo" / "photo.png").convert("RGB")
    scale = side_px / max(image.size)
    size = [round(side * scale / 64) * 64 for side in image.size]
    return torch.from_numpy(np.array(image.resize(size, Image.BICUBIC))).float() / 255


def measured(model: Any, cond: list, latent: torch.Tensor, steps: int) -> tuple[float, float]:
    """(seconds, peak GiB above the weights) of one run."""
    import comfy.sample

    noise = comfy.sample.prepare_noise(latent, 1)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    start = time.perf_counter()
    comfy.sample.sample(
        model, noise, steps, 1.0, "euler", "simple", cond, cond, latent, seed=1, disable_pbar=True
    )
    if cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return time.perf_counter() - start, (peak - before) / 2**30


def cases(model: Any, image: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """The model of every row, by its name."""
    from quadtree_pack.quadtree import build_quadtree
    from quadtree_pack.sampling.model import Settings
    from quadtree_pack.tiled_diffusion import attach
    from quadtree_pack.windows.blending import METHODS

    everything = build_quadtree(image, min_denoise=1.0, max_denoise=1.0)
    uniform = Settings(method="MultiDiffusion", tile_px=1024, overlap_px=128, feather_px=0)
    rows = {
        "without the pack": lambda: model,
        "uniform 1024 px / 128 px": lambda: attach(model, [everything], uniform),
    }
    for low, high in ((0.2, 0.8), (0.0, 0.6)):
        tree = build_quadtree(image, min_denoise=low, max_denoise=high)
        for method in METHODS:
            settings = Settings(method=method)
            rows[f"{method}, {low}-{high}"] = lambda tree=tree, settings=settings: attach(
                model, [tree], settings
            )
    return rows


def run() -> list[dict]:
    tiny = os.environ.get("QUADTREE_BENCH_TINY") == "1"
    if not tiny and not torch.cuda.is_available():
        print(
            "no CUDA device here, so nothing is measured (QUADTREE_BENCH_TINY=1 checks the script with tiny models)"
        )
        return []
    register_comfyui(*([] if torch.cuda.is_available() else ["--cpu"]))
    steps, sides = (2, (512,)) if tiny else (STEPS, SIDES_PX)
    rows = []
    print(
        f"{'model':>6} {'px':>6} {'case':>36} {'seconds':>8} {'GiB':>6} {'x whole':>8} {'x uniform':>10}"
    )
    for name, make in {"flux": flux_dev, "sdxl": sdxl_base}.items():
        model, cond = make(tiny)
        channels = model.model.latent_format.latent_channels
        for side in sides:
            image = photo(side)
            latent = torch.randn(1, channels, image.shape[0] // 8, image.shape[1] // 8)
            measured(cases(model, image)["Shifted Feather, 0.2-0.8"](), cond, latent, 2)  # warm-up
            reference: dict[str, float] = {}
            for case, patched in cases(model, image).items():
                seconds, gib = measured(patched(), cond, latent, steps)
                reference[case] = seconds
                rows.append(
                    {
                        "model": name,
                        "side_px": side,
                        "case": case,
                        "seconds": seconds,
                        "peak_gib": gib,
                    }
                )
                gains = [
                    reference[other] / seconds
                    for other in ("without the pack", "uniform 1024 px / 128 px")
                    if other in reference
                ]
                gains = " ".join(f"{gain:>8.2f}" for gain in gains)
                print(
                    f"{name:>6} {side:>6} {case:>36} {seconds:>8.2f} {gib:>6.2f} {gains}",
                    flush=True,
                )
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows
