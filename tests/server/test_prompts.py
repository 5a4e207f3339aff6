"""A prompt per region in a real workflow: lists of crops go out, and lists of prompts come back."""

import io
import json
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image
from quadtree_pack import demo
from quadtree_pack.testing.node_values import DIFFUSION, VISUALIZER

RUN = {"seed": 7, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}


def graph(positive, **more):
    """The photo, refined by the tiny model in windows of 128 px, with this positive prompt."""
    visualizer = {**VISUALIZER, "image": ["load", 0], "max_tile_size": 128}
    diffusion = {**DIFFUSION, "tile_size": 128, "model": ["tiny", 0], "quadtree": ["tree", 1]}
    sampler = {"model": ["diffusion", 0], "positive": positive, "negative": ["tiny", 2]}
    nodes = {
        "load": ("LoadImage", {"image": "photo.png"}),
        "tiny": ("TinyRefinerLoader", {}),
        "tree": ("QuadtreeVisualizer", visualizer),
        "crops": (
            "QuadtreeCrops",
            {"image": ["load", 0], "quadtree": ["tree", 1], "max_crops": 4, "crop_size": 128},
        ),
        "diffusion": ("QuadtreeDiffusion", diffusion),
        "latent": ("VAEEncode", {"pixels": ["load", 0], "vae": ["tiny", 1]}),
        "sampler": (
            "KSampler",
            {**RUN, **sampler, "latent_image": ["latent", 0], "denoise": 0.6},
        ),
        "decoded": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["tiny", 1]}),
        "saved": ("SaveImage", {"images": ["decoded", 0], "filename_prefix": "prompts"}),
        **more,
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def prompts(conditioning, of_regions, regions):
    inputs = {"conditioning": conditioning, "prompts": of_regions, "regions": regions}
    return "QuadtreePrompts", {**inputs, "feather": 32, "strength": 1.0}


def pictures(running, run, name):
    found = []
    for place in run.outputs[name]["images"]:
        query = urllib.parse.urlencode(
            {key: place[key] for key in ("filename", "subfolder", "type")}
        )
        with urllib.request.urlopen(f"{running.url}/view?{query}") as answer:
            found.append(np.array(Image.open(io.BytesIO(answer.read())), dtype=float))
    return found


@pytest.fixture(scope="module")
def plain(running):
    return pictures(running, demo.run_prompt(running.url, graph(["tiny", 2])), "saved")[0]


def test_a_prompt_for_each_crop_comes_back_in_its_place(running, plain):
    # In the place of captioner and text encoder: one node that runs once for each crop's mask.
    masked = {"conditioning": ["tiny", 2], "mask": ["crops", 1], "strength": 1.0}
    run = demo.run_prompt(
        running.url,
        graph(
            ["prompts", 0],
            each=("ConditioningSetMask", {**masked, "set_cond_area": "default"}),
            prompts=prompts(["tiny", 2], ["each", 0], ["crops", 1]),
            shown=("PreviewImage", {"images": ["crops", 0]}),
        ),
    )
    shown = pictures(running, run, "shown")
    assert 2 <= len(shown) <= 4
    assert all(max(crop.shape[:2]) <= 128 for crop in shown)
    # All prompts are the same one, so the picture is the same, too.
    (found,) = pictures(running, run, "saved")
    assert found.shape == plain.shape and np.abs(found - plain).max() <= 1


def test_single_prompts_and_masks_are_collected_by_create_list(running, plain):
    run = demo.run_prompt(
        running.url,
        graph(
            ["second", 0],
            left=("SolidMask", {"value": 1.0, "width": 480, "height": 320}),
            right=("InvertMask", {"mask": ["left", 0]}),
            both=("CreateList", {"inputs.input0": ["tiny", 2], "inputs.input1": ["tiny", 2]}),
            masks=("CreateList", {"inputs.input0": ["left", 0], "inputs.input1": ["right", 0]}),
            first=prompts(["tiny", 2], ["both", 0], ["masks", 0]),
            second=prompts(["first", 0], ["tiny", 2], ["left", 0]),
        ),
    )
    (found,) = pictures(running, run, "saved")
    assert np.abs(found - plain).max() <= 1


def test_what_was_painted_in_the_panel_is_a_region(running):
    painted = [["value", 0.25, 0.25, 0.5, 0.75, 0.4], ["full", 0.5, 0.25, 0.75, 0.75]]
    painted += [["keep", 0, 0, 1, 0.1]]  # nothing is evaluated there
    made = graph(
        ["prompts", 0],
        prompts=prompts(["tiny", 2], ["tiny", 2], ["tree", 3]),
        picture=("MaskToImage", {"mask": ["tree", 3]}),
        shown=("PreviewImage", {"images": ["picture", 0]}),
    )
    made["tree"]["inputs"]["regions"] = json.dumps({"regions": painted})
    run = demo.run_prompt(running.url, made)
    (mask,) = pictures(running, run, "shown")
    height, width = mask.shape[:2]
    inside = mask[height // 4 + 16 : height * 3 // 4 - 16, width // 4 + 16 : width * 3 // 4 - 16]
    assert (inside == 255).all() and 0.23 < (mask > 0).mean() < 0.27


def test_another_number_of_prompts_than_of_crops_ends_in_words(running):
    with pytest.raises(Exception, match=r"1 prompts came for \d regions; give one prompt"):
        demo.run_prompt(
            running.url,
            graph(["prompts", 0], prompts=prompts(["tiny", 2], ["tiny", 2], ["crops", 1])),
        )
