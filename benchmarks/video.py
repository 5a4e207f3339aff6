"""What trees over frames keep, cost and leave of flicker, on made clips.

The clips: an object (a small photo) that moves over a wall without detail, over a photo that stands
still, and over a photo that is panned, all blurred as an enlargement is; and the one sequence that
comes with scikit-image, which is so small that it is enlarged 18 times. Each is refined twice:

- with the Tiny Refiner, whose batch is the clip's frames: its pictures mean something. All frames
  get one noise, so that what stands still would be refined alike in all of them;
- with a tiny Wan 2.1 of random weights, whose latents are clips of latent frames.

Columns: **object**, the share of the moving object's area that is refined; **kept**, the share of
all cells of all frames that are not; **evaluated**, the share of the model's cells; **equal**,
whether what a frame keeps equals its input to the bit, in the latents of both models and, composed,
in the px; **flicker**, the mean change of the change from frame to frame in still px, where they
are kept, and where they are refined, there over that of the run without the pack; **seams**, of
windows, and **time seams**, where the trees of frames change, 1 = invisible; **switching**, the
share of still cells that begin or end to be kept from one frame to the next.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageSequence
from quadtree_pack.benchmarks.decide_pictures import as_tensor
from quadtree_pack.testing import measures, refiner
from quadtree_pack.testing.clips import object_clip, soft_wall
from quadtree_pack.testing.photos import photo
from quadtree_pack.testing.registration import PACKAGE, register_comfyui
from torch import Tensor

HEIGHT, WIDTH, FRAMES = 256, 448, 25
SIDE, START, STEP = 80, (16, 16), (4, 14)  # of the object, in px
BLUR = 3  # times smaller, and enlarged again
STEPS, DENOISE = 8, 0.5
CELL = measures.CELL_PX
STILL = 0.5 / 255  # px that change less from one frame to the next stand still
COLUMNS = (
    *("object", "kept", "evaluated", "equal", "flicker kept", "flicker", "seams"),
    *("time seams", "switching"),
)


def run() -> list[dict]:
    register_comfyui("--cpu")
    logging.disable(logging.INFO)  # of ComfyUI and the pack: one line per run
    rows = []
    print(f"{'':46} " + " ".join(f"{column:>12}" for column in COLUMNS))
    for clip_name, make in CLIPS.items():
        sharp = make()
        clip = soften(sharp)
        plain = refine(clip)
        for tree_name, build in TREES.items():
            row = measure(clip, plain, build(clip))
            if clip_name == SEQUENCE:
                row["object"] = "-"
            rows.append({"clip": clip_name, "trees": tree_name, **row})
            print(f"{clip_name + ', ' + tree_name:46} " + " ".join(map(show, row.values())))
    return rows


def show(value: Any) -> str:
    return f"{value:>12.3f}" if isinstance(value, float) else f"{value!s:>12}"


def make_clip(background: Tensor, pan: int = 0) -> Tensor:
    """Return a clip with the moving object over a background that is wide enough for the pan."""
    path = {"start": START, "step": STEP, "side": SIDE}
    texture = photo("astronaut", SIDE)
    return object_clip(background, FRAMES, pan=pan, texture=texture, **path)


def find_object() -> Tensor:
    """Return where the object lies, bool [FRAMES, HEIGHT, WIDTH]."""
    texture = torch.ones(SIDE, SIDE, 3)
    path = {"start": START, "step": STEP, "side": SIDE}
    return object_clip(torch.zeros(HEIGHT, WIDTH, 3), FRAMES, texture=texture, **path)[..., 0] > 0


def crop_photo(width: int) -> Tensor:
    return photo("coffee", width)[:HEIGHT]


def load_sequence() -> Tensor:
    """Return the clip, turned on its side to fit."""
    from skimage import data

    with Image.open(Path(data.__file__).parent / "no_time_for_that_tiny.gif") as file:
        pictures = [frame.convert("RGB") for frame in ImageSequence.Iterator(file)]
    pictures = (pictures + pictures[-1:])[:FRAMES]
    turned = [picture.transpose(Image.Transpose.ROTATE_90) for picture in pictures]
    large = [picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for picture in turned]
    return torch.stack([as_tensor(picture) for picture in large])


SEQUENCE = "sequence"  # without the moving object
PAN = 8  # px per frame
CLIPS: dict[str, Callable[[], Tensor]] = {
    "wall": lambda: make_clip(soft_wall(HEIGHT, WIDTH)),
    "still photo": lambda: make_clip(crop_photo(WIDTH)),
    "panned photo": lambda: make_clip(crop_photo(WIDTH + PAN * (FRAMES - 1)), PAN),
    SEQUENCE: load_sequence,
}


def soften(clip: Tensor) -> Tensor:
    """Return the clip as it is when it was enlarged by BLUR."""
    small = F.interpolate(clip.movedim(-1, 1), scale_factor=1 / BLUR, mode="area")
    large = F.interpolate(small, size=clip.shape[1:3], mode="bicubic").clamp(0, 1)
    return large.movedim(1, -1).contiguous()


def build_trees(batch: str, clip: Tensor) -> tuple:
    batches = importlib.import_module(f"{PACKAGE}.ui.clips").BATCHES
    options = {"mask_mode": "multiply", "budget": 0.0, "content_threshold": 0.0, "coverage": 0.95}
    options |= {"min_tile_px": 0, "max_tile_px": 0, "min_denoise": 0.4, "max_denoise": 1.0}
    return batches[batch](clip, [None] * len(clip), **options).trees


def of_each_frame(clip: Tensor) -> tuple:
    """Return a tree for each frame by itself: what there was before clips."""
    frame_trees = importlib.import_module(f"{PACKAGE}.quadtree").FrameTrees
    return frame_trees(build_trees("images", clip))


TREES: dict[str, Callable[[Tensor], tuple]] = {
    "first frame": lambda clip: build_trees("images", clip[:1]),
    "each frame alone": of_each_frame,
    "clip": lambda clip: build_trees("clip", clip),
    "clip maximum": lambda clip: build_trees("clip maximum", clip),
    "clip per frame": lambda clip: build_trees("clip per frame", clip),
}


class Refined:
    """A clip that was refined with the Tiny Refiner: latents and decoded frames."""

    def __init__(self, before: Tensor, after: Tensor, frames: Tensor, runs: list) -> None:
        self.latent_before, self.latent_after = before, after
        self.frames, self.runs = frames, runs


def refine(clip: Tensor, trees: tuple = ()) -> Refined:
    import comfy.sample

    settings = importlib.import_module(f"{PACKAGE}.sampling.model").Settings()
    model, vae, cond = refiner.load()
    latent = vae.encode(clip)
    runs: list = []
    if trees:
        model = refiner.attach_recorded(model, trees, settings, runs, small_model=True)
    noise = comfy.sample.prepare_noise(latent[:1], refiner.SEED).expand_as(latent).clone()
    run = (model, noise, STEPS, 1.0, "euler", "simple", cond, cond, latent)
    samples = comfy.sample.sample(*run, denoise=DENOISE, seed=refiner.SEED, disable_pbar=True)
    return Refined(latent, samples, vae.decode(samples), runs)


def measure(clip: Tensor, plain: Refined, trees: tuple) -> dict[str, Any]:
    mine = refine(clip, trees)
    (opened,) = mine.runs
    free = (opened.freedom(STEPS - 1) > 0).expand(FRAMES, -1, -1)
    kept = ~free
    composed = compose(clip, mine.frames, trees)
    still = (clip.diff(dim=0).abs() < STILL).all(-1)
    equal = torch.equal(mine.latent_after.movedim(1, -1)[kept], plain_cells(mine, kept))
    kept_px = enlarge(kept)
    equal &= bool((composed == clip)[find_kept_px(clip, trees)].all())
    equal &= keeps_latent_frames(clip, trees)
    refined_still = still & ~kept_px[1:] & ~kept_px[:-1]
    kept_still = still & kept_px[1:] & kept_px[:-1]
    flicker, plain_flicker = (
        (frames - clip).diff(dim=0).abs().mean(-1) for frames in (composed, plain.frames)
    )
    usual = mean_of(plain_flicker, refined_still)
    still_cells = still.unflatten(2, (-1, CELL)).unflatten(1, (-1, CELL)).all(4).all(2)
    return {
        "object": float((~kept_px)[find_object()].double().mean()),
        "kept": float(kept.double().mean()),
        "evaluated": opened.tally.share,
        "equal": equal,
        "flicker kept": mean_of(flicker, kept_still),
        "flicker": mean_of(flicker, refined_still) / usual if usual else 0.0,
        "seams": measure_seams(clip, mine, plain, free),
        "time seams": measure_time_seams(clip, composed, plain.frames, trees, ~kept_px),
        "switching": mean_of(kept.diff(dim=0).double(), still_cells),
    }


def plain_cells(mine: Refined, kept: Tensor) -> Tensor:
    return mine.latent_before.movedim(1, -1)[kept]


def mean_of(values: Tensor, where: Tensor) -> float:
    return float(values[where].mean()) if bool(where.any()) else 0.0


def enlarge(cells: Tensor) -> Tensor:
    """Return cells [T, h, w] as px [T, H, W]."""
    return cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)


def compose(clip: Tensor, frames: Tensor, trees: tuple) -> Tensor:
    nodes = importlib.import_module(f"{PACKAGE}.nodes")
    return nodes.QuadtreeComposite.execute(clip, frames, trees, 32).args[0]


def find_kept_px(clip: Tensor, trees: tuple) -> Tensor:
    maps = torch.stack([tree.denoise_map(*clip.shape[1:3]) for tree in trees])
    return (maps == 0).expand(len(clip), -1, -1)


def measure_seams(clip: Tensor, mine: Refined, plain: Refined, free: Tensor) -> float:
    """Return the mean seam index of windows over the frames in which their borders show."""
    (opened,) = mine.runs
    size = free.shape[1:]
    borders = [
        measures.window_borders(opened.layouts.windows(step), *size) for step in range(STEPS)
    ]
    lines = tuple(torch.stack(part).any(0) for part in zip(*borders, strict=True))
    found = []
    for frame in range(FRAMES):
        if measures.count_free_lines(lines, free[frame]) > 20:
            changes = (one.frames[frame] - clip[frame] for one in (mine, plain))
            found.append(measures.window_seam_index(*changes, lines, free[frame]))
    return sum(found) / len(found) if found else 1.0


def measure_time_seams(
    clip: Tensor, composed: Tensor, plain: Tensor, trees: tuple, refined: Tensor
) -> float:
    """Return the seam index of the places in time where the trees of frames change.

    It is that of `window_seam_index` along the axis of time: the change's difference from frame to
    frame there over that elsewhere, in px that are refined in either frame, and that over the same
    of the run without the pack. 1 where one tree serves all frames, or each has another.
    """
    each = trees if len(trees) > 1 else trees * len(clip)
    borders = torch.tensor([one is not other for one, other in pairwise(each)])
    if borders.all() or not borders.any():
        return 1.0
    where = refined[1:] | refined[:-1]

    def contrast(frames: Tensor) -> float:
        steps = (frames - clip).diff(dim=0).abs().mean(-1)
        at, elsewhere = (mean_of(steps[part], where[part]) for part in (borders, ~borders))
        return at / elsewhere

    return contrast(composed) / contrast(plain)


def keeps_latent_frames(clip: Tensor, trees: tuple) -> bool:
    """Return whether a tiny Wan keeps what each latent frame keeps to the bit."""
    from quadtree_pack.testing.tiny_models import entry_of
    from quadtree_pack.testing.tiny_models.building import clean_latent, sample

    tiled_diffusion = importlib.import_module(f"{PACKAGE}.tiled_diffusion")
    settings = importlib.import_module(f"{PACKAGE}.sampling.model").Settings(tile_px=256)
    entry, runs = entry_of("wan21_t2v"), []
    latent = clean_latent((1, 16, 1 + (FRAMES - 1) // 4, HEIGHT // CELL, WIDTH // CELL))
    model = tiled_diffusion.attach(entry.model, trees, settings)
    refiner.record_runs(model.model_options["model_function_wrapper"], runs)
    samples = sample(entry, latent, model=model, steps=3, denoise=DENOISE)
    kept = runs[0].kept().expand(1, latent.shape[2], -1, -1)
    by_channel = (one.movedim(1, 0)[:, kept] for one in (samples, latent))
    return bool(torch.equal(*by_channel))
