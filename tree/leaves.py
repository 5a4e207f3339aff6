"""The leaves of a tree: one tuple each to read, and columns of tensors to compute with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils import Box


class Leaf(NamedTuple):
    """One square of the tree in image px, clipped at the image's edge.

    `side` is the side before it was clipped. `detail` is in 0..255 units, `denoise` in 0..1.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    side: int
    detail: float
    denoise: float

    @property
    def box(self) -> Box:
        return Box(*self[:4])


class Leaves(NamedTuple):
    """Columns [n] of the leaves, the largest first, row by row.

    Corners and sides are int64 in image px, detail is float64 in 0..255 units, denoise is float64
    in 0..1.
    """

    x0: Tensor
    y0: Tensor
    x1: Tensor
    y1: Tensor
    side: Tensor
    detail: Tensor
    denoise: Tensor

    @classmethod
    def from_rows(cls, rows: Sequence[Leaf]) -> Leaves:
        """Return the columns of these leaves."""
        places = torch.tensor([row[:5] for row in rows])
        values = torch.tensor([row[5:] for row in rows], dtype=torch.float64)
        return cls(*places.unbind(1), *values.unbind(1))

    @classmethod
    def concatenate(cls, groups: Sequence[Leaves]) -> Leaves:
        """Return the leaves of all groups, in their order."""
        return cls(*(torch.cat(columns) for columns in zip(*groups, strict=True)))

    def to_rows(self) -> tuple[Leaf, ...]:
        """Return one tuple per leaf."""
        rows = zip(*(column.tolist() for column in self), strict=True)
        # An image of 8192 px can have 262,144 leaves: tuple.__new__ makes them without a Python
        # call for each.
        return tuple(map(partial(tuple.__new__, Leaf), rows))
