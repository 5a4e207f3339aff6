"""A VAE's decoder as ComfyUI calls it, as a whole or in two parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.modules.temporal_ae import VideoDecoder
from torch import Tensor, nn

from ..utils import ceil_div

WINDOW_PX = 1024  # side of the largest window with its context; a batch holds no more px than that
# Those of ComfyUI's VAE Decode (Tiled).
TILE_PX, TILE_OVERLAP_PX, TILE_FRAMES, TILE_OVERLAP_FRAMES = 512, 64, 64, 8
# Side of what a part of the decoder runs on where its result is discarded; one cell would be too
# few for padding that reflects the edge (LTXV).
CORNER_CELLS = 2
FEATURE_CHANNELS = 4  # times as many channels as at the picture's resolution (SD: 512 and 128)


class FeaturesReached(BaseException):
    """Ends a decode once the features are known.

    It is no failure, so no `except Exception` of a VAE's own code may catch it.
    """


class FeaturesDifferError(Exception):
    """A decoder does not take a window in the parts of time in which it took the whole clip."""


class Decoder:
    """The decoder of a VAE. All hooks are removed at once, so nothing is left on the VAE."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.model: Any = getattr(vae, "first_stage_model", None)

    @property
    def is_of_comfyui(self) -> bool:
        """Whether the VAE is ComfyUI's own class.

        It is not known what the `decode` of another class does, so that is called as it is.
        """
        return getattr(type(self.vae), "decode", None) is comfy.sd.VAE.decode

    @property
    def mixes_images(self) -> bool:
        """Whether the images of a batch are the frames of one clip, as SVD's VAE takes them."""
        return isinstance(getattr(self.model, "decoder", None), VideoDecoder)

    @property
    def px_per_cell(self) -> int:
        """Picture px per latent cell along an axis, as the VAE declares it."""
        return self.vae.spacial_compression_decode()

    @property
    def window_cells(self) -> int:
        """Side of the largest window, in cells."""
        return ceil_div(WINDOW_PX, self.px_per_cell)

    def run(self, cells: Tensor) -> Tensor:
        """Run the network on cells [B, C, ..., h, w]; return its picture [B, 3, ..., H, W]."""
        return self.model.decode(cells.to(self.vae.device, self.vae.vae_dtype))

    def run_first_part(self, cells: Tensor, module: nn.Module) -> list[Tensor]:
        """Return the outputs of `module` for latent cells, its features.

        There is one for an image, and nothing more is run; with a clip there is one for each part
        of time that the decoder takes, and what follows runs on a corner, since the decoder
        remembers from one to the next. They are empty where the module does not run.
        """
        found: list[Tensor] = []
        frames = count_latent_frames_of(cells)
        rows, columns = cells.shape[-2:]

        def note(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
            if frames == 1:
                found.append(output)
                raise FeaturesReached
            # All frames of a clip take as much memory as the rest, so they wait where results do.
            found.append(output.to(self.vae.output_device))
            height, width = (
                side * CORNER_CELLS // cells
                for side, cells in zip(output.shape[-2:], (rows, columns), strict=True)
            )
            return output[..., :height, :width]

        with hook_forwards(note, module), suppress(FeaturesReached):
            self.run(cells)
        return found

    def run_second_part(
        self, features: Sequence[Tensor], module: nn.Module, like: Tensor
    ) -> Tensor:
        """Return the network's output [B, 3, ..., H, W] for these features of `module`.

        What comes before the module runs on a few cells of NaN, of the channels and frames of the
        latent `like`, and its result is discarded. Raises FeaturesDifferError where the module runs
        more or less often than there are features.
        """
        side = CORNER_CELLS
        corner = like.new_full((len(features[0]), *like.shape[1:-2], side, side), torch.nan)
        rest = list(features)

        def take(*_call: object) -> Tensor:
            if not rest:
                raise FeaturesDifferError
            return rest.pop(0).to(self.vae.device)

        with hook_forwards(take, module):
            output = self.run(corner)
        if rest:
            raise FeaturesDifferError
        return output

    def to_images(self, output: Tensor) -> Tensor:
        """Convert the network's output to images [B, H, W, 3] in 0..1, as ComfyUI does."""
        output = output.to(self.vae.output_device, self.vae.vae_output_dtype(), copy=True)
        return drop_frames(self.vae.process_output(output).movedim(1, -1))

    def decode_whole(self, latent: Tensor) -> Tensor:
        """Decode a latent [B, C, ..., h, w] as ComfyUI does, to images or frames [B, H, W, 3].

        A clip for which there is not enough memory at once is decoded in ComfyUI's tiles.
        """
        if latent.ndim == 5 and latent.shape[2] > 1 and not self.fits(latent):
            return self._check_size(drop_frames(self._decode_tiled(latent)), latent)
        return self._check_size(drop_frames(self.vae.decode(latent)), latent)

    def _decode_tiled(self, latent: Tensor) -> Tensor:
        """Decode a clip in tiles of space and time, as ComfyUI's VAE Decode (Tiled) does."""
        per_latent = self.vae.temporal_compression_decode()
        tile, overlap = (px // self.px_per_cell for px in (TILE_PX, TILE_OVERLAP_PX))
        time = {}
        if per_latent is not None:
            time["tile_t"] = max(2, TILE_FRAMES // per_latent)
            time["overlap_t"] = max(1, TILE_OVERLAP_FRAMES // per_latent)
        return self.vae.decode_tiled(latent, tile_x=tile, tile_y=tile, overlap=overlap, **time)

    def decode_alone(self, cells: Tensor) -> Tensor:
        """Decode latent cells [B, C, ..., h, w] as if they were a whole latent, to [B, H, W, 3].

        Of clips there is one for each frame.
        """
        return self._check_size(self.to_images(self.run(cells)), cells)

    def _check_size(self, images: Tensor, cells: Tensor) -> Tensor:
        """Return the images; raise ValueError where they do not have the declared size."""
        px = self.px_per_cell
        (rows, columns), (height, width) = cells.shape[-2:], images.shape[1:3]
        if (height, width) != (rows * px, columns * px):
            raise ValueError(
                f"The VAE decodes a latent of {columns} x {rows} cells to {width} x {height} px, "
                f"but declares {px} px per cell. Use ComfyUI's VAE Decode, and Quadtree Composite "
                f"with an original of {width} x {height} px."
            )
        return images

    def estimate_memory(self, latent: Tensor, height: int, width: int) -> float:
        """Return the bytes that decoding `height` x `width` cells of this latent takes.

        The estimate is ComfyUI's.
        """
        shape = torch.Size((1, *latent.shape[1:-2], height, width))
        return self.vae.memory_used_decode(shape, self.vae.vae_dtype)

    def load(self, latent: Tensor) -> None:
        """Load the VAE to its device, with memory for a window and the features of the latent."""
        height, width = latent.shape[-2:]
        side = self.window_cells
        window = self.estimate_memory(latent, min(height, side), min(width, side))
        whole = self.estimate_memory(latent, height, width)
        features = FEATURE_CHANNELS * whole / self.px_per_cell**2
        comfy.model_management.load_models_gpu(
            [self.vae.patcher],
            memory_required=window + features,
            force_full_load=self.vae.disable_offload,
        )

    def fits(self, latent: Tensor) -> bool:
        """Return whether there is memory to decode the whole latent at once."""
        height, width = latent.shape[-2:]
        needed = self.estimate_memory(latent, height, width)
        return needed <= comfy.model_management.get_free_memory(self.vae.device)


def count_latent_frames_of(latent: Tensor) -> int:
    """Return the frames of a latent [B, C, ..., h, w]: 1 of images."""
    return latent.shape[2] if latent.ndim == 5 else 1


def count_px_frames(vae: Any, latent: Tensor) -> int:
    """Return the frames in px that a VAE makes of each clip of a latent; 1 of an image."""
    frames = count_latent_frames_of(latent)
    upscale = getattr(vae, "upscale_ratio", None)
    if frames > 1 and isinstance(upscale, tuple) and callable(upscale[0]):
        return int(upscale[0](frames))
    return frames


def count_frames_per_latent(vae: Any) -> int:
    """Return the frames in px of every latent frame of a clip but the first; 1 of images."""
    upscale = getattr(vae, "upscale_ratio", None)
    if isinstance(upscale, tuple) and callable(upscale[0]):
        return max(1, int(upscale[0](3) - upscale[0](2)))
    return 1


def drop_frames(images: Tensor) -> Tensor:
    """Return [B, T, H, W, C] or [B, H, W, C] as images [B * T, H, W, 3]."""
    return images.flatten(0, -4)[..., :3]


@contextmanager
def hook_forwards(hook: Callable, *modules: nn.Module) -> Iterator[None]:
    """Call `hook` after each forward of these modules, until the end of the block."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
