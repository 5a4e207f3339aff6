"""A tiny LTXV on a clip with guide frames, as ComfyUI's own node adds them."""

from __future__ import annotations

import torch
from comfy_extras.nodes_lt import LTXVAddGuide

from .support import patched
from .tiny_models.building import clean_latent, sample
from .tiny_models.video import ltxv

HEIGHT, WIDTH, FRAMES = 16, 24, 3  # of the clip, in cells; frames in px are 17
PX, TEXT = 32, 20
RUN = {"steps": 3, "cfg": 3.0, "denoise": 0.8}


class CellVAE:
    """Makes a cell of 32 x 32 px of each eight frames, as LTXV's VAE does."""

    downscale_index_formula = (8, PX, PX)

    def encode(self, pixels):
        """[frames, H, W, 3] as [1, 128, T, h, w]."""
        colours = torch.linspace(-2, 2, 3 * 128).view(3, 128).sin()
        cells = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), PX)[::8]
        return torch.einsum("tchw,cd->dthw", 2 * cells - 1, colours)[None]


class Scene:
    """A tiny LTXV on a clip with guides: images at frames, by strength and mask."""

    def __init__(self, *guides, frames=FRAMES, clip=None, family=ltxv):
        self.entry = family()
        for _, values in [*self.entry.positive, *self.entry.negative]:
            values.pop("concat_mask", None)  # so that the noise mask reaches the model
        self.clip = clean_latent((1, 128, frames, HEIGHT, WIDTH), 5) if clip is None else clip
        self.latent, self.mask = self.clip, None
        for guide in guides:
            self.add(**guide)

    def add(self, frame=0, strength=1.0, frames=1, seed=0, mask=None, downscale=1):
        pixels = torch.rand(
            frames, HEIGHT * PX, WIDTH * PX, 3, generator=torch.Generator().manual_seed(seed)
        )
        given = {"samples": self.latent}
        if self.mask is not None:
            given["noise_mask"] = self.mask
        entry = self.entry
        entry.positive, entry.negative, made = LTXVAddGuide.execute(
            entry.positive,
            entry.negative,
            CellVAE(),
            given,
            pixels,
            frame,
            strength,
            attention_mask=mask,
            iclora_parameters={"reference_downscale_factor": downscale},
        ).args
        self.latent, self.mask = made["samples"], made["noise_mask"]

    def tiled(self, tree, model=None, **settings):
        return patched(self.entry, tree, model=model, **{"tile_px": 8 * PX, **settings})

    def sample(self, model=None, latent=None, **options):
        latent = self.latent if latent is None else latent
        return sample(self.entry, latent, model=model, noise_mask=self.mask, **{**RUN, **options})

    def column_model(self):
        """A clone whose tokens see, in self-attention, those of their own cell only."""
        total = self.latent.shape[2]

        def own_column(attention, q, k, v, heads, *args, mask=None, **options):
            if k.shape[1] == TEXT:
                return attention(q, k, v, heads, *args, mask=mask, **options)
            cells = k.shape[1] // total

            def columns(tokens):
                apart = tokens.unflatten(1, (-1, cells)).transpose(1, 2)
                return apart.flatten(0, 1)

            if mask is not None:
                by_cell = mask.expand(1, 1, q.shape[1], k.shape[1])[0, 0]
                by_cell = by_cell.unflatten(0, (-1, cells)).unflatten(2, (-1, cells))
                mask = by_cell.diagonal(dim1=1, dim2=3).movedim(-1, 0)
                mask = mask.repeat(len(q), 1, 1)[:, None]
            options["low_precision_attention"] = False
            seen = attention(columns(q), columns(k), columns(v), heads, *args, mask=mask, **options)
            return seen.unflatten(0, (len(q), cells)).transpose(1, 2).flatten(1, 2)

        model = self.entry.model.clone()
        options = model.model_options.setdefault("transformer_options", {})
        options["optimized_attention_override"] = own_column
        return model
