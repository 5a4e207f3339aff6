"""ControlNets that are patches of the model: Qwen's DiffSynth ControlNet, Z-Image's Fun ControlNet.

Such a patch encodes its picture at the size of what the model sees, so in windows it would squeeze
the whole picture into each. Here ComfyUI's own code prepares the picture for the canvas, once per
run; every batch of windows gets a copy of the patch that holds the windows' part of it. Nothing of
the user's patch is written to.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..utils import Box, round_up
from .cropping import Cropper
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


class PatchKind(NamedTuple):
    """How a kind of patch is given its windows' part of the picture.

    `stop` is what it asks its network for once the picture is prepared. `crop` crops the prepared
    picture. Where `padded` is set, the model pads the latent to whole units before the patch sees
    it.
    """

    stop: str
    crop: Callable[[Cropper, Tensor], Tensor]
    padded: bool


KINDS = {
    "DiffSynthCnetPatch": PatchKind("control_block", Cropper.crop_tokens, padded=False),
    "ZImageControlPatch": PatchKind("n_control_layers", Cropper.crop_grid, padded=True),
}


def cut_controls(options: Options, call: ModelCall, cropper: Cropper, hints: Hints) -> Options:
    """Return the transformer options with a stand-in for every patch of KINDS; the same without.

    A patch that is registered several times has one stand-in. `hints` keeps prepared pictures for
    the length of a run.
    """
    stand_ins: dict[int, Any] = {}
    patches = options.get("patches", {})
    for listed in patches.values():
        for patch in listed:
            kind = KINDS.get(type(patch).__name__)
            if kind is not None and id(patch) not in stand_ins:
                stand_ins[id(patch)] = _make_stand_in(patch, kind, call, cropper, hints)
    if not stand_ins:
        return options
    replaced = {
        name: [stand_ins.get(id(patch), patch) for patch in listed]
        for name, listed in patches.items()
    }
    return {**options, "patches": replaced}


def _make_stand_in(
    patch: Any, kind: PatchKind, call: ModelCall, cropper: Cropper, hints: Hints
) -> Any:
    """Return a copy of a patch for a batch of windows of one shape."""
    noisy, boxes, unit = call["input"], cropper.boxes, cropper.unit
    if kind.padded:
        noisy = noisy[..., :1, :1].expand(*noisy.shape[:-2], *(n * unit for n in cropper.units))
        boxes = [Box(*(round_up(edge, unit) for edge in box)) for box in boxes]
        cropper = Cropper(noisy, boxes, conds=cropper.conds, unit=unit)
    picture = _prepare(patch, kind, noisy, hints)
    stand_in = copy.copy(patch)
    stand_in.encoded_image = kind.crop(cropper, picture)
    px = patch.vae.spacial_compression_encode()
    stand_in.encoded_image_size = boxes[0].height * px, boxes[0].width * px
    stand_in.temp_data = None  # what a Z-Image patch hands from block to block
    return stand_in


def _prepare(patch: Any, kind: PatchKind, noisy: Tensor, hints: Hints) -> Tensor:
    """Return the picture as core encodes it for a canvas like `noisy`, once per run and device."""
    key: Hashable = patch, noisy.shape[-2:], noisy.device
    with PREPARING:
        if key not in hints:
            alone = copy.copy(patch)
            alone.model_patch = SimpleNamespace(
                model=_NoNetwork(patch.model_patch.model, kind.stop)
            )
            nothing = torch.empty(1, 0, 1, device=noisy.device, dtype=noisy.dtype)
            with suppress(_PictureReadyError):
                alone({"x": noisy, "img": nothing, "block_index": 0})
            hints[key] = alone.encoded_image.to(noisy.device)
    picture: Tensor = hints[key]
    return picture
