"""Values on their way to a worker and back: numpy arrays and Python's own types, nothing else.

Classes of this pack would not be found on a worker, where it may have another name. A packed value
is a pair of its kind and its content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Packed = tuple[str, Any]

PLAIN = (type(None), bool, int, float, str, bytes)
# Kinds of numbers that numpy does not have travel as bytes.
DTYPES = {
    str(dtype): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and not str(dtype).startswith("torch.q")
}


class UnsendableError(Exception):
    """A value that cannot be sent, such as a function; its text says what it is."""


def pack(value: Any, pack_tensor: Callable[[Tensor], Packed] | None = None) -> Packed:
    """Return a value as `unpack` takes it; UnsendableError for functions and other objects."""
    if isinstance(value, Tensor):
        return (pack_tensor or pack_array)(value)
    if isinstance(value, PLAIN):
        return "plain", value
    if isinstance(value, torch.dtype):
        return "dtype", str(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        kind = "list" if isinstance(value, list) else "tuple"
        return kind, [pack(entry, pack_tensor) for entry in value]
    if type(value) is dict:
        return "dict", [
            (pack(key, pack_tensor), pack(entry, pack_tensor)) for key, entry in value.items()
        ]
    raise UnsendableError(f"conditioning of type {type(value).__name__}")


def pack_array(value: Tensor) -> Packed:
    """Return a tensor as its dtype, shape and bytes."""
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout is not torch.strided:
        raise UnsendableError(f"conditioning of type {type(value).__name__}")
    data = value.detach().cpu().contiguous()
    flat = data.view(-1).view(torch.uint8).numpy() if data.numel() else np.zeros(0, np.uint8)
    return "tensor", (str(value.dtype), tuple(value.shape), flat)


def unpack(packed: Packed, fetch: Callable[[Any], Tensor] | None = None) -> Any:
    """Return what was packed, with tensors of their own on the CPU; `fetch` has shared ones."""
    kind, content = packed
    if kind == "tensor":
        name, shape, data = content
        if data.size == 0:
            return torch.empty(shape, dtype=DTYPES[name])
        return torch.from_numpy(data.copy()).view(DTYPES[name]).view(shape)
    if kind == "shared" and fetch is not None:
        return fetch(content)
    if kind == "dtype":
        return DTYPES[content]
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](unpack(entry, fetch) for entry in content)
    if kind == "dict":
        return {unpack(key, fetch): unpack(entry, fetch) for key, entry in content}
    return content


def digest_of(packed: Packed) -> str:
    """Return a digest of a packed tensor's content."""
    name, shape, data = packed[1]
    digest = hashlib.blake2b(repr((name, shape)).encode(), digest_size=16)
    digest.update(memoryview(data))
    return digest.hexdigest()
