import asyncio

import pytest

from data_gen.api.budget import Budget, CapReached, YieldAlarm
from data_gen.api.store import Store


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "s" / "store.sqlite") as store:
        yield store


def test_it_waits_for_what_is_in_flight_and_then_says_what_is_spent(store):
    budget = Budget(1.0, store)

    async def main():
        await budget.reserve(0.6)
        waiting = asyncio.create_task(budget.reserve(0.5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        budget.settle(0.6, spent=0.1)
        await waiting
        budget.settle(0.5, unknown=0.5)
        with pytest.raises(CapReached, match=r"0.10 spent and at most 0.50 for lost answers.*config.api.cap_usd"):
            await budget.reserve(0.5)

    asyncio.run(main())
    assert budget.spent + budget.unknown + budget.reserved == pytest.approx(0.6)


def test_the_alarm_rings_when_a_dollar_keeps_much_less_than_in_the_pilot(store):
    budget = Budget(100.0, store, fraction=0.5, window_usd=2.0)

    def spend(usd, kept):
        assert budget.take(usd)
        budget.settle(usd, spent=usd)
        budget.kept(kept)

    spend(3.0, 0)  # before anything is expected
    budget.expect(10.0)
    spend(1.0, 9)
    spend(1.0, 2)  # 11 for 2 dollars: just enough
    spend(1.0, 5)
    with pytest.raises(YieldAlarm, match=r"kept 9 items, 4.50 per USD, and the pilot kept 10.00"):
        spend(1.0, 4)
