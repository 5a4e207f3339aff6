"""What the presets of Quadtree Visualizer set: the browser writes these values into the widgets.

A run reads the widgets only, so a saved workflow never depends on what a preset means.
"""

from __future__ import annotations

from typing import Any

CUSTOM = "custom"  # as the widgets are
AUTOMATIC = {"content_threshold": 0.0, "min_tile_size": 0, "max_tile_size": 0, "invert": False}


def _make(
    coverage: float, min_denoise: float, max_denoise: float, cost_budget: float = 0.0
) -> dict[str, Any]:
    return {
        **AUTOMATIC,
        "coverage": coverage,
        "min_denoise": min_denoise,
        "max_denoise": max_denoise,
        "cost_budget": cost_budget,
    }


# Values of the inputs, by preset. A face shows every change: low denoise. Foliage and rock take
# much. Lines are little detail in a large area: nearly all of it, gently, or they move.
PRESETS: dict[str, dict[str, Any]] = {
    "portrait": _make(0.95, 0.15, 0.5),
    "landscape": _make(0.95, 0.2, 0.8),
    "line art": _make(0.99, 0.1, 0.4),
    "gentle": _make(0.9, 0.1, 0.4),
    "strong": _make(0.98, 0.4, 1.0),
    "cheap": _make(0.95, 0.2, 0.8, cost_budget=0.35),
}
