"""Controls that are patches of the model: ControlNets and their kind of Qwen, Z-Image, Wan, Anima
and SUPIR, and USO's style reference.

Such a patch encodes its picture at the size of what the model sees, so in windows it would squeeze
the whole picture into each. Here ComfyUI's own code prepares the picture for the canvas, once per
run; every batch of windows gets a copy of the patch that holds the windows' part of it. Nothing of
the user's patch is written to.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..utils import Box, ceil_div, round_up
from ..windows.tiling import Images
from .cropping import Cropper, Grid, grid_of
from .protocols import Hints, ModelCall, Options

# Hints and pictures may need the VAE, which threads of several GPUs share.
PREPARING = threading.Lock()


class _PictureReadyError(Exception):
    """The picture is prepared; the network itself is not wanted."""


class _NoNetwork:
    """A control network that stops where a patch first asks it for what it computes."""

    def __init__(self, network: Any, stop: str) -> None:
        self._network, self._stop = network, stop

    def __getattr__(self, name: str) -> Any:
        if name == self._stop:
            raise _PictureReadyError
        return getattr(self._network, name)


class Windows(NamedTuple):
    """A batch of windows of one shape: where they lie on the canvas `noisy` [rows, C, ..., H, W].

    `hints` keeps prepared pictures for the length of a run, and what moved to another `device`.
    `images` are those that each window is for; None: all of the batch.
    """

    noisy: Tensor
    boxes: Sequence[Box]
    conds: int
    unit: int
    hints: Hints
    device: torch.device
    images: Sequence[Images] | None = None

    @property
    def cropper(self) -> Cropper:
        return Cropper(self.noisy, self.boxes, conds=self.conds, unit=self.unit, images=self.images)

    def pad(self) -> Windows:
        """Return the same on the canvas as transformers pad it: to whole units."""
        height, width = (round_up(side, self.unit) for side in grid_of(self.noisy))
        noisy = self.noisy[..., :1, :1].expand(*self.noisy.shape[:-2], height, width)
        boxes = [Box(*(round_up(edge, self.unit) for edge in box)) for box in self.boxes]
        return self._replace(noisy=noisy, boxes=boxes)

    def take_one_cond(self) -> Windows:
        """Return the same for the rows of the first cond alone."""
        return self._replace(noisy=self.noisy[: len(self.noisy) // self.conds], conds=1)

    def prepare(self, patch: Any, encode: Callable[[], Tensor], *more: Hashable) -> Tensor:
        """Return the patch's picture as `encode` makes it for the canvas, once per run and device.

        `more` is what it depends on besides the canvas.
        """
        key: Hashable = patch, grid_of(self.noisy), self.device, more
        with PREPARING:
            if key not in self.hints:
                self.hints[key] = encode().to(self.noisy.device)
        picture: Tensor = self.hints[key]
        return picture

    def find_network(self, patch: Any) -> Any:
        """Return what stands for the patch's `model_patch`: a copy of its network, once per run, on
        each device but the one that ComfyUI has loaded it on."""
        if self.device == patch.model_patch.load_device:
            return patch.model_patch
        key: Hashable = patch, "network", self.device
        with PREPARING:
            if key not in self.hints:
                network = copy.deepcopy(patch.model_patch.model).to(self.device)
                self.hints[key] = SimpleNamespace(model=network)
        return self.hints[key]

    def repeat_to_rows(self, picture: Tensor) -> Tensor:
        """Repeat several pictures for the rows of the call, as ComfyUI repeats them."""
        rows, count = len(self.noisy), len(picture)
        if count in (1, rows):
            return picture
        return picture.repeat(ceil_div(rows, count), *[1] * (picture.ndim - 1))[:rows]


def cut_controls(options: Options, call: ModelCall, cropper: Cropper, hints: Hints) -> Options:
    """Return the transformer options with a stand-in for every patch of STAND_INS.

    They are the same options where there is none. A patch that is registered several times has one
    stand-in. `hints` keeps prepared pictures for the length of a run.
    """
    patches = options.get("patches")
    if not patches:
        return options
    device = options.get("multigpu_thread_device", call["input"].device)
    windows = Windows(
        call["input"], cropper.boxes, cropper.conds, cropper.unit, hints, device, cropper.images
    )
    stand_ins: dict[int, Any] = {}
    for listed in patches.values():
        for entry in listed:
            patch = _find_patch(entry)
            make = STAND_INS.get(type(patch).__name__)
            if make is not None and id(patch) not in stand_ins:
                stand_ins[id(patch)] = make(patch, windows)
    if not stand_ins:
        return options
    replaced = {
        name: [_with_patch(entry, stand_ins.get(id(_find_patch(entry)))) for entry in listed]
        for name, listed in patches.items()
    }
    return {**options, "patches": replaced}


def is_spread(entry: Any) -> bool:
    """Tell whether an entry has a stand-in on every device, with a network of its own."""
    return type(_find_patch(entry)).__name__ in STAND_INS


def stays_on_its_device(options: Options) -> bool:
    """Tell whether a patch has a network that no stand-in takes to another device."""
    entries = [entry for listed in options.get("patches", {}).values() for entry in listed]
    return any(hasattr(_find_patch(each), "models") and not is_spread(each) for each in entries)


def _find_patch(entry: Any) -> Any:
    """Return the object that is registered: itself, by a method, by (class, method), or by a
    listener that asks it for what it computed."""
    if isinstance(entry, tuple):
        entry = entry[-1]
    entry = getattr(entry, "__self__", entry)
    return entry.patch if type(entry).__name__ in LISTENERS else entry


def _with_patch(entry: Any, patch: Any) -> Any:
    """Return an entry that registers another patch in the same way; None: the entry itself."""
    if patch is None:
        return entry
    if isinstance(entry, tuple):
        return *entry[:-1], _with_patch(entry[-1], patch)
    if type(entry).__name__ in LISTENERS:
        listener = copy.copy(entry)
        listener.patch = patch
        return listener
    return MethodType(entry.__func__, patch) if isinstance(entry, MethodType) else patch


# ---- one function for each kind of patch: it returns what stands in for it


def _stand_in_for_encoder(
    patch: Any,
    windows: Windows,
    *,
    stop: str,
    crop: Callable[[Cropper, Tensor], Tensor],
    padded: bool,
) -> Any:
    """Return a copy of a patch that keeps its picture, encoded by a VAE, as `encoded_image`.

    `stop` is what it asks its network for once that is done. `padded` tells that the model pads
    the latent before the patch sees it.
    """
    windows = windows.pad() if padded else windows
    network = windows.find_network(patch)

    def encode() -> Tensor:
        alone = copy.copy(patch)
        alone.model_patch = SimpleNamespace(model=_NoNetwork(network.model, stop))
        noisy = windows.noisy
        nothing = torch.empty(1, 0, 1, device=noisy.device, dtype=noisy.dtype)
        with suppress(_PictureReadyError):
            alone({"x": noisy, "img": nothing, "block_index": 0})
        encoded: Tensor = alone.encoded_image
        return encoded

    stand_in = copy.copy(patch)
    stand_in.model_patch = network
    picture = windows.repeat_to_rows(windows.prepare(patch, encode))
    stand_in.encoded_image = crop(windows.cropper, picture)
    px, box = patch.vae.spacial_compression_encode(), windows.boxes[0]
    stand_in.encoded_image_size = box.height * px, box.width * px
    stand_in.temp_data = None  # what a Z-Image patch hands from block to block
    return stand_in


def _stand_in_for_uni3c(patch: Any, windows: Windows) -> Any:
    """Return a copy of a WanUni3CCnetPatch, which asks for the rows of the first cond only."""
    windows = windows.pad().take_one_cond()

    def crop_render(shape: Sequence[int]) -> Tensor:
        frames, *_ = shape
        canvas = frames, *grid_of(windows.noisy)
        video = windows.prepare(patch, lambda: patch.encode_render_video(canvas), frames)
        return windows.cropper.crop_grid(video)

    stand_in = copy.copy(patch)
    stand_in.model_patch = windows.find_network(patch)
    stand_in.prepared_render = stand_in.temp_data = None
    stand_in.encode_render_video = crop_render
    return stand_in


def _stand_in_for_lllite(patch: Any, windows: Windows) -> Any:
    """Return a copy of an AnimaLLLitePatch, which its listeners look tokens up by."""
    windows = windows.pad()
    network = windows.find_network(patch).model

    def encode() -> Tensor:
        alone = copy.copy(patch)
        alone.model_patch = SimpleNamespace(model=network)
        found: dict[Any, Tensor] = {}
        alone.strength = 1.0  # with 0 it does not encode
        alone({"x": windows.noisy, "transformer_options": {"model_patch_data": found}})
        return found[alone]

    def crop_tokens(image: Tensor) -> Tensor:
        tokens = windows.repeat_to_rows(windows.prepare(patch, encode))
        return windows.cropper.crop_tokens(tokens).to(image.dtype)

    stand_in = copy.copy(patch)
    stand_in.model_patch = SimpleNamespace(model=copy.copy(network))
    stand_in.model_patch.model.encode_conditioning = crop_tokens
    return stand_in


def _stand_in_for_supir(patch: Any, windows: Windows) -> Any:
    """Return a copy of a SUPIRPatch, whose latent of the image has to have the canvas' size."""
    hint, canvas = patch.hint_latent, grid_of(windows.noisy)
    _check_supir(grid_of(hint), canvas)
    stand_in = copy.copy(patch)
    stand_in.model_patch = windows.find_network(patch)
    stand_in.project_modules = stand_in.model_patch.model.project_modules
    stand_in.hint_latent = windows.cropper.crop_grid(windows.repeat_to_rows(hint))
    stand_in.cached_features = None
    return stand_in


def _check_supir(hint: Grid, canvas: Grid) -> None:
    if hint != canvas:
        raise ValueError(
            f"SUPIR's image gives {hint[1]} x {hint[0]} latent cells, but the latent that is "
            f"sampled has {canvas[1]} x {canvas[0]}. Connect the image that the latent was encoded "
            "from to Apply SUPIR Patch."
        )


def _stand_in_for_uso(patch: Any, windows: Windows) -> Any:
    """Return a copy of a UsoStyleProjectorPatch, whose picture is seen whole."""
    stand_in = copy.copy(patch)
    stand_in.model_patch = windows.find_network(patch)
    stand_in.encoded_image = windows.prepare(patch, lambda: patch.encoded_image)
    return stand_in


STAND_INS: dict[str, Callable[[Any, Windows], Any]] = {
    "DiffSynthCnetPatch": partial(
        _stand_in_for_encoder, stop="control_block", crop=Cropper.crop_tokens, padded=False
    ),
    "ZImageControlPatch": partial(
        _stand_in_for_encoder, stop="n_control_layers", crop=Cropper.crop_grid, padded=True
    ),
    "WanUni3CCnetPatch": _stand_in_for_uni3c,
    "AnimaLLLitePatch": _stand_in_for_lllite,
    "SUPIRPatch": _stand_in_for_supir,
    "UsoStyleProjectorPatch": _stand_in_for_uso,
}
# Patches that ask another, which they keep as `patch`, for its network and what it encoded.
LISTENERS = frozenset({"AnimaLLLiteAttentionPatch", "AnimaLLLiteMLPPatch"})
