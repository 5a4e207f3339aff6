"""The runs of `bench quality`: one thing at a time is varied from the usual case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .rows import GRADIENT

HELD_OUT = ("chelsea", "coffee")  # the refiner has not seen these in training
PHOTOS = (*HELD_OUT, "astronaut", "rocket", "motorcycle_left")
METHODS = ("Shifted Feather", "Mixture of Diffusers", "MultiDiffusion", "SpotDiffusion")
OVERLAPPING = METHODS[:3]
AVERAGED = "moving windows, averaged"  # Shifted Feather's windows with MultiDiffusion's weights
WITHOUT = "no pack"
LONG, SHORT = 20, 8  # steps
UNIFORM_STEPS = (4, 8, 12, 16)  # of LONG, for the curve of one uniform denoise
OVERLAPS_PX = (32, 128)  # beside the usual one

# Trees by name. The first is the one that everything is measured with: it was chosen, from about
# twenty, since it keeps most of what is calm and little else. The others show what that choice is
# worth; that of an untouched node has no options of its own.
EXTREMES = {"content_threshold": 30.0, "min_denoise": 0.0, "max_denoise": 1.0}
SMALL_TILES = {"min_tile_px": 16, "max_tile_px": 32}
LARGE_TILES = {"min_tile_px": 32, "max_tile_px": 128}
TREES: dict[str, dict | None] = {
    "fine": {"detail_metric": "edges", **SMALL_TILES, **EXTREMES},
    "fine by color": {"detail_metric": "color", **SMALL_TILES, **EXTREMES},
    "coarse": {"detail_metric": "edges", **LARGE_TILES, **EXTREMES},
    "the node's defaults": None,
}


@dataclass(frozen=True)
class Case:
    """One run.

    The method WITHOUT takes the pack out, and starts `only_last` steps before the end. `uniform`
    frees everything.
    """

    picture: str
    steps: int = LONG
    method: str = "Shifted Feather"
    overlap_px: int = 64
    schedule: str = "hold"
    feather_px: int = 32
    leaves: str = "fine"
    tiled: bool = True
    uniform: bool = False
    only_last: int | None = None

    @property
    def untiled(self) -> Case:
        """The same run without windows."""
        if self.uniform:
            return Case(self.picture, self.steps, WITHOUT)
        return replace(self, method=METHODS[0], overlap_px=64, tiled=False)

    @property
    def label(self) -> str:
        if self.method == WITHOUT:
            return "no pack, uniform"
        if self.uniform:
            return "uniform tiling"
        name = "untiled"
        if self.tiled:
            name = self.method
            if self.method != "SpotDiffusion":
                name += f" {self.overlap_px}"
        if not self.feather_px:
            name += ", no feather"
        if self.leaves != "fine":
            name += f", {self.leaves}"
        return name


def list_cases() -> Iterable[Case]:
    """Yield all runs with the pack, and plain ones at full strength."""
    for picture in (*PHOTOS, GRADIENT):
        for steps in (LONG, SHORT):
            yield Case(picture, steps, tiled=False)
            for method in METHODS:
                yield Case(picture, steps, method)
            yield Case(picture, steps, WITHOUT)
    for steps in (LONG, SHORT):
        yield Case(GRADIENT, steps, AVERAGED)
    for picture in PHOTOS:
        for leaves in list(TREES)[1:]:
            yield Case(picture, leaves=leaves)
    for picture in (*HELD_OUT, GRADIENT):
        yield from vary_short(Case(picture, SHORT))
    for picture in HELD_OUT:
        for steps in UNIFORM_STEPS:
            yield Case(picture, method=WITHOUT, only_last=steps)


def vary_short(case: Case) -> Iterable[Case]:
    """Yield the case with other overlaps, schedules and feathers, and with uniform tiling."""
    for method in OVERLAPPING:
        for overlap_px in OVERLAPS_PX:
            yield replace(case, method=method, overlap_px=overlap_px)
    ramp, constant = replace(case, schedule="ramp"), replace(case, schedule="constant")
    for changed in (ramp, constant, replace(case, feather_px=0)):
        yield replace(changed, tiled=False)
        yield changed
    yield replace(case, method="MultiDiffusion", uniform=True)


def list_at_equal_evaluations(rows: Sequence[dict]) -> Iterable[Case]:
    """Yield one uniform denoise for each default run among the rows.

    Its steps have the same length; it costs no less than the default run and at most a step more.
    """
    for row in rows:
        if Case(row["picture"]) == case_of(row):
            steps = min(LONG, math.ceil(row["evaluations"]))
            yield Case(row["picture"], method=WITHOUT, only_last=steps)


def case_of(row: dict) -> Case:
    return Case(**{name: row[name] for name in Case.__dataclass_fields__})
