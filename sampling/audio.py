"""LTX-2's audio beside its video: both are packed in one latent [rows, 1, values], video first.

The video is cut into windows, and every window gets the whole audio. What the model makes of the
audio is the mean of what the windows make of it, by the cells that each answers for. The audio
may change as far as any cell of the video may, and where nothing may it is kept with the video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from comfy.utils import pack_latents, unpack_latents
from torch import Tensor

from ..utils import Box
from ..velocity import blend_denoised
from .protocols import ModelCall

if TYPE_CHECKING:
    from .run import Run

ENTRY = "quadtree_audio"  # of a model call's `c`: the audio of its rows
SHAPES = "latent_shapes"  # the entry that tells a model how its latent is packed
MODEL = "LTXAV"  # the class of models whose second latent is an audio


class Packing(NamedTuple):
    """The shapes of a video [B, C, T, H, W] and of the audio [B, C, T, F] packed behind it."""

    video: Sequence[int]
    audio: Sequence[int]

    @classmethod
    def of(cls, model: Any, shapes: Sequence[Sequence[int]] | None) -> Packing | None:
        """Return how a latent of these shapes is packed; None unless it is a video with audio."""
        if type(model).__name__ != MODEL or shapes is None or len(shapes) != 2:
            return None
        return cls(*shapes)

    def split(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        video, audio = unpack_latents(packed, self)
        return video, audio

    def join(self, video: Tensor, audio: Tensor) -> Tensor:
        packed: Tensor = pack_latents([video, audio])[0]
        return packed

    def pack_shape(self, video: Sequence[int]) -> list[int]:
        """Return the shape of as many rows of a video of this shape, packed with the audio."""
        rows, *cells = video
        return [rows, 1, torch.Size(cells).numel() + torch.Size(self.audio[1:]).numel()]


class Audio:
    """The audio of one run on the packed `latent`, whose noise `mask` may close it.

    An empty audio holds nothing to preserve, and neither does a `noisy` one.
    """

    def __init__(
        self, packing: Packing, latent: Tensor, mask: Tensor | None, *, noisy: bool = False
    ) -> None:
        self.packing = packing
        self.latent = packing.split(latent)[1]
        self.is_free = noisy or not bool(self.latent.count_nonzero())
        self.is_open = mask is None or bool((packing.split(mask)[1] > 0).any())
        self.clean: Tensor | None = None  # [B, C, T, F] in the model's space

    def start(self, run: Run, clean: Tensor) -> None:
        """Note the clean audio [B, C, T, F] of a run that has started, in the model's space.

        Raises ValueError where the audio would change at a step that evaluates no window.
        """
        self.clean = clean
        for index in range(run.clock.steps if self.is_open else 0):
            if bool(self.weigh(run, index).any()) and not run.layouts.windows(index):
                raise ValueError(
                    "The audio that is packed with this video would change at steps at which no "
                    "part of the video may, so Quadtree Diffusion evaluates nothing that could "
                    "tell how: the audio is empty, or the noise mask closes the video. Close the "
                    "audio, too, with a noise mask (Set Latent Noise Mask before Concat AV "
                    "Latent), or sample it without Quadtree Diffusion first."
                )

    def weigh(self, run: Run, index: int) -> Tensor:
        """Return the weight in 0..1 of the model's estimate at a step, [B or 1, 1, 1, 1]."""
        if not run.preserves or self.is_free:
            return torch.ones(1, 1, 1, 1)
        return run.freedom(index).flatten(1).amax(1).view(-1, 1, 1, 1).float()

    def release(self, video: Tensor) -> Tensor:
        """Return the step that releases each value of the packed latent, [B or 1, 1, values].

        `video` [B or 1, T or 1, H, W] has those of its cells.
        """
        first = video.flatten(1).amin(1).view(-1, 1, 1, 1)
        audio = torch.zeros_like(first) if self.is_free else first
        return self.packing.join(
            video.unsqueeze(1).expand(len(video), *self.packing.video[1:]),
            audio.expand(len(video), *self.packing.audio[1:]),
        )

    def restore(self, run: Run, audio: Tensor) -> Tensor:
        """Return the audio of a run's result; it is the caller's own where it was held to the
        end."""
        kept = self.weigh(run, run.clock.steps - 1) == 0
        return torch.where(kept.to(audio.device), self.latent.to(audio), audio)

    def hold(self, run: Run, denoised: Tensor, sigma: Tensor) -> Tensor:
        """Return a packed estimate with video and audio as `Run.hold` returns a video."""
        video, audio = self.packing.split(denoised)
        if run.preserves and self.clean is not None:
            held = self.weigh(run, run.clock.index_at(sigma)) == 0
            audio = torch.where(held.to(audio.device), self.clean.to(audio), audio)
        return self.packing.join(run.hold(video, sigma), audio)

    # ---- model calls

    def unpack(self, call: ModelCall) -> ModelCall:
        """Return a call on the packed latent as one on the video, with the audio as an entry."""
        video, audio = self.packing.split(call["input"])
        return {**call, "input": video, "c": {**call["c"], ENTRY: audio}}

    def pack(self, call: ModelCall) -> ModelCall:
        """Return such a call on windows of the video as the model takes it."""
        c = dict(call["c"])
        video, audio = call["input"], c.pop(ENTRY)
        c[SHAPES] = [video.shape, audio.shape]
        return {**call, "input": self.packing.join(video, audio), "c": c}

    def blend(self, run: Run, call: ModelCall, heard: Mapping[Box, Tensor]) -> Tensor:
        """Return the audio's estimate for a call as `unpack` gives it, [rows, C, T, F].

        `heard` is what the model made of it beside each window of the step.
        """
        audio, step = call["c"][ENTRY], run.step(call["timestep"], call["input"])
        base = audio if not run.preserves or self.clean is None else self.clean.to(audio)
        base = base.repeat(len(audio) // len(base), *[1] * (audio.ndim - 1))
        weight = self.weigh(run, step.index)
        if not heard:
            return base
        cells = torch.stack([share.sum() for share in step.shares])
        mean = torch.zeros_like(audio)
        for window, part in zip(step.windows, (cells / cells.sum()).tolist(), strict=True):
            mean = mean + part * heard[window.box].to(audio)
        weight = weight.repeat(len(audio) // len(weight), 1, 1, 1)
        return blend_denoised(mean, base, weight.to(audio))


def check_cache(model: Any, cache: object | None) -> None:
    """Raise ValueError where ComfyUI's EasyCache would look for an audio that is not there."""
    if type(model).__name__ == MODEL and cache is not None:
        raise ValueError(
            "ComfyUI's EasyCache takes LTX-2's video only together with an audio, with Quadtree "
            "Diffusion as without it. Use LazyCache, or Concat AV Latent."
        )


def split_audio(audio: Audio | None, latent: Tensor) -> tuple[Tensor, Any]:
    """Return a latent's video or image, and the audio that is packed behind it, if any."""
    return (latent, None) if audio is None else audio.packing.split(latent)
