"""Choosing among the rows of `bench quality`, for its table, its targets and its charts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

GRADIENT = "gradient"
USUAL = {"schedule": "hold", "feather_px": 32, "leaves": "fine", "tiled": True, "uniform": False}


def of(rows: Iterable[dict], column: str, *, photos: bool, **wanted: Any) -> list[float]:
    """A column of the rows of photos, or of the gradient, whose other columns are as wanted."""
    return [
        row[column]
        for row in rows
        if column in row
        and (row["picture"] != GRADIENT) == photos
        and all(row[name] == value for name, value in wanted.items())
    ]
