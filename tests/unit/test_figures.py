"""`python dev.py figures` draws what is committed: no picture is out of date or left over."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image
from quadtree_pack.devtools import commands, paths
from quadtree_pack.docs import drawing, figures, icon, pictures, thumbnails

DRAWINGS = {**pictures.DRAWINGS, **thumbnails.DRAWINGS, **icon.DRAWINGS, **figures.DRAWINGS}
FOLDERS = {
    "docs": ("*.png", "*.webp"),
    "docs/figures": ("*",),
    "web/docs": ("*.webp",),
    "example_workflows": ("*.jpg",),
}
BY_THE_DEMO = {"docs/demo.png"}
BY_BENCHMARKS = {
    "docs/figures/quality-seams.png",
    "docs/figures/quality-texture.png",
    "docs/figures/decide-ranking.png",
    "docs/figures/panel.webp",
}
# Another processor rounds differently, and a picture is compressed; another digit in a label
# differs by far more.
LEVELS = 32
# Another matplotlib than the one that drew the plots, as on Python 3.10, sets letters differently:
# 8% of the px.
PLOTS = {"docs/figures/schedules.png", "docs/figures/trajectories.png"}
DRAWN_BY_MATPLOTLIB = "3.11."
LETTERS = 0.12


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PYTHON", sys.executable)
        assert commands.COMMANDS["figures"].run(paths.OWN_COMFYUI, ["--into", str(folder)]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_committed_picture_is_the_one_that_is_drawn(drawn, name):
    now, before = pixels(drawn / name), pixels(paths.ROOT / name)
    assert now.shape == before.shape
    differs = (abs(now - before) > LEVELS).any(-1)
    other_letters = name in PLOTS and not matplotlib.__version__.startswith(DRAWN_BY_MATPLOTLIB)
    assert differs.mean() <= (LETTERS if other_letters else 0)


@pytest.mark.slow
def test_drawing_twice_gives_the_same_bytes(drawn, tmp_path):
    for name in ("docs/figures/trajectories.png", "web/docs/QuadtreeVisualizer.webp"):
        (tmp_path / name).parent.mkdir(parents=True)
        DRAWINGS[name](tmp_path / name)
        assert (tmp_path / name).read_bytes() == (drawn / name).read_bytes()


def test_one_digit_of_a_label_is_more_than_the_tolerance():
    picture = drawing.as_picture(pictures.photo((240, 160)))
    one, other = (
        np.asarray(drawing.arrange({f"73{digit} tiles": picture})).astype(int) for digit in (1, 2)
    )
    assert abs(one - other).max() > LEVELS


def test_every_picture_in_the_project_is_drawn():
    found = {
        path.relative_to(paths.ROOT).as_posix()
        for folder, patterns in FOLDERS.items()
        for pattern in patterns
        for path in (paths.ROOT / folder).glob(pattern)
        if path.is_file()
    }
    assert found == {*DRAWINGS, *BY_THE_DEMO, *BY_BENCHMARKS}


@pytest.mark.parametrize("name", [*figures.DRAWINGS, *sorted(BY_BENCHMARKS)])
def test_a_figure_is_small_and_has_a_background_of_its_own(name):
    path = paths.ROOT / name
    assert path.stat().st_size < 100_000
    with Image.open(path) as picture:
        assert picture.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def test_a_name_that_no_picture_has_is_refused(tmp_path):
    command = [sys.executable, "-m", "docs", "--into", str(tmp_path), "nothing"]
    told = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert (
        told.returncode == 2
        and "no picture has 'nothing' in its name" in told.stderr
        and "icon.png" in told.stderr
    )


# --- The plot of the trajectories shows what its labels say ---------------------------------------


def test_a_held_cell_ends_at_its_clean_value_and_a_frozen_one_in_its_noise():
    start = (1 - figures.FROM) * figures.CLEAN + figures.FROM * figures.NOISE
    assert figures.sample_cell(figures.SIGMAS, 0.0)[-1] == pytest.approx(figures.CLEAN, abs=1e-12)
    assert figures.sample_cell(figures.SIGMAS, None) == pytest.approx([start] * len(figures.SIGMAS))


def test_until_its_release_a_cell_follows_clean_plus_noise_and_then_goes_to_what_the_model_knows():
    held, released = (figures.sample_cell(figures.SIGMAS, denoise) for denoise in (0.0, 0.5))
    expected = [(1 - sigma) * figures.CLEAN + sigma * figures.NOISE for sigma in figures.SIGMAS]
    assert held == pytest.approx(expected)
    assert released[: figures.STEPS // 2 + 1] == pytest.approx(expected[: figures.STEPS // 2 + 1])
    assert min(abs(released[-1] - mode) for mode in figures.MODES) < 2 * figures.SPREAD
    assert abs(held[-1] - released[-1]) > 4 * figures.SPREAD
