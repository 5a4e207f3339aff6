"""Checks of graphs in which a node of another pack stands beside ours, and verdicts in words."""

from __future__ import annotations

import contextlib
import gc
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from .local_models import entry_of, local
from .neighbours import Graph, around, orders, sampled
from .outcomes import of_the_pack
from .packs import Neighbour
from .support import Spy, error, free_cells, half_kept, patched, tree_of

SEED, OTHER_SEED = 42, 7
SHOWN = 300  # characters of an error or a refusal


class Watch(Spy):
    """Also notes at which of the sampler's steps the model was first evaluated."""

    def __init__(self, model: Any) -> None:
        self.step = self.steps = 0
        self.first_step: int | None = None
        super().__init__(model)

    def _apply_model(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.first_step is None:
            self.first_step = self.step
        return super()._apply_model(*args, **kwargs)

    def _sampler_sample(
        self,
        executor: Callable,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable | None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        def follow(step: int, *values: Any) -> None:
            self.step = step + 1
            if callback is not None:
                callback(step, *values)

        self.steps = len(sigmas) - 1
        return super()._sampler_sample(
            executor, guider, sigmas, extra_args, follow, *args, **kwargs
        )


class Trial:
    """A neighbour's graph with its node before or after ours, and the run without ours."""

    def __init__(self, neighbour: Neighbour, order: str) -> None:
        self.neighbour, self.order = neighbour, order
        self.graph = neighbour.make()
        self.entry = (entry_of if neighbour.mixes else local)(self.graph.family)
        self.latent = self.entry.latent(*neighbour.cells, neighbour.images)

    def sample(self, model: Any, seed: int = SEED) -> Tensor:
        return self.neighbour.sample(self.graph, self.entry, model, self.latent, seed=seed)

    def tree_of(self, rows: list[list[float]]) -> Any:
        return tree_of(rows, *self.neighbour.cells, self.entry.px_per_cell)

    def sample_bare(self, model: Any) -> Tensor:
        """Sample without the node."""
        bare = Graph(family=self.graph.family, steps=self.graph.steps)
        return sampled(bare, self.entry, model, self.latent, seed=SEED)

    def without_ours(self) -> Any:
        return self.graph.model(self.entry.model)

    def with_ours(self, tree: Any, **settings: Any) -> Any:
        luma = self.latent[0, :3].clamp(-2, 2).mean(0)  # that of FlatVAE's picture, scaled
        tree = replace(tree, luma=luma)
        return around(self.graph, self.entry, self.order, tree, **settings)


def check_kept(trial: Trial, plain: Tensor | None) -> Iterator[str]:
    tree = half_kept(*trial.neighbour.cells, trial.entry.px_per_cell)
    free = free_cells(tree, trial.latent)
    model = trial.with_ours(tree)
    found = [trial.sample(model, seed) for seed in (SEED, OTHER_SEED, SEED)]
    moved = max(float((samples - trial.latent)[..., ~free].abs().max()) for samples in found)
    if moved > 0:
        yield f"kept cells move by {moved:.1e}"
    if any(torch.equal(samples[..., free], trial.latent[..., free]) for samples in found):
        yield "free cells do not change"
    if plain is not None and not torch.equal(found[0], found[2]):
        yield f"the same prompt differs by {error(found[2], found[0]):.1e} the second time"


def check_release(trial: Trial, _plain: Tensor | None) -> Iterator[str]:
    watch, alone = (
        Watch(model)
        for model in (
            trial.with_ours(trial.tree_of([[0.0, 0.5]])),
            trial.without_ours(),
        )
    )
    trial.sample(watch.model)
    trial.sample(alone.model)
    steps = alone.steps
    if watch.first_step != steps - steps // 2:
        yield (
            f"a tile with denoise 0.5 is first evaluated at step {watch.first_step} of {steps}, "
            f"not {steps - steps // 2}"
        )
    if watch.cells >= alone.cells:
        yield f"{watch.cells} cells are evaluated, and {alone.cells} on its own"


def check_one_window(trial: Trial, plain: Tensor | None) -> Iterator[str]:
    if plain is None:
        return
    found = trial.sample(trial.with_ours(trial.tree_of([[1.0]]), tile_px=0))
    if not torch.equal(found, plain):
        yield f"one window differs by {error(found, plain):.1e} from the run on its own"


def check_windows(trial: Trial, plain: Tensor | None) -> Iterator[str]:
    if plain is None or trial.neighbour.mixes:
        return
    found = trial.sample(trial.with_ours(trial.tree_of([[1.0]])))
    if (difference := error(found, plain)) > trial.graph.tolerance:
        yield f"windows differ by {difference:.1e} from the run on its own"


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """Let a node that draws noise for a window draw the same for each, however many there are."""

    def anew(draw: Callable) -> Callable:
        def drawn(*args: Any, **options: Any) -> Tensor:
            torch.manual_seed(0)
            return draw(*args, **options)

        return drawn

    with contextlib.ExitStack() as patches:
        for name in ("randn", "randn_like"):
            patches.enter_context(mock.patch.object(torch, name, anew(getattr(torch, name))))
        yield


def check_apart(trial: Trial, plain: Tensor | None) -> Iterator[str]:
    """Where a node mixes cells, what a window shows still depends on that window only."""
    if plain is None or not trial.neighbour.mixes:
        return
    half = trial.neighbour.cells[1] // 2
    settings = {"method": "MultiDiffusion", "batch": 1}
    with same_draws():
        both, alone = (
            trial.sample(trial.with_ours(trial.tree_of([row]), **settings))
            for row in ([0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0])
        )
    if (difference := error(both[..., half:], alone[..., half:])) > trial.graph.tolerance:
        yield f"a window differs by {difference:.1e} where another is evaluated before it"


def check_effect(trial: Trial, plain: Tensor | None) -> Iterator[str]:
    """Where a node mixes cells, it does so in windows, too."""
    if not trial.neighbour.mixes or trial.graph.neutral:
        return
    if plain is not None and torch.equal(plain, trial.sample_bare(trial.entry.model)):
        return  # it does nothing on its own
    with_node = trial.sample(trial.with_ours(trial.tree_of([[1.0]])))
    alone = trial.sample_bare(patched(trial.entry, trial.tree_of([[1.0]])))
    half = trial.neighbour.cells[1] // 2
    for name, part in (("left", slice(half)), ("right", slice(half, None))):
        if torch.equal(with_node[..., part], alone[..., part]):
            yield f"the node has no effect in the {name} window"


CHECKS = (check_effect, check_kept, check_release, check_one_window, check_windows, check_apart)


def judge(neighbour: Neighbour) -> str:
    """Return the verdict on a graph, for both orders where they differ."""
    verdicts = {}
    for order in orders_of(neighbour):
        verdicts[order] = judge_order(neighbour, order)
        gc.collect()
    if len(set(verdicts.values())) == 1:
        return next(iter(verdicts.values()))
    return "; ".join(f"{order} ours, {verdict}" for order, verdict in verdicts.items())


def orders_of(neighbour: Neighbour) -> list[str]:
    try:
        return orders(neighbour.make())
    except Exception:
        return ["after"]  # the error is told there


def judge_order(neighbour: Neighbour, order: str) -> str:
    try:
        trial = Trial(neighbour, order)
        plain = trial.sample(trial.without_ours())
        repeats = torch.equal(trial.sample(trial.without_ours()), plain)
    except Exception as problem:
        traceback.print_exc()
        return f"error on its own: {in_words(problem)}"
    verdict = judge_trial(trial, plain if repeats else None)
    changes = not torch.equal(trial.sample_bare(trial.entry.model), plain)
    if repeats and trial.graph.neutral and changes:
        verdict += "; wrong: the node, which should change nothing, changes the result"
    if not trial.graph.neutral and not changes:
        verdict += "; the node changes nothing here"
    if repeats and not torch.equal(trial.sample(trial.without_ours()), plain):
        verdict += "; wrong: afterwards, a run without Quadtree Diffusion differs"
    return verdict if repeats else f"{verdict} (on its own it gives another result each time)"


def judge_trial(trial: Trial, plain: Tensor | None) -> str:
    """Return the verdict beside `plain`, the run without ours; None where each run is another."""
    try:
        with warnings_told() as told:
            wrong = [words for check in CHECKS for words in check(trial, plain)]
    except Exception as problem:
        if is_refusal(problem):
            return f"refused: {in_words(problem)}"
        traceback.print_exc()
        return f"error: {in_words(problem)}"
    if not wrong:
        return "right"
    return f"wrong: {', '.join(wrong)}" + "".join(f" (warned: {words})" for words in told)


@contextlib.contextmanager
def warnings_told() -> Iterator[dict[str, None]]:
    """Collect what the pack warns of, each only once and up to its first colon."""
    told: dict[str, None] = {}

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told[record.getMessage().removeprefix("Quadtree: ").split(": ")[0]] = None

    collect = Collect(logging.WARNING)
    logging.getLogger("quadtree_diffusion").addHandler(collect)
    try:
        yield told
    finally:
        logging.getLogger("quadtree_diffusion").removeHandler(collect)


def is_refusal(problem: BaseException | None) -> bool:
    """Return whether the pack itself raised this error, or one that another pack made of it."""
    while problem is not None:
        if isinstance(problem, ValueError) and of_the_pack(problem):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def in_words(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines() or [""]
    kind = "" if is_refusal(problem) else f"{type(problem).__name__}: "
    return (kind + lines[0])[:SHOWN]
