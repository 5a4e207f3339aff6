"""Crop and repeat tensors for a batch of windows, by how they lie on the canvas.

Rows of a batch of windows are cond-major: all windows of the first cond, then all of the next,
each with the images of the latent batch that it is for. So patches that do
`x.chunk(len(cond_or_uncond))` find what they look for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import floordiv
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import Box, ceil_div
from ..windows.tiling import Images
from .protocols import Hints, ResizedMasks, Sources
from .references import References

Grid = tuple[int, int]  # rows and columns

# How many latent cells a cell of a coarser grid may cover along a side: networks reduce by these.
REDUCTIONS = (2, 4, 8, 16, 32, 64)
# An undeclared entry with sides as short as these at another resolution than the canvas' is taken
# for vectors and not for a picture.
SHORTEST_PICTURE = 8


def grid_of(value: Tensor) -> Grid:
    """Return (H, W) of a tensor [..., H, W]."""
    return value.shape[-2], value.shape[-1]


def crop(value: Tensor, box: Box) -> Tensor:
    """Return the view [..., h, w] of `value` [..., H, W] that lies in `box`."""
    rows, columns = box.slices
    return value[..., rows, columns]


def take_images(value: Tensor, images: Images, dim: int = 0) -> Tensor:
    """Return these images of a batch, which lies along `dim`; one row is for every image."""
    if value.shape[dim] == 1:
        return value
    return torch.stack([value.select(dim, image) for image in images], dim)


def join_windows(
    parts: Sequence[Tensor], conds: int, images: Sequence[Images] | None = None
) -> Tensor:
    """Join one [conds * B, ...] per window, as [conds * windows * B, ...].

    `images` are those of the B that each window is for; None: all, for every window. The result is
    a copy: what is called may write into it, and windows overlap.
    """
    if images is None and len(parts) == 1:
        return parts[0].clone()
    by_window = [part.unflatten(0, (conds, -1)) for part in parts]
    if images is not None:
        by_window = [
            take_images(part, some, dim=1) for part, some in zip(by_window, images, strict=True)
        ]
    return torch.cat(by_window, dim=1).flatten(0, 1)


def stack_windows(
    value: Tensor, boxes: Sequence[Box], conds: int, images: Sequence[Images] | None = None
) -> Tensor:
    """Crop [conds * B, ..., H, W] to boxes of one shape; see `join_windows`."""
    return join_windows([crop(value, box) for box in boxes], conds, images)


def unstack_windows(
    value: Tensor, *, windows: int, conds: int, images: Sequence[Images] | None = None
) -> list[Tensor]:
    """Return one [conds * B, ..., h, w] per window: the inverse of `stack_windows`."""
    if windows == 1:
        return [value]
    by_cond = value.unflatten(0, (conds, -1))
    rows = by_cond.shape[1] // windows if images is None else [len(some) for some in images]
    return [part.flatten(0, 1) for part in by_cond.split(rows, dim=1)]


def repeat_rows(
    value: Tensor, *, windows: int, conds: int, images: Sequence[Images] | None = None
) -> Tensor:
    """Repeat [conds * B, ...] for each window; see `join_windows`."""
    return join_windows([value] * windows, conds, images)


def find_scale(canvas: Grid, grid: Grid) -> tuple[int, int] | None:
    """Return (times finer, times coarser) of a grid over the canvas; None if it is no whole scale.

    One of the two is 1: `find_scale((9, 11), (72, 88))` is (8, 1), and (5, 6) gives (1, 2).
    """
    finer = grid[0] // canvas[0]
    if finer and grid == (finer * canvas[0], finer * canvas[1]):
        return finer, 1
    # Rounded up first, as networks reduce; on tiny canvases both may fit.
    for divide in (ceil_div, floordiv):
        for coarser in REDUCTIONS:
            if grid == (divide(canvas[0], coarser), divide(canvas[1], coarser)):
                return 1, coarser
    return None


def box_on_grid(box: Box, *, canvas: Grid, grid: Grid) -> Box:
    """Return a box of the canvas in cells of a grid over it.

    Raises ValueError where the box does not start and end on the grid's cells.
    """
    scale = find_scale(canvas, grid)
    if scale is None or box.x0 % scale[1] or box.y0 % scale[1]:
        raise ValueError(
            f"A conditioning of {grid[1]} x {grid[0]} cells over a latent of {canvas[1]} x "
            f"{canvas[0]} cannot be cut into windows. Give it the latent's size, or sample without "
            "Quadtree Diffusion."
        )
    finer, coarser = scale
    x0, y0, x1, y1 = (ceil_div(edge * finer, coarser) for edge in box)
    return Box(x0, y0, min(x1, grid[1]), min(y1, grid[0]))


def box_by_shares(box: Box, *, canvas: Grid, grid: Grid, unit: int) -> Box:
    """Return a box of the canvas on a grid of any resolution over it, in whole units.

    It lies around the box' middle, less than a cell away, and is as large for all boxes of a size.
    """
    spans = []
    for low, high, side, cells in zip(box[:2], box[2:], canvas[::-1], grid[::-1], strict=True):
        scale = cells / side
        length = min(cells, max(unit, round((high - low) * scale / unit) * unit))
        start = round((low + high) * scale / 2 - length / 2)
        start = min(max(0, start), cells - length)
        spans.append((start, start + length))
    (x0, x1), (y0, y1) = spans
    return Box(x0, y0, x1, y1)


class Tokens(NamedTuple):
    """What a model attends to: so many of text, and those of the canvas.

    These are `units` rows and columns in each of the `frames`.
    """

    text: int
    units: Grid
    frames: int = 1
    image_first: bool = False

    @property
    def number(self) -> int:
        return self.text + self.frames * self.units[0] * self.units[1]

    def crop(self, mask: Tensor, box: Box) -> Tensor:
        """Return the part of a mask [..., tokens, tokens] between the tokens of a window.

        `box` is the window in units.
        """
        image = torch.arange(self.number - self.text, device=mask.device)
        text = torch.arange(self.text, device=mask.device)
        inside = crop(image.view(self.frames, *self.units), box).flatten()
        if self.image_first:
            kept = torch.cat([inside, text + len(image)])
        else:
            kept = torch.cat([text, inside + self.text])
        return mask[..., kept, :][..., kept]


@dataclass(frozen=True, slots=True)
class RunMemory:
    """What cropping remembers for the length of a run.

    `hints` is what ControlNets prepared once; `resized_masks` are masks of patches and their copies
    at another resolution; `feature_maps` are the names of those that patches hold; `sources` are
    conds that are made anew for windows, and `made` what was made of them; `references` knows which
    pictures are cut; `warned` is what was reported. `unit` and `image_first` are those of the
    model's `Geometry`.
    """

    unit: int = 1
    image_first: bool = False

    hints: Hints = field(default_factory=dict)
    resized_masks: ResizedMasks = field(default_factory=dict)
    feature_maps: set[str] = field(default_factory=set)
    sources: Sources = field(default_factory=dict)
    made: Hints = field(default_factory=dict)
    references: References = field(default_factory=References)
    warned: set[str] = field(default_factory=set)


class Cropper:
    """Crops the entries of one model call to a batch of windows of one shape.

    The call is `noisy` [rows, C, ..., H, W] with `conds` conds. `unit` is the model's patch in
    cells, and `text_tokens` the number of text tokens before those of the canvas. `images` are
    those that each window is for; None: all of the batch.
    """

    def __init__(
        self,
        noisy: Tensor,
        boxes: Sequence[Box],
        *,
        conds: int,
        unit: int,
        text_tokens: int = 0,
        images: Sequence[Images] | None = None,
    ) -> None:
        self.boxes, self.images, self.conds = boxes, images, conds
        self.rows, self.canvas = len(noisy), grid_of(noisy)
        self.unit, self.text_tokens = unit, text_tokens
        # A transformer's patches, down and across.
        self.units = ceil_div(self.canvas[0], unit), ceil_div(self.canvas[1], unit)

    def list_rows(self) -> list[int]:
        """Return the rows of each window in those of a cond."""
        if self.images is not None:
            return [len(images) for images in self.images]
        return [self.rows // self.conds] * len(self.boxes)

    def pass_whole(self, value: Any) -> Any:
        """Return the same for every window: repeat its rows, if it has rows."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.pass_whole(entry) for entry in value)
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != self.rows:
            return value
        return repeat_rows(value, windows=len(self.boxes), conds=self.conds, images=self.images)

    def crop_grid(self, value: Tensor) -> Tensor:
        """Crop [1 or rows, ..., h, w], a whole multiple or fraction of the canvas' resolution."""
        grid = grid_of(value)
        boxes = [box_on_grid(box, canvas=self.canvas, grid=grid) for box in self.boxes]
        return self._join([crop(value, box) for box in boxes])

    def crop_tokens(self, value: Tensor) -> Tensor:
        """Crop one token per patch, frame by frame: [1 or rows, frames * patches, width]."""
        rows, columns = self.units
        if value.shape[1] % (rows * columns):
            raise ValueError(
                f"{value.shape[1]} tokens do not lie on the {columns} x {rows} patches of this "
                "latent and cannot be cut. Sample without Quadtree Diffusion."
            )
        planes = value.unflatten(1, (-1, rows, columns)).movedim(-1, 1)
        return self.crop_grid(planes).movedim(1, -1).flatten(1, 3)

    def crop_feature_map(self, value: Tensor) -> Tensor:
        """Crop a network's feature map [1 or rows, C, ..., h, w].

        One that is too coarse for the windows is resized to the canvas first, as Stable Cascade's
        stage C does, which is cut at single cells.
        """
        if value.ndim == 4 and self.unit % self._reduction_of(value):
            value = F.interpolate(value, size=self.canvas, mode="bilinear", align_corners=True)
        return self.crop_grid(value)

    def crop_latent(self, value: Any) -> Any:
        """Crop what belongs to the canvas' cells [1 or rows, ..., h, w].

        It is resized where its resolution is no whole scale of the canvas', and passed whole where
        it has none ([..., 1, 1], or less than three dimensions). Lists are cropped entry by entry.
        """
        if isinstance(value, (list, tuple)):
            return type(value)(self.crop_latent(entry) for entry in value)
        if not isinstance(value, Tensor) or value.ndim < 3 or value.shape[-2:] == (1, 1):
            return self.pass_whole(value)
        if value.shape[0] not in (1, self.rows):
            raise ValueError(
                f"A conditioning tensor of the latent's size has {value.shape[0]} rows, not "
                f"{self.rows}. Give it one row, or one for each image of the batch."
            )
        if find_scale(self.canvas, grid_of(value)) is None:
            planes = value.reshape(1, -1, *value.shape[-2:])
            value = F.interpolate(planes, size=self.canvas).reshape(*value.shape[:-2], *self.canvas)
        return self.crop_grid(self._repeat_to_units(value))

    def crop_reference(self, value: Any, least_rank: int = 4) -> Any:
        """Crop a reference picture if it has the canvas' size; else pass it whole."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.crop_reference(entry) for entry in value)
        if not isinstance(value, Tensor) or value.ndim < least_rank:
            return self.pass_whole(value)
        on_canvas = value.shape[-2:] == self.canvas
        return self.crop_latent(value) if on_canvas else self.pass_whole(value)

    def crop_references(self, pictures: Sequence[Any], on_canvas: Sequence[bool]) -> list[Any]:
        """Crop those of the pictures that lie on the canvas, of any resolution; others go whole."""
        return [
            self._crop_picture(picture)
            if lies and isinstance(picture, Tensor)
            else self.pass_whole(picture)
            for picture, lies in zip(pictures, on_canvas, strict=True)
        ]

    def _crop_picture(self, value: Tensor) -> Tensor:
        """Crop [1 or rows, ..., h, w] by shares of its sides."""
        grid = grid_of(value)
        if grid == self.canvas:
            return self.crop_grid(value)
        boxes = [
            box_by_shares(box, canvas=self.canvas, grid=grid, unit=self.unit) for box in self.boxes
        ]
        return self._join([crop(value, box) for box in boxes])

    def crop_by_shape(self, value: Any) -> Any:
        """Crop an undeclared entry if its last dimensions are the canvas'; else pass it whole."""
        return self.crop_reference(value, least_rank=3)

    def crop_effnet(self, value: Tensor) -> Tensor:
        """Crop a picture [1 or rows, C, h, w] that Stable Cascade's stage B resizes to its patches.

        Those are 2 x 2 cells; see `comfy.ldm.cascade.stage_b.StageB.forward`.
        """
        patches = self.canvas[0] // 2, self.canvas[1] // 2
        resized = F.interpolate(value, size=patches, mode="bilinear", align_corners=True)
        return self.crop_grid(resized)

    def crop_token_mask(self, value: Any) -> Any:
        """Crop a mask between all tokens, text then canvas: [1 or rows, tokens, tokens].

        A mask of any other size is of the text alone and is passed whole.
        """
        tokens = Tokens(self.text_tokens, self.units)
        if (
            not isinstance(value, Tensor)
            or value.ndim < 3
            or grid_of(value) != 2 * (tokens.number,)
        ):
            return self.pass_whole(value)
        boxes = [box_on_grid(box, canvas=self.canvas, grid=self.units) for box in self.boxes]
        return self._join([tokens.crop(value, box) for box in boxes])

    def looks_spatial(self, value: Any) -> bool:
        """Tell whether an undeclared entry may lie on the canvas in a way not cropped by shape."""
        in_dict = isinstance(value, dict)
        return any(self._looks_spatial(tensor, in_dict) for tensor in _find_tensors(value))

    def _looks_spatial(self, value: Tensor, in_dict: bool) -> bool:
        sizes = tuple(value.shape)
        last = sizes[-2:]
        if in_dict and last == self.canvas:
            return True
        if any(sizes[at : at + 2] == self.canvas for at in range(len(sizes) - 2)):
            return True
        if len(sizes) < 4 or min(last) < SHORTEST_PICTURE:
            return False
        return find_scale(self.canvas, grid_of(value)) not in (None, (1, 1))

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        """Join what was cropped for each window, [1 or rows, ...]; one row fits one window."""
        if len(parts) > 1 or self.images is not None:
            parts = [part.expand(self.rows, *part.shape[1:]) for part in parts]
        return join_windows(parts, self.conds, self.images)

    def _reduction_of(self, value: Tensor) -> int:
        """Return how many cells of the canvas a cell of `value` covers along a side."""
        scale = find_scale(self.canvas, grid_of(value))
        return 1 if scale is None else scale[1]

    def _repeat_to_units(self, value: Tensor) -> Tensor:
        """Repeat the cells of a grid coarser than units, since windows start on units."""
        times = self._reduction_of(value) // self.unit
        if times < 2:
            return value
        rows, columns = self.units
        return value.repeat_interleave(times, -2).repeat_interleave(times, -1)[..., :rows, :columns]


def _find_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value and in the dicts, lists and tuples in it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _find_tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _find_tensors(entry)
