"""Batches are full, of one kind and of a like length; an error is its own request's."""

import threading
from concurrent.futures import CancelledError

import pytest

from evals.batching import Batcher, Say, Weigh, suited
from msm_jax.sampler import Settings


def say(length, stream=0, **settings):
    return Say([1] * length, Settings(**({"max_tokens": 8} | settings)), stream)


class Machine:
    """Computes lengths. It goes on when told to, and fails on what is 13 long."""

    def __init__(self):
        self.batches, self.begun, self.go = [], threading.Event(), threading.Event()
        self.refill = False

    def __call__(self, requests, more):
        self.begun.set()
        self.go.wait(10)
        lengths = [request.length for request in requests]
        self.batches.append(lengths)
        for number, request in enumerate(requests):
            if 13 in lengths[: number + 1]:
                raise ValueError("thirteen")
            yield number, (request.length, request.stream)
        further = more(2, lambda request: request.length <= max(lengths)) if self.refill else []
        self.batches += [[request.length for request in further]] if further else []
        yield from enumerate(((request.length, request.stream) for request in further), len(requests))


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def batcher(machine):
    """At work on a first request, so that others gather."""
    made = Batcher(machine, 4)
    made.ask(say(1))
    machine.begun.wait(10)
    yield made
    machine.go.set()
    made.close()


def test_requests_at_the_same_time_share_batches_and_get_their_own_answers(batcher, machine):
    futures = [batcher.ask(say(length, stream=n)) for n, length in enumerate([5, 6, 7, 8, 9, 10])]
    machine.go.set()
    assert [future.result(10) for future in futures] == [(5, 0), (6, 1), (7, 2), (8, 3), (9, 4), (10, 5)]
    assert [len(batch) for batch in machine.batches] == [1, 4, 2]


def test_an_error_belongs_to_the_request_that_causes_it(batcher, machine):
    futures = [batcher.ask(say(length)) for length in (5, 13, 7)]
    machine.go.set()
    assert [futures[0].result(10)[0], futures[2].result(10)[0]] == [5, 7]
    with pytest.raises(ValueError, match="thirteen"):
        futures[1].result(10)
    assert batcher.ask(say(6)).result(10) == (6, 0)  # and the thread lives on


def test_what_was_cancelled_is_not_computed(batcher, machine):
    first = [batcher.ask(say(5)) for _ in range(4)]
    late = [batcher.ask(say(20 + n)) for n in range(3)]
    assert late[1].cancel()
    machine.go.set()
    assert late[2].result(10) == (22, 0)
    assert machine.batches == [[1], [5, 5, 5, 5], [20, 22]]
    assert all(future.done() for future in first)


@pytest.mark.parametrize(
    ("late", "batches"),
    [([5, 200, 6], [[5, 6], [200]]), ([200, 5], [[200, 5]])],  # 5 would fit, but 200 is older
)
def test_others_take_the_places_of_rows_that_ended_while_the_oldest_can(batcher, machine, late, batches):
    machine.refill = True
    lengths = [50, 50, 50, 50, *late]
    futures = [batcher.ask(say(length, stream=n)) for n, length in enumerate(lengths)]
    machine.go.set()
    assert [future.result(10) for future in futures] == list(zip(lengths, range(len(lengths)), strict=True))
    assert machine.batches == [[1], [50, 50, 50, 50], *batches]


def test_closing_cancels_what_waits(machine):
    batcher = Batcher(machine, 1, linger=0.0)
    futures = [batcher.ask(say(5)) for _ in range(3)]
    threading.Timer(0.05, machine.go.set).start()
    batcher.close()
    with pytest.raises(CancelledError):
        futures[-1].result(10)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.ask(say(5))


def test_long_and_short_prompts_are_not_padded_to_each_other():
    waiting = [say(3000), say(40), say(2900), say(300), say(5900), say(100), say(7000)]
    assert suited(waiting, 4) == {0, 2, 4}
    assert suited(waiting[1:], 4) == {0, 2, 4}  # 40, 300 and 100: what is short is cheap
    assert suited(waiting[6:], 4) == {0}


def test_many_that_wait_are_chosen_by_length():
    lengths = [900, 510, 1000, 1700, 880, 640, 1020, 620]
    chosen = suited([say(length) for length in lengths], 3)
    assert sorted(lengths[i] for i in chosen) == [900, 1000, 1020]  # padded alike


def test_settings_part_batches_and_seeds_do_not():
    waiting = [
        say(5, temperature=0.7, seed=1),
        say(5, temperature=0.7, seed=2),
        say(5, temperature=0.7, top_p=0.9),
        say(5),
        say(5, top_p=0.9),  # greedy all the same
        say(5, stop=("x",), temperature=0.7),
        say(5, max_tokens=9, temperature=0.7),
        say(5, max_tokens=900, temperature=0.7),
        Weigh([1], [2]),
        Weigh([1, 2], [2]),
    ]
    assert suited(waiting, 8) == {0, 1, 6}
    assert suited(waiting[3:], 8) == {0, 1}
    assert suited(waiting[8:], 8) == {0, 1}
