"""The prices of `bench plan` are the measured ones, and its comparisons are what they say."""

import numpy as np
import pytest
from quadtree_pack.benchmarks import cluster, plan


@pytest.mark.parametrize("batch", [1, 4])
def test_a_measured_size_costs_what_was_measured(batch):
    for cells, seconds in zip(*plan.measured(batch), strict=True):
        assert plan.per_cell(float(cells), batch) == pytest.approx(float(seconds))


def test_windows_of_one_shape_are_priced_in_batches():
    alone, together = (plan.per_cell(128 * 128, batch) * 128 * 128 for batch in (1, 4))
    assert plan.seconds_of([(128, 128)]) == pytest.approx(alone)
    assert plan.seconds_of([(128, 128)] * 4) == pytest.approx(4 * together)
    assert plan.seconds_of([(128, 128)] * 5) == pytest.approx(4 * together + alone)


def test_beyond_the_largest_window_the_price_grows_on():
    prices = [plan.per_cell(cells, 1) for cells in np.linspace(100_000, 400_000, 7)]
    assert prices == sorted(prices) and prices[-1] > 1.5 * prices[0]


def test_uniform_tiling_covers_a_4096_px_square_1_56_times():
    """25 windows of 1024 px at each of 20 steps."""
    assert plan.uniform_seconds(512, 512) == pytest.approx(20 * plan.seconds_of([(128, 128)] * 25))
    assert pytest.approx(1.5625) == 25 * 128**2 / 512**2


def test_no_lattice_beats_the_bound_of_the_floor():
    assert 0.7 < plan.bound(512, 512, 128) < plan.bound(512, 512, 64) < plan.bound(512, 512, 0) <= 1


# ---- the simulated cluster

EQUAL = [[(1.0, 16_384)] * 12]
FAST = cluster.Network(1e6)


def test_one_gpu_is_as_fast_as_one_gpu():
    assert cluster.simulate(
        EQUAL, [1.0], cluster.NETWORK, cluster.time_alone(EQUAL)
    ) == pytest.approx(1)


def test_equal_batches_are_shared_but_for_what_travels():
    seconds = cluster.time_step(EQUAL[0], [1.0] * 4, FAST)
    assert 3 <= seconds < 3 + 2 * cluster.LATENCY_S


def test_batches_that_do_not_come_out_even_leave_workers_idle():
    assert cluster.time_step(EQUAL[0], [1.0] * 8, FAST) == pytest.approx(2, abs=0.1)


def test_a_slow_network_bounds_the_step():
    cells = EQUAL[0][0][1]
    bits = 8 * cells * cluster.CHANNELS * cluster.BYTES
    alone = cluster.time_step(EQUAL[0], [1.0, 1e9], cluster.NETWORK)
    slow = cluster.time_step(
        EQUAL[0], [1.0, 1e9], cluster.Network(bits / 1e9)
    )  # one second for each window
    assert alone < 0.5 and slow > 3


def test_a_busy_head_sends_later():
    busy = cluster.NETWORK._replace(head_s=0.1)
    delay = cluster.time_step(EQUAL[0][:8], [1.0] * 8, busy)
    delay -= cluster.time_step(EQUAL[0][:8], [1.0] * 8, cluster.NETWORK)
    assert delay == pytest.approx(7 * 0.1, rel=0.05)


def test_a_result_does_not_wait_for_one_that_comes_later():
    cells = 1000 * EQUAL[0][0][1]
    times = [(5.0, 1), (4.0, 1), *[(1.0, cells)] * 2]  # the dearest is last, the large ones are not
    seconds = cluster.time_step(times, [1e-6, 1.0, 1.0, 1.0, 1.0], cluster.NETWORK)
    assert seconds == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("gbit", [0.1, 1, 10, 1e6])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("head_s", [0.0, 0.1])
def test_no_simulated_cluster_beats_its_bound(gbit, halves, head_s):
    network = cluster.Network(gbit, head_s=head_s)
    for count in (1, 2, 5, 12, 40):
        speeds = cluster.speeds_of(count, halves=halves)
        reached = cluster.simulate(EQUAL, speeds, network, cluster.time_alone(EQUAL))
        assert reached <= cluster.bound(EQUAL, EQUAL, speeds, network) + 1e-9


@pytest.mark.parametrize("gpus", [2, 5, 8, 40])
def test_what_is_lost_and_what_is_used_is_all_time(gpus):
    lost = cluster.find_losses(EQUAL, [[(1.1, 16_384)] * 12], gpus)
    assert sum(lost.values()) == pytest.approx(1) and min(lost.values()) >= 0
    network, alone_s = cluster.NETWORK, cluster.time_alone(EQUAL)
    reached = cluster.simulate([[(1.1, 16_384)] * 12], [1.0] * gpus, network, alone_s)
    assert lost["used"] == pytest.approx(reached)


def test_a_worker_half_as_fast_gets_half_as_much():
    seconds = cluster.time_step([(1.0, 1)] * 30, cluster.speeds_of(2, halves=True), FAST)
    assert seconds == pytest.approx(20, abs=0.1)
