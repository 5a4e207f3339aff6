"""What the demo measures on its two runs, and how it prints that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .pictures import (
    find_kept_cells,
    measure_denoise_shares,
    measure_kept_px_change,
    measure_latent_changes,
)
from .prompts import Prompt, find_node
from .queueing import Run
from .terminal import say

REPORT = re.compile(
    r"Quadtree: (\d+ model calls? on \d+ windows? in \d+ steps?), "
    r"([\d.]+)% of the full model cost"
)


@dataclass(frozen=True)
class Report:
    """What the pack reports about one run, in one line of the server's log."""

    text: str
    cost_percent: float


@dataclass(frozen=True)
class Summary:
    """What was measured: regions are kept where the denoise is 0, and free elsewhere.

    Changes are the largest ones; those of regions in latent units, the picture's in levels of 255.
    """

    denoise_shares: dict[float, float]  # denoise -> share of the picture that has it
    kept_share: float
    kept_change: float
    free_change: float
    kept_change_levels: int
    with_pack_s: float
    without_pack_s: float
    report: Report | None

    @property
    def is_as_promised(self) -> bool:
        """Whether there is a kept region and nothing in it has changed."""
        unchanged = self.kept_change == 0 and self.kept_change_levels == 0
        return unchanged and self.kept_share > 0


def read_report(log: str) -> Report | None:
    """Return the last report of the pack in the server's log, or None."""
    found = REPORT.findall(log)
    if not found:
        return None
    text, percent = found[-1]
    return Report(text, float(percent))


def measure(
    files: dict[str, Path], prompt: Prompt, *, with_pack: Run, without: Run, report: Report | None
) -> Summary:
    """Measure the files of the run with the pack, and both runs' seconds of sampling."""
    denoise_map = files["picture denoise_map"]
    before, after = files["latent before"], files["latent after"]
    kept = find_kept_cells(denoise_map, before)
    kept_change, free_change = measure_latent_changes(before, after, kept)
    sampler = find_node(prompt, "KSampler")
    return Summary(
        denoise_shares=measure_denoise_shares(denoise_map),
        kept_share=float(kept.mean()),
        kept_change=kept_change,
        free_change=free_change,
        kept_change_levels=measure_kept_px_change(
            denoise_map, files["picture before"], files["picture after"]
        ),
        with_pack_s=with_pack.seconds[sampler],
        without_pack_s=without.seconds[sampler],
        report=report,
    )


def print_summary(summary: Summary, output: Path) -> None:
    """Print what was measured, and the folder with the pictures."""
    shares = ", ".join(
        f"{denoise:.2f} in {share:.0%}" for denoise, share in summary.denoise_shares.items()
    )
    cost = "not reported by the pack"
    if summary.report:
        share, text = summary.report.cost_percent, summary.report.text
        cost = f"{share:.0f}% of a run without the pack ({text})"
    unchanged = "" if summary.kept_change_levels else ", every pixel unchanged"
    rows = {
        "denoise": f"{shares} of the picture",
        "kept": f"{summary.kept_share:.0%} of the picture",
        "model evaluations": cost,
        "sampling": (
            f"{summary.with_pack_s:.1f} s; without the pack {summary.without_pack_s:.1f} s"
        ),
        "largest change": (
            f"kept regions {summary.kept_change:g}, elsewhere {summary.free_change:.2f} "
            "(latent units)"
        ),
        "in the picture": f"kept regions {summary.kept_change_levels} of 255 levels{unchanged}",
        "pictures": str(output),
    }
    for name, text in rows.items():
        say(f"{name:18} {text}")
    if not summary.is_as_promised:
        say(
            "FAILED: regions with denoise 0 must be bit-for-bit unchanged, in the latent and in "
            "the picture, and the demo must have such a region."
        )
