"""Defines the nodes and the extension that registers them.

A node checks its inputs and calls the part of the pack that does the work. The schemas are in
ui/schemas.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .cluster.crew import attach_cluster
from .image.composite import composite
from .image.decoder import count_frames_per_latent, count_latent_frames_of, count_px_frames
from .image.decoding import decode_changed
from .quadtree import count_clip_frames
from .sampling.model import Geometry, Settings
from .sampling.prompts import set_prompts
from .sampling.references import AUTOMATIC, CHOICES
from .tiled_diffusion import attach
from .tree.detail import LARGEST_PX
from .tree.masks import MASK_MODES
from .tree.regions import mark_painted
from .ui.budget import Choice
from .ui.clips import BATCHES, draw_trees, map_denoise
from .ui.coverage import COVERAGE
from .ui.crops import cut_crops
from .ui.facts import gather_facts
from .ui.inputs import (
    check_canvases,
    check_choice,
    check_colours,
    check_conditioning,
    check_flag,
    check_image,
    check_image_latent,
    check_masks,
    check_model,
    check_number,
    check_one,
    check_prompt_regions,
    check_regions,
    check_samples,
    check_sigmas,
    check_trees,
    check_visualizer_inputs,
    tell_alpha,
)
from .ui.presets import CUSTOM, PRESETS
from .ui.preview import keep_for_preview, register
from .ui.price import remember_model
from .ui.prompt_schemas import MOST_CROPS, crops_schema, prompts_schema
from .ui.schemas import (
    cluster_schema,
    composite_schema,
    diffusion_schema,
    info_schema,
    vae_decode_schema,
    visualizer_schema,
)
from .utils import info
from .velocity import SCHEDULES
from .windows.blending import METHODS

PROGRESS_EVERY_S = 0.2
MOST_WORKERS = 1024
LARGEST_CELL_PX = 32  # of all VAEs in ComfyUI


class QuadtreeVisualizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return visualizer_schema()

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
        coverage: float = COVERAGE,
        batch: str = "images",
        preset: str = CUSTOM,
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
            coverage=coverage,
        )
        build = BATCHES[check_choice("batch", batch, BATCHES)]
        check_choice("preset", preset, {CUSTOM: None, **PRESETS})  # only the browser acts on it
        mode = check_choice("mask_mode", mask_mode, MASK_MODES)
        line_px = check_number("line_thickness", line_thickness, 0, 4096, "px", kind=int)
        masks = check_masks(mask, len(check_image(image)))
        tell_alpha("image", image)
        painted = check_regions(regions, image)
        built = build(image, masks, mask_mode=mode, regions=painted, **limits)
        show = make_progress_display(cls.hidden.unique_id if cls.hidden else None)
        report_choices(built.choices, show)
        maps = map_denoise(built.trees)
        height, width = image.shape[1:3]
        return io.NodeOutput(
            draw_trees(image, built.trees, maps, batch, line_px),
            built.trees,
            maps,
            mark_painted(painted, width, height),
            ui=keep_for_preview(image, built.sums, cls.hidden, built.clip),
        )


class QuadtreeDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return diffusion_schema()

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
        all_sigmas: torch.Tensor | None = None,
        references: str = AUTOMATIC,
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
            references=check_choice("references", references, CHOICES),
        )
        clean = None if clean_latent is None else check_samples("clean_latent", clean_latent)
        progress = make_progress_display(cls.hidden.unique_id if cls.hidden else None)
        sigmas = None if all_sigmas is None else check_sigmas("all_sigmas", all_sigmas)
        model, trees = check_model(model), check_trees(quadtree)
        name = remember_model(cls.hidden, Geometry.of(model)) if cls.hidden else None
        measured = make_run_report(name)
        return io.NodeOutput(attach(model, trees, settings, clean, progress, sigmas, measured))


class QuadtreeComposite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return composite_schema()

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
        original = check_colours("original image", original)
        refined = check_colours("refined image", refined)
        size = refined.shape[1], refined.shape[2]
        cell_px = math.gcd(*size, LARGEST_CELL_PX)
        canvases = check_canvases(original, trees, size, cell_px, len(refined), "refined")
        pictures = original.new_empty(len(canvases), *size, 3)
        for number, canvas in enumerate(canvases):
            one = refined[number % len(refined)]
            pictures[number] = composite(canvas, one, feather_px, match=match)
        return io.NodeOutput(pictures)


class QuadtreeInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return info_schema()

    @classmethod
    def execute(cls, quadtree: Any, steps: int) -> io.NodeOutput:
        facts = gather_facts(
            check_trees(quadtree), check_number("steps", steps, 1, 10_000, "steps", kind=int)
        )
        return io.NodeOutput(facts.text(), facts.tiles, facts.kept, facts.denoise, facts.cost)


class QuadtreeVAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return vae_decode_schema()

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
        latent = check_image_latent(check_samples("samples", samples), vae)
        px = vae.spacial_compression_decode()
        size = tuple(length * px for length in latent.shape[-2:])
        frames = count_px_frames(vae, latent)
        count = len(latent) * frames
        # One latent frame may be all that is left of a clip.
        is_clip = len(latent) == 1 and count_clip_frames(trees) > 1
        is_clip = is_clip or count_latent_frames_of(latent) > 1
        per_latent = count_frames_per_latent(vae) if is_clip else 1
        lengths = {"frames": frames, "frames_per_latent": per_latent}
        canvases = check_canvases(original, trees, size, px, count, "decoded", **lengths)
        return io.NodeOutput(decode_changed(vae, latent, canvases, feather_px, **flags))


class QuadtreeCluster(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return cluster_schema()

    @classmethod
    def execute(cls, model: Any, workers: int) -> io.NodeOutput:
        model = check_model(model)
        count = check_number("workers", workers, 0, MOST_WORKERS, "workers", kind=int)
        if not cls.hidden or not cls.hidden.prompt:
            raise ValueError("Quadtree Cluster needs the prompt; run it in a workflow.")
        node_id = str(cls.hidden.unique_id)
        show = make_progress_display(node_id)
        return io.NodeOutput(attach_cluster(model, cls.hidden.prompt, node_id, count, show))


class QuadtreeCrops(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return crops_schema()

    @classmethod
    def execute(
        cls, image: torch.Tensor, quadtree: Any, max_crops: int, crop_size: int
    ) -> io.NodeOutput:
        trees, images = check_trees(quadtree), check_colours("image", image)
        most = check_number("max_crops", max_crops, 1, MOST_CROPS, "crops", kind=int)
        size_px = check_number("crop_size", crop_size, 64, LARGEST_PX, "px", kind=int)
        return io.NodeOutput(*cut_crops(images, trees, most=most, size_px=size_px))


class QuadtreePrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return prompts_schema()

    @classmethod
    def execute(
        cls,
        conditioning: list[Any],
        prompts: list[Any],
        regions: list[Any],
        feather: list[Any],
        strength: list[Any],
    ) -> io.NodeOutput:
        base = check_conditioning("conditioning", check_one("conditioning", conditioning))
        conds = [check_conditioning("a prompt", prompt) for prompt in prompts]
        masks = check_prompt_regions(len(conds), regions)
        width = check_one("feather", feather)
        feather_px = check_number("feather", width, 0, LARGEST_PX, "px", kind=int)
        share = check_number("strength", check_one("strength", strength), 0, 1)
        return io.NodeOutput(set_prompts(base, conds, masks, feather_px=feather_px, strength=share))


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
            QuadtreeCluster,
            QuadtreeCrops,
            QuadtreePrompts,
        ]


def report_choices(choices: Sequence[Choice | None], show: Callable[[str], None] | None) -> None:
    """Report what a budget found for each image, in the log and with `show`.

    An image without a budget has None and is not reported.
    """
    lines = [choice.text() for choice in choices if choice is not None]
    for line in lines:
        info("%s", line)
    if lines and show is not None:
        show("\n".join(lines))


def make_run_report(model_name: str | None) -> Callable[[int, float], None] | None:
    """Return a function that tells the browser what a run evaluated and how long it took.

    The panel then knows the seconds of later runs with this model. None without a server or name.
    """
    server = getattr(PromptServer, "instance", None)
    if server is None or model_name is None:
        return None

    def report(cells: int, seconds: float) -> None:
        measured = {"model": model_name, "cells": cells, "seconds": seconds}
        server.send_sync("quadtree_run", measured, server.client_id)

    return report


def make_progress_display(node_id: str | None) -> Callable[[str], None] | None:
    """Return a function that shows a text on a node in the browser; None without a server or node.

    It also works while a later node samples. Texts that begin with "step " are shown at most every
    PROGRESS_EVERY_S seconds, all others at once.
    """
    server = getattr(PromptServer, "instance", None)
    if server is None or node_id is None:
        return None
    last_s = 0.0

    def show(text: str) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= PROGRESS_EVERY_S or not text.startswith("step "):
            last_s = now_s
            server.send_progress_text(text, node_id)

    return show
