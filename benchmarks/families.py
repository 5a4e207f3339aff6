"""What works with each model family: checks every tiny model and writes docs/families.md.

The checks are the columns of testing/matrix.py and testing/features.py. A cell is "yes", "refused",
"-" where ComfyUI does not offer it, or "WRONG" where something is neither right nor refused; then
the run fails.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterable
from typing import Any

import torch
from quadtree_pack.testing.registration import ROOT, register_comfyui

HEAD = """\
# What works with which model family

Made by `python dev.py bench families` on the real ComfyUI {version}, with a tiny model of each
family's real architecture.

- **kept exactly**: regions with denoise 0 are bit-for-bit unchanged, the conditioning is not
  modified, and a second run gives the same result
- **identity**: one window over the whole image at denoise 1 equals the run without the node, bit
  for bit
- **window batches**: several windows in a batch equal one window at a time
- the other columns: with a network that works cell by cell, windows equal the run without the
  node, one window at a time and several in a batch; the largest difference is at most 0.00001 of
  the largest value. **ControlNet** tries some in a chain and for a part of the steps; **patch
  control** a ControlNet that patches the model, as DiffSynth's does; **attention mask** a mask in a
  patch of attention, as IP-Adapter's; **area** prompts for overlapping areas; **mask** prompts by
  masks; **references** reference latents of the image's size and of another one; **inpaint** a
  noise mask; **context windows** ComfyUI's, over the frames of a clip or over a batch of images
- **EasyCache**: with ComfyUI's, kept regions are unchanged, bit for bit, and one window over the
  whole image equals the run without the node
- **several GPUs**: as after ComfyUI's MultiGPU node, two devices (both of them the CPU) share the
  windows of each step, and the result is that of one, bit for bit

yes = it holds; refused = the node stops with a message that says why and what to do.

"""

FEATURES_HEAD = """
## What ComfyUI offers for some families only

Families that have none of these are left out.

- **resized references**: a reference latent that shows the image at twice or half its resolution
  is recognised and cut with it. With a network that looks at references cell by cell, windows equal
  the run without the node
- the other columns, with the family's network: windows that do not overlap, one at a time, equal
  ComfyUI's own runs on the crops that they lie on. **Self-Attention Guidance** with a blur that
  does not reach over a crop's border; **GLIGEN** with boxes in one window and in two; **Flux KV
  Cache** is left out of windows, so they equal the crops without the cache, with the reference
  treated as the node asks for

yes = the largest difference is at most 0.00001 of the largest value; a dash = ComfyUI does not
offer it: without this pack, too, the node fails or changes nothing.

"""


def run() -> list[dict]:
    register_comfyui("--cpu")
    torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it gains
    import comfyui_version
    from quadtree_pack.testing.features import FEATURES
    from quadtree_pack.testing.matrix import COLUMNS
    from quadtree_pack.testing.tiny_models import ZOO

    start = time.perf_counter()
    rows = []
    for family, make in ZOO.items():
        row = check_family(family, make())
        rows.append(row)
        outcomes = list(row.values())[1:]
        print(f"{family:>22} " + " ".join(f"{cell:>8}" for cell in outcomes), flush=True)
        gc.collect()
    offered = [row for row in rows if any(row[title] != "-" for title in FEATURES)]
    text = (
        HEAD.format(version=comfyui_version.__version__)
        + format_table(rows, COLUMNS)
        + FEATURES_HEAD
        + format_table(offered, FEATURES)
    )
    (ROOT / "docs" / "families.md").write_text(text)
    print(f"(written to docs/families.md in {time.perf_counter() - start:.0f} s)")
    if any("WRONG" in row.values() for row in rows):
        raise SystemExit("Some checks failed: see WRONG above.")
    return rows


def check_family(family: str, entry: Any) -> dict[str, str]:
    """Return the outcome of every check of a tiny model, by the check's title."""
    from quadtree_pack.testing.features import FEATURES
    from quadtree_pack.testing.matrix import COLUMNS, Case, outcome

    case = Case(entry)
    row = {"family": family}
    for title, column in {**COLUMNS, **FEATURES}.items():
        try:
            row[title] = outcome(column, case)
        except Exception:
            traceback.print_exc()
            row[title] = "WRONG"
    return row


def format_table(rows: list[dict[str, str]], columns: Iterable[str]) -> str:
    titles = ["family", *columns]
    lines = [titles, ["---"] * len(titles)]
    lines += [[row[title] for title in titles] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
