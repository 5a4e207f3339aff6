"""Hostile inputs as hypothesis strategies: values of every wrong kind, and damaged texts.

A test under `fuzz` runs its usual number of examples, the same each time; `python dev.py fuzz`
gives it more examples, and new ones.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("QUADTREE_FUZZ", "0"))  # 0: each test's usual number


def fuzz(usual: int) -> Callable[[Callable], Callable]:
    """Marks a test that `given` feeds, with its usual number of examples."""
    chosen = settings(
        max_examples=EXAMPLES or usual,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: pytest.mark.fuzz(chosen(test))


ODD_NAMES = (
    "",
    " ",
    "a b",
    "bäume 木",
    "line\nbreak",
    "nul\0",
    "'\"<b>&{}%s",
    "\u202egnp",
    "../x",
    "\ud800",
    "💥" * 50,
)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from(
        [
            -1,
            0,
            1,
            7,
            64,
            1e308,
            -1e308,
            5e-324,
            10**400,
            -(10**400),
            1 << 62,
            float("nan"),
            float("inf"),
        ]
    ),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.sampled_from(ODD_NAMES), st.text(max_size=8)
)
LISTS = st.lists(SCALARS | st.lists(SCALARS, max_size=3), max_size=6)
JUNK = st.one_of(
    SCALARS, SCALARS, LISTS, st.dictionaries(st.text(max_size=8), SCALARS | LISTS, max_size=3)
)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside a document of JSON."""
    keys = (
        data.keys()
        if isinstance(data, dict)
        else range(len(data))
        if isinstance(data, list)
        else ()
    )
    for key in list(keys):
        yield data, key
        yield from places(data[key])


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Return a good JSON text with some damage.

    Values are replaced, removed or doubled, or a piece of the text is cut out or overwritten.
    """
    text = draw(texts)
    if draw(st.booleans()):
        start, stop = sorted(draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
        return (
            text[:start]
            + draw(st.text(max_size=8))
            + text[draw(st.sampled_from([start, stop, len(text)])) :]
        )
    document = [copy.deepcopy(json.loads(text))]
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(document)) or [(document, 0)]))
        what = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if what == "replace" or container is document:
            container[key] = draw(JUNK)
        elif what == "remove":
            del container[key]
        elif isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
    return json.dumps(document[0])


def is_clear(words: str) -> bool:
    """Return whether an error's message can help: a few sentences, not a bare key or a dump."""
    return 4 <= len(words.split()) <= 120 and len(words) <= 900
