import asyncio
import dataclasses

import pytest

from data_gen.api.budget import CapReached
from data_gen.api.prices import Prices
from data_gen.api.provider import Declined, Failure, Lost, Unavailable
from data_gen.api.request import Reply, Usage
from data_gen.api.store import BatchStatus, Store
from msm_jax.cli import UserError
from tests.data_gen.api.support import QUICK, SETTINGS, Fake, asking, many

KEYS = [request.key for request in many(30)]


def batched(work, provider, requests, **changes):
    settings = dataclasses.replace(SETTINGS, batches=dataclasses.replace(QUICK, **changes))
    return work.ask_all(provider, requests, settings, batch=True)


def statuses(work):
    with Store(work.path) as store:
        return [(batch.provider_id, batch.status) for batch in store.batches()]


def leave(work, provider, requests, *, created):
    """What a process leaves that was killed before the answer to a batch's creation came."""

    async def main():
        with Store(work.path) as store:
            batch, written = store.intend([(r, Prices().worst_case(r, batch=True)) for r in requests])
            await written
            if created:
                await provider.create(requests, batch.id)

    asyncio.run(main())


def test_answers_come_by_their_keys_at_half_the_price(work):
    provider = Fake()
    replies = batched(work, provider, iter(many(30)), max_requests=7)
    assert sorted(r.key for r in replies) == sorted(KEYS)
    assert [len(made[1]) for made in provider.made.values()] == [7, 7, 7, 7, 2]
    price = Prices().price(replies[0].model, replies[0].usage, batch=True)
    assert work.budget.spent == pytest.approx(30 * price)
    assert work.budget.reserved == pytest.approx(0.0)
    assert {row["batch"] for row in work.ledger} == set(provider.made)
    assert {status for _, status in statuses(work)} == {BatchStatus.ENDED}
    assert len(batched(work, provider, many(30))) == 30
    assert len(provider.bills) == 30


def test_a_batch_is_no_larger_than_the_bytes_allowed(work):
    provider = Fake()
    batched(work, provider, many(30), max_bytes=10_500)
    assert [len(made[1]) for made in provider.made.values()] == [10, 10, 10]


def test_what_failed_is_asked_again_and_what_cannot_succeed_is_not(work):
    provider = Fake()
    kinds = ["invalid_request_error", "overloaded_error", "expired", "canceled"]
    provider.outcomes = dict(zip(KEYS, kinds, strict=False))
    outcomes = batched(work, provider, many(30))
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert [(f.key, f.kind) for f in failures] == [(KEYS[0], "invalid_request_error")]
    assert len(outcomes) == 30
    assert len(provider.made) == 2
    assert work.outcomes() == {"answered": 29, "refused": 4}
    assert {row["error"] for row in work.ledger if row["outcome"] == "refused"} == set(kinds)


def test_a_generator_s_failures_are_handed_back(work):
    provider = Fake()
    provider.outcomes = {KEYS[3]: "expired"}
    failures = [o for o in batched(work, provider, iter(many(30))) if isinstance(o, Failure)]
    assert failures == [Failure(KEYS[3], "expired", again=True)]
    assert len(provider.made) == 1


@pytest.mark.parametrize("polls", [1, 10])
def test_a_batch_that_was_created_before_the_crash_is_adopted(work, polls):
    provider = Fake()
    provider.polls = polls
    leave(work, provider, many(30), created=True)
    asyncio.run(provider.create([asking(i, "somebody else's") for i in range(30)], 0))  # the newest is looked at first
    outcomes = batched(work, provider, many(35))
    assert sorted(o.key for o in outcomes) == sorted(r.key for r in many(35))
    assert all(isinstance(o, Reply) for o in outcomes)
    assert {key: provider.bills.count(key) for key in KEYS} == dict.fromkeys(KEYS, 1)
    assert [len(made[1]) for made in provider.made.values()] == [30, 30, 5]
    assert statuses(work)[0] == ("batch_0", BatchStatus.ENDED)


def test_a_batch_that_was_never_created_is_asked_anew_once_it_would_have_appeared(work):
    provider = Fake()
    leave(work, provider, many(30), created=False)
    assert len(batched(work, provider, iter(many(30)))) == 30
    assert [len(made[1]) for made in provider.made.values()] == [30]
    assert work.outcomes() == {"refused": 30, "answered": 30}
    assert statuses(work) == [("", BatchStatus.REFUSED), ("batch_0", BatchStatus.ENDED)]
    assert work.budget.reserved == pytest.approx(0.0)


@pytest.mark.parametrize(
    "error", [Lost("dropped"), Declined(500, "api_error", "oops"), Declined(529, "overloaded_error", "busy")]
)
def test_a_batch_is_created_once_whatever_befalls_the_answer_to_its_creation(work, error):
    provider = Fake()
    provider.told_create.append(error)
    if isinstance(error, Declined) and error.status == 500:  # taken all the same

        async def create(requests, batch, original=provider.create):
            provider.told_create.clear()
            provider.create = original
            await original(requests, batch)
            raise error

        provider.create = create
    assert len(batched(work, provider, many(30))) == 30
    assert len(provider.made) == 1
    assert work.outcomes() == {"answered": 30}


def test_a_batch_that_is_declined_is_not_open(work):
    provider = Fake()
    provider.told_create.append(Declined(400, "invalid_request_error", "custom_id is odd", fatal=True))
    with pytest.raises(UserError, match="custom_id is odd"):
        batched(work, provider, many(30))
    assert statuses(work) == [("", BatchStatus.REFUSED)]
    assert work.outcomes() == {"refused": 30}
    assert work.budget.reserved == pytest.approx(0.0)


def test_a_killed_process_s_open_batch_is_watched_again(work):
    provider = Fake()
    provider.polls = 10**9

    async def crash(client):
        feeding = asyncio.create_task(anext(client.ask_all(many(30), batch=True)))
        while not provider.made or not client.store.batches()[0].provider_id:
            await asyncio.sleep(0.01)
        feeding.cancel()
        await asyncio.wait([feeding])

    work.run(provider, crash)
    assert statuses(work) == [("batch_0", BatchStatus.OPEN)]
    assert work.outcomes() == {"sent": 30}
    provider.polls = 1
    assert len(batched(work, provider, many(30))) == 30
    assert len(provider.made) == 1
    assert len(provider.bills) == 30


def test_asked_one_by_one_what_is_in_an_open_batch_is_not_asked_again(work):
    provider = Fake()
    leave(work, provider, many(30), created=True)
    assert len(work.ask_all(provider, many(40))) == 40
    assert sorted(provider.bills) == sorted(r.key for r in many(40))
    assert work.outcomes() == {"answered": 40}


def test_what_is_late_is_cancelled_and_what_was_answered_until_then_is_kept(work):
    provider = Fake()
    provider.polls = 10**9

    async def cancel(batch, original=provider.cancel):
        provider.outcomes = dict.fromkeys(KEYS[20:], "canceled")
        provider.made[batch][2] = 10**9  # it ends
        provider.polls = 1

    provider.cancel = cancel
    outcomes = batched(work, provider, iter(many(30)), max_hours=0.1 / 3600)
    assert sum(isinstance(o, Reply) for o in outcomes) == 20
    assert {o.kind for o in outcomes if isinstance(o, Failure)} == {"canceled"}
    assert work.outcomes() == {"answered": 20, "refused": 10}
    assert statuses(work) == [("batch_0", BatchStatus.ENDED)]
    assert work.budget.reserved == pytest.approx(0.0)


def test_results_that_break_off_are_fetched_again_and_counted_once(work):
    provider = Fake()
    whole = provider.results

    async def results(batch, broken=[True]):  # noqa: B006
        count = 0
        async for result in whole(batch):
            yield result
            count += 1
            if broken and count == 17:
                broken.clear()
                raise Lost("dropped")

    provider.results = results
    assert len(batched(work, provider, many(30))) == 30
    assert work.outcomes() == {"answered": 30}
    assert work.budget.spent == pytest.approx(30 * Prices().price("claude-haiku-5-5", provider.usage, batch=True))


def test_a_member_without_a_result_may_have_been_billed(work):
    provider = Fake()
    whole = provider.results

    async def results(batch):
        async for result in whole(batch):
            if result.key != KEYS[0]:
                yield result

    provider.results = results
    outcomes = batched(work, provider, iter(many(30)))
    assert [(o.key, o.kind) for o in outcomes if isinstance(o, Failure)] == [(KEYS[0], "no_result")]
    assert work.outcomes() == {"answered": 29, "unknown": 1}
    assert work.budget.unknown == pytest.approx(Prices().worst_case(asking(0), batch=True))


def test_the_cap_makes_batches_wait_for_one_another(work):
    worst = Prices().worst_case(asking(1), batch=True)
    work.cap = 10.5 * worst
    provider = Fake()
    provider.polls, provider.usage = 3, Usage(input=1500, output=900)
    create = provider.create

    async def watched(requests, batch):
        assert work.budget.spent + work.budget.unknown + work.budget.reserved <= work.cap * (1 + 1e-6)
        return await create(requests, batch)

    provider.create = watched
    with pytest.raises(CapReached):
        batched(work, provider, many(10_000))
    assert len(provider.made) > 3
    assert work.cap - worst < work.budget.spent <= work.cap


def test_a_provider_that_says_nothing_for_long_ends_it(work):
    provider = Fake()

    async def status(batch):
        raise Lost("dropped")

    provider.status = status
    with pytest.raises(Unavailable, match="the batch interface: dropped"):
        batched(work, provider, many(30), tries=3)
    assert statuses(work) == [("batch_0", BatchStatus.OPEN)]  # the next process finds it
