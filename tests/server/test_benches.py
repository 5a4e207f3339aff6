"""Every benchmark runs to its rows, with less of everything; as `python dev.py bench` runs it, but
for what it writes."""

import os
import subprocess
import sys

import pytest
from quadtree_pack.devtools import paths
from quadtree_pack.testing.documents import BENCHMARKS

ONE_FAMILY = """
from quadtree_pack.testing.registration import register_comfyui
register_comfyui("--cpu")
from quadtree_pack.testing.tiny_models import ZOO
flux = ZOO["flux"]
ZOO.clear()
ZOO["flux"] = flux
it.register_comfyui = lambda *options: None
from pathlib import Path
it.ROOT = Path(FOLDER)
(it.ROOT / "docs").mkdir()
"""
SMALL_PHOTO = """
photo = it.photo
it.photo = lambda name, px: photo(name, min(px, 1536))
it.PHOTOS = ("rocket",)
"""
ONE_PHOTO = """
from pathlib import Path
from quadtree_pack.benchmarks import charts, quality_cases as cases
cases.PHOTOS = cases.HELD_OUT = ("coffee",)
cases.OVERLAPPING, cases.UNIFORM_STEPS = cases.METHODS[:1], (4,)
it.PHOTO_PX = it.GRADIENT_PX = (256, 512)
charts.ROOT = charts.OUTPUT = charts.FIGURES = Path(FOLDER)
"""
FEW_PICTURES = """
from functools import partial
from pathlib import Path
from quadtree_pack.benchmarks import charts
charts.ROOT = charts.OUTPUT = charts.FIGURES = Path(FOLDER)
it.SAMPLED = 1
it.run = partial(it.run, pictures=2)
"""
SMALL_CLUSTER = """
photo = it.photo
it.photo = lambda name, px: photo(name, min(px, 1536))
it.SIZES_MB, it.CALLS, it.SIDES_PX, it.WORKERS = (0.1,), 2, (4096,), (1, 4)
"""
# What makes a benchmark, `it`, a small one.
SMALL = {
    "build": "it.SIZES_PX, it.KINDS, it.MIN_TILES_PX = (256,), ('photo',), (64,)",
    "plan": "photo = it.photo; it.photo = lambda name, px: photo(name, min(px, 1536)); "
    "it.PHOTOS = ('rocket',)",
    "overhead": "it.REPEATS = 1",
    "gpu": "it.BATCHES = (1, 2)",  # and QUADTREE_BENCH_TINY
    "families": ONE_FAMILY,
    "web": "it.REPEATS = 2",
    "decode": "it.VAES, it.SHARES = ('taesd',), (0.25,)",
    "quality": ONE_PHOTO,
    "release": "it.SAMPLERS, it.MODELS, it.DENOISES = ('euler',), ('flux',), (0.5, 0.5, 0.5)",
    "decide": FEW_PICTURES,
    "cluster": SMALL_CLUSTER,
    "rivals": "it.LONG_SIDE_PX, it.TRANSFORMER_PX, it.STEPS, it.ROUNDS = 256, 256, 4, 1; "
    "it.PHOTOS = ('coffee',)",
    "video": "it.FRAMES, it.HEIGHT, it.WIDTH = 5, 128, 192; it.CLIPS = {'wall': it.CLIPS['wall']}",
}
RUN = """
import sys
FOLDER = sys.argv.pop()
from testing.registration import register_pack
register_pack()
import quadtree_pack.benchmarks.{name} as it
{small}
rows = it.run()
print("rows:", len(rows), all(isinstance(row, dict) for row in rows))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_to_its_rows(name, tmp_path):
    env = {**os.environ, "QUADTREE_BENCH_TINY": "1", "QUADTREE_CHROMIUM": ""}
    env["OMP_NUM_THREADS"] = "1"  # two threads of a busy machine wait for each other
    code = RUN.format(name=name, small=SMALL[name])
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=paths.ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    *_, last = told.stdout.splitlines()
    assert last.startswith("rows: ") and last.endswith(" True") and int(last.split()[1]) > 0
