"""Tells before a run what it will cost, by reading the workflow around Quadtree Visualizer.

The runs are found as ComfyUI will make them: samplers whose model comes through a Quadtree
Diffusion with this tree. What the workflow does not tell is taken from a typical run and named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from ..quadtree import Quadtree, count_clip_frames
from ..sampling.cost import ONE_PROMPT, Masks, Sampling, estimate_cost
from ..sampling.model import TYPICAL, TYPICAL_STEPS, Geometry, Settings
from ..sampling.plan import Mode
from ..sampling.steps import CALLS_PER_STEP
from ..utils import ceil_div, count_latent_frames
from ..velocity import SCHEDULES
from ..windows.blending import METHODS
from .conditioning import PromptReader
from .crops import mark_crops, place_crops
from .model_files import MODELS, find_geometry, name_model
from .passing import Applier
from .sizes import LATENT_INPUTS, Size, SizeFinder
from .workflow import Link, Node, Workflow

MODEL_INPUTS = ("model", "guider", "model1", "MODEL", "pipe", "basic_pipe")
SIGMAS_INPUTS = ("sigmas", "SIGMAS")
# The names of the node's inputs where they differ from those of Settings.
SETTINGS = {
    "method": "method",
    "tile_size": "tile_px",
    "tile_overlap": "overlap_px",
    "schedule": "schedule",
    "feather": "feather_px",
    "skip_diffusion_below": "keep_below_px",
}
CHOICES: dict[str, Collection[str]] = {"method": METHODS, "schedule": SCHEDULES}
# What may be unknown; the panel has words for each.
NO_RUN, MODEL, SIZE, STEPS, NOISE_MASK = "run", "model", "size", "steps", "noise mask"
SIGMAS, PROMPTS, OPTIONS = "sigmas", "prompts", "settings"
# Nodes that make sigmas of as many steps as their input says; the second kind of that many times
# its denoise. Others may make more or fewer.
SCHEDULERS = {
    *["BasicScheduler", "KarrasScheduler", "ExponentialScheduler", "PolyexponentialScheduler"],
    *["LaplaceScheduler", "BetaSamplingScheduler", "VPScheduler", "SDTurboScheduler"],
    *["LTXVScheduler", "Flux2Scheduler", "Ideogram4Scheduler"],
}
SHORTENED = {"AlignYourStepsScheduler", "GITSScheduler", "OptimalStepsScheduler"}
PASSING = {"FlipSigmas", "SetFirstSigma"}  # keep their number
SPLITTING = {"SplitSigmas", "SplitSigmasDenoise"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What the runs with a tree will cost.

    `share` is of the full model cost, and `cells` what the model will evaluate: cells times calls,
    times conds. `model` names the model, and `assumed` what was taken from a typical run.
    """

    share: float
    steps: int
    cells: float
    model: str
    assumed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComingRun:
    """One run of a sampler, as far as the workflow tells it."""

    settings: Settings
    geometry: Geometry
    sampling: Sampling
    size: Size  # in cells
    frames: int  # in px, of the clip that the tree was built from
    prompts: Masks
    model: str
    assumed: frozenset[str]
    sampler: str | None = None  # the number of its node

    @property
    def cells(self) -> int:
        """What is evaluated without the node, as in `Price`."""
        frames = count_latent_frames(self.frames, self.geometry.frames_per_latent)
        return self.size[0] * self.size[1] * frames * sum(self.sampling.calls) * len(self.prompts)


def estimate_price(trees: Sequence[Quadtree], applier: Applier, visualizer: str) -> Price:
    """Return the price of the runs with the trees of the node `visualizer`, together.

    They are those of an image or of a clip. `applier` has the workflow, and computes the masks of
    prompts.
    """
    runs = list_runs(trees, applier, visualizer)
    evaluated = [run.cells * _estimate_share(trees, run) for run in runs]
    return Price(
        share=sum(evaluated) / sum(run.cells for run in runs),
        steps=sum(run.sampling.steps for run in runs),
        cells=sum(evaluated),
        model=runs[0].model,
        assumed=tuple(sorted(frozenset().union(*(run.assumed for run in runs)))),
    )


def list_runs(trees: Sequence[Quadtree], applier: Applier, visualizer: str) -> list[ComingRun]:
    """Return the runs with the trees of the node `visualizer`; a typical one where none follows."""
    return list(find_runs(trees, applier, visualizer)) or [_typical_run(trees)]


def _estimate_share(trees: Sequence[Quadtree], run: ComingRun) -> float:
    height, width = run.size
    return estimate_cost(
        trees,
        run.settings,
        run.geometry,
        sampling=run.sampling,
        height=height,
        width=width,
        frames=run.geometry.count_frames(count_clip_frames(trees)),
        prompts=run.prompts,
    )


def _typical_run(trees: Sequence[Quadtree]) -> ComingRun:
    return ComingRun(
        settings=Settings(),
        geometry=TYPICAL,
        sampling=Sampling(steps=TYPICAL_STEPS),
        size=_own_size(trees[0], TYPICAL),
        frames=count_clip_frames(trees),
        prompts=ONE_PROMPT,
        model="",
        assumed=frozenset({NO_RUN}),
    )


def _own_size(tree: Quadtree, geometry: Geometry) -> Size:
    cell = geometry.px_per_cell
    return ceil_div(tree.height, cell), ceil_div(tree.width, cell)


def remember_model(hidden: Any, geometry: Geometry) -> str | None:
    """Remember the geometry of the model of a Quadtree Diffusion; return the model's name.

    `hidden` holds the prompt that is being executed and the node's id; None where they are missing.
    """
    patched = Workflow.find_executed(hidden)
    if patched is None:
        return None
    *_, loader = patched.workflow.walk(patched, *MODEL_INPUTS)
    MODELS.remember(name_model(loader), geometry)
    return name_model(loader)


def find_runs(trees: Sequence[Quadtree], applier: Applier, visualizer: str) -> Iterator[ComingRun]:
    """Yield the runs of all samplers that sample with the trees of the node `visualizer`."""
    workflow = applier.workflow
    for sampler in workflow.nodes.values():
        if sampler.link(*LATENT_INPUTS) is None or _patches_model(sampler):
            continue
        nodes = list(workflow.walk(sampler, *MODEL_INPUTS))
        patched = [node for node in nodes if node.kind == "QuadtreeDiffusion"]
        origin = patched[0].origin("quadtree") if patched else None  # the last one acts
        if origin is not None and origin.number == visualizer:
            yield _read_run(trees, applier, nodes, patched[0], visualizer)


def _patches_model(node: Node) -> bool:
    """Tell whether a node only changes a model, for which it also takes a latent."""
    import nodes  # ComfyUI's own

    outputs = getattr(nodes.NODE_CLASS_MAPPINGS.get(node.kind), "RETURN_TYPES", ())
    return set(outputs) == {"MODEL"}


def _read_run(
    trees: Sequence[Quadtree], applier: Applier, nodes: list[Node], patched: Node, visualizer: str
) -> ComingRun:
    """Return the run of the sampler `nodes[0]`; the others are those that its model comes from."""
    workflow = applier.workflow
    sampler, loader = nodes[0], nodes[-1]
    assumed = set()
    geometry = find_geometry(loader)
    if geometry is None:
        geometry = TYPICAL
        assumed.add(MODEL)
    if _is_linked(patched, *SETTINGS):
        assumed.add(OPTIONS)
    kinds = [node.kind for node in nodes]
    geometry = replace(
        geometry,
        compiled=any("TorchCompile" in kind for kind in kinds),
        cached="EasyCache" in kinds,
    )
    sampling = _read_sampling(sampler, patched)
    if sampling is None:
        sampling = Sampling(steps=TYPICAL_STEPS)
        assumed.add(STEPS)
    elif not _knows_sigmas(sampler):
        assumed.add(SIGMAS)
    image = workflow.nodes[visualizer].link("image")
    known = {image: (trees[0].height, trees[0].width)} if image else {}
    finder = SizeFinder(workflow, geometry.px_per_cell, known)
    latent = sampler.link(*LATENT_INPUTS)
    size = finder.find_latent(latent)
    if size is None or finder.guessed:
        assumed.add(SIZE)
    mode = Mode.PRESERVE
    if latent is not None and patched.link("clean_latent") is None:
        mode = _read_mode(sampler, latent)
    if latent is not None and _has_noise_mask(workflow, latent):
        assumed.add(NOISE_MASK)
    prompts, guessed = _read_prompts(trees, applier, nodes, visualizer, finder)
    if guessed:
        assumed.add(PROMPTS)
    return ComingRun(
        settings=_read_settings(patched),
        geometry=geometry,
        sampling=replace(sampling, mode=mode),
        size=size or _own_size(trees[0], geometry),
        frames=count_clip_frames(trees),
        prompts=prompts,
        model=name_model(loader),
        assumed=frozenset(assumed),
        sampler=sampler.number,
    )


def _read_prompts(
    trees: Sequence[Quadtree],
    applier: Applier,
    nodes: list[Node],
    visualizer: str,
    finder: SizeFinder,
) -> tuple[Masks, bool]:
    """Return the masks of a run's prompts, and whether some may count in fewer cells than that."""

    def cut_crops(node: Node) -> list[Tensor] | None:
        origin, size = node.origin("quadtree"), finder.find_image(node.link("image"))
        most, size_px = node.number_of("max_crops"), node.number_of("crop_size")
        is_ours = origin is not None and origin.number == visualizer
        if not is_ours or not most or not size_px or size is None:
            return None
        boxes = place_crops(trees, *size, most=int(most), size_px=int(size_px))
        return mark_crops(boxes, *size)

    # A cfg that a run computes is hardly 1.
    with_cfg = (node for node in nodes if "cfg" in node.inputs)
    cfg = next((node.number_of("cfg") or 0 for node in with_cfg), 1)
    reader = PromptReader(applier, cut_crops)
    masks = [options.get("mask") for _, options in reader.read_sampler(nodes, cfg)]
    return masks or [None] * (1 if cfg == 1 else 2), reader.guessed


def _read_settings(node: Node) -> Settings:
    """Return the settings of a Quadtree Diffusion; what is linked has its default."""
    kinds = {field.name: type(field.default) for field in fields(Settings)}
    found: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        value = node.value(name)
        table = CHOICES.get(name)
        if type(value) is kinds[setting] and (table is None or value in table):
            found[setting] = value
    return Settings(**found)


def _read_sampling(sampler: Node, patched: Node) -> Sampling | None:
    """Return the steps of a sampler and how often each calls the model; None if nothing tells."""
    stage = _read_stage(sampler)
    if stage is None:
        return None
    first, last, _ = stage
    chosen = sampler.value("sampler_name")
    selected = sampler.origin("sampler")
    if chosen is None and selected is not None:
        chosen = selected.value("sampler_name")
    whole = patched.origin("all_sigmas")
    all_steps = whole and whole.number_of("steps")
    return Sampling(
        steps=max(1, last - first),
        calls_per_step=CALLS_PER_STEP.get(f"sample_{chosen}", 1),
        first_step=first if all_steps and last <= all_steps else 0,
        all_steps=int(all_steps) if all_steps and last <= all_steps else None,
    )


def _is_linked(node: Node, *names: str) -> bool:
    """Tell whether an input of these names gets its value from a run."""
    return any(isinstance(node.inputs.get(name), list) for name in names)


def _read_stage(node: Node) -> tuple[int, int, int] | None:
    """Return the first step and the end of what a sampler or a node of sigmas runs, and of all."""
    link = node.link(*SIGMAS_INPUTS)
    if link is None:
        steps = node.number_of("steps")
        if steps is None or _is_linked(node, "start_at_step", "end_at_step"):
            return None
        if node.kind in SHORTENED:
            steps = round(steps * (node.number_of("denoise") or 0))
        first = int(node.number_of("start_at_step") or 0)
        end = int(node.number_of("end_at_step") or steps)
        return min(first, int(steps)), min(end, int(steps)), int(steps)
    origin = node.workflow.nodes.get(link.node)
    stage = _read_stage(origin) if origin else None
    if origin is None or stage is None:
        return None
    if origin.kind in SPLITTING and _is_linked(origin, "step", "denoise"):
        return None
    first, last, steps = stage
    cut = origin.number_of("step") if origin.kind == "SplitSigmas" else None
    if origin.kind == "SplitSigmasDenoise":
        cut = (last - first) - round((last - first) * (origin.number_of("denoise") or 0))
    if cut is None:
        return stage
    middle = min(last, first + int(cut))
    return (middle, last, steps) if link.slot else (first, middle, steps)


def _knows_sigmas(sampler: Node) -> bool:
    """Tell whether every node that a sampler's sigmas come through is known."""
    _, *nodes = sampler.workflow.walk(sampler, *SIGMAS_INPUTS)
    known = SCHEDULERS | SHORTENED | PASSING | SPLITTING
    return all(node.kind in known for node in nodes)


def _read_mode(sampler: Node, latent: Link) -> Mode:
    """Return what the tree will mean for a run that has no clean latent of its own."""
    nodes = list(sampler.workflow.walk(sampler.workflow.nodes.get(latent.node), *LATENT_INPUTS))
    if nodes and "Empty" in nodes[-1].kind and nodes[-1].link("pixels") is None:
        return Mode.SCALE
    noise = sampler.origin("noise")
    adds_none = noise is not None and noise.kind == "DisableNoise"
    if any(node.kind == "FlipSigmas" for node in sampler.workflow.walk(sampler, *SIGMAS_INPUTS)):
        return Mode.FREE  # rising sigmas, as for an inversion
    if adds_none or sampler.value("add_noise") in ("disable", False):
        return Mode.FREE
    return Mode.PRESERVE


def _has_noise_mask(workflow: Workflow, latent: Link) -> bool:
    nodes = workflow.walk(workflow.nodes.get(latent.node), *LATENT_INPUTS)
    return any(node.link("mask") is not None for node in nodes)
