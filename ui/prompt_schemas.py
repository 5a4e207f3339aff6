"""Schemas of the nodes that give regions prompts of their own; see `schemas`."""

from __future__ import annotations

from comfy_api.latest import io

from .schemas import MAX_PX, QuadtreeType

MOST_CROPS = 64


def crops_schema() -> io.Schema:
    """Return the schema of Quadtree Crops."""
    return io.Schema(
        node_id="QuadtreeCrops",
        display_name="Quadtree Crops",
        category="image/quadtree",
        description="Cuts an image into a few large crops that together hold all that the quadtree "
        "refines, as a list for a captioner, and tells where each lies, for Quadtree Prompts.",
        search_aliases=["caption tiles", "regional prompt", "split image", "image list"],
        inputs=[
            io.Image.Input(
                "image",
                tooltip="The image to be refined, or a copy of it of any size. Of a clip, the "
                "middle frame is shown.",
            ),
            QuadtreeType.Input("quadtree", tooltip="The quadtree given to Quadtree Diffusion."),
            io.Int.Input(
                "max_crops",
                default=4,
                min=1,
                max=MOST_CROPS,
                tooltip="Number of crops, at most. Each has a prompt of its own; windows across "
                "the border of two crops evaluate both prompts.",
            ),
            io.Int.Input(
                "crop_size",
                default=1024,
                min=64,
                max=MAX_PX,
                step=8,
                tooltip="Larger crops are reduced to this length of their longer side, in px. No "
                "cut leaves a side shorter than half of it, so that small images give fewer crops.",
            ),
        ],
        outputs=[
            io.Image.Output(
                "crops",
                is_output_list=True,
                tooltip="The crops in reading order, one after the other, for any captioner.",
            ),
            io.Mask.Output(
                "regions",
                is_output_list=True,
                tooltip="Where each crop lies, for Quadtree Prompts.",
            ),
        ],
    )


def prompts_schema() -> io.Schema:
    """Return the schema of Quadtree Prompts."""
    return io.Schema(
        node_id="QuadtreePrompts",
        display_name="Quadtree Prompts",
        category="model/conditioning/quadtree",
        description="Gives each region of the image a prompt of its own. With Quadtree Diffusion, "
        "only the windows that touch a region evaluate its prompt.",
        search_aliases=["regional prompt", "prompt per region", "area prompt", "mask prompt"],
        is_input_list=True,
        inputs=[
            io.Conditioning.Input(
                "conditioning",
                tooltip="The prompt outside of all regions, and the rest inside of them where "
                "strength is below 1. It may come from another Quadtree Prompts.",
            ),
            io.Conditioning.Input(
                "prompts",
                tooltip="One prompt, or a list of prompts, one for each region in the same order: "
                "from CLIP Text Encode behind a captioner, or from Create List.",
            ),
            io.Mask.Input(
                "regions",
                tooltip="The regions: painted from Quadtree Visualizer, a list from Quadtree "
                "Crops, or masks (0-1), one for each prompt. Masks may have any size. Where "
                "regions overlap, their prompts share.",
            ),
            io.Int.Input(
                "feather",
                default=64,
                min=0,
                max=4096,
                step=8,
                tooltip="Width of the transition from one prompt to the next, in px of the masks. "
                "Windows in it evaluate both prompts.",
            ),
            io.Float.Input(
                "strength",
                default=1.0,
                min=0.0,
                max=1.0,
                step=0.05,
                tooltip="Share of a region's own prompt inside of the region (0-1); conditioning "
                "has the rest. Below 1, both are evaluated there.",
            ),
        ],
        outputs=[
            io.Conditioning.Output(
                tooltip="The prompts with their masks, for the positive input of any sampler.",
            )
        ],
    )
