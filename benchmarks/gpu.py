"""Seconds and peak memory of a refine on a CUDA device, on the real ComfyUI.

The models have the sizes of Flux-dev and SDXL, with random weights. For a photo of 2048 and of
4096 px, 20 euler steps: without the pack, uniform tiling (1024 px windows, 128 px overlap,
everything at every step), and each method with the photo's quadtree.

Columns: seconds; GiB above the weights; how many times faster than the whole image at once
("x whole") and than uniform tiling ("x uniform").

Needs torch and the requirements of ComfyUI's core, nothing else. Without a CUDA device nothing is
measured; QUADTREE_BENCH_TINY=1 runs it with tiny models on any device, to check the script.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from quadtree_pack.testing.registration import ROOT, register_comfyui

STEPS, TINY_STEPS = 20, 2
WARM_UP_STEPS = 2
SIDES_PX, TINY_SIDES_PX = (2048, 4096), (512,)
CELL_PX = 8
PHOTO_UNIT_PX = 64  # the photo's sides are whole multiples
DENOISE = ((0.2, 0.8), (0.0, 0.6))  # of the tree: least, most
WHOLE, UNIFORM = "without the pack", "uniform 1024 px / 128 px"
WARM_UP_CASE = "Shifted Feather, 0.2-0.8"
WEIGHTS_STD = 0.02  # of the random weights
FLUX_DEV: dict[str, Any] = {  # flux-dev in black-forest-labs/flux, src/flux/util.py
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
}
SDXL_BASE = {  # SDXL in ComfyUI's model_detection.py
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
SDXL_TINY = {
    "model_channels": 32,
    "transformer_depth": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
}
HEAD = (
    f"{'model':>6} {'px':>6} {'case':>36} {'seconds':>8} {'GiB':>6} {'x whole':>8} "
    f"{'x uniform':>10}"
)


def run() -> list[dict]:
    tiny = os.environ.get("QUADTREE_BENCH_TINY") == "1"
    cuda = torch.cuda.is_available()
    if not tiny and not cuda:
        print(
            "There is no CUDA device, so nothing is measured. QUADTREE_BENCH_TINY=1 checks the "
            "script with tiny models."
        )
        return []
    register_comfyui(*([] if cuda else ["--cpu"]))
    steps, sides = (TINY_STEPS, TINY_SIDES_PX) if tiny else (STEPS, SIDES_PX)
    rows = []
    print(HEAD)
    for name, make in {"flux": make_flux_dev, "sdxl": make_sdxl_base}.items():
        model, cond = make(tiny)
        for side in sides:
            rows += measure_side(name, model, cond, side_px=side, steps=steps)
        del model
        if cuda:
            torch.cuda.empty_cache()
    return rows


def measure_side(name: str, model: Any, cond: list, *, side_px: int, steps: int) -> list[dict]:
    """Measure every case on the photo of this size, and print it."""
    image = load_photo(side_px)
    channels = model.model.latent_format.latent_channels
    latent = torch.randn(1, channels, image.shape[0] // CELL_PX, image.shape[1] // CELL_PX)
    cases = make_cases(model, image)
    measure(cases[WARM_UP_CASE](), cond, latent, WARM_UP_STEPS)
    rows = []
    seconds_by_case: dict[str, float] = {}
    for case, make_model in cases.items():
        seconds, gib = measure(make_model(), cond, latent, steps)
        seconds_by_case[case] = seconds
        rows.append(
            {"model": name, "side_px": side_px, "case": case, "seconds": seconds, "peak_gib": gib}
        )
        gains = []
        for other in (WHOLE, UNIFORM):
            if other in seconds_by_case:
                gains.append(f"{seconds_by_case[other] / seconds:>8.2f}")
        print(
            f"{name:>6} {side_px:>6} {case:>36} {seconds:>8.2f} {gib:>6.2f} {' '.join(gains)}",
            flush=True,
        )
    return rows


def make_cases(model: Any, image: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return what makes the model of every row, by the row's name."""
    from quadtree_pack.quadtree import build_quadtree
    from quadtree_pack.sampling.model import Settings
    from quadtree_pack.tiled_diffusion import attach
    from quadtree_pack.windows.blending import METHODS

    everything = build_quadtree(image, min_denoise=1.0, max_denoise=1.0)
    uniform = Settings(method="MultiDiffusion", tile_px=1024, overlap_px=128, feather_px=0)
    cases: dict[str, Callable[[], Any]] = {
        WHOLE: lambda: model,
        UNIFORM: partial(attach, model, [everything], uniform),
    }
    for low, high in DENOISE:
        tree = build_quadtree(image, min_denoise=low, max_denoise=high)
        for method in METHODS:
            settings = Settings(method=method)
            cases[f"{method}, {low}-{high}"] = partial(attach, model, [tree], settings)
    return cases


def measure(model: Any, cond: list, latent: torch.Tensor, steps: int) -> tuple[float, float]:
    """Return the seconds and the peak GiB above the weights of one run."""
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
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    return seconds, (peak - before) / 2**30


def load_photo(side_px: int) -> torch.Tensor:
    """Return the demo's photo with its longer side at `side_px`, [H, W, 3] in 0..1."""
    import numpy as np
    from PIL import Image

    image = Image.open(ROOT / "demo" / "photo.png").convert("RGB")
    scale = side_px / max(image.size)
    size = [round(side * scale / PHOTO_UNIT_PX) * PHOTO_UNIT_PX for side in image.size]
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).float() / 255


def make_flux_dev(tiny: bool) -> tuple[Any, list]:
    """Return a model of Flux-dev's size and its conditioning."""
    import comfy.supported_models
    from quadtree_pack.testing.tiny_models.transformers import FLUX

    unet: dict[str, Any] = {**FLUX, **({} if tiny else FLUX_DEV)}
    dtype = torch.float32 if tiny else torch.bfloat16
    model = make_random_model(comfy.supported_models.Flux, unet, {}, dtype)
    text = torch.randn(1, 512, unet["context_in_dim"])
    return model, [[text, {"pooled_output": torch.randn(1, unet["vec_in_dim"])}]]


def make_sdxl_base(tiny: bool) -> tuple[Any, list]:
    """Return a model of SDXL's size and its conditioning."""
    import comfy.supported_models
    from quadtree_pack.testing.tiny_models.unets import UNET

    unet = {**UNET, **SDXL_BASE, **(SDXL_TINY if tiny else {})}
    heads = {"num_head_channels": 32 if tiny else 64}
    dtype = torch.float32 if tiny else torch.float16
    model = make_random_model(comfy.supported_models.SDXL, unet, heads, dtype)
    return model, [[torch.randn(1, 77, 2048), {"pooled_output": torch.randn(1, 1280)}]]


def make_random_model(
    config_class: type, unet_config: dict, late_config: dict, dtype: torch.dtype
) -> Any:
    """Return a ModelPatcher of this size with small random weights, made on the device itself.

    `late_config` is set after the configuration's class has applied its own defaults.
    """
    import comfy.model_management
    import comfy.model_patcher

    device = comfy.model_management.get_torch_device()
    config = config_class({**unet_config, "dtype": dtype})
    config.unet_config.update(late_config)
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device=device)
    for value in model.diffusion_model.parameters():
        value.data.normal_(0, WEIGHTS_STD)
    return comfy.model_patcher.ModelPatcher(
        model.to(device).eval(), load_device=device, offload_device=torch.device("cpu")
    )
