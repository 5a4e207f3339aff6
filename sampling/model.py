"""What the user chose for a run, and what is known of its model: the sizes that its windows may have, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..tree.detail import LARGEST_PX
from ..utils import ceil_div
from ..windows.blending import METHODS
from ..windows.tiling import Cost, Tiling

# Native image side of a model family in px, by the class of its config or a base of it; 1024 for all others.
NATIVE_PX = {"SD15": 512, "SD20": 768, "Stable_Zero123": 256}
DEFAULT_NATIVE_PX = 1024
# By the class of the network, where it does not tell: cells at which it may be cut, and the fewest along a side it can take.
UNIT_CELLS = {"StageB": 16, "StageC": 1}
FEWEST_CELLS = {"PixArtMS": 34, "StageB": 32}
# Windows are planned as if so many of a shape were evaluated together, however many are: memory must not change the picture.
PLANNED_BATCH = 4
AUTOMATIC_REACH = 1.5  # automatic windows may be this much longer than the native side

# Fitted to the times of Flux-dev and SDXL on one H200. A transformer pays for its text in every window and for attention in
# large ones. A UNet is so light there that starting a call costs as much as 112,000 cells; slower cards compute longer and
# start as fast, so a quarter of that is taken, lest windows grow there without need.
TRANSFORMER_COST = Cost(per_call=1500, per_window=1700, quadratic=70_000)
UNET_COST = Cost(per_call=28_000, per_window=0, quadratic=35_000)


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


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the model is: px per latent cell, cells per unit at which it may be cut, native image side in px, cost, and the
    fewest and most cells along a side that its network takes."""

    px_per_cell: int
    unit: int
    native_px: int
    cost: Cost
    fewest: int = 1
    most: int = LARGEST_PX

    @classmethod
    def of(cls, model: Any) -> Geometry:
        """Of a ModelPatcher; ValueError where its latents cannot be cut."""
        latent_format = model.get_model_object("latent_format")
        if latent_format.latent_dimensions == 1:
            raise ValueError(
                f"{type(model.model).__name__} has one-dimensional latents (audio or 3D), which cannot be cut into windows. "
                "Connect an image model."
            )
        bases = [base.__name__ for base in type(model.model.model_config).__mro__]
        native_px = next(
            (NATIVE_PX[base] for base in bases if base in NATIVE_PX), DEFAULT_NATIVE_PX
        )
        network = model.get_model_object("diffusion_model")
        cost = UNET_COST if hasattr(network, "channel_mult") else TRANSFORMER_COST
        unit = unit_cells(network)
        fewest = FEWEST_CELLS.get(type(network).__name__, 1)
        positions = getattr(
            network, "pos_embed_max_size", None
        )  # SD3 looks them up in a table of so many patches
        most = LARGEST_PX if positions is None else positions * unit
        return cls(latent_format.spacial_downscale_ratio, unit, native_px, cost, fewest, most)

    @property
    def px_per_unit(self) -> int:
        return self.px_per_cell * self.unit

    def tiling(self, settings: Settings, height: int, width: int) -> Tiling:
        """Window sizes for a latent of height x width cells; ValueError where the settings do not fit the model."""
        px = self.px_per_unit
        whole = ceil_div(max(height, width), self.unit)
        fewest, most = ceil_div(self.fewest, self.unit), self.most // self.unit
        if settings.tile_px and settings.tile_px // px < min(fewest, whole):
            raise ValueError(
                f"tile_size {settings.tile_px} px is smaller than the {fewest * px} px that this model needs; use that or more."
            )
        tile = settings.tile_px // px or max(fewest, int(AUTOMATIC_REACH * self.native_px) // px)
        tile = min(tile, most, whole)
        method = METHODS[settings.method]
        overlap = ceil_div(settings.overlap_px, px) if method.overlaps else 0
        overlap += overlap * self.unit % 2  # its middle, where the border lies, is a whole cell
        if whole > tile and tile < 2 * overlap:
            raise ValueError(
                f"tile_overlap {settings.overlap_px} px takes {overlap * px} px on this model, more than half of tile_size "
                f"{tile * px} px; use at most {tile // 2 * px} px, or larger tiles."
            )
        smallest = min(tile, max(fewest, self.native_px // 2 // px))
        return Tiling(
            unit=self.unit,
            tile=tile,
            smallest=smallest,
            overlap=overlap,
            moving=method.moving,
            cost=self.cost,
            batch=PLANNED_BATCH,
            fewest=fewest,
        )


TYPICAL = Geometry(
    8, 2, 1024, TRANSFORMER_COST
)  # whose cost is estimated where the model is not known
TYPICAL_STEPS = 20
ROUGH_PX = 32
ROUGH = replace(
    TYPICAL,
    px_per_cell=ROUGH_PX,
    unit=1,
    cost=TRANSFORMER_COST.scale_cells((TYPICAL.px_per_cell / ROUGH_PX) ** 2),
)


def unit_cells(network: torch.nn.Module) -> int:
    """Cells at which the model may be cut: its patch, or the reduction of its UNet; 8 where it tells neither."""
    if type(network).__name__ in UNIT_CELLS:
        return UNIT_CELLS[type(network).__name__]
    for holder in (network, getattr(network, "patchifier", None)):
        for name in ("patch_size", "patch_spatial", "patch"):
            patch = getattr(holder, name, None)
            patch = patch[-1] if isinstance(patch, (tuple, list)) else patch
            if isinstance(patch, int):
                return patch
    levels = getattr(network, "channel_mult", None)
    return 1 << (len(levels) - 1) if levels else 8
