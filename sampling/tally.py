"""Counts what a run has cost so far, beside what it would cost without windows."""

from __future__ import annotations

import threading

from torch import Tensor


class Tally:
    """Counts what a run has cost so far; cells are latent cells times conds times batch."""

    def __init__(self) -> None:
        self.calls = 0
        self.windows = 0
        self.skipped = 0  # of the windows, by a cache
        self.cells = 0
        self.canvas_cells = 0
        self._lock = threading.Lock()  # ComfyUI's multi-GPU sampling calls from threads

    @property
    def share(self) -> float:
        """Return the evaluated cells as a share of what is evaluated without this node."""
        return self.cells / max(1, self.canvas_cells)

    def count_canvas(self, noisy: Tensor) -> None:
        """Count a model call on `noisy` [rows, C, ..., H, W] as it would be without windows."""
        self.canvas_cells += _count_cells(noisy)

    def count_call(self, denoised: Tensor, windows: int) -> None:
        """Count a model call that gave [rows, C, ..., h, w] and held so many windows."""
        with self._lock:
            self.calls += 1
            self.windows += windows
            self.cells += _count_cells(denoised)

    def count_skipped(self, denoised: Tensor) -> None:
        """Note that a cache answered the call of one window, of [rows, C, ..., h, w], for free."""
        with self._lock:
            self.skipped += 1
            self.cells -= _count_cells(denoised)


def _count_cells(latent: Tensor) -> int:
    """Return the cells of a latent [rows, C, ..., h, w], in all rows and frames."""
    return latent.numel() // latent.shape[1]
