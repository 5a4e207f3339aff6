"""A board hands out every batch, whoever leaves, fails or lags, and each result counts once."""

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadtree_pack.sampling.board import Board, Hand, deal
from quadtree_pack.sampling.model import TRANSFORMER_COST, UNET_COST, Geometry, Settings
from quadtree_pack.sampling.run import create_run


def work(board, hand, seconds=0.0, last=None):
    """Take and deliver until the board is over; a hand with a `last` number leaves at it."""
    while (number := board.take(hand)) is not None:
        if last is not None and hand.windows >= last:
            board.leave(hand)
            return
        time.sleep(seconds)
        board.deliver(hand, number, 10 * number)


def run_all(board, *workers):
    threads = [threading.Thread(target=work, args=(board, *worker)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


@given(
    costs=st.lists(st.floats(0.1, 100), min_size=1, max_size=20),
    leaving=st.lists(st.integers(0, 3), max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_every_batch_is_delivered_once_whoever_leaves(costs, leaving):
    reported = []
    board = Board(costs, [1] * len(costs), lambda hand, number, result: reported.append(number))
    others = [(Hand(f"leaves {number}"), 0.0, last) for number, last in enumerate(leaving)]
    run_all(board, (Hand("stays"),), *others)
    assert board.collect() == [10 * number for number in range(len(costs))]
    assert sorted(reported) == list(range(len(costs)))


def test_the_dearest_batch_comes_first():
    board, hand = Board([1.0, 5.0, 3.0], [1, 1, 1]), Hand("one")
    taken = []
    while (number := board.take(hand)) is not None:
        taken.append(number)
        board.deliver(hand, number, None)
    assert taken == [1, 2, 0]


def test_the_batch_of_a_hand_that_hangs_is_given_to_another():
    board, hung, free = Board([1.0] * 4, [1] * 4), Hand("hung"), Hand("free")
    assert board.take(hung) is not None
    run_all(board, (free, 0.01))
    assert board.collect() == [0, 10, 20, 30] and free.windows == 4
    assert not board.deliver(hung, 0, "late"), "the first result counts"
    assert hung.windows == 0


def test_an_error_ends_the_board_for_all():
    board, hand = Board([1.0, 1.0], [1, 1]), Hand("one")
    board.take(hand)
    board.fail(KeyError("broken"))
    assert board.take(Hand("other")) is None and board.over
    with pytest.raises(KeyError, match="broken"):
        board.collect()


def test_a_hand_that_waits_is_interrupted():
    board = Board([1.0], [1])
    board.take(Hand("other"))

    def look():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        board.take(Hand("waits"), look=look)


def test_a_slow_hand_is_not_given_what_a_fast_one_has_done_sooner():
    fast, slow = Hand("fast"), Hand("slow")
    for hand, seconds in ((fast, 0.01), (slow, 1.0)):
        for _ in range(2):
            hand.note(1.0, 1, seconds)
    board = Board([1.0] * 3, [1] * 3)
    assert board.take(fast) is not None
    assert board.take(slow, wait=False) is None
    assert board.take(fast, wait=False) is not None


def test_a_hand_of_unknown_speed_gets_one_batch_at_a_time():
    board, hand = Board([1.0] * 3, [1] * 3), Hand("new")
    number = board.take(hand)
    assert board.take(hand, wait=False) is None
    board.deliver(hand, number, None)
    assert board.take(hand, wait=False) is not None


def test_a_hiccup_does_not_change_a_speed():
    hand = Hand("one")
    for seconds in (9.0, 0.1, 0.1, 5.0):
        hand.note(1.0, 1, seconds)
    assert hand.speed == pytest.approx(10)


def test_batches_are_dealt_to_whoever_is_done_first():
    assert deal([5, 1, 4, 2], [1.0, 1.0]) == [[0, 1], [2, 3]]
    fast, slow = deal([1.0] * 9, [2.0, 1.0])
    assert len(fast) == 6 and sorted(fast + slow) == list(range(9))
    assert deal([], [1.0]) == [[]]
    assert deal([1.0, 1.0], [1.0, 1.0], [5.0, 0.0]) == [[], [0, 1]]


@pytest.mark.parametrize(("cost", "single"), [(TRANSFORMER_COST, True), (UNET_COST, False)])
def test_large_models_get_one_window_per_call_where_several_share(cost, single):
    geometry = Geometry(px_per_cell=8, unit=2, native_px=1024, cost=cost)
    run = create_run(None, Settings(), geometry, torch.ones(1, 512, 512))
    run.expect_helpers()
    assert run.single == single and run.tiling.shares == 1
