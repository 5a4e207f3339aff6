"""What works with each model family, as properties on the real ComfyUI with a tiny model of the
family's real architecture.

`python dev.py bench families` runs them all and writes docs/families.md; the tests run a
cross-section. The first three and several GPUs use the family's network; the others a stand-in
whose output at a cell depends on its inputs at that cell alone, so that the tiled run must equal
the plain one. What ComfyUI offers for some families only is in features.py.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import comfy.conds
import comfy.model_patcher
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_model_patch import DiffSynthCnetPatch
from quadtree_pack.sampling.model import Geometry
from quadtree_pack.sampling.rules import LEFT_BY_CORE
from quadtree_pack.utils import ceil_div
from torch import Tensor

from .support import (
    Spy,
    cells_of,
    error,
    forget_lost_models,
    free_cells,
    half_kept,
    on_devices,
    patched,
    pointwise,
    tree_of,
    with_extra_conds,
)
from .tiny_controls import (
    FakeVAE,
    ForeignControl,
    StandInControl,
    StandInNetwork,
    hint_image,
    takes_cross_attention,
)
from .tiny_models import ZOO
from .tiny_models.building import Entry, clean_latent, sample

RUN = {"steps": 2, "cfg": 3.0, "denoise": 0.6}
# From the middle of the noise: at SVD's sigma of 700, float32 rounds by more than the tolerance.
STILL = {"steps": 3, "cfg": 3.0, "denoise": 0.6}
TOLERANCE = 1e-5  # of the largest value


class Case:
    """One family on its canvas, with windows of a size that its network takes."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self.latent = entry, entry.latent()
        self.height, self.width = self.latent.shape[-2:]
        self.px = entry.px_per_cell
        geometry = Geometry.of(entry.model)
        self.tile_px = max(16, geometry.fewest, 2 * geometry.unit) * self.px

    def tiled(self, tree: Any = None, model: Any = None, **settings: Any) -> Any:
        tree = tree_of([[1.0]], self.height, self.width, self.px) if tree is None else tree
        return patched(
            self.entry, tree, model=model, **{"tile_px": self.tile_px, "overlap_px": 0, **settings}
        )

    def half_kept(self) -> Any:
        return half_kept(self.height, self.width, self.px)

    def with_conds(self, positive: list, negative: list | None = None) -> Case:
        entry = copy.copy(self.entry)
        entry.positive, entry.negative = (
            positive,
            self.entry.negative if negative is None else negative,
        )
        case = copy.copy(self)
        case.entry = entry
        return case

    def sample(self, model: Any, **options: Any) -> Tensor:
        forget_lost_models()
        return sample(self.entry, self.latent, model=model, **options)


def kept_exactly(case: Case) -> None:
    """Kept cells equal the input to the bit; the caller's conditioning stays; a second run knows
    nothing of the first."""
    tree = case.half_kept()
    held = ~free_cells(tree, case.latent)
    model, before = case.tiled(tree), copy.deepcopy([case.entry.positive, case.entry.negative])
    samples = case.sample(model, **RUN)
    assert samples.isfinite().all() and torch.equal(samples[..., held], case.latent[..., held])
    assert (samples != case.latent)[..., ~held].float().mean() > 0.99
    assert same(before, [case.entry.positive, case.entry.negative])
    assert torch.equal(case.sample(model, **RUN), samples)


def identity(case: Case) -> None:
    """One window over everything at denoise 1 is the plain run to the bit."""
    model = case.tiled(tile_px=2 * max(case.height, case.width) * case.px)
    assert torch.equal(case.sample(model, **RUN), case.sample(case.entry.model, **RUN))


def window_batches(case: Case) -> None:
    """Several windows at a time equal one at a time; windows of two sizes."""
    for tile_px in (case.tile_px, 2 * case.tile_px):
        runs, most = [], []
        for batch in (1, 4):
            spy = Spy(case.tiled(case.half_kept(), tile_px=tile_px, batch=batch))
            runs.append(case.sample(spy.model, **RUN))
            most.append(max(shape[0] for shape in spy.shapes))
        assert error(runs[1], runs[0]) < 1e-4
    assert most[1] >= most[0]


def equal_on_a_pointwise_network(
    case: Case,
    model: Any = None,
    core_can: bool = True,
    network: Callable[[Any], Any] = pointwise,
    **options: Any,
) -> None:
    """Windows against the plain run; where core cannot do it (`core_can`), against one window of
    ours."""
    model = network(case.entry.model if model is None else model)
    one_window = case.tiled(model=model, tile_px=2 * max(case.height, case.width) * case.px)
    plain = case.sample(model if core_can else one_window, **STILL, **options)
    assert (plain != case.latent).float().mean() > 0.5 or "noise_mask" in options
    everything = tree_of([[1.0]], case.height, case.width, case.px)
    large = 2 * max(case.height, case.width) * case.px
    for tree, tile_px, batch, overlap in (
        (everything, case.tile_px, 1, 0),
        (everything, case.tile_px, 3, 4),
        (case.half_kept(), case.tile_px, 2, 0),
        (case.half_kept(), large, 1, 0),
    ):
        free = free_cells(tree, case.latent)
        settings = {"tile_px": tile_px, "batch": batch, "overlap_px": overlap * case.px}
        tiled = case.sample(case.tiled(tree, model, **settings), **STILL, **options)
        assert error(tiled[..., free], plain[..., free]) < TOLERANCE
        assert torch.equal(tiled[..., ~free], case.latent[..., ~free])


def controlnet(case: Case) -> None:
    """Two chained ControlNets, the second for the first steps only, and one of another pack; hints
    of other sizes."""
    of_core = StandInControl if takes_cross_attention(case.entry) else ForeignControl
    control = None
    for seed, (kind, strength, end) in enumerate(
        [(ForeignControl, 0.4, 1.0), (of_core, 0.8, 1.0), (of_core, 0.5, 0.7)]
    ):
        hint = torch.rand(1, 3, 90 + seed, 120, generator=torch.Generator().manual_seed(seed))
        link = kind(StandInNetwork.like(case.entry))
        control = link.set_cond_hint(hint, strength, (0.0, end)).set_previous_controlnet(control)
    conds = [
        [[text, {**values, "control": control}] for text, values in cond]
        for cond in (case.entry.positive, case.entry.negative)
    ]
    equal_on_a_pointwise_network(case.with_conds(*conds))


def area(case: Case) -> None:
    """A prompt for everything, two for areas of one size, which core evaluates in one call, and one
    by a mask to its bounds.

    Some entries of video models core leaves at the canvas' size for an area, and fails; here they
    are cut to it.
    """
    high, wide = case.height // 2, case.width // 2
    base, other = case.entry.positive, case.entry.make_cond(21)
    extra = [
        [text, {**values, "area": (high, wide, y, x), "strength": strength}]
        for y, x, strength in ((2, 4, 1.5), (high, wide - 2, 0.7))
        for text, values in other
    ]
    if case.latent.ndim == 4:  # core knows no bounds in videos
        extra += [
            [text, {**values, "mask": left_half(case), "set_area_to_bounds": True}]
            for text, values in other
        ]
    equal_on_a_pointwise_network(
        case.with_conds(base + extra), core_can=not LEFT_BY_CORE & names_of_entries(case)
    )


def names_of_entries(case: Case) -> set[str]:
    """What the model makes of the positive prompt: the names of the entries of its calls."""
    text, values = case.entry.positive[0]
    values = {**values, "cross_attn": text, "latent_image": None, "seed": 0}
    model, latent = case.entry.model.model, case.latent
    return set(model.extra_conds(noise=latent, device=latent.device, **values))


def mask(case: Case) -> None:
    """A prompt for the left half and one for the rest, by masks in px."""
    left = left_half(case)
    positive = [
        [text, {**values, "mask": which, "mask_strength": 1.0, "set_area_to_bounds": False}]
        for which, seed in ((left, 11), (1 - left, 21))
        for text, values in case.entry.make_cond(seed)
    ]
    equal_on_a_pointwise_network(case.with_conds(positive))


def left_half(case: Case) -> Tensor:
    left = torch.zeros(1, case.height * case.px, case.width * case.px)
    left[..., : case.width * case.px // 2] = 1
    return left


def references(case: Case) -> None:
    """Reference latents: one of the canvas' size, which lies on it, and one of another size, which
    is seen whole."""
    shape = case.latent.shape[1:]
    pictures = [clean_latent((1, *shape), 90), clean_latent((1, *shape[:-2], 20, 24), 91)]
    model = with_extra_conds(case.entry.model, {"ref_latents": comfy.conds.CONDList(pictures)})
    equal_on_a_pointwise_network(case, model)


def inpaint(case: Case) -> None:
    """A noise mask: what it closes stays, and only the windows that touch what it opens are
    evaluated."""
    noise_mask = torch.zeros(1, 1, case.height, case.width)
    noise_mask[..., : case.height // 2, : case.width // 2] = 1
    equal_on_a_pointwise_network(case, noise_mask=noise_mask)
    spies = [Spy(case.tiled()) for _ in range(2)]
    runs = [
        case.sample(spies[0].model, **RUN),
        case.sample(spies[1].model, **RUN, noise_mask=noise_mask),
    ]
    closed = noise_mask[0, 0] == 0
    assert error(runs[1][..., closed], case.latent[..., closed]) < 1e-4
    assert 0 < spies[1].cells <= spies[0].cells


def with_heard_patches(model: Any) -> Any:
    """A clone on which patches are heard, whatever the model is: of a kind that speaks to patches
    of cells (`double_block`), and of one that speaks to cells (`attn2_patch`)."""
    unit = Geometry.of(model).unit

    def apply_model(
        executor: Callable, noisy: Tensor, sigma: Tensor, *args: Any, **entries: Any
    ) -> Tensor:
        denoised = executor(noisy, sigma, *args, **entries)
        size, patches = noisy.shape[-2:], args[-1].get("patches", {})
        shape = -1, *[1] * (noisy.ndim - 3), *size
        silent = noisy.new_zeros(len(noisy), ceil_div(size[0], unit) * ceil_div(size[1], unit), 1)
        for patch in patches.get("double_block", ()):
            told = patch({"x": noisy, "img": silent.clone(), "block_index": 0})["img"]
            denoised = denoised + cells_of(told[..., 0], unit, size).reshape(shape)
        for patch in patches.get("attn2_patch", ()):
            denoised = denoised + patch(size).reshape(shape)
        return denoised

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "heard", apply_model)
    return model


def equal_with_a_patch(case: Case, patch: Any, name: str) -> None:
    """The pointwise network hears a patch, in windows as without them."""
    silent = with_heard_patches(case.entry.model)
    model = silent.clone()
    model.set_model_patch(patch, name)
    runs = [case.sample(pointwise(each), **STILL) for each in (silent, model)]
    assert error(runs[0], runs[1]) > 0.01
    equal_on_a_pointwise_network(case, model)


class StandInPatchNetwork(torch.nn.Module):
    """The network of a control that patches the model: it says what its picture shows there."""

    additional_in_dim = 0

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def process_input_latent_image(self, latent: Tensor) -> Tensor:
        means = F.avg_pool2d(latent.mean(1, keepdim=True), self.patch, ceil_mode=True)
        return means.flatten(2).movedim(1, 2)

    def control_block(self, img: Tensor, tokens: Tensor, _block: int) -> Tensor:
        return tokens.expand_as(img)


def patch_control(case: Case) -> None:
    """A ControlNet that patches the model, as DiffSynth's does, with a picture of another size."""
    network = StandInPatchNetwork(Geometry.of(case.entry.model).unit)
    here = torch.device("cpu")
    patch = DiffSynthCnetPatch(
        comfy.model_patcher.ModelPatcher(network, here, here),
        FakeVAE(px_per_cell=case.px),
        hint_image(3 * case.px * case.height // 2, 2 * case.px * case.width),
        1.0,
    )
    equal_with_a_patch(case, patch, "double_block")


def attention_mask(case: Case) -> None:
    """A mask in px that a patch of attention resizes to what it sees."""
    picture = hint_image(case.height * case.px, case.width * case.px)
    equal_with_a_patch(case, look_at(picture[..., 0]), "attn2_patch")


def look_at(mask: Tensor) -> Callable[[Sequence[int]], Tensor]:
    """As packs write them: a function that keeps the mask of the whole image."""

    def patch(size: Sequence[int]) -> Tensor:
        return F.interpolate(mask[None], size=tuple(size), mode="nearest-exact")

    return patch


def easy_cache(case: Case) -> None:
    """ComfyUI's EasyCache, on the family's own network: what is kept stays to the bit, and one
    window over everything is EasyCache itself."""
    cached = EasyCacheNode.execute(case.entry.model, 0.5, 0.0, 1.0, False).args[0]
    run = {**RUN, "steps": 6}
    tree = case.half_kept()
    held = ~free_cells(tree, case.latent)
    samples = case.sample(case.tiled(tree, cached), **run)
    assert samples.isfinite().all() and torch.equal(samples[..., held], case.latent[..., held])
    whole = case.tiled(model=cached, tile_px=2 * max(case.height, case.width) * case.px)
    assert torch.equal(case.sample(whole, **run), case.sample(cached, **run))


def context_windows(case: Case) -> None:
    """ComfyUI's context windows: over the frames of a clip, or over a batch of images."""
    dim = 2 if case.latent.ndim == 5 else 0
    several = copy.copy(case)
    if dim == 0:
        several.latent = case.latent.repeat(3, 1, 1, 1)
    model = ContextWindowsManualNode.execute(
        case.entry.model, 2, 1, "standard_static", 1, False, "pyramid", dim, False
    ).args[0]
    equal_on_a_pointwise_network(several, model)


def several_devices(case: Case) -> None:
    """The windows of a step on two devices, both of them this CPU: nothing changes, and both take
    part."""
    model, threads, both = case.tiled(batch=1), set(), threading.Barrier(2, timeout=60)

    def meet(executor: Callable, *args: Any, **entries: Any) -> Tensor:
        thread = threading.current_thread().name
        if thread not in threads:
            threads.add(thread)
            both.wait()  # fails where one evaluates everything
        return executor(*args, **entries)

    spread = on_devices(model, 2, ZOO[case.entry.name])
    spread.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "meet", meet)
    assert torch.equal(case.sample(spread, **RUN), case.sample(model, **RUN))


COLUMNS: dict[str, Callable[[Case], None]] = {
    "kept exactly": kept_exactly,
    "identity": identity,
    "window batches": window_batches,
    "ControlNet": controlnet,
    "patch control": patch_control,
    "attention mask": attention_mask,
    "area": area,
    "mask": mask,
    "references": references,
    "inpaint": inpaint,
    "EasyCache": easy_cache,
    "several GPUs": several_devices,
    "context windows": context_windows,
}


class NotOfferedError(Exception):
    """ComfyUI itself does not do this with a family."""


def outcome(column: Callable[[Case], None], case: Case) -> str:
    """ "yes", "refused" where the pack declines with its message, or "-" where ComfyUI does not
    offer it; any other error is raised."""
    try:
        column(case)
    except NotOfferedError:
        return "-"
    except ValueError as error:
        if "Quadtree Diffusion" not in str(error):
            raise
        return "refused"
    return "yes"


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dict__"):
        return type(a) is type(b) and same(vars(a), vars(b))
    return a == b
