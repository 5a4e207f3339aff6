"""Made clips: an object that moves over a background that stands still or is panned."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor


def soft_wall(height: int, width: int) -> Tensor:
    """A background without fine detail, [H, W, 3]: a gradient as of a wall in soft light."""
    down = torch.linspace(0.55, 0.4, height)[:, None, None]
    across = torch.linspace(0.1, -0.1, width)[None, :, None]
    return (down + across) * torch.tensor([1.0, 0.95, 0.9])


def object_clip(
    background: Tensor,
    frames: int,
    *,
    side: int,
    start: tuple[int, int],
    step: tuple[int, int],
    pan: int = 0,
    texture: Tensor | None = None,
) -> Tensor:
    """A square of `side` px that moves over `background` [H, W, 3], as [frames, H, W, 3].

    `texture` [side, side, 3] is what it shows; None: noise. `start` and `step` are its place in the
    first frame and what it moves by in each, in px as (y, x). The background moves left by `pan` px
    in each frame; it is as much wider than the clip.
    """
    if texture is None:
        texture = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(0))
    height, width = len(background), background.shape[1] - pan * (frames - 1)
    pictures = []
    for number in range(frames):
        picture = background[:, pan * number : pan * number + width].clone()
        y, x = (start[axis] + number * step[axis] for axis in (0, 1))
        inside = picture[max(0, y) : max(0, y + side), max(0, x) : max(0, x + side)]
        inside.copy_(texture[: inside.shape[0], : inside.shape[1]])
        pictures.append(picture)
    return torch.stack(pictures).view(frames, height, width, 3)


def save_clip(path: Path, frames: int = 5) -> None:
    """Write a clip of 192 x 128 px in which an object moves over a wall, as a file of a video."""
    import av

    clip = object_clip(soft_wall(128, 192), frames, side=48, start=(40, 20), step=(0, 8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        for picture in clip.mul(255).round().byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
