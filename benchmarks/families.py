"""What works with each model family: runs testing/matrix.py on every tiny model and writes docs/families.md."""

from __future__ import annotations

import gc
import time
import traceback

import torch
from quadtree_pack.testing.registration import ROOT, register_comfyui

HEAD = """# What works with which model family

Made by `python dev.py bench families` on the real ComfyUI {version}, with a tiny model of each family's real architecture.

- **kept exactly**: what has denoise 0 equals the input to the bit; the conditioning is unchanged, a second run is unaffected
- **identity**: one window over everything at denoise 1 is the run without the node, to the bit
- **window batches**: several windows at a time equal one at a time
- **ControlNet**, **area**, **mask**, **references**, **inpaint**: with a network that works cell by cell, windows equal the run
  without the node; with ControlNets in a chain and for a part of the steps, prompts for overlapping areas, prompts by masks,
  reference latents of the image's size and of another one, and a noise mask

yes = it holds; refused = the node stops with a message that says why and what to do.

"""


def run() -> list[dict]:
    register_comfyui("--cpu")
    torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it gains
    import comfyui_version
    from quadtree_pack.testing.matrix import COLUMNS, Case, outcome
    from quadtree_pack.testing.tiny_models import ZOO

    rows, start = [], time.perf_counter()
    for name, make in ZOO.items():
        case, row = Case(make()), {"family": name}
        for title, column in COLUMNS.items():
            try:
                row[title] = outcome(column, case)
            except Exception:
                traceback.print_exc()
                row[title] = "WRONG"
        rows.append(row)
        print(f"{name:>22} " + " ".join(f"{row[title]:>8}" for title in COLUMNS), flush=True)
        del case
        gc.collect()
    titles = ["family", *COLUMNS]
    lines = [
        " | ".join(titles),
        " | ".join("---" for _ in titles),
        *(" | ".join(row[title] for title in titles) for row in rows),
    ]
    table = "".join(f"| {line} |\n" for line in lines)
    (ROOT / "docs" / "families.md").write_text(
        HEAD.format(version=comfyui_version.__version__) + table
    )
    print(f"(written to docs/families.md in {time.perf_counter() - start:.0f} s)")
    if any("WRONG" in row.values() for row in rows):
        raise SystemExit("Something is neither right nor refused.")
    return rows
