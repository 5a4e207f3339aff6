"""Builds tiny models, latents and conditioning, and samples with them; an Entry is one such
model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.ldm.anima.model
import comfy.ldm.hidream_o1.model
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import torch
import torch.nn.functional as F
from torch import Tensor

TOKENS = 48  # text width
POOLED = 32
CANVAS = (
    32,
    40,
)  # cells of the default latent; conditioning that belongs to the canvas has its size

# Parameters whose scale decides how much attention listens; sharper, so that text and position
# really matter.
QUERY_KEY_LINEAR = tuple(
    f"{name}.weight"
    for name in ["to_q", "to_k", "q_linear", "w1q", "w1k", "w2q", "w2k", "wq", "wk"]
)
QUERY_KEY_NORM = (
    "norm_q",
    "norm_k",
    "query_norm",
    "key_norm",
    "q_norm",
    "k_norm",
    "ln_q",
    "ln_k",
    "qnorm",
    "knorm",
)
SHARPNESS = 1.7
# Parameters and buffers that stand beside tokens of size 1 and not before a product, so their scale
# is not the width's.
TABLES = (
    "pos_embed",
    "positional_encoding",
    "register_tokens",
    "scale_shift_table",
    ".modulation",
    "pad_token",
    "text_embedding_padding",
    "y_pos_embedding",
)
TABLE_SCALE = 0.5


def gauss(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clean_latent(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A latent like an image's: smooth structure and a little detail, standard deviation 0.8."""
    height, width = shape[-2:]
    flat = (1, max(1, int(torch.tensor(shape[:-2]).prod())), height, width)
    coarse = gauss((1, flat[1], max(2, height // 8), max(2, width // 8)), seed)
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    latent = smooth + 0.15 * gauss(flat, seed + 1)
    return (latent / latent.std().clamp_min(1e-3) * 0.8).reshape(shape)


def spread(name: str, value: Tensor) -> float:
    """Standard deviation for a parameter; 0 for one that is a gain."""
    if name.endswith(TABLES):
        return TABLE_SCALE
    if name.endswith("bias"):
        return 0.02
    if value.ndim < 2 or (
        any(norm in name for norm in QUERY_KEY_NORM) and not name.endswith(QUERY_KEY_LINEAR)
    ):
        return 0.0  # AuraFlow's norms of queries and keys have a row for each head
    return (SHARPNESS if name.endswith(QUERY_KEY_LINEAR) else 1.0) / max(1, value[0].numel()) ** 0.5


def randomize(
    module: torch.nn.Module, seed: int = 0, gains: dict[str, float] | None = None
) -> None:
    """Deterministic, variance-preserving values for every parameter, and for buffers that ComfyUI
    leaves uninitialised.

    A gain multiplies the parameters that have its key in their names.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = [(name, value) for name, value in module.named_buffers() if name.endswith(TABLES)]
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *tables]:
            if scale := spread(name, value):
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
            else:
                value.fill_(SHARPNESS if any(norm in name for norm in QUERY_KEY_NORM) else 1.0)
            for word, gain in (gains or {}).items():
                if word in name:
                    value.mul_(gain)


def build(
    config_class: type,
    unet_config: dict[str, Any],
    *,
    after: dict[str, Any] | None = None,
    make: Callable | None = None,
    gains: dict[str, float] | None = None,
) -> Any:
    """A ModelPatcher of a real family; `after` overrides what the family's own extra config sets,
    `gains` scale parameters."""
    config = config_class(dict(unet_config))
    config.unet_config.update(after or {})
    config.set_inference_dtype(torch.float32, None)
    model = make(config) if make else config.get_model({}, "", device="cpu")
    randomize(model.diffusion_model, gains=gains)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(
        model.to(device).eval(), load_device=device, offload_device=torch.device("cpu")
    )


def cond(tokens: int, seed: int, pooled: int | None = None, **values: Any) -> list:
    """A conditioning list as a text encode node puts it out."""
    if pooled:
        values["pooled_output"] = gauss((1, pooled), seed + 1000)
    return [[gauss((1, tokens, TOKENS), seed), values]]


def canvas_latent(channels: int, seed: int = 77, frames: int | None = None) -> Tensor:
    """What a node makes of an image of the canvas' size: a reference, a masked image, a guide."""
    return clean_latent((1, channels, *(() if frames is None else (frames,)), *CANVAS), seed)


def references(channels: int, *depth: int) -> list[Tensor]:
    """Two references: one of the canvas' size, which is cut with it, and one of another size, which
    goes whole."""
    return [
        clean_latent((1, channels, *depth, *CANVAS), 90),
        clean_latent((1, channels, *depth, 20, 24), 91),
    ]


def inpainting(channels: int, px_per_cell: int = 8) -> dict[str, Tensor]:
    """As InpaintModelConditioning puts it out: the masked image in cells, the mask in pixels."""
    height, width = (side * px_per_cell for side in CANVAS)
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height * 3 // 4, width // 4 : width * 5 // 8] = 1
    return {"concat_latent_image": canvas_latent(channels), "concat_mask": mask}


def whole_text(tokens: int) -> Tensor:
    """The attention mask of a text encoder that had nothing to pad."""
    return torch.ones(1, tokens, dtype=torch.long)


def first_frame_given(frames: int) -> Tensor:
    """Mask [1, 1, T, H, W] of a video whose first frame is given, as image-to-video nodes make
    it."""
    mask = torch.ones(1, 1, frames, *CANVAS)
    mask[:, :, :1] = 0
    return mask


@dataclass
class Entry:
    name: str
    model: Any
    make_cond: Callable[[int], list]
    frames: int | None = None
    batch: int = 1  # images of a latent; in SVD they are the frames of one video
    size: tuple[int, int] = (
        CANVAS  # pixel-space models have patches of 16 cells, so that CANVAS would be two of them
    )
    positive: list = field(init=False)
    negative: list = field(init=False)

    def __post_init__(self) -> None:
        self.positive, self.negative = self.make_cond(11), self.make_cond(12)

    @property
    def px_per_cell(self) -> int:
        return self.model.model.latent_format.spacial_downscale_ratio

    def latent(
        self,
        height: int | None = None,
        width: int | None = None,
        batch: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        depth = () if self.frames is None else (self.frames,)
        size = height or self.size[0], width or self.size[1]
        return clean_latent(
            (batch or self.batch, self.model.model.latent_format.latent_channels, *depth, *size),
            seed,
        )


def with_frames(
    entry: Entry, frames: int | None, size: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> Entry:
    """The entry with so many latent frames, cut from `corner` (y, x) to this size, in its
    conditioning too."""
    (top, left), (height, width) = corner, size

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cut(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(cut(one) for one in value)
        if not isinstance(value, Tensor) or value.ndim < 4:
            return value
        if value.ndim == 5 and value.shape[2] == entry.frames:
            value = value[:, :, torch.arange(frames).clamp_max(value.shape[2] - 1)]
        rows, columns = value.shape[-2:]
        if rows * CANVAS[1] != columns * CANVAS[0]:
            return value  # not on the canvas
        down, across = (
            slice(side * start // whole, side * end // whole)
            for side, whole, start, end in (
                (rows, CANVAS[0], top, top + height),
                (columns, CANVAS[1], left, left + width),
            )
        )
        return value[..., down, across]

    def make_cond(seed: int) -> list:
        return cut(entry.make_cond(seed))

    return replace(entry, make_cond=make_cond, frames=frames, size=size)


def sample(
    entry: Entry,
    latent: Tensor,
    *,
    model: Any = None,
    steps: int = 6,
    cfg: float = 1.0,
    sampler: str = "euler",
    scheduler: str = "simple",
    denoise: float = 1.0,
    seed: int = 42,
    noise: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """What core's KSampler node does with the entry's conditioning, on `model` (the entry's own by
    default)."""
    noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
    model = entry.model if model is None else model
    run = (model, noise, steps, cfg, sampler, scheduler, entry.positive, entry.negative, latent)
    return comfy.sample.sample(*run, denoise=denoise, seed=seed, disable_pbar=True, **options)
