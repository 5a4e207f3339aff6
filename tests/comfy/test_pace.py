"""While a run goes on it tells the seconds left, and at its end what it took."""

import re

import pytest
from quadtree_pack.sampling import run as run_module
from quadtree_pack.sampling.model import Settings
from quadtree_pack.sampling.pace import Pace
from quadtree_pack.sampling.tally import Tally
from quadtree_pack.testing.support import tree_of
from quadtree_pack.testing.tiny_models import entry_of
from quadtree_pack.testing.tiny_models.building import sample
from quadtree_pack.tiled_diffusion import attach

SECONDS_PER_CELL = 0.01
LEFT = re.compile(r"about (?:(\d+) min )?(\d+) s left")


class Clock:
    """Stands in for time: it moves on by the cells of each model call."""

    def __init__(self):
        self.now_s = 100.0

    def monotonic(self):
        return self.now_s

    def slow_down(self, apply_model, call):
        self.now_s += SECONDS_PER_CELL * call["input"][:, 0].numel()
        return apply_model(call["input"], call["timestep"], **call["c"])


def read_left(text):
    found = LEFT.search(text)
    return found and 60 * int(found.group(1) or 0) + int(found.group(2))


@pytest.mark.parametrize("sampler", ["euler", "heun", "heunpp2"])
def test_the_seconds_left_are_those_that_the_run_then_takes(sampler, monkeypatch):
    entry, clock, told, ended = entry_of("flux"), Clock(), [], []
    monkeypatch.setattr(run_module, "time", clock)
    monkeypatch.setattr("quadtree_pack.tiled_diffusion.time", clock)
    model = entry.model.clone()
    model.set_model_unet_function_wrapper(clock.slow_down)
    tree = tree_of([[0.0, 0.6, 0.3], [1.0, 0.1, 0.0]], 64, 96)
    model = attach(
        model,
        [tree],
        Settings(tile_px=256, batch=1),
        progress=lambda text: told.append((text, clock.now_s)),
        measured=lambda *measured: ended.append(measured),
    )
    sample(entry, entry.latent(64, 96), model=model, steps=8, sampler=sampler)
    ((cells, seconds),) = ended
    assert seconds == pytest.approx(SECONDS_PER_CELL * cells)
    end_s = 100.0 + seconds
    left = [(read_left(text), at_s) for text, at_s in told if read_left(text) is not None]
    assert len(left) > len(told) / 2
    for seconds_left, at_s in left:
        assert abs(seconds_left - (end_s - at_s)) <= 1


def measure_run(images):
    """Return what a run of so many images reports at its end."""
    entry, ended = entry_of("flux"), []
    model = attach(
        entry.model,
        [tree_of([[1.0, 0.5]], 64, 96)],
        Settings(tile_px=256),
        measured=lambda *measured: ended.append(measured),
    )
    sample(entry, entry.latent(64, 96).repeat(images, 1, 1, 1), model=model, steps=2)
    return ended


def test_the_cells_of_a_batch_are_told_for_one_image_as_the_price_counts_them():
    (one,), (three,) = measure_run(1), measure_run(3)
    assert three[0] == one[0]


def test_a_run_whose_windows_a_cache_skipped_tells_no_pace(monkeypatch):
    skipped = property(lambda tally: 1, lambda tally, value: None)
    monkeypatch.setattr(Tally, "skipped", skipped, raising=False)
    assert measure_run(1) == []


def test_the_first_call_does_not_count_as_it_loads_and_compiles():
    pace = Pace()
    assert pace.estimate_left(0.1, 60.0) is None
    assert pace.estimate_left(0.2, 60.1) is None, "too early to tell"
    assert pace.estimate_left(0.6, 65.0) == pytest.approx(4.0)
    assert pace.estimate_left(1.0, 69.0) == 0
