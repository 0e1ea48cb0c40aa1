import asyncio
import dataclasses

import pytest

from data_gen.api import retry
from data_gen.api.budget import CapReached
from data_gen.api.prices import Prices
from data_gen.api.provider import Allowance, Declined, Failure, Lost, Unavailable
from data_gen.api.request import Reply, Usage
from msm_jax.cli import UserError
from tests.data_gen.api.support import SETTINGS, Fake, asking, many

BUSY = Declined(429, "rate_limit_error", "slow down")


def test_what_is_stored_is_not_asked_again(work):
    first, second = Fake(), Fake()
    replies = work.ask_all(first, many(20))
    assert {r.key for r in replies} == {r.key for r in many(20)}
    assert sorted(r.key for r in work.ask_all(second, many(25))) == sorted(r.key for r in many(25))
    assert sorted(second.bills) == sorted(r.key for r in many(25)[20:])
    assert replies[0].cost == pytest.approx(Prices().price(replies[0].model, replies[0].usage))
    assert work.outcomes() == {"answered": 25}


@pytest.mark.parametrize(
    ("error", "outcome", "status", "said"),
    [
        (BUSY, "refused", 429, "rate_limit_error"),
        (Declined(529, "overloaded_error", "busy"), "refused", 529, "overloaded_error"),
        (Declined(500, "api_error", "oops"), "refused", 500, "api_error"),
        (Declined(0, "not_connected", "refused"), "refused", None, "not_connected"),
        (Lost("dropped"), "unknown", None, "lost"),
    ],
)
def test_every_attempt_is_in_the_ledger(work, error, outcome, status, said):
    provider = Fake(error, error)
    assert isinstance(work.run(provider, lambda client: client.ask(asking(1))), Reply)
    rows = [(row["outcome"], row["status"], row["error"]) for row in work.ledger]
    assert rows == [(outcome, status, said)] * 2 + [("answered", None, None)]
    assert len({row["id"] for row in work.ledger}) == 3
    worst = Prices().worst_case(asking(1))
    assert work.budget.unknown == pytest.approx(2 * worst if outcome == "unknown" else 0.0)
    assert work.budget.reserved == pytest.approx(0.0)


def test_after_the_last_try_it_says_so_and_what_else_is_in_flight_is_kept(work):
    down, key = Declined(529, "overloaded_error", "busy"), asking(0).key

    class HalfDown(Fake):
        async def ask(self, request, attempt, heard=None):
            if request.key == key:
                raise down
            return await super().ask(request, attempt, heard)

    provider = HalfDown(seconds=0.1)
    with pytest.raises(Unavailable, match=r"fake \(documents, \w+\): 529 overloaded_error: busy; the last of several"):
        work.ask_all(provider, many(1000), dataclasses.replace(SETTINGS, tries=3))
    assert 0 < len(provider.bills) < 100  # nothing new was sent
    assert work.outcomes() == {"refused": 3, "answered": len(provider.bills)}


def test_a_wait_of_many_minutes_is_not_waited(work):
    with pytest.raises(Unavailable):
        work.run(Fake(Declined(429, "rate_limit_error", "monthly", retry_after=3600.0)), lambda c: c.ask(asking(1)))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
def test_what_every_request_would_meet_ends_the_work_at_the_first(work, status):
    provider = Fake(*[Declined(status, "some_error", "no, because", fatal=True)] * 50)
    with pytest.raises(UserError, match=f"fake .* declined with {status} some_error: no, because; ") as error:
        work.ask_all(provider, many(50))
    assert "\n" not in str(error.value)
    assert len(work.ledger) <= SETTINGS.concurrency


def test_one_bad_request_among_good_ones_is_a_failure_and_a_row_of_them_is_an_error(work):
    bad = Declined(400, "invalid_request_error", "prompt is too long", fatal=True)
    work.ask_all(Fake(), many(1))
    outcomes = work.ask_all(Fake(None, None, bad), many(6))
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert [(f.kind, f.message) for f in failures] == [("invalid_request_error", "prompt is too long")]
    assert len(outcomes) == 6
    with pytest.raises(UserError, match="prompt is too long"):
        work.ask_all(Fake(*[bad] * 1000), many(1000))
    assert len([row for row in work.ledger if row["outcome"] == "refused"]) < 60


def test_the_cap_holds_with_many_in_flight_and_lost_answers(work):
    worst = Prices().worst_case(asking(1))
    cap = 30.4 * worst
    work.cap = cap

    class Watched(Fake):
        async def ask(self, request, attempt, heard=None):
            budget = work.budget
            assert budget.spent + budget.unknown + budget.reserved <= work.cap * (1 + 1e-6)
            assert budget.reserved >= (self.busy + 1) * worst * (1 - 1e-6)
            return await super().ask(request, attempt, heard)

    provider = Watched(*[Lost("dropped"), None] * 10, seconds=0.001)
    provider.usage = Usage(input=1500, output=900)
    with pytest.raises(CapReached, match="raise config.api.cap_usd"):
        work.ask_all(provider, many(2000))
    spent = work.budget.spent + work.budget.unknown
    assert cap - worst < spent <= cap  # and it is spent to the last request that fits
    work.cap = 1.5 * cap
    with pytest.raises(CapReached):
        work.ask_all(provider, many(2000))
    assert work.budget.spent + work.budget.unknown > cap  # the next process knows what the first one spent


def test_the_first_request_of_a_prompt_goes_alone_until_one_is_answered(work):
    class Caching(Fake):
        answered = 0

        async def ask(self, request, attempt, heard=None):
            assert self.answered or self.busy == 0
            reply = await super().ask(request, attempt, heard)
            self.answered += 1
            return reply

    provider = Caching(Lost("dropped"), BUSY, seconds=0.005, cached=True)
    assert len(work.ask_all(provider, many(40))) == 40
    assert provider.peak > 1


def test_two_that_ask_the_same_share_an_attempt(work):
    provider = Fake(seconds=0.02)

    async def use(client):
        return await asyncio.gather(*(client.ask(asking(1)) for _ in range(5)))

    assert len(set(work.run(provider, use))) == 1
    assert len(provider.bills) == 1


def test_requests_are_taken_as_they_are_sent(work):
    taken = []

    def requests():
        for request in many(1000):
            taken.append(request)
            yield request

    async def use(client):
        async for _ in client.ask_all(requests()):
            return len(taken)

    assert work.run(Fake(seconds=0.01), use) <= 3 * SETTINGS.concurrency


def test_an_error_of_who_makes_the_requests_ends_it_all(work):
    def requests():
        yield from many(3)
        raise UserError("row 4: bad")

    provider = Fake(seconds=0.02)
    with pytest.raises(UserError, match="row 4"):
        work.ask_all(provider, requests())
    assert work.outcomes() == {"answered": 3}


def test_interrupted_it_keeps_what_was_in_flight(work):
    provider = Fake(seconds=0.1)

    async def use(client):
        async def all_of_them():
            async for _ in client.ask_all(many(1000)):
                pass

        task = asyncio.create_task(all_of_them())
        await asyncio.sleep(0.05)
        task.cancel()  # as Ctrl-C does
        await asyncio.wait([task])
        assert task.cancelled()

    work.run(provider, use)
    assert work.outcomes() == {"answered": SETTINGS.concurrency}
    assert len(provider.bills) == SETTINGS.concurrency


def test_who_takes_too_long_to_answer_when_all_ends_is_unknown(work):
    provider = Fake(seconds=30.0)

    async def use(client):
        waiting = asyncio.create_task(client.ask(asking(1)))
        await asyncio.sleep(0.05)
        waiting.cancel()

    work.run(provider, use, dataclasses.replace(SETTINGS, leave_seconds=0.05))
    assert [(row["outcome"], row["error"]) for row in work.ledger] == [("unknown", "cancelled")]
    assert work.budget.unknown > 0


def test_an_overload_lowers_the_number_in_flight_and_headers_are_heard(work):
    class Telling(Fake):
        async def ask(self, request, attempt, heard=None):
            heard(Allowance({"requests": 0}, {"requests": 0.05}))
            return await super().ask(request, attempt, heard)

    async def use(client):
        await client.ask(asking(1))
        assert client.limits.limit == SETTINGS.concurrency // 2
        return client.limits._until

    assert work.run(Telling(BUSY), use) > 0


def test_batches_of_a_provider_that_has_none(work):
    provider = Fake()
    provider.batches = None
    with pytest.raises(UserError, match="fake has no batches"):
        work.ask_all(provider, many(1), batch=True)


def test_waits_double_and_end(monkeypatch):
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: high)
    backoff = retry.Backoff(9, 1.0)
    assert [backoff.after(BUSY, "x") for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    with pytest.raises(Unavailable):
        backoff.after(BUSY, "x")
    assert retry.Backoff(2, 1.0).after(Declined(429, "", "", retry_after=20.0), "x") == 20.0
