"""Prints what `bench quality` measured, as tables and as targets that are met or missed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from . import charts
from .quality_cases import (
    AVERAGED,
    HELD_OUT,
    LONG,
    METHODS,
    SHORT,
    WITHOUT,
    Case,
    case_of,
    list_at_equal_evaluations,
)
from .rows import USUAL, select

SEAM_LIMITS = {"Shifted Feather": 1.03, "Mixture of Diffusers": 1.05}  # methods that hide seams
TEXTURE_SAVED_PERCENT = 90.0  # at least
SEAMS = {  # column -> which borders it is about
    "seam": "windows",
    "seam_all": "windows of all steps",
    "leaf_seam": "leaves",
}
LEGEND = {
    "seam": (
        "gradient of the change across the last step's window borders, over that elsewhere, over "
        "the same of the untiled run; 1 = invisible"
    ),
    "all": "the same for the window borders of all steps",
    "leaf": (
        "root mean square gradient of the change across the borders of leaves, over that one cell "
        "beside them; 1 = invisible"
    ),
    "PSNR": "of the result to the untiled result, in dB",
    "kept": "largest change of a number of the latent where the denoise is 0",
    "sharp": (
        "share of the gradient lost by blurring that came back in the detailed half of the "
        "original, in % (below 0: softer)"
    ),
    "texture": (
        "mean gradient of the change in the calmest quarter of the original, in levels of 255 a px"
    ),
    "evals": "evaluated cells, in canvases; a run without the pack has as many as steps",
}
HEAD = f"{'photos: mean (worst)':>83}{'gradient':>34}"
COLUMNS = (
    f"{'run':>38} {'steps':>5} {'schedule':>8} {'n':>2} {'seam':>13} {'all':>13} {'leaf':>13} "
    f"{'PSNR':>5} {'seam':>6} {'all':>6} {'leaf':>6} {'PSNR':>5} {'kept':>5} {'sharp':>6} "
    f"{'texture':>7} {'evals':>6} {'s':>6}"
)


def report(rows: list[dict]) -> list[dict]:
    """Print and draw what the rows say; return the rows and the targets."""
    print_table(rows)
    compared = compare_detail(rows)
    print_detail(compared)
    targets = check_targets(rows, compared)
    print_targets(targets)
    print_causes(rows)
    for path in charts.draw(rows, compared):
        print(f"(drawn in {path})")
    return [*rows, *targets]


# --- All runs -------------------------------------------------------------------------------------


def print_table(rows: Sequence[dict]) -> None:
    print(f"{HEAD}\n{COLUMNS}")
    keys = ("label", "steps", "schedule", "only_last")
    shown = {tuple(row[key] for key in keys): None for row in rows if row["only_last"] is None}
    for values in shown:
        print_run(rows, dict(zip(keys, values, strict=True)))
    for name, meaning in LEGEND.items():
        print(f"{name}: {meaning}")


def print_run(rows: Sequence[dict], wanted: dict) -> None:
    """Print the means of the rows with these values."""

    def photos(column: str) -> list[float]:
        return select(rows, column, photos=True, **wanted)

    def gradient(column: str) -> list[float]:
        return select(rows, column, photos=False, **wanted)

    kept = photos("kept_error") + gradient("kept_error")
    sharpness = [100 * value for value in photos("sharpness")]
    figures = [
        *(f"{format_spread(photos(column), 3):>13}" for column in SEAMS),
        f"{format_mean(photos('psnr'), 1):>5}",
        *(f"{format_mean(gradient(column), 3):>6}" for column in SEAMS),
        f"{format_mean(gradient('psnr'), 1):>5}",
        f"{max(kept) if kept else '-':>5}",
        f"{format_mean(sharpness, 1):>6}",
        f"{format_mean(photos('texture'), 2):>7}",
        f"{format_mean(photos('evaluations'), 1):>6}",
        f"{format_mean(photos('seconds'), 1):>6}",
    ]
    run = f"{wanted['label']:>38} {wanted['steps']:>5} {wanted['schedule']:>8}"
    print(f"{run} {len(photos('seconds')):>2} {' '.join(figures)}")


def format_mean(values: Sequence[float], digits: int) -> str:
    return f"{mean(values):.{digits}f}" if values else "-"


def format_spread(values: Sequence[float], digits: int) -> str:
    return f"{mean(values):.{digits}f} ({max(values):.{digits}f})" if values else "-"


# --- Against one uniform denoise ------------------------------------------------------------------


def compare_detail(rows: Sequence[dict]) -> list[dict]:
    """Return the rows of each photo: ours, and one uniform denoise at equal cost and strength.

    Ours is the default run. The uniform denoise has equal evaluations in one row, and in the
    other the same strength.
    """
    by_case = {case_of(row): row for row in rows}
    compared = []
    for case, ours in by_case.items():
        if case != Case(case.picture) or "sharpness" not in ours:
            continue
        (equal_case,) = list_at_equal_evaluations([ours])
        compared.append(
            {
                "picture": case.picture,
                "ours": ours,
                "equal": by_case[equal_case],
                "full": by_case[Case(case.picture, method=WITHOUT)],
            }
        )
    return compared


def print_detail(compared: Sequence[dict]) -> None:
    print(
        f"\n{'photo':>16} {'':>8} {'ours':>22} {'uniform, equal evals':>24} "
        f"{'uniform, full strength':>24}"
    )
    print(f"{'':>16} {'':>8} " + " ".join(["  evals   sharp  texture"] * 3))
    for pair in compared:
        cells = []
        for key in ("ours", "equal", "full"):
            row = pair[key]
            cells.append(
                f"{row['evaluations']:>7.1f} {100 * row['sharpness']:>7.1f} {row['texture']:>8.2f}"
            )
        held_out = "held out" if pair["picture"] in HELD_OUT else ""
        print(f"{pair['picture']:>16} {held_out:>8} " + " ".join(cells))


# --- Targets --------------------------------------------------------------------------------------


def check_targets(rows: Sequence[dict], compared: Sequence[dict]) -> list[dict]:
    """Return a row for each target: what was measured, the limit, and whether it is met."""
    kept_error = max(row.get("kept_error", 0.0) for row in rows)
    gains = [pair["ours"]["sharpness"] - pair["equal"]["sharpness"] for pair in compared]
    return [
        *check_seams(rows),
        *check_psnr(rows),
        check_at_most("largest change of what is kept", kept_error, 0.0),
        check_at_least(
            "sharpness over one uniform denoise at equal evaluations, mean, %",
            100 * mean(gains),
            0.0,
        ),
        *check_texture(compared),
    ]


def check_at_most(name: str, value: float, limit: float) -> dict:
    met = value <= limit
    return {"target": name, "measured": value, "limit": limit, "at_most": True, "met": met}


def check_at_least(name: str, value: float, limit: float) -> dict:
    met = value >= limit
    return {"target": name, "measured": value, "limit": limit, "at_most": False, "met": met}


def check_seams(rows: Sequence[dict]) -> list[dict]:
    found = []
    kinds = (("photos, mean", True, mean), ("photos, worst", True, max), ("gradient", False, mean))
    for method, limit in SEAM_LIMITS.items():
        for kind, photos, summarise in kinds:
            for steps in (SHORT, LONG):
                wanted = {"method": method, "steps": steps, "overlap_px": 64, **USUAL}
                for column, border in SEAMS.items():
                    name = f"seam index, {method}, {kind}, {steps} steps, {border}"
                    value = summarise(select(rows, column, photos=photos, **wanted))
                    found.append(check_at_most(name, value, limit))
    return found


def check_psnr(rows: Sequence[dict]) -> list[dict]:
    """Check that no other method is closer to the untiled result than Shifted Feather."""
    found = []
    for photos, kind in ((True, "photos"), (False, "gradient")):
        for steps in (SHORT, LONG):
            wanted = {"steps": steps, "overlap_px": 64, **USUAL}
            ours, *others = (
                mean(select(rows, "psnr", photos=photos, method=method, **wanted))
                for method in METHODS
            )
            found.append(
                check_at_least(
                    f"PSNR to untiled, {METHODS[0]} over the best other, {kind}, {steps} steps, dB",
                    ours - max(others),
                    0.0,
                )
            )
    return found


def check_texture(compared: Sequence[dict]) -> list[dict]:
    """Check how much less texture the pack invents in calm regions than one uniform denoise."""
    ours = sum(pair["ours"]["texture"] for pair in compared)
    found = []
    for name, key in (("at equal evaluations", "equal"), ("at full strength", "full")):
        share = 1 - ours / sum(pair[key]["texture"] for pair in compared)
        found.append(
            check_at_least(
                f"less invented texture than one uniform denoise {name}, %",
                100 * share,
                TEXTURE_SAVED_PERCENT,
            )
        )
    return found


def print_targets(targets: Sequence[dict]) -> None:
    print("\ntargets")
    for one in targets:
        sign = "<=" if one["at_most"] else ">="
        met = "met" if one["met"] else "MISSED"
        print(f"{met:>7}  {one['target']}: {one['measured']:.4g} ({sign} {one['limit']:g})")


def print_causes(rows: Sequence[dict]) -> None:
    """Print why a seam index is above its limit, and why a PSNR is not the highest."""
    ours, other = METHODS[:2]
    print(
        "\ncauses: where another method without a border has the same seam index, the border does "
        "not cause it"
    )
    for row in rows:
        if "lines" in row and row["seam"] > SEAM_LIMITS[ours]:
            print(
                f"{row['picture']}, {row['steps']} steps: {row['seam']:.3f} on {row['borders']} "
                f"lines; on the {row['lines']} of them where {other} has no border, {ours} "
                f"{row['seam_here']:.3f} and {other} {row['seam_elsewhere']:.3f}"
            )
    for row in rows:
        if row["method"] == AVERAGED:
            print(
                f"gradient, {row['steps']} steps, {AVERAGED}: PSNR {row['psnr']:.2f} dB, "
                f"seam index {row['seam']:.3f}"
            )
