"""A VAE's decoder as ComfyUI calls it, as a whole or in two parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor, nn

from ..utils import ceil_div

WINDOW_PX = 1024  # side of the largest window with its context; a batch holds no more px than that
FEATURE_CHANNELS = 4  # times as many channels as at the picture's resolution (SD: 512 and 128)


class FeaturesReached(BaseException):
    """Ends a decode once the features are known.

    It is no failure, so no `except Exception` of a VAE's own code may catch it.
    """


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

    def run_first_part(self, cells: Tensor, module: nn.Module) -> Tensor | None:
        """Return the first output of `module` for latent cells, its features, and run nothing more.

        None where the module does not run.
        """
        found: list[Tensor] = []

        def stop(_module: nn.Module, _args: tuple, output: Tensor) -> None:
            found.append(output)
            raise FeaturesReached

        with hook_forwards(stop, module), suppress(FeaturesReached):
            self.run(cells)
        return found[0] if found else None

    def run_second_part(self, features: Tensor, module: nn.Module, like: Tensor) -> Tensor:
        """Return the network's output [B, 3, ..., H, W] for these features of `module`.

        What comes before the module runs on a single cell of NaN, of the channels of the latent
        `like`, and its result is discarded.
        """
        cell = like.new_full((len(features), *like.shape[1:-2], 1, 1), torch.nan)
        with hook_forwards(lambda *_call: features, module):
            return self.run(cell)

    def to_images(self, output: Tensor) -> Tensor:
        """Convert the network's output to images [B, H, W, 3] in 0..1, as ComfyUI does."""
        output = output.to(self.vae.output_device, self.vae.vae_output_dtype(), copy=True)
        return drop_frames(self.vae.process_output(output).movedim(1, -1))

    def decode_whole(self, latent: Tensor) -> Tensor:
        """Decode a latent [B, C, ..., h, w] as ComfyUI does, to images [B, H, W, 3]."""
        return self._check_size(drop_frames(self.vae.decode(latent)), latent)

    def decode_alone(self, cells: Tensor) -> Tensor:
        """Decode latent cells [B, C, ..., h, w] as if they were a whole latent, to [B, H, W, 3]."""
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


def drop_frames(images: Tensor) -> Tensor:
    """Return [B, 1, H, W, C] or [B, H, W, C] as images [B, H, W, 3]."""
    return images.flatten(0, -4)[..., :3]


@contextmanager
def hook_forwards(hook: Callable, *modules: nn.Module) -> Iterator[None]:
    """Call `hook` after each forward of these modules, until the end of the block."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
