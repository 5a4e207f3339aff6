"""ComfyUI's EasyCache, with a cache of its own for every window.

EasyCache keeps what the network made of its latest input, and adds the same again where the input
has changed little. It keeps one such state in the transformer options; here every place on the
canvas has a copy, so that a calm window is skipped while its neighbours are evaluated. A window
that does not come back has nothing to skip, so lattices stand still for some steps
(`windows.tiling.Tiling.standing`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

from .protocols import ModelCall, Options

KEY = "easycache"  # in transformer_options, where LazyCache keeps its state, too


def find_cache(transformer_options: Options) -> Any:
    """Return the state of EasyCache, an `EasyCacheHolder`; None without it."""
    cache = transformer_options.get(KEY)
    return cache if type(cache).__name__ == "EasyCacheHolder" else None


class WindowCaches:
    """The states of EasyCache of one run, by the place of their windows."""

    def __init__(self) -> None:
        self._by_place: dict[Hashable, Any] = {}
        self._used: dict[Hashable, int] = {}  # at which step a place was evaluated last

    def begin_call(self) -> None:
        """Let every window decide anew whether it is skipped; call it before the first cond."""
        for cache in self._by_place.values():
            cache.skip_current_step = False

    def give_own(self, call: ModelCall, place: Hashable, step: int) -> ModelCall:
        """Return the call of one window with the state of its place; the same without EasyCache.

        What was not evaluated at the step before is forgotten: EasyCache compares steps that
        follow each other, and a moving lattice would fill the memory.
        """
        options = call["c"].get("transformer_options", {})
        cache = find_cache(options)
        if cache is None:
            return call
        for other in [other for other, used in self._used.items() if used < step - 1]:
            del self._by_place[other], self._used[other]
        if place not in self._by_place:
            self._by_place[place] = _copy_unused(cache)
        self._used[place] = step
        own = self._by_place[place]
        return {**call, "c": {**call["c"], "transformer_options": {**options, KEY: own}}}


def has_kept(call: ModelCall) -> bool:
    """Tell whether EasyCache can answer a call: it has kept something for each of its conds."""
    options = call["c"].get("transformer_options", {})
    cache = find_cache(options)
    return cache is not None and bool(cache.can_apply_cache_diff(options["uuids"]))


def is_skipping(call: ModelCall) -> bool:
    """Tell whether EasyCache answers, in this step, the calls that it can answer."""
    cache = find_cache(call["c"].get("transformer_options", {}))
    return cache is not None and bool(cache.skip_current_step)


def _copy_unused(cache: Any) -> Any:
    """Return a state that has kept nothing yet, for the same range of steps."""
    copy = cache.clone()
    copy.start_t, copy.end_t = cache.start_t, cache.end_t  # which `clone` leaves out
    add_kept = copy.apply_cache_diff

    def add_kept_to_copy(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # ComfyUI adds in place. In float32 a flow model hands it the latent itself, which overlaps
        # with that of other windows and is needed afterwards.
        kept: Tensor = add_kept(x.clone(), *args, **kwargs)
        return kept

    copy.apply_cache_diff = add_kept_to_copy
    return copy
