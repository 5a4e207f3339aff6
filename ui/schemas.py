"""Schemas of the nodes: ids, inputs with their limits and tooltips, and outputs.

Saved workflows rely on ids, names, order, types and choices; tests/comfy/schemas.json holds them.
The tooltips and descriptions are also in locales/en/nodeDefs.json.
"""

from __future__ import annotations

from comfy_api.latest import io

from ..sampling.references import AUTOMATIC, CHOICES
from ..tree.detail import DETAIL_METRICS
from ..tree.masks import MASK_MODES
from ..tree.subdivision import DENOISE_BY
from ..velocity import SCHEDULES
from ..windows.blending import METHODS
from .clips import BATCHES
from .coverage import COVERAGE
from .presets import CUSTOM, PRESETS

QuadtreeType = io.Custom("QUADTREE")
MAX_PX = 16384


def visualizer_schema() -> io.Schema:
    """Return the schema of Quadtree Visualizer."""
    return io.Schema(
        node_id="QuadtreeVisualizer",
        display_name="Quadtree Visualizer",
        category="image/quadtree",
        description="Builds a quadtree from an image: small tiles with a high denoise where there "
        "is detail, large tiles with a low denoise in calm areas.",
        search_aliases=["adaptive tiles", "detail map", "denoise map", "quadtree"],
        is_output_node=True,  # runs without a consumer, to look at the tree
        inputs=[
            io.Image.Input(
                "image",
                tooltip="The image to be refined, or a smaller copy of it. Each image of a batch "
                "gets its own tree, unless it is a clip (see batch).",
            ),
            io.Float.Input(
                "content_threshold",
                default=0.0,
                min=0.0,
                max=200.0,
                step=0.1,
                advanced=True,
                tooltip="0 = automatic: the tree refines the share of the detail that coverage "
                "names. Above 0, a tile is split while its detail exceeds this value: the "
                "standard deviation of R, G and B together, on a scale of 0-255, or the measure "
                "chosen by detail_metric. Lower values give more and smaller tiles.",
            ),
            io.Int.Input(
                "min_tile_size",
                default=0,
                min=0,
                max=MAX_PX,
                step=8,
                advanced=True,
                tooltip="Side length of the smallest tiles, in px; 8 or more. 0 = automatic: 4% "
                "of the longer side.",
            ),
            io.Int.Input(
                "max_tile_size",
                default=0,
                min=0,
                max=MAX_PX,
                step=8,
                advanced=True,
                tooltip="Side length of the largest tiles, in px; 8 or more. 0 = automatic: 8 "
                "times min_tile_size. Smaller tiles are a half, a quarter and so on of this size, "
                "on a grid of 8 px. A size that cannot be halved onto the grid is rounded down to "
                "one that can.",
            ),
            io.Float.Input(
                "min_denoise",
                default=0.2,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="Denoise of the calmest tiles that are refined, as a share of the "
                "sampler's own run. With a content_threshold, denoise of the largest tiles; at 0 "
                "they stay bit-for-bit unchanged and cost nothing.",
            ),
            io.Float.Input(
                "max_denoise",
                default=0.8,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="Denoise of the tiles with the most detail, as a share of the sampler's "
                "own run; 1 = the whole run. With a content_threshold, denoise that the smallest "
                "tiles approach.",
            ),
            io.Int.Input(
                "line_thickness",
                default=2,
                min=0,
                max=64,
                advanced=True,
                tooltip="Width of the tile borders in the output image, in px. 0 draws none.",
            ),
            io.Mask.Input(
                "mask",
                optional=True,
                tooltip="Optional mask (0-1), combined with the tiles' denoise according to "
                "mask_mode. It may have any size; it is resized to fit the image.",
            ),
            io.String.Input(
                "regions",
                default="",
                optional=True,
                extra_dict={"hidden": True},  # the panel writes it; it stays an input of the API
                tooltip="Regions painted in the panel, which have a denoise of their own "
                "regardless of the tree. JSON with coordinates as fractions of the image size: "
                '{"regions": [["keep", 0.25, 0.5, 0.5, 0.75]]}.',
            ),
            io.Combo.Input(
                "denoise_by",
                options=list(DENOISE_BY),
                default="area",
                optional=True,
                advanced=True,
                tooltip="Only with a content_threshold: what determines a tile's denoise. area: "
                "its area (the denoise rises quickly as tiles get smaller). depth: how many times "
                "it was split, in even steps. detail: its own measured detail, so that a large "
                "tile with much detail is not kept.",
            ),
            io.Boolean.Input(
                "invert",
                default=False,
                optional=True,
                advanced=True,
                tooltip="Keeps detailed areas and refines calm ones, to remove banding in skies "
                "and gradients.",
            ),
            io.Combo.Input(
                "mask_mode",
                options=list(MASK_MODES),
                default="multiply",
                optional=True,
                advanced=True,
                tooltip="How the mask is combined with the tiles' denoise. multiply: denoise x "
                "mask. limit: never above the mask. at least: never below the mask (for example "
                "to give a face full strength). replace: the mask alone.",
            ),
            io.Combo.Input(
                "detail_metric",
                options=list(DETAIL_METRICS),
                default="color",
                optional=True,
                advanced=True,
                tooltip="Only with a content_threshold: what counts as detail. color: how much "
                "the colours of a tile vary. edges: the mean strength of its edges (for line art "
                "and text; edges are weaker in an enlarged image). both: the larger of the two.",
            ),
            io.Float.Input(
                "cost_budget",
                default=0.0,
                min=0.0,
                max=1.0,
                step=0.05,
                optional=True,
                tooltip="Refines the most detail that about this share of the full model cost "
                "allows: 0.4 = 40%. 0 = off; the smallest budget is 0.05. It takes the place of "
                "coverage, or of the content_threshold where that is set; the node shows the value "
                "it found.",
            ),
            io.Float.Input(
                "coverage",
                default=COVERAGE,
                min=0.0,
                max=1.0,
                step=0.01,
                optional=True,
                tooltip="Share of the image's fine detail that is refined: at 0.95, the calmest "
                "tiles, which together hold the other 5%, are kept and cost nothing. 1 refines "
                "everything with any detail. Used while content_threshold is 0.",
            ),
            io.Combo.Input(
                "batch",
                options=list(BATCHES),
                default="images",
                optional=True,
                advanced=True,
                tooltip="What a batch of images is. images: single images, each with its own "
                "tree. clip: the frames of one video, which share one tree; motion counts as "
                "detail. clip maximum: the same, by the most detail that any frame has, so that "
                "a short motion is refined, too. clip per frame: a tree per frame, for Quadtree "
                "Diffusion to follow over time; it changes less, and costs somewhat more than "
                "clip maximum.",
            ),
            io.Combo.Input(
                "preset",
                options=[CUSTOM, *PRESETS],
                default=CUSTOM,
                optional=True,
                extra_dict={"presets": PRESETS},
                tooltip="Sets coverage, min_denoise, max_denoise and cost_budget, and the "
                "automatic tree. portrait: changes gently. landscape: changes much. "
                "line art: nearly all lines, gently. gentle: little, and less strongly. "
                "strong: nearly everything, up to the whole run. cheap: what about 35% "
                "of the full model cost allows. custom: the values as they are; shown "
                "when one of them is edited. It acts in the browser only: a prompt for "
                "the API has the values themselves.",
            ),
        ],
        outputs=[
            io.Image.Output(
                "image",
                tooltip="The image with its tiles drawn over it. Tint and borders range from blue "
                "(denoise 0: kept) through violet (0.5) to red (denoise 1: regenerated). Of a "
                "clip, some frames.",
            ),
            QuadtreeType.Output(
                "quadtree", tooltip="One tree per image or clip, for Quadtree Diffusion."
            ),
            io.Mask.Output(
                "denoise_map",
                tooltip="Denoise of each pixel (0-1). It can be used as a mask, for example with "
                "core's Differential Diffusion.",
            ),
            io.Mask.Output(
                "painted",
                tooltip="What is painted in the panel with Value or Full (1), and the rest (0). "
                "For Quadtree Prompts: a region with a prompt of its own.",
            ),
        ],
        hidden=[io.Hidden.unique_id, io.Hidden.prompt],
    )


def diffusion_schema() -> io.Schema:
    """Return the schema of Quadtree Diffusion."""
    return io.Schema(
        node_id="QuadtreeDiffusion",
        display_name="Quadtree Diffusion",
        category="sampling/quadtree",
        description="Patches a model so that any sampler refines the image in windows, changes "
        "each region only as much as its tile allows, and skips the model where nothing may "
        "change.",
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
                tooltip="The model to sample with. It is not modified; the output is a patched "
                "copy.",
            ),
            QuadtreeType.Input(
                "quadtree",
                tooltip="The quadtree from Quadtree Visualizer, built from the image to be "
                "refined or from a copy of it of any size.",
            ),
            io.Combo.Input(
                "method",
                options=list(METHODS),
                default="Shifted Feather",
                tooltip="How windows are joined. Shifted Feather: borders move at every step and "
                "are blended over a narrow ramp (least visible seams). Mixture of Diffusers: "
                "fixed windows with Gaussian weights. MultiDiffusion: fixed windows, averaged. "
                "SpotDiffusion: borders move, windows do not overlap (the least to evaluate, the "
                "most visible seams).",
            ),
            io.Int.Input(
                "tile_size",
                default=0,
                min=0,
                max=MAX_PX,
                step=8,
                tooltip="Size of the largest window that the model sees, in px. 0 = automatic: "
                "the native size of the model family (512 for SD1.5, 1024 for most), or a single "
                "window of up to 1.5 times that size if it covers the image.",
            ),
            io.Int.Input(
                "tile_overlap",
                default=64,
                min=0,
                max=MAX_PX,
                step=8,
                advanced=True,
                tooltip="Overlap of neighbouring windows, in px. Not used by SpotDiffusion.",
            ),
            io.Int.Input(
                "tile_batch_size",
                default=4,
                min=0,
                max=64,
                advanced=True,
                tooltip="Maximum number of windows of the same shape that are evaluated together. "
                "0 = as many as fit in the free memory. For a clip it counts latent frames: "
                "windows with more than half as many are evaluated one at a time.",
            ),
            io.Combo.Input(
                "schedule",
                options=list(SCHEDULES),
                default="hold",
                advanced=True,
                tooltip="How a tile's denoise is applied over the steps. hold: the region is "
                "held, then free for its last denoise x steps steps, as if it were sampled on its "
                "own with that denoise. ramp: its freedom (0 = held, 1 = free) grows from the "
                "denoise to 1. constant: its freedom stays at the denoise.",
            ),
            io.Int.Input(
                "feather",
                default=32,
                min=0,
                max=4096,
                step=8,
                advanced=True,
                tooltip="Width of the transition from a tile with a low denoise into one with a "
                "higher denoise, in px.",
            ),
            io.Int.Input(
                "skip_diffusion_below",
                default=0,
                min=0,
                max=MAX_PX,
                step=8,
                advanced=True,
                tooltip="Tiles with a side shorter than this are kept unchanged. Measured in px "
                "of the image that the quadtree was built from. 0 = none.",
            ),
            io.Latent.Input(
                "clean_latent",
                optional=True,
                tooltip="The latent to preserve if the latent being sampled is already noisy, as "
                "in the second stage of a KSampler (Advanced) chain. If not connected, the latent "
                "being sampled is preserved.",
            ),
            io.Sigmas.Input(
                "all_sigmas",
                optional=True,
                tooltip="The sigmas of the whole schedule, from BasicScheduler, where samplers "
                "run parts of it (a KSampler (Advanced) chain, Split Sigmas, high and low noise "
                "models). A tile's denoise then counts the steps of the whole schedule, and the "
                "stages act as one run. If not connected, it counts the steps of each sampler.",
            ),
            io.Combo.Input(
                "references",
                options=list(CHOICES),
                default=AUTOMATIC,
                optional=True,
                advanced=True,
                tooltip="What windows see of reference latents (Kontext, Qwen-Image-Edit, Flux.2). "
                "automatic: their own part of a reference that has the latent's size, or shows the "
                "same image at another one; all of any other. on the image: their own part of "
                "every reference, as for a sketch of another size. whole: all of every reference.",
            ),
        ],
        outputs=[io.Model.Output(tooltip="The patched model, for any sampler.")],
        hidden=[io.Hidden.unique_id, io.Hidden.prompt],
    )


def composite_schema() -> io.Schema:
    """Return the schema of Quadtree Composite."""
    return io.Schema(
        node_id="QuadtreeComposite",
        display_name="Quadtree Composite",
        category="image/quadtree",
        description="Restores the original pixels in the regions that the quadtree keeps (the VAE "
        "changes every pixel), without a visible border.",
        search_aliases=["keep original pixels", "paste back", "blend by quadtree"],
        inputs=[
            io.Image.Input(
                "original",
                tooltip="The image that was encoded, at the size of the refined image.",
            ),
            io.Image.Input("refined", tooltip="The decoded result."),
            QuadtreeType.Input("quadtree", tooltip="The quadtree given to Quadtree Diffusion."),
            _feather_input("refined"),
            _color_match_input("refined"),
        ],
        outputs=[_composite_output()],
    )


def info_schema() -> io.Schema:
    """Return the schema of Quadtree Info."""
    return io.Schema(
        node_id="QuadtreeInfo",
        display_name="Quadtree Info",
        category="image/quadtree",
        description="Describes a quadtree in text and numbers: tile sizes, denoise, how much is "
        "kept, and what a run costs.",
        search_aliases=["quadtree statistics", "cost estimate"],
        inputs=[
            QuadtreeType.Input(
                "quadtree",
                tooltip="The quadtree from Quadtree Visualizer. For a batch, tiles are counted "
                "over all trees and the other values are means.",
            ),
            io.Int.Input(
                "steps",
                default=20,
                min=1,
                max=1000,
                tooltip="Number of steps of the run whose cost is estimated.",
            ),
        ],
        outputs=[
            io.String.Output("text", tooltip="A readable table."),
            io.Int.Output("tiles", tooltip="Number of tiles."),
            io.Float.Output("kept", tooltip="Share of the image that is kept (0-1)."),
            io.Float.Output("denoise", tooltip="Mean denoise over the image (0-1)."),
            io.Float.Output(
                "cost",
                tooltip="Estimated cost of a run, as a share of the full model cost: 1 is the "
                "whole image at every step, and overlapping windows can take it above 1.",
            ),
        ],
    )


def vae_decode_schema() -> io.Schema:
    """Return the schema of Quadtree VAE Decode."""
    return io.Schema(
        node_id="QuadtreeVAEDecode",
        display_name="Quadtree VAE Decode",
        category="image/quadtree",
        description="Combines VAE Decode and Quadtree Composite: uses the original pixels in the "
        "regions that the quadtree keeps, and does not decode those regions if the VAE allows it "
        "(Qwen, Wan, TAESD).",
        search_aliases=["tiled decode", "partial decode", "decode changed"],
        inputs=[
            io.Latent.Input("samples", tooltip="The sampled latent of an image or clip."),
            io.Vae.Input("vae", tooltip="The VAE that encoded the original."),
            QuadtreeType.Input("quadtree", tooltip="The quadtree given to Quadtree Diffusion."),
            io.Image.Input(
                "original",
                tooltip="The image that was encoded, at the size of the decoded image.",
            ),
            _feather_input("decoded"),
            io.Boolean.Input(
                "approximate",
                default=False,
                optional=True,
                tooltip="For SD, SDXL, SD3 and Flux, whose VAEs cannot decode part of an image "
                "exactly. If on, only windows around the changed regions are decoded, each on its "
                "own as in VAE Decode (Tiled). This is fast and needs memory for one window only, "
                "but colours are slightly off.",
            ),
            _color_match_input("decoded"),
        ],
        outputs=[_composite_output()],
    )


def _feather_input(which: str) -> io.Int.Input:
    """Return the input `feather` of a node that composites the image called `which`."""
    return io.Int.Input(
        "feather",
        default=32,
        min=0,
        max=4096,
        step=2,
        tooltip=f"Width in px of the transition into the {which} image next to kept regions. "
        "0 = a hard border.",
    )


def _color_match_input(which: str) -> io.Boolean.Input:
    """Return the input `color_match` of a node that composites the image called `which`."""
    return io.Boolean.Input(
        "color_match",
        default=False,
        optional=True,
        tooltip=f"Matches the local colour and contrast of the {which} image to the original, tile "
        "by tile, before compositing. For models and VAEs that shift colours.",
    )


def _composite_output() -> io.Image.Output:
    """Return the output of a node that composites with the original."""
    return io.Image.Output(
        "image",
        tooltip="The composited image. Kept regions are bit-for-bit equal to the original.",
    )


def cluster_schema() -> io.Schema:
    """Return the schema of Quadtree Cluster."""
    return io.Schema(
        node_id="QuadtreeCluster",
        display_name="Quadtree Cluster",
        category="sampling/quadtree",
        description="Shares the windows of Quadtree Diffusion with the machines of a Ray cluster. "
        "The cluster is the one that the environment variable RAY_ADDRESS names when ComfyUI "
        "starts; without it, the other GPUs of this machine.",
        search_aliases=["distributed", "many machines", "multi GPU", "ray", "cluster", "workers"],
        inputs=[
            io.Model.Input(
                "model",
                tooltip="The model, with all LoRA and patches: workers build it from the nodes "
                "before this one, with files of their own. Connect Quadtree Diffusion before or "
                "behind this node, and nothing else that patches the model behind it.",
            ),
            io.Int.Input(
                "workers",
                default=0,
                min=0,
                max=1024,
                tooltip="Number of workers that take part, besides this machine; windows are cut "
                "for so many, which shares a step more evenly from four on. The result is the same "
                "if fewer are there. 0 = all, with the windows of a run without this node.",
            ),
        ],
        outputs=[io.Model.Output(tooltip="The model, for Quadtree Diffusion or a sampler.")],
        hidden=[io.Hidden.prompt, io.Hidden.unique_id],
    )
