"""The windows of every step of a run, and how much each of them counts.

Imports no ComfyUI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..utils import Box
from ..windows.batches import ImageWindows, plan_images
from ..windows.blending import compute_shares
from ..windows.planning import mark_active_units
from ..windows.tiling import Images, Tiling, Window
from .cropping import crop, take_images
from .frames import expand_to_rank, send, take_frames
from .plan import RunPlan, Stage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """The windows of one step in one area of the canvas.

    `windows` are relative to the area, and each has its normalised share in `shares`, [h, w] on the
    CPU. `images` are those of the batch that each window is for; None: all.
    """

    index: int
    area: Box
    windows: tuple[Window, ...]
    shares: tuple[Tensor, ...]
    images: tuple[Images, ...] | None = None

    def images_of(self, numbers: Sequence[int]) -> list[Images] | None:
        """Return the images that each of these windows is for; None: all, for every window."""
        return None if self.images is None else [self.images[number] for number in numbers]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step(Layout):
    """One step in one area of the canvas.

    `model_weight` [B or 1, 1, (T or 1,) h, w] in 0..1 is the weight of the model's estimate; the
    rest is that of the base (see `Run.blend`). Each of `window_weights` [..., h, w] is the model's
    weight times the share of a window.
    """

    model_weight: Tensor
    window_weights: tuple[Tensor, ...]

    @property
    def is_one_window(self) -> bool:
        """Tell whether a single window covers the whole area, for all images."""
        whole = Box(0, 0, self.area.width, self.area.height)
        return self.images is None and len(self.windows) == 1 and self.windows[0].box == whole


def make_step(layout: Layout, weight: Tensor, like: Tensor, frames: tuple[int, ...] | None) -> Step:
    """Return a layout as a step whose tensors are on the device of `like`, and of its rank.

    `weight` [B or 1, (T or 1,) H, W] in 0..1 is the weight of the model's estimate on the canvas,
    and `frames` are those of the clip that `like` [rows, C, ..., h, w] holds; None: all.
    """
    weight = crop(weight, layout.area)
    weight = expand_to_rank(send(weight.float(), like.device), like.ndim)
    weight = take_frames(weight, frames)
    window_weights = []
    for number, (window, share) in enumerate(zip(layout.windows, layout.shares, strict=True)):
        sent, images = send(share.float(), like.device), layout.images_of([number])
        of_window = weight if images is None else take_images(weight, images[0])
        window_weights.append(sent * crop(of_window, window.box))
    return Step(
        index=layout.index,
        area=layout.area,
        model_weight=weight,
        windows=layout.windows,
        shares=layout.shares,
        window_weights=tuple(window_weights),
        images=layout.images,
    )


class Layouts:
    """Lays out the windows of each step of a run, in any area; each area is planned once."""

    def __init__(self, plan: RunPlan, tiling: Tiling, stage: Stage) -> None:
        self.plan = plan
        self.tiling = tiling
        self.stage = stage
        self._planned: dict[Box, list[list[ImageWindows]]] = {}  # of each step, by area

    def windows(self, index: int, area: Box | None = None) -> tuple[Window, ...]:
        """Return the windows of a step, relative to the area (None: the whole canvas)."""
        planned = self.list_by_image(index, area)
        return tuple(window for windows, _ in planned for window in windows)

    def list_by_image(self, index: int, area: Box | None = None) -> list[ImageWindows]:
        """Return the windows of a step, as `windows`, by the images that have them."""
        area = self.plan.canvas if area is None else area
        if area not in self._planned:
            self._planned[area] = self._plan_steps(area)
        return self._planned[area][index]

    def _plan_steps(self, area: Box) -> list[list[ImageWindows]]:
        """Return the windows of every step in an area: together, so that they share shapes."""
        units = []  # of each image, at each step
        for index in range(self.stage.steps):
            active = crop(self.plan.active(*self.stage.place(index)), area)
            units.append([mark_active_units(cells, self.tiling.unit) for cells in active])
        by_image = list(zip(*units, strict=True))
        return plan_images(by_image, (area.height, area.width), self.tiling)

    def lay_out(self, index: int, area: Box | None = None) -> Layout:
        """Return the windows of a step with their shares (area None: the whole canvas)."""
        area = self.plan.canvas if area is None else area
        size, margin = (area.height, area.width), self.tiling.overlap * self.tiling.unit // 2
        windows: list[Window] = []
        shares: list[Tensor] = []
        images: list[Images] = []
        for some, of_images in self.list_by_image(index, area):
            windows += some
            shares += compute_shares(some, size, self.plan.method, margin)
            images += [] if of_images is None else [of_images] * len(some)
        return Layout(
            index=index,
            area=area,
            windows=tuple(windows),
            shares=tuple(shares),
            images=tuple(images) or None,
        )

    def group(
        self, layout: Layout, masks: Sequence[Tensor | None]
    ) -> dict[tuple[int, ...], list[int]]:
        """Return the numbers of a layout's windows by the conds of a call that count in them.

        `masks`, bool [H, W], are the cells of the canvas in which each cond counts; None: all. It
        counts in a window that answers for one of them that is active. Elsewhere core multiplies
        what the model says by 0, or the cell is held. Windows in which none counts are left out.
        """
        everyone = tuple(range(len(masks)))
        if all(mask is None for mask in masks):
            return {everyone: list(range(len(layout.windows)))}
        active = crop(self.plan.active(*self.stage.place(layout.index)), layout.area)
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (window, share) in enumerate(zip(layout.windows, layout.shares, strict=True)):
            some = active if layout.images is None else active[list(layout.images[number])]
            answered = crop(some, window.box).any(0) & (share > 0)
            counting = []
            for cond, mask in enumerate(masks):
                inside = None if mask is None else crop(crop(mask, layout.area), window.box)
                if inside is None or bool((inside & answered).any()):
                    counting.append(cond)
            if counting:
                groups.setdefault(tuple(counting), []).append(number)
        return groups
