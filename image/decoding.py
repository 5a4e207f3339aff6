"""Decodes only what changed in a latent, equal to a full decode there.

A decoder first works at the latent's own resolution, where it may look at the whole image (attention), and ends with
convolutions that look a few cells around. So it is cut in two: the first part runs once over the whole latent, which is a few
percent of the work, and its features go through the rest in windows, each with the cells around it that the rest looks at.
Where to cut and how far it looks is measured on the decoder itself: a NaN spreads to everything that is made from it.

A decoder with group norms behind the cut (SD, SDXL, SD3, Flux) takes mean and variance of the whole image at every resolution:
there the NaN spreads everywhere and no window can be right. Statistics of a half of the image or of a latent of half the size
put a small trained decoder of that family off by 20 to 40 levels of 255, and repeating with what the windows then measure did
not converge. So such a VAE decodes the whole image, unless the user takes windows that are decoded each by itself, as core's
VAE Decode (Tiled) does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import numpy as np
import torch
from torch import Tensor, nn

from ..memory import is_oom
from ..utils import Box, ceil_div, info, warn
from ..windows.blending import METHODS, shares
from ..windows.planning import Cost, Planner, Tiling, Window, batches, units_with
from .composite import Canvas, composite

WINDOW_PX = 1024  # side of the largest window, with what it sees around; batches hold no more than such a window
OVERLAP_PX = 96  # of each side of windows that are decoded each by itself: half to fade in, half as context beyond
UNIT_CELLS = 2  # windows begin and end on multiples of it, so that there are few shapes
CALL_CELLS = 256  # what a call of the decoder costs by itself, in cells' worth
PROBE_CELLS = 4  # enough to see what goes through the cut
STRIP_CELLS = 48, 2  # long enough to see how far the rest looks, wide enough for a reflected edge
MOST_TRIES = 8  # modules at which a cut is tried
FEW_CELLS = 1024  # to look for a cut takes longer than what could be saved


class Reached(BaseException):
    """Ends a decode at the cut, once the features are known; no failure, so no `except Exception` of core's may take it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """All that a decoder makes, it makes from the output of `module`: `scale` features per cell along an axis.

    A cell's px, `px` along an axis, are made from the cells up to `reach` away.
    """

    module: nn.Module
    scale: int
    px: int
    reach: int


class Decoder:
    """A VAE's decoder as core calls it, in two parts. Nothing is left on the VAE: every hook is removed at once."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.model = getattr(vae, "first_stage_model", None)

    @property
    def has_parts(self) -> bool:
        """Whether it is core's own VAE; what another VAE's decode does is not known, so it is called as it is."""
        return getattr(type(self.vae), "decode", None) is comfy.sd.VAE.decode

    def __call__(self, cells: Tensor) -> Tensor:
        return self.model.decode(cells.to(self.vae.device, self.vae.vae_dtype))

    def features(self, cells: Tensor, module: nn.Module) -> Tensor | None:
        """What `module` puts out first for these latent cells; what follows is not run. None where it does not run."""
        found = []

        def reached(_module: nn.Module, _args: tuple, output: Tensor) -> None:
            found.append(output)
            raise Reached

        with hooked(reached, module), suppress(Reached):
            self(cells)
        return found[0] if found else None

    def rest(self, features: Tensor, module: nn.Module, like: Tensor) -> Tensor:
        """The picture [B, C, ..., H, W] from features. What comes before `module` gets one cell of NaN and does not count."""
        with hooked(lambda *_call: features, module):
            return self(like.new_full((len(features), *like.shape[1:-2], 1, 1), torch.nan))

    def pixels(self, picture: Tensor) -> Tensor:
        """A decoder's output as core puts it out, [B, H, W, 3] in 0..1."""
        picture = picture.to(self.vae.output_device, self.vae.vae_output_dtype(), copy=True)
        return as_images(self.vae.process_output(picture).movedim(1, -1))

    def whole(self, latent: Tensor) -> Tensor:
        return self._of_its_size(as_images(self.vae.decode(latent)), latent)

    def alone(self, cells: Tensor) -> Tensor:
        """These latent cells decoded as if they were an image of their own, [B, H, W, 3]."""
        return self._of_its_size(self.pixels(self(cells)), cells)

    def _of_its_size(self, images: Tensor, cells: Tensor) -> Tensor:
        px = self.vae.spacial_compression_decode()
        (high, wide), (height, width) = cells.shape[-2:], images.shape[1:3]
        if (height, width) != (high * px, wide * px):
            raise ValueError(
                f"The VAE decodes a latent of {wide} x {high} cells to {width} x {height} px, but says of itself that a cell "
                f"has {px} px. Use core's VAE Decode, and Quadtree Composite with an original of {width} x {height} px."
            )
        return images

    @property
    def window_cells(self) -> int:
        return ceil_div(WINDOW_PX, self.vae.spacial_compression_decode())

    def memory(self, latent: Tensor, height: int, width: int) -> float:
        """Bytes that decoding `height` x `width` cells of this latent takes, by core's estimate."""
        return self.vae.memory_used_decode(
            torch.Size((1, *latent.shape[1:-2], height, width)), self.vae.vae_dtype
        )

    def load(self, latent: Tensor) -> None:
        """The VAE on its device, with memory for a window and for the features of the whole latent."""
        height, width = latent.shape[-2:]
        window = self.memory(latent, min(height, self.window_cells), min(width, self.window_cells))
        features = (
            4 * self.memory(latent, height, width) / self.vae.spacial_compression_decode() ** 2
        )
        comfy.model_management.load_models_gpu(
            [self.vae.patcher],
            memory_required=window + features,
            force_full_load=self.vae.disable_offload,
        )

    def fits(self, latent: Tensor) -> bool:
        """Whether the whole latent can be decoded at once."""
        return self.memory(latent, *latent.shape[-2:]) <= comfy.model_management.get_free_memory(
            self.vae.device
        )


def as_images(picture: Tensor) -> Tensor:
    """[B, 1, H, W, C] or [B, H, W, C] as [B, H, W, 3]."""
    return picture.flatten(0, -4)[..., :3]


@contextmanager
def hooked(hook: Callable, *modules: nn.Module) -> Iterator[None]:
    """`hook` after each forward of these modules, until the end of the block."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def tried() -> Iterator[None]:
    """Goes on behind the block where the VAE's own code fails in it, but not out of memory or interrupted."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        if is_oom(error):
            raise


def find_cut(decoder: Decoder, latent: Tensor) -> Cut | None:
    """Where the decoder may be cut; None where no window can be right, or no cut was found."""
    probe = latent.new_zeros(1, *latent.shape[1:-2], PROBE_CELLS, PROBE_CELLS)
    px = decoder.vae.spacial_compression_decode()
    with tried():
        # The last module at the lowest resolution leaves the least to do; where something bypasses it, an earlier one.
        for module, features in reversed(at_lowest(decoder, probe)[-MOST_TRIES:]):
            with tried():  # what bypasses it has the shape of the one cell
                picture = decoder.rest(features, module, probe)
                if (
                    picture.shape[-2:] == (px * PROBE_CELLS, px * PROBE_CELLS)
                    and picture.isfinite().all()
                ):
                    across = reach_along(-1, decoder, module, features, probe)
                    down = (
                        None
                        if across is None
                        else reach_along(-2, decoder, module, features, probe)
                    )
                    scale = features.shape[-1] // PROBE_CELLS
                    return None if down is None else Cut(module, scale, px, max(across, down))
    return None


def at_lowest(decoder: Decoder, probe: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Modules that put out the lowest resolution, and what they put out, in the order in which they finish.

    Of those that run once: what a module puts out at its second call is not what it put out at its first. And none that lies
    in another of them: that one has the same output, or something bypasses the inner one.
    """
    calls: Counter[nn.Module] = Counter()
    seen: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _args: tuple, output: Any) -> None:
        calls[module] += 1
        if isinstance(output, Tensor) and output.ndim >= 4 and output.shape[-2] == output.shape[-1]:
            side = output.shape[-1]
            if (
                side
                and side % PROBE_CELLS == 0
                and side <= min((some.shape[-1] for _, some in seen), default=side)
            ):
                seen.append((module, output.clone()))  # what follows may write into it

    with hooked(note, *decoder.model.modules()):
        decoder(probe)
    lowest = min((some.shape[-1] for _, some in seen), default=0)
    found = [
        (module, some) for module, some in seen if some.shape[-1] == lowest and calls[module] == 1
    ]
    inner = {child for module, _ in found for child in module.modules() if child is not module}
    return [(module, some) for module, some in found if module not in inner]


def reach_along(
    axis: int, decoder: Decoder, module: nn.Module, features: Tensor, probe: Tensor
) -> int | None:
    """How many cells away, along an axis, a cell has a say in the picture; None if it has in all of it."""
    (length, width), scale = STRIP_CELLS, features.shape[-1] // PROBE_CELLS
    repeats = [
        length // PROBE_CELLS if dim - features.ndim == axis else 1 for dim in range(features.ndim)
    ]
    strip = features.narrow(-3 - axis, 0, width * scale).repeat(repeats)
    middle = length // 2
    strip.narrow(axis, middle * scale, scale).fill_(torch.nan)
    # Fast convolutions (Winograd, Fourier) would carry the NaN further than the sum that they stand for.
    with torch.backends.cudnn.flags(enabled=False):
        picture = decoder.rest(strip, module, probe)
    cells = (
        picture.isnan()
        .movedim(axis, -1)
        .unflatten(-1, (length, -1))
        .movedim(-2, 0)
        .flatten(1)
        .any(1)
    )
    spoilt = cells.nonzero().flatten().tolist()
    return None if cells[0] or cells[-1] else max(middle - spoilt[0], spoilt[-1] - middle)


@torch.no_grad()
def decode_changed(
    vae: Any,
    latent: Tensor,
    canvases: Sequence[Canvas],
    feather_px: int,
    *,
    approximate: bool = False,
    match: bool = False,
) -> Tensor:
    """The decoded `latent` [B, C, ..., h, w] composed into the canvases where it may change them, [canvases, H, W, 3].

    `approximate` allows windows where the decoder cannot be cut; `match` is that of `composite`.
    """
    if not any(canvas.free.any() for canvas in canvases):
        return torch.stack([canvas.original for canvas in canvases])
    decoder, pictures = Decoder(vae), []
    with (
        comfy.model_management.cuda_device_context(vae.device)
        if decoder.has_parts
        else nullcontext()
    ):
        refine = way_to_decode(decoder, latent, approximate)
        for number, canvas in enumerate(canvases):
            cells = latent[number % len(latent), None]
            refined = (
                refine(cells, canvas.original, canvas.free)
                if canvas.free.any()
                else canvas.original
            )
            pictures.append(composite(canvas, refined, feather_px, match=match))
    return torch.stack(pictures)


def way_to_decode(
    decoder: Decoder, latent: Tensor, approximate: bool
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """What makes the refined picture [H, W, 3] of one image's latent, the original and the px that may change."""

    def whole(cells: Tensor, _picture: Tensor, _changed: Tensor) -> Tensor:
        return decoder.whole(cells)[0]

    if not decoder.has_parts:
        info("this VAE is no network of ComfyUI's, so it decodes the whole image.")
        return whole
    if latent[0, 0].numel() <= FEW_CELLS and decoder.fits(latent):
        return whole
    decoder.load(latent)
    cut = find_cut(decoder, latent)
    if cut is not None:
        return partial(decoded, decoder, cut)
    what = "windows are decoded each by itself" if approximate else "the whole image is decoded"
    info("this VAE cannot be decoded in parts, so %s.", what)
    return partial(each_by_itself, decoder) if approximate else whole


def each_by_itself(decoder: Decoder, latent: Tensor, picture: Tensor, changed: Tensor) -> Tensor:
    """`picture` with windows over what is `changed` decoded as if each were an image, and blended where they overlap."""
    px, size = decoder.vae.spacial_compression_decode(), latent.shape[-2:]
    tile, overlap = (
        decoder.window_cells // UNIT_CELLS,
        max(1, ceil_div(OVERLAP_PX, px * UNIT_CELLS)),
    )
    active = units_with(changed, px * UNIT_CELLS)
    while True:
        tiling = Tiling(
            UNIT_CELLS, tile, tile // 2, 2 * overlap, moving=False, cost=Cost(CALL_CELLS, 0, inf)
        )
        windows = Planner(size, tiling).plan(active)
        try:
            return blended(decoder, latent, picture, windows, overlap * UNIT_CELLS // 2)
        except Exception as error:
            if not is_oom(error) or tile <= 4 * overlap:
                raise
        tile = max(4 * overlap, tile // 2)
        warn("out of memory; the VAE goes on with windows of %d px.", tile * UNIT_CELLS * px)
        comfy.model_management.soft_empty_cache()


def blended(
    decoder: Decoder, latent: Tensor, picture: Tensor, windows: Sequence[Window], margin: int
) -> Tensor:
    """Each window decoded, over `picture` where no window counts; neighbours fade over `margin` cells beside their border."""
    px, progress = decoder.vae.spacial_compression_decode(), comfy.utils.ProgressBar(len(windows))
    result, held = torch.zeros_like(picture), torch.ones(*picture.shape[:2], 1)
    weights = shares(windows, latent.shape[-2:], METHODS["Shifted Feather"], margin)
    for (box, _), weight in zip(windows, weights, strict=True):
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = decoder.alone(latent[(..., *box.slices)])[0].to(result)
        share = weight.to(result).repeat_interleave(px, 0).repeat_interleave(px, 1)[..., None]
        inside = scaled(box, px).slices
        result[inside] += pixels * share
        held[inside] -= share
        progress.update(1)
    return result.addcmul_(picture, held.clamp_min_(0).to(result))


def decoded(decoder: Decoder, cut: Cut, latent: Tensor, picture: Tensor, changed: Tensor) -> Tensor:
    """`picture` [H, W, 3] with the latent [1, C, ..., h, w] decoded, at least where px are `changed`."""
    todo = units_with(changed, cut.px * UNIT_CELLS)
    tile = decoder.window_cells // UNIT_CELLS
    windows = plan(todo, latent.shape[-2:], cut, tile)
    if sum(box.width * box.height for box, _ in windows) >= latent[0, 0].numel() and decoder.fits(
        latent
    ):
        return decoder.whole(latent)[0]
    features = features_at(cut, decoder, latent)
    if features is None:
        return decoder.whole(latent)[0]
    refined, progress = picture.clone(), comfy.utils.ProgressBar(int(todo.sum()))
    while todo.any():
        try:
            for core, pixels in in_windows(
                decoder, cut, features, latent, windows, (tile * UNIT_CELLS) ** 2
            ):
                refined[scaled(core, cut.px).slices] = pixels.to(refined)
                units = tuple(
                    slice(ends.start // UNIT_CELLS, ceil_div(ends.stop, UNIT_CELLS))
                    for ends in core.slices
                )
                progress.update(int(todo[units].sum()))
                todo[units] = False
        except Exception as error:
            if not is_oom(error) or tile <= least_tile(cut):
                raise
            tile = max(least_tile(cut), tile // 2)
            warn(
                "out of memory; the VAE goes on with windows of %d px.", tile * UNIT_CELLS * cut.px
            )
            windows = plan(todo, latent.shape[-2:], cut, tile)
        comfy.model_management.soft_empty_cache()
    return refined


def features_at(cut: Cut, decoder: Decoder, latent: Tensor) -> Tensor | None:
    """The features of the whole latent; None where memory is short, or the decoder goes over the latent in tiles itself."""
    try:
        features = decoder.features(latent, cut.module)
    except Exception as error:
        if not is_oom(error):
            raise
    else:
        if features is not None and features.shape[-2:] == tuple(
            length * cut.scale for length in latent.shape[-2:]
        ):
            return features
        info("this VAE decodes in tiles of its own, so the whole image is decoded.")
        return None
    # Here, and not above, since an error that is being handled holds what the decoder had at hand.
    warn(
        "out of memory for what is made of the whole latent; ComfyUI decodes the whole image, in tiles if it must."
    )
    comfy.model_management.soft_empty_cache()
    return None


def in_windows(
    decoder: Decoder,
    cut: Cut,
    features: Tensor,
    latent: Tensor,
    windows: Sequence[Window],
    most_cells: int,
) -> Iterator[tuple[Box, Tensor]]:
    """Each window's core, in cells, and its px [h, w, 3]; as many windows at once as have `most_cells` together."""
    largest = max(box.width * box.height for box, _ in windows)
    for group in batches(windows, max(1, most_cells // largest)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        crops = torch.cat(
            [features[(..., *scaled(windows[number].box, cut.scale).slices)] for number in group]
        )
        for number, pixels in zip(
            group, decoder.pixels(decoder.rest(crops, cut.module, latent)), strict=True
        ):
            box, core = windows[number]
            inner = Box(core.x0 - box.x0, core.y0 - box.y0, core.x1 - box.x0, core.y1 - box.y0)
            yield core, pixels[scaled(inner, cut.px).slices]


def plan(active: np.ndarray, size: tuple[int, int], cut: Cut, tile: int) -> Sequence[Window]:
    """The cheapest windows, in cells, over the active units of a latent of `size`; the longest have `tile` units."""
    # The planner leaves whole what one window can hold, for the sake of its context; a decoder needs no more than its reach.
    tile = max(least_tile(cut), min(tile, max(active.shape) - 1))
    margin = ceil_div(cut.reach, UNIT_CELLS)
    tiling = Tiling(UNIT_CELLS, tile, 1, 2 * margin, moving=False, cost=Cost(CALL_CELLS, 0, inf))
    return Planner(size, tiling).plan(active)


def least_tile(cut: Cut) -> int:
    """Units of the smallest window that is worth it: half of its side is decoded for its own sake."""
    return 4 * ceil_div(max(1, cut.reach), UNIT_CELLS)


def scaled(box: Box, factor: int) -> Box:
    return Box(*(edge * factor for edge in box))
