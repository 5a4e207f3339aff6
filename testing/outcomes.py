"""What may come of a node that is given anything: a clear error of the pack's own, or a right result."""

from __future__ import annotations

import contextlib
import re
import traceback
from pathlib import Path

from hypothesis import event
from quadtree_pack.testing.hostile import is_clear
from quadtree_pack.testing.registration import pack_files

PACK_FILES = frozenset(pack_files())


def of_the_pack(error: BaseException) -> bool:
    """Whether the pack itself raised an error, and not something that it called."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return last in PACK_FILES


@contextlib.contextmanager
def clear_error_or_right(*named: str):
    """An error must be the pack's own, in words, and name what it is about."""
    try:
        yield
    except ValueError as error:
        words = str(error)
        assert of_the_pack(error) and is_clear(words), traceback.format_exc()
        assert any(name in words for name in named), f"names none of the inputs: {words}"
        event(f"refused: {re.sub('[^a-z_ ].*', '', words, flags=re.I)[:50]}")


def names_of(node: type) -> list[str]:
    """Words by which an error can name an input of a node."""
    return [
        *(entry.id for entry in node.define_schema().inputs),
        "image",
        "mask",
        "latent",
        "tree",
        "VAE",
    ]
