import asyncio

import pytest

from data_gen.api import limits as limits_
from data_gen.api.limits import Limits
from data_gen.api.provider import Allowance
from data_gen.api.request import Usage

USAGE = Usage(input=1000, cache_read=50_000, output=500)


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(limits_.time, "monotonic", lambda: now[0])

    async def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(limits_.asyncio, "sleep", sleep)
    return now


def test_overload_halves_at_most_once_a_second(clock):
    limits = Limits(64, start=64)
    limits.overloaded()
    limits.overloaded()
    assert limits.limit == 32
    clock[0] += 1.0
    limits.overloaded()
    assert limits.limit == 16
    for _ in range(10):
        clock[0] += 1.0
        limits.overloaded()
    assert limits.limit == 1


def test_it_grows_by_one_a_success_until_the_first_overload_and_then_by_one_per_limit(clock):
    limits = Limits(64, start=16)
    for _ in range(16):
        limits.succeeded(USAGE)
    assert limits.limit == 32
    limits.overloaded()
    assert limits.limit == 16
    for _ in range(17):
        limits.succeeded(USAGE)
    assert limits.limit == 17
    for _ in range(10_000):
        limits.succeeded(USAGE)
    assert limits.limit == 64


def test_no_more_than_the_limit_are_let_in_and_each_that_leaves_lets_one_in():
    async def main():
        limits, inside = Limits(3, start=3), []

        async def one(i):
            await limits.enter()
            inside.append(i)

        tasks = [asyncio.create_task(one(i)) for i in range(5)]
        await asyncio.sleep(0.01)
        assert inside == [0, 1, 2]
        tasks[3].cancel()
        limits.leave()
        await asyncio.sleep(0.01)
        assert inside == [0, 1, 2, 4]

    asyncio.run(main())


def test_it_waits_as_long_as_was_asked_for(clock):
    limits = Limits(8)
    limits.overloaded(retry_after=7.0)
    asyncio.run(limits.enter())
    assert clock[0] == 1007.0


@pytest.mark.parametrize(
    ("remaining", "waits"),
    [
        ({"requests": 10}, False),
        ({"requests": 3}, True),
        ({"input-tokens": 4001}, False),
        ({"input-tokens": 3999}, True),  # four in flight, a thousand each: what a cache gave does not count
        ({"output-tokens": 1999}, True),
        ({"unheard-of": 0}, True),
    ],
)
def test_it_waits_for_the_reset_where_too_little_is_left_for_what_is_in_flight(clock, remaining, waits):
    limits = Limits(8)

    async def main():
        for _ in range(4):
            await limits.enter()
        limits.succeeded(USAGE)
        limits.heard(Allowance(remaining, dict.fromkeys(remaining, 30.0)))
        await limits.enter()

    asyncio.run(main())
    assert clock[0] == (1030.0 if waits else 1000.0)
