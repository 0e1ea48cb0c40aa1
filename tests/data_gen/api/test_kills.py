"""Kills at odd moments, with faults: what the server bills is what the ledger says, to the request."""

import collections
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from data_gen.api.store import Store
from tests.data_gen.api.support import SETTINGS, many
from tests.loopback.process import serve

KILLS = 3


@pytest.fixture(scope="module")
def asker():
    command = [sys.executable, "-m", "tests.data_gen.api.asker"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ANTHROPIC_")}
    env = clean | {"PYTHONPATH": ".", "ANTHROPIC_API_KEY": "loopback", "NO_PROXY": "127.0.0.1"}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize("mode", ["direct", "batch"])
def test_killed_at_random_nothing_is_lost_and_no_more_is_paid_twice_than_was_in_flight(tmp_path, asker, mode):
    count, chance = 200, random.Random(mode)
    with serve(faults=0.05, only="429,529,500,drop_before,drop_after,orphan,errored,expired,canceled", seed=3,
               retry_after=0.1, latency=20, batch_seconds=0.3) as server:  # fmt: skip

        def start():
            asker.stdin.write(f"{tmp_path} {count} {mode} {server.url}\n")
            asker.stdin.flush()
            return int(asker.stdout.readline())

        for _ in range(KILLS):
            child = start()
            time.sleep(chance.uniform(0.05, 0.5))
            os.kill(child, signal.SIGKILL)
            assert asker.stdout.readline() == "ended\n", "too late: it was done"
        start()
        assert [asker.stdout.readline() for _ in range(2)] == ["done\n", "ended\n"]
        books = server.books()
    assert not books["crashes"]
    with Store(tmp_path / "store.sqlite") as store:
        rows = list(store.ledger())
        assert {reply.key for reply in store.answered(mode)} == {request.key for request in many(count, mode)}
    assert not [row for row in rows if row["outcome"] == "sent"]
    billed = books["billed"]
    if mode == "direct":
        name, mine = "request", {row["id"]: str(row["id"]) for row in rows}
    else:  # a member of a batch is its key in that batch
        name, mine = "custom_id", {row["id"]: (row["batch"], row["key"]) for row in rows}
    theirs = collections.Counter(row[name] if mode == "direct" else (row["batch"], row["custom_id"]) for row in billed)
    by_outcome = {
        outcome: {mine[row["id"]] for row in rows if row["outcome"] == outcome} for outcome in ("answered", "unknown")
    }
    assert set(theirs.values()) == {1}
    assert by_outcome["answered"] <= theirs.keys()
    assert theirs.keys() <= by_outcome["answered"] | by_outcome["unknown"]
    drops = books["faults"].get("drop_after", 0)
    allowed = KILLS * SETTINGS.concurrency + drops if mode == "direct" else 0
    assert len(billed) - count <= allowed
