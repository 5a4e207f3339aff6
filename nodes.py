"""The nodes: their schemas, what they check at the boundary, and the extension that lists them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .image.composite import composite
from .image.decoding import decode_changed
from .sampling.model import Settings
from .tiled_diffusion import attach
from .tree.detail import DETAIL_METRICS, LARGEST_PX, BlockSums
from .tree.masks import MASK_MODES
from .tree.subdivision import DENOISE_BY
from .ui.budget import Choice, build_for_cost
from .ui.facts import gather_facts
from .ui.inputs import (
    check_canvases,
    check_choice,
    check_colours,
    check_flag,
    check_image,
    check_image_latent,
    check_masks,
    check_model,
    check_number,
    check_regions,
    check_samples,
    check_trees,
    check_visualizer_inputs,
)
from .ui.overlay import draw_overlay
from .ui.preview import keep_for_preview, register
from .utils import info
from .velocity import SCHEDULES
from .windows.blending import METHODS

QuadtreeType = io.Custom("QUADTREE")
MAX_PX = 16384
TELL_EVERY_S = 0.2
MOST_CELL_PX = 32  # of the VAEs in ComfyUI


class QuadtreeVisualizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuadtreeVisualizer",
            display_name="Quadtree Visualizer",
            category="image/quadtree",
            description="Builds a quadtree from an image: small leaves with a high denoise where there is detail, large leaves "
            "with a low denoise where it is calm.",
            search_aliases=["adaptive tiles", "detail map", "denoise map", "quadtree"],
            is_output_node=True,  # runs without a consumer, to look at the tree
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="The image that will be refined, or a smaller copy of it. Each image of a batch gets a tree.",
                ),
                io.Float.Input(
                    "content_threshold",
                    default=25.0,
                    min=1.0,
                    max=200.0,
                    step=0.1,
                    tooltip="A tile is split while its detail is above this: the standard deviation of R, G and B together, in "
                    "0-255 units, or what detail_metric says. Lower = more, smaller tiles.",
                ),
                io.Int.Input(
                    "min_tile_size",
                    default=64,
                    min=8,
                    max=MAX_PX,
                    step=8,
                    tooltip="Side of the smallest tile, in px.",
                ),
                io.Int.Input(
                    "max_tile_size",
                    default=1024,
                    min=8,
                    max=MAX_PX,
                    step=8,
                    tooltip="Side of the largest tile, in px. Sizes are this, its half, its quarter ... on a grid of 8 px; "
                    "a size that does not halve onto the grid is rounded down to one that does.",
                ),
                io.Float.Input(
                    "min_denoise",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Denoise of the largest tiles, as a share of the sampler's own run. 0 keeps them to the bit "
                    "and costs nothing.",
                ),
                io.Float.Input(
                    "max_denoise",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Denoise that the smallest tiles approach, as a share of the sampler's own run. 1 = the whole run.",
                ),
                io.Int.Input(
                    "line_thickness",
                    default=2,
                    min=0,
                    max=64,
                    tooltip="Borders in the picture, in px. 0 draws none.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A say in the denoise, 0 to 1, as mask_mode tells. Any size; it is fitted to the image.",
                ),
                io.String.Input(
                    "regions",
                    default="",
                    optional=True,
                    tooltip="What was painted in the panel: regions that are kept, or fully regenerated, whatever the tree "
                    'says. JSON with shares of the image: {"regions": [["keep", 0.25, 0.5, 0.5, 0.75]]}.',
                ),
                io.Combo.Input(
                    "denoise_by",
                    options=list(DENOISE_BY),
                    default="area",
                    optional=True,
                    tooltip="What a tile's denoise follows. area: its area (small tiles soon get the most). depth: the number "
                    "of halvings, evenly. detail: its own measured detail, so that a large busy tile is not kept.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    optional=True,
                    tooltip="Keep the detail and refine the calm areas: against banding in skies and gradients.",
                ),
                io.Combo.Input(
                    "mask_mode",
                    options=list(MASK_MODES),
                    default="multiply",
                    optional=True,
                    tooltip="How the mask joins the tiles. multiply: denoise x mask. limit: never above the mask. at least: "
                    "never below it (a face gets full strength). replace: the mask alone.",
                ),
                io.Combo.Input(
                    "detail_metric",
                    options=list(DETAIL_METRICS),
                    default="color",
                    optional=True,
                    tooltip="What counts as detail. color: how much a tile's colours vary. edges: how strong its edges are on "
                    "average (line art, text; they are weaker in an enlarged image). both: the larger of the two.",
                ),
                io.Float.Input(
                    "cost_budget",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Finds the content_threshold at which a run takes about this share of the full model cost: 0.4 = "
                    "40%. 0 = off, use content_threshold. The node shows which threshold it found.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image",
                    tooltip="The image with its tiles. Tint and borders run from blue (denoise 0: kept) over violet (0.5) "
                    "to red (denoise 1: regenerated).",
                ),
                QuadtreeType.Output(
                    "quadtree", tooltip="One tree per image, for Quadtree Diffusion."
                ),
                io.Mask.Output(
                    "denoise_map",
                    tooltip="Denoise per px, 0 to 1. Works as a mask, also with core's Differential Diffusion.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        content_threshold: float,
        min_tile_size: int,
        max_tile_size: int,
        min_denoise: float,
        max_denoise: float,
        line_thickness: int,
        mask: torch.Tensor | None = None,
        regions: str = "",
        denoise_by: str = "area",
        invert: bool = False,
        mask_mode: str = "multiply",
        detail_metric: str = "color",
        cost_budget: float = 0.0,
    ) -> io.NodeOutput:
        limits = check_visualizer_inputs(
            content_threshold=content_threshold,
            min_tile_size=min_tile_size,
            max_tile_size=max_tile_size,
            min_denoise=min_denoise,
            max_denoise=max_denoise,
            denoise_by=denoise_by,
            invert=invert,
            detail_metric=detail_metric,
            cost_budget=cost_budget,
        )
        mode = check_choice("mask_mode", mask_mode, MASK_MODES)
        line_px = check_number("line_thickness", line_thickness, 0, 4096, "px", kind=int)
        masks = check_masks(mask, len(check_image(image)))
        painted = check_regions(regions, image)
        cells = [
            BlockSums.of_image(picture, edges=True) for picture in image
        ]  # the panel may ask for edges later
        built = [
            build_for_cost(sums, mask=limit, mask_mode=mode, regions=painted, **limits)
            for sums, limit in zip(cells, masks, strict=True)
        ]
        trees, choices = zip(*built, strict=True)
        _tell(choices, progress_text(cls.hidden.unique_id if cls.hidden else None))
        maps = torch.stack([tree.denoise_map(tree.height, tree.width).float() for tree in trees])
        drawn = (draw_overlay(*one, line_px) for one in zip(image, maps, trees, strict=True))
        pictures = torch.stack(list(drawn))
        return io.NodeOutput(pictures, trees, maps, ui=keep_for_preview(image[0], cells[0]))


def _tell(choices: Sequence[Choice | None], show: Callable[[str], None] | None) -> None:
    """Which threshold was found for each image, in the log and on the node."""
    lines = [choice.text() for choice in choices if choice is not None]
    for line in lines:
        info("%s", line)
    if lines and show is not None:
        show("\n".join(lines))


class QuadtreeDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuadtreeDiffusion",
            display_name="Quadtree Diffusion",
            category="sampling/quadtree",
            description="Patches a model so that any sampler refines by windows, changes each region as much as its tile "
            "allows, and does not evaluate the model where nothing may change.",
            search_aliases=[
                "tiled diffusion",
                "tiled upscale",
                "MultiDiffusion",
                "Mixture of Diffusers",
                "SpotDiffusion",
                "region denoise",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to sample with. It is not changed; the output is a patched copy.",
                ),
                QuadtreeType.Input(
                    "quadtree",
                    tooltip="From Quadtree Visualizer, built from the image that is refined or a copy of any size.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="Shifted Feather",
                    tooltip="How windows meet. Shifted Feather: borders move at every step, with a thin ramp (best seams). "
                    "Mixture of Diffusers: fixed, gaussian. MultiDiffusion: fixed, averaged. SpotDiffusion: borders move, "
                    "no overlap (fastest).",
                ),
                io.Int.Input(
                    "tile_size",
                    default=0,
                    min=0,
                    max=MAX_PX,
                    step=8,
                    tooltip="Largest window that the model sees, in px. 0 = automatic: the model family's native size "
                    "(512 for SD1.5, 1024 for most), or one window up to 1.5 times that where it covers the image.",
                ),
                io.Int.Input(
                    "tile_overlap",
                    default=64,
                    min=0,
                    max=MAX_PX,
                    step=8,
                    tooltip="How far neighbouring windows overlap, in px. Not used by SpotDiffusion.",
                ),
                io.Int.Input(
                    "tile_batch_size",
                    default=4,
                    min=0,
                    max=64,
                    tooltip="Windows of one shape evaluated together, at most. 0 = as many as the free memory holds.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default="hold",
                    tooltip="hold: a region is held, then free for its last denoise x steps steps, as if its own sampler ran "
                    "with that denoise. ramp: freedom grows from the denoise to 1. constant: freedom stays at the denoise.",
                ),
                io.Int.Input(
                    "feather",
                    default=32,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Width of the ramp from a tile with low denoise up into one with higher denoise, in px.",
                ),
                io.Int.Input(
                    "skip_diffusion_below",
                    default=0,
                    min=0,
                    max=MAX_PX,
                    step=8,
                    tooltip="Tiles with a side below this many px, of the image that the quadtree was built from, are kept as "
                    "they are. 0 = none.",
                ),
                io.Latent.Input(
                    "clean_latent",
                    optional=True,
                    tooltip="What to preserve, where the latent that is sampled is itself noisy (the second stage of a "
                    "KSampler (Advanced) chain; a tile's denoise counts the steps of that stage alone). Empty = the latent "
                    "that is sampled.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The patched model, for any sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        quadtree: Any,
        method: str,
        tile_size: int,
        tile_overlap: int,
        tile_batch_size: int,
        schedule: str,
        feather: int,
        skip_diffusion_below: int,
        clean_latent: dict | None = None,
    ) -> io.NodeOutput:
        settings = Settings(
            method=check_choice("method", method, METHODS),
            tile_px=check_number("tile_size", tile_size, 0, LARGEST_PX, "px", kind=int),
            overlap_px=check_number("tile_overlap", tile_overlap, 0, LARGEST_PX, "px", kind=int),
            batch=check_number("tile_batch_size", tile_batch_size, 0, 4096, "windows", kind=int),
            schedule=check_choice("schedule", schedule, SCHEDULES),
            feather_px=check_number("feather", feather, 0, LARGEST_PX, "px", kind=int),
            keep_below_px=check_number(
                "skip_diffusion_below", skip_diffusion_below, 0, LARGEST_PX, "px", kind=int
            ),
        )
        clean = None if clean_latent is None else check_samples("clean_latent", clean_latent)
        progress = progress_text(cls.hidden.unique_id if cls.hidden else None)
        return io.NodeOutput(
            attach(check_model(model), check_trees(quadtree), settings, clean, progress)
        )


def _feather_input(which: str) -> io.Int.Input:
    return io.Int.Input(
        "feather",
        default=32,
        min=0,
        max=4096,
        step=2,
        tooltip=f"Over how many px the {which} image fades in beside what is kept. 0 = a hard border.",
    )


def _color_match_input(which: str) -> io.Boolean.Input:
    return io.Boolean.Input(
        "color_match",
        default=False,
        optional=True,
        tooltip=f"Gives the {which} image the original's local colour and contrast, tile by tile, before it is put in. For a "
        "model or VAE that shifts colours.",
    )


class QuadtreeComposite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuadtreeComposite",
            display_name="Quadtree Composite",
            category="image/quadtree",
            description="Puts the original's own pixels back where the quadtree keeps (the VAE changes them all), without a "
            "visible border.",
            search_aliases=["keep original pixels", "paste back", "blend by quadtree"],
            inputs=[
                io.Image.Input(
                    "original",
                    tooltip="The image that was encoded, at the size of the refined one.",
                ),
                io.Image.Input("refined", tooltip="The decoded result."),
                QuadtreeType.Input("quadtree", tooltip="The one that Quadtree Diffusion got."),
                _feather_input("refined"),
                _color_match_input("refined"),
            ],
            outputs=[
                io.Image.Output("image", tooltip="Kept regions equal the original to the bit.")
            ],
        )

    @classmethod
    def execute(
        cls,
        original: torch.Tensor,
        refined: torch.Tensor,
        quadtree: Any,
        feather: int,
        color_match: bool = False,
    ) -> io.NodeOutput:
        trees, match = check_trees(quadtree), check_flag("color_match", color_match)
        feather_px = check_number("feather", feather, 0, LARGEST_PX, "px", kind=int)
        original, refined = (
            check_colours("original image", original),
            check_colours("refined image", refined),
        )
        size = refined.shape[1], refined.shape[2]
        ready = check_canvases(
            original, trees, size, math.gcd(*size, MOST_CELL_PX), len(refined), "refined"
        )
        pictures = (
            composite(one, refined[at % len(refined)], feather_px, match=match)
            for at, one in enumerate(ready)
        )
        return io.NodeOutput(torch.stack(list(pictures)))


class QuadtreeInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuadtreeInfo",
            display_name="Quadtree Info",
            category="image/quadtree",
            description="What a quadtree holds, in words and numbers: tile sizes, denoise, what is kept, and what a run costs.",
            search_aliases=["quadtree statistics", "cost estimate"],
            inputs=[
                QuadtreeType.Input(
                    "quadtree",
                    tooltip="From Quadtree Visualizer. Of a batch, the mean of all trees.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="Steps of the run that is estimated.",
                ),
            ],
            outputs=[
                io.String.Output("text", tooltip="A table to read."),
                io.Int.Output("tiles", tooltip="How many tiles there are."),
                io.Float.Output("kept", tooltip="Share of the image that is kept, 0 to 1."),
                io.Float.Output("denoise", tooltip="Mean denoise over the image, 0 to 1."),
                io.Float.Output(
                    "cost",
                    tooltip="Share of the full model cost that a run takes, estimated, 0 to 1.",
                ),
            ],
        )

    @classmethod
    def execute(cls, quadtree: Any, steps: int) -> io.NodeOutput:
        facts = gather_facts(
            check_trees(quadtree), check_number("steps", steps, 1, 10_000, "steps", kind=int)
        )
        return io.NodeOutput(facts.text(), facts.tiles, facts.kept, facts.denoise, facts.cost)


class QuadtreeVAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="QuadtreeVAEDecode",
            display_name="Quadtree VAE Decode",
            category="image/quadtree",
            description="VAE Decode and Quadtree Composite in one: takes the original's own pixels where the quadtree keeps, "
            "and does not decode there if the VAE allows it (Qwen, Wan, TAESD).",
            search_aliases=["tiled decode", "partial decode", "decode changed"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampled latent, of an image."),
                io.Vae.Input("vae", tooltip="The one that encoded the original."),
                QuadtreeType.Input("quadtree", tooltip="The one that Quadtree Diffusion got."),
                io.Image.Input(
                    "original",
                    tooltip="The image that was encoded, at the size of the decoded one.",
                ),
                _feather_input("decoded"),
                io.Boolean.Input(
                    "approximate",
                    default=False,
                    optional=True,
                    tooltip="For SD, SDXL, SD3 and Flux, whose VAEs cannot decode a part exactly. On: windows around what "
                    "changed, each by itself as VAE Decode (Tiled) does it: fast, in a window's memory, colours a little off.",
                ),
                _color_match_input("decoded"),
            ],
            outputs=[
                io.Image.Output("image", tooltip="Kept regions equal the original to the bit.")
            ],
        )

    @classmethod
    def execute(
        cls,
        samples: dict,
        vae: Any,
        quadtree: Any,
        original: torch.Tensor,
        feather: int,
        approximate: bool = False,
        color_match: bool = False,
    ) -> io.NodeOutput:
        flags = {
            "approximate": check_flag("approximate", approximate),
            "match": check_flag("color_match", color_match),
        }
        trees, original = check_trees(quadtree), check_colours("original image", original)
        feather_px = check_number("feather", feather, 0, LARGEST_PX, "px", kind=int)
        latent, px = (
            check_image_latent(check_samples("samples", samples), vae),
            vae.spacial_compression_decode(),
        )
        size = tuple(length * px for length in latent.shape[-2:])
        ready = check_canvases(original, trees, size, px, len(latent), "decoded")
        return io.NodeOutput(decode_changed(vae, latent, ready, feather_px, **flags))


class QuadtreeExtension(ComfyExtension):
    async def on_load(self) -> None:
        register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            QuadtreeVisualizer,
            QuadtreeDiffusion,
            QuadtreeComposite,
            QuadtreeInfo,
            QuadtreeVAEDecode,
        ]


def progress_text(node_id: str | None) -> Callable[[str], None] | None:
    """Shows a text on a node in the browser, while a later node samples; a few times a second at most."""
    server = getattr(PromptServer, "instance", None)
    if server is None or node_id is None:
        return None
    shown = [0.0]

    def show(words: str) -> None:
        now = time.monotonic()
        if now - shown[0] >= TELL_EVERY_S or not words.startswith("step "):
            shown[0] = now
            server.send_progress_text(words, node_id)

    return show
