import asyncio
import errno
import sqlite3

import pytest

from data_gen.api import store as store_
from data_gen.api.request import Reply, Stop, Usage
from data_gen.api.store import BatchStatus, End, Outcome, Store
from msm_jax.cli import UserError
from tests.data_gen.api.support import asking, many


def reply_to(request, text="text", cost=0.25):
    return Reply(request.key, text, Stop.LENGTH, "model-2", Usage(1, 2, 3, 4, 5), "req_1", "", cost)


def test_answers_come_back_as_they_were_with_their_attempts_in_the_ledger(tmp_path):
    path = tmp_path / "s" / "store.sqlite"
    a, b, c = many(3)

    async def main(store):
        ids = [await store.sent(r, 0.5) for r in (a, b, c)]
        await store.end(End(ids[0], Outcome.ANSWERED, reply_to(a, "nul \0, é, 文")))
        await store.end(End(ids[1], Outcome.REFUSED, None, 429, "rate_limit_error"))
        await store.end(End(ids[2], Outcome.UNKNOWN, error="lost"))
        await store.put("plan", {"n": [1, 2]})

    with Store(path) as store:
        asyncio.run(main(store))
    with Store(path) as store:
        assert store.answer(a.key) == reply_to(a, "nul \0, é, 文")
        assert store.answer(b.key) is None
        assert list(store.answered("documents")) == [store.answer(a.key)]
        assert list(store.answered("other")) == []
        assert store.value("plan") == {"n": [1, 2]}
        assert store.value("none", 7) == 7
        assert store.money() == (0.25, 0.5, 0.0)
        totals = store.totals()["documents"]
        assert (totals["answered"], totals["refused"], totals["sent"]) == (1, 1, 0)
        assert (totals["output"], totals["cache_write_1h"], totals["usd"], totals["unknown_usd"]) == (5, 4, 0.25, 0.5)
        rows = list(store.ledger())
    assert [(r["outcome"], r["status"], r["error"]) for r in rows] == [
        ("answered", None, None), ("refused", 429, "rate_limit_error"), ("unknown", None, "lost")]  # fmt: skip
    assert rows[0]["request_id"] == "req_1"
    assert rows[0]["sent_at"] <= rows[0]["ended_at"]


def test_pages_do_not_show(tmp_path, monkeypatch):
    monkeypatch.setattr(store_, "PAGE", 3)
    with Store(tmp_path / "s" / "store.sqlite") as store:

        async def main():
            for r in many(7):
                await store.end(End(await store.sent(r, 0.0), Outcome.ANSWERED, reply_to(r)))

        asyncio.run(main())
        assert [r.key for r in store.answered("documents")] == [r.key for r in many(7)]
        assert [row["id"] for row in store.ledger()] == [1, 2, 3, 4, 5, 6, 7]


def test_what_a_killed_process_had_sent_directly_is_unknown_and_its_batches_stay_open(tmp_path):
    path = tmp_path / "s" / "store.sqlite"
    direct, *members = many(3)

    async def main(store):
        await store.sent(direct, 0.5)
        batch, written = store.intend([(r, 0.25) for r in members])
        await written
        await store.created(batch, "batch_x")

    with Store(path) as store:
        asyncio.run(main(store))
    with Store(path) as store:
        assert [r["outcome"] for r in store.ledger()] == ["unknown", "sent", "sent"]
        assert [r["batch"] for r in store.ledger()] == [None, "batch_x", "batch_x"]
        assert store.money() == (0.0, 0.5, 0.5)
        assert [store.in_batch(r.key) for r in (direct, *members)] == [False, True, True]
        (batch,) = store.batches()
        assert (batch.provider_id, batch.members, batch.status) == ("batch_x", 2, BatchStatus.OPEN)
        assert set(store.members(batch)) == {r.key for r in members}


def test_an_answer_and_the_end_of_its_attempt_are_one_transaction(tmp_path):
    path = tmp_path / "s" / "store.sqlite"
    request = asking(1)
    with Store(path) as store:
        store._writer.execute(  # the second statement of the transaction fails
            "CREATE TRIGGER no BEFORE UPDATE ON attempts BEGIN SELECT raise(abort, 'no'); END"
        )

        async def main():
            attempt = await store.sent(request, 0.5)
            await store.end(End(attempt, Outcome.ANSWERED, reply_to(request)))

        with pytest.raises(sqlite3.IntegrityError):
            asyncio.run(main())
        assert store.answer(request.key) is None
        assert [row["outcome"] for row in store.ledger()] == ["sent"]


def test_the_first_end_and_the_first_answer_count(tmp_path):
    request = asking(1)
    with Store(tmp_path / "s" / "store.sqlite") as store:

        async def main():
            one, two = await store.sent(request, 0.5), await store.sent(request, 0.5)
            await store.end(End(one, Outcome.ANSWERED, reply_to(request, "first")))
            await store.end(End(one, Outcome.UNKNOWN), End(two, Outcome.ANSWERED, reply_to(request, "second")))

        asyncio.run(main())
        assert store.answer(request.key).text == "first"
        assert store.money() == (0.5, 0.0, 0.0)  # both were paid


def test_many_writers_share_a_commit(tmp_path):
    with Store(tmp_path / "s" / "store.sqlite") as store:
        commits = []
        store._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

        async def main():
            await asyncio.gather(*(store.sent(r, 0.0) for r in many(500)))

        asyncio.run(main())
        assert len(list(store.ledger())) == 500
        assert len(commits) < 50


def test_a_full_disk_is_told_as_one(tmp_path):
    with Store(tmp_path / "s" / "store.sqlite") as store:
        store._writer.execute("PRAGMA max_page_count = 20")

        async def main():
            for r in many(100):
                await store.end(End(await store.sent(r, 0.0), Outcome.ANSWERED, reply_to(r, "x" * 5000)))

        with pytest.raises(OSError, match="No space left") as error:
            asyncio.run(main())
        assert error.value.errno == errno.ENOSPC


def test_who_may_not_have_it(tmp_path):
    path = tmp_path / "s" / "store.sqlite"
    with Store(path), pytest.raises(UserError, match="another process is at work"):
        Store(path)
    with pytest.raises(UserError, match="local disk"):
        Store("gs://bucket/store.sqlite")
    foreign = tmp_path / "t" / "store.sqlite"
    foreign.parent.mkdir()
    foreign.write_bytes(b"no database at all, but long enough to be read as one" * 100)
    with pytest.raises(UserError, match="not a store of answers"):
        Store(foreign)
    sqlite3.connect(tmp_path / "t" / "other.sqlite").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(UserError, match="another version"):
        Store(tmp_path / "t" / "other.sqlite")
