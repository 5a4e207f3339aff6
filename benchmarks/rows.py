"""Selects among the rows of `bench quality`, for its table, its targets and its charts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

GRADIENT = "gradient"
USUAL: dict[str, Any] = {
    "schedule": "hold",
    "feather_px": 32,
    "leaves": "fine",
    "tiled": True,
    "uniform": False,
}


def select(rows: Iterable[dict], column: str, *, photos: bool, **wanted: Any) -> list[float]:
    """Return a column of the rows whose other columns are as wanted.

    `photos` chooses the rows of photos, or else those of the gradient.
    """
    values = []
    for row in rows:
        is_photo = row["picture"] != GRADIENT
        fits = all(row[name] == value for name, value in wanted.items())
        if column in row and is_photo == photos and fits:
            values.append(row[column])
    return values
