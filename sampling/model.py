"""What the user chose for a run, and what is known of its model: its window sizes and costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..tree.detail import LARGEST_PX
from ..utils import ceil_div, count_latent_frames
from ..windows.blending import METHODS
from ..windows.tiling import Cost, Tiling
from .references import AUTOMATIC

# Native image side of a model family in px, by the class of its config or a base of it
# (`comfy.supported_models`), as the families' papers and model cards tell.
NATIVE_PX = {"SD15": 512, "SD20": 768, "Stable_Zero123": 256}
DEFAULT_NATIVE_PX = 1024

# Where `comfy_api.torch_helpers` notes in the model's options that it has compiled the model.
TORCH_COMPILE_KWARGS = "torch_compile_kwargs"

# Cells at which a network may be cut, by its class, where no attribute tells: stage B has patches
# of 2 x 2 cells and halves them three times; stage C may be cut anywhere, since feature maps are
# resized for it (`comfy.ldm.cascade`); NaDiT, SeedVR2's, has patches of 2 x 2 cells.
UNIT_CELLS = {"StageB": 16, "StageC": 1, "NaDiT": 2}
DEFAULT_UNIT_CELLS = 8  # the reduction of most UNets, and a multiple of most patches
# Networks whose rows are not independent of each other, as was found by trying.
MIXES_ROWS = frozenset({"NaDiT"})
# Networks that attend to the image's tokens and then the text's; the others begin with the text.
IMAGE_FIRST = frozenset(
    {"HiDreamImageTransformer2DModel", "LensTransformer2DModel", "ErnieImageModel"}
)
# Frames in px of every latent frame but the first, by a network's class, where its latent format
# tells of one: SeedVR2's VAE has 4 (`comfy.ldm.seedvr.constants`).
FRAMES_PER_LATENT = {"NaDiT": 4}
# The fewest cells along a side that a network takes, by its class. PixArt divides by the mean side
# rounded to multiples of 64 cells, which is 0 up to 32 (`comfy.ldm.pixart.pixartms`); stage B's was
# found by trying.
FEWEST_CELLS = {"PixArtMS": 34, "StageB": 32}

# Windows are planned as if so many of a shape were evaluated together, however many are: memory
# must not change the picture.
PLANNED_BATCH = 4
# Automatic windows may be this much longer than the native side: models do well there, and fewer
# windows cost less.
AUTOMATIC_REACH = 1.5

# Fitted to the times of Flux-dev on an H200 and of SDXL with CFG on an H100 (`bench gpu`;
# benchmarks/h200_cost.json, benchmarks/h100_cost.json). A transformer pays for its text in every
# window and for attention in large ones. A UNet is so light there that starting a call takes as
# long as 32,000 cells, and the first call of a shape, for which cuDNN prepares every convolution,
# as long as 48,000. Slower cards compute longer and start as fast, so less than a fifth of that is
# taken: by the costs of an H100, plans then take 5% longer than at half of it, but by those of a
# card an eighth as fast 13% less, and on a CPU 18% less (default trees at 2048 and 4096 px).
TRANSFORMER_COST = Cost(per_call=1500, per_window=1700, quadratic=70_000, per_shape=1500)
UNET_COST = Cost(per_call=6000, per_window=0, quadratic=90_000, per_shape=9000)
# Compiling a Flux of six blocks took 20 s a shape on an H100, as long as some millions of cells. At
# this price a run has two or three shapes; at the full one its windows would be half as dear again.
COMPILING_PER_SHAPE = 300_000

# How long a moving lattice stands still for EasyCache, which evaluates two steps before it can
# skip one.
CACHED_STEPS = 6


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose; lengths in image px; `tile_px` 0 and `batch` 0 = automatic."""

    method: str = "Shifted Feather"
    tile_px: int = 0
    overlap_px: int = 64
    batch: int = 4
    schedule: str = "hold"
    feather_px: int = 32
    keep_below_px: int = 0
    references: str = AUTOMATIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What a model's windows may be.

    `unit` is the smallest block it can be cut at, in cells; `native_px` its native image side;
    `fewest` and `most` the cells along a side that its network takes. `frames_per_latent` are the
    frames in px of every latent frame but the first. `compiled` tells that every new shape of a
    call is compiled, so there are few, and one window in each call; `cached` that a cache keeps
    what each window gave, so lattices stand still for some steps, with one window in each call;
    `mixes_rows` that the network takes no more than one; `image_first` that the image's tokens come
    before those of the text.
    """

    px_per_cell: int
    unit: int
    native_px: int
    cost: Cost
    fewest: int = 1
    most: int = LARGEST_PX
    frames_per_latent: int = 1
    compiled: bool = False
    cached: bool = False
    mixes_rows: bool = False
    image_first: bool = False

    @classmethod
    def of(cls, model: Any) -> Geometry:
        """Return the geometry of a ModelPatcher; ValueError where its latents cannot be cut."""
        return cls.of_network(
            model.get_model_object("latent_format"),
            model.get_model_object("diffusion_model"),
            model.model.model_config,
            name=type(model.model).__name__,
        )

    @classmethod
    def of_network(
        cls, latent_format: Any, network: torch.nn.Module, config: object, *, name: str
    ) -> Geometry:
        """Return the geometry of a network, which may be on the meta device.

        `config` is its ComfyUI family, and `name` is for messages. ValueError where its latents
        cannot be cut.
        """
        if latent_format.latent_dimensions == 1:
            raise ValueError(
                f"{name} has one-dimensional latents (audio or 3D), which cannot be cut into "
                "windows. Connect an image model."
            )
        unit = find_unit(network)
        kind = type(network).__name__
        told = getattr(latent_format, "temporal_downscale_ratio", 1)
        # SD3 looks positions up in a table of so many patches along a side.
        positions = getattr(network, "pos_embed_max_size", None)
        return cls(
            px_per_cell=latent_format.spacial_downscale_ratio,
            unit=unit,
            native_px=_find_native_px(config),
            cost=UNET_COST if hasattr(network, "channel_mult") else TRANSFORMER_COST,
            fewest=FEWEST_CELLS.get(kind, 1),
            most=LARGEST_PX if positions is None else positions * unit,
            frames_per_latent=FRAMES_PER_LATENT.get(kind, told),
            mixes_rows=kind in MIXES_ROWS,
            image_first=kind in IMAGE_FIRST,
        )

    @property
    def is_single(self) -> bool:
        """Tell whether every window has a call of its own."""
        return self.compiled or self.cached or self.mixes_rows

    @property
    def px_per_unit(self) -> int:
        return self.px_per_cell * self.unit

    def count_frames(self, frames: int) -> int:
        """Return the frames of the latent that a clip of so many frames in px makes.

        It is 1 with a model of images, which takes a clip as a batch.
        """
        if self.frames_per_latent == 1:
            return 1
        return count_latent_frames(frames, self.frames_per_latent)

    def choose_tiling(self, settings: Settings, height: int, width: int, frames: int = 1) -> Tiling:
        """Return the window sizes, in units, for a latent of height x width cells and its frames.

        A window holds all frames, so every one of its cells costs as much as so many of a still:
        attention weighs in smaller windows, and the price of a call hardly matters.

        Raises ValueError where the settings do not fit the model.
        """
        px = self.px_per_unit
        method = METHODS[settings.method]
        whole = ceil_div(max(height, width), self.unit)
        tile = self._choose_tile(settings, whole)
        overlap = ceil_div(settings.overlap_px, px) if method.overlaps else 0
        overlap += overlap * self.unit % 2  # its middle, where the border lies, is a whole cell
        if whole > tile and tile < 2 * overlap:
            most = tile // 2
            most -= most * self.unit % 2  # as above
            raise ValueError(
                f"tile_overlap {settings.overlap_px} px takes {overlap * px} px on this model, "
                f"more than half of tile_size {tile * px} px; use at most {most * px} px, or "
                "larger tiles."
            )
        fewest = self._fewest_units()
        cost = replace(self.cost, per_shape=COMPILING_PER_SHAPE) if self.compiled else self.cost
        return Tiling(
            unit=self.unit,
            tile=tile,
            smallest=min(tile, max(fewest, min(self.native_px // 2 // px, ceil_div(5 * tile, 8)))),
            overlap=overlap,
            moving=method.moving,
            standing=CACHED_STEPS if self.cached else 1,
            cost=cost.scale_cells(1 / frames) if frames > 1 else cost,
            batch=1 if self.is_single else count_together(PLANNED_BATCH, frames),
            fewest=fewest,
            compiled=self.compiled,
        )

    def _fewest_units(self) -> int:
        return ceil_div(self.fewest, self.unit)

    def _choose_tile(self, settings: Settings, whole: int) -> int:
        """Return the longest side of a window, in units, where the image is `whole` units long."""
        px, fewest = self.px_per_unit, self._fewest_units()
        chosen = settings.tile_px // px
        if settings.tile_px and chosen < min(fewest, whole):
            raise ValueError(
                f"tile_size {settings.tile_px} px is smaller than the {fewest * px} px that this "
                "model needs; use that or more."
            )
        automatic = max(fewest, int(AUTOMATIC_REACH * self.native_px) // px)
        return min(chosen or automatic, self.most // self.unit, whole)


def count_together(windows: int, frames: int) -> int:
    """Return how many windows of so many frames are evaluated together, for this many of stills.

    Several windows fill a device that one of a still leaves idle; one of a clip fills it alone, and
    a second would take as much memory again.
    """
    return max(1, windows // frames)


def is_compiled(model: Any) -> bool:
    """Return whether torch.compile was applied to a ModelPatcher, or to a part of it."""
    compiled_parts = any(hasattr(part, "_orig_mod") for part in model.object_patches.values())
    return compiled_parts or TORCH_COMPILE_KWARGS in model.model_options


def _find_native_px(model_config: object) -> int:
    """Return the native image side in px of a model family, by the class of its config."""
    for base in type(model_config).__mro__:
        if base.__name__ in NATIVE_PX:
            return NATIVE_PX[base.__name__]
    return DEFAULT_NATIVE_PX


def find_unit(network: torch.nn.Module) -> int:
    """Return the cells at which a network may be cut: its patch, or the reduction of its UNet."""
    if type(network).__name__ in UNIT_CELLS:
        return UNIT_CELLS[type(network).__name__]
    for holder in (network, getattr(network, "patchifier", None)):
        for name in ("patch_size", "patch_spatial", "patch"):
            patch = getattr(holder, name, None)
            patch = patch[-1] if isinstance(patch, (tuple, list)) else patch
            if isinstance(patch, int):
                return patch
    levels = getattr(network, "channel_mult", None)
    return 1 << (len(levels) - 1) if levels else DEFAULT_UNIT_CELLS


# The model whose cost is estimated where none is known: 8 px per cell and patches of 2 x 2 cells,
# as of SDXL, SD3 and Flux.
TYPICAL = Geometry(
    px_per_cell=8,
    unit=2,
    native_px=DEFAULT_NATIVE_PX,
    cost=TRANSFORMER_COST,
    frames_per_latent=4,  # as of Wan, HunyuanVideo and CogVideoX; of a still there is one anyway
)
TYPICAL_STEPS = 20
# For a rough estimate: the same model with cells of so many px, of which a window holds fewer.
ROUGH_PX = 32
ROUGH = replace(
    TYPICAL,
    px_per_cell=ROUGH_PX,
    unit=1,
    cost=TRANSFORMER_COST.scale_cells((TYPICAL.px_per_cell / ROUGH_PX) ** 2),
)
ROUGH_SETTINGS = Settings(method="Mixture of Diffusers")  # whose borders stay from step to step
