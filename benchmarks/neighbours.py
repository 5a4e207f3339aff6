"""Runs Quadtree Diffusion beside other packs in one ComfyUI; `python dev.py neighbours` starts it.

ComfyUI's own loader loads the packs, and every graph of testing/packs.py is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quadtree_pack.testing.registration import register_comfyui

HEAD = """\
# Beside other packs

Made by `python dev.py neighbours --packs DIR ... --write docs/neighbours.md` on {today}, on the
real ComfyUI {version} (CPU) with tiny models of real architectures. ComfyUI's own loader loaded all
packs into one process.

**right** means that all of this holds for a graph with the node, both before and after Quadtree
Diffusion where it is a node on the model:

- regions with denoise 0 are bit-for-bit equal to the input
- a tile with denoise 0.5 is first evaluated at the sampler's step in the middle
- the model evaluates fewer cells than without Quadtree Diffusion
- the same prompt gives the same result again, after one with another seed
- one window over the whole image at denoise 1 equals the run without Quadtree Diffusion, bit for
  bit
- several windows equal that run, too; where the node makes a cell depend on the whole window, it
  has an effect in every window, and what a window shows does not depend on those before it
- a run without Quadtree Diffusion gives the same result before and after

Words after a node's id tell how it was set. A pack without a graph of its own in
`testing/pack_graphs.py` is tried with each of its nodes that needs a model and nothing else.

**refused** means that Quadtree Diffusion stopped the run with these words. **error** is what the
run ended with otherwise; "on its own" means without Quadtree Diffusion. **wrong** tells what of the
above does not hold, and in brackets what Quadtree Diffusion warned of. Where a node gives another
result each time on its own, results are not compared with each other.

"""
TITLES = ("pack", "commit", "date", "node", "verdict")


@dataclass(frozen=True)
class Pack:
    """A pack that was given; `problem` says why it did not load."""

    folder: Path
    problem: str

    @property
    def name(self) -> str:
        return self.folder.name

    def read_version(self) -> tuple[str, str]:
        """Return its commit and the day of that, or two dashes where its folder is no clone."""
        git = ["git", "-C", str(self.folder), "log", "-1", "--format=%h %cs"]
        shown = subprocess.run(git, capture_output=True, text=True, check=False).stdout.split()
        if len(shown) != 2 or not (self.folder / ".git").exists():
            return "-", "-"
        return shown[0], shown[1]


def main() -> None:
    options = parse()
    if options.site:
        sys.path.append(str(options.site))
    with tempfile.TemporaryDirectory() as base:
        (Path(base) / "custom_nodes").mkdir()
        register_comfyui("--cpu", "--base-directory", base)
        rows = run(options.packs)
    if options.write:
        options.write.write_text(make_head() + format_table(rows), encoding="utf-8")
    if any("wrong: " in row[-1] for row in rows):
        raise SystemExit("Some graphs are neither right nor refused: see `wrong` above.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", nargs="+", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--site", type=Path)
    return parser.parse_args()


def run(folders: list[Path]) -> list[tuple[str, ...]]:
    import comfy.utils
    import torch

    comfy.utils.set_progress_bar_enabled(False)
    torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it gains
    rows = []
    for pack in load(folders):
        version = pack.read_version()
        for node, verdict in check(pack):
            print(f"{pack.name}: {node}: {verdict}", flush=True)
            rows.append((pack.name, *version, node, verdict))
    return rows


def load(folders: list[Path]) -> list[Pack]:
    """Load the packs as ComfyUI does when it starts: after its own nodes, and one by one."""
    import server

    import nodes

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    server.PromptServer(loop)  # packs add their routes to it
    # With the empty custom_nodes: it readies sys.path for packs
    loop.run_until_complete(nodes.init_extra_nodes(init_api_nodes=False))
    own = set(nodes.NODE_CLASS_MAPPINGS)
    packs = []
    for folder in folders:
        heard = Heard()
        logging.getLogger().addHandler(heard)
        loading = nodes.load_custom_node(str(folder), own, module_parent="custom_nodes")
        loaded = loop.run_until_complete(loading)
        logging.getLogger().removeHandler(heard)
        packs.append(Pack(folder, "" if loaded else heard.last(folder)))
    return packs


class Heard(logging.Handler):
    """What is logged while a pack loads: the loader says there why a pack did not."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def last(self, folder: Path) -> str:
        """Return the last line, without the path of the pack."""
        line = self.lines[-1] if self.lines else "ComfyUI does not say why"
        return shorten_paths(line.rpartition(" module for custom nodes: ")[2], folder)


def shorten_paths(text: str, folder: Path) -> str:
    """Leave out where this machine keeps the pack and ComfyUI."""
    for base in (folder.parent, Path(os.environ["COMFYUI_PATH"])):
        text = text.replace(f"{base}{os.sep}", "")
    return text


def check(pack: Pack) -> Iterator[tuple[str, str]]:
    """Yield each node of the pack that has a graph, and the verdict on it."""
    from quadtree_pack.testing.beside import judge
    from quadtree_pack.testing.pack_graphs import NEIGHBOURS
    from quadtree_pack.testing.packs import neighbours_of

    if pack.problem:
        yield "-", f"did not load: {pack.problem}"
        return
    found = neighbours_of(pack.name, NEIGHBOURS)
    if not found:
        yield "-", "loads; no graph for it"
    for node, neighbour in found.items():
        yield node, shorten_paths(judge(neighbour), pack.folder)


def make_head() -> str:
    import comfyui_version

    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    return HEAD.format(version=comfyui_version.__version__, today=today)


def format_table(rows: list[tuple[str, ...]]) -> str:
    lines = [" | ".join(cell.replace("|", "/") for cell in row) for row in (TITLES, *rows)]
    lines = [f"| {line} |" for line in lines]
    lines.insert(1, "|---" * len(TITLES) + "|")
    return "".join(f"{line}\n" for line in lines)
