"""Chats against a failing server: the target met exactly, the bill the ledger's, a kill without a trace.

Thousands of chats and kills at random moments: `python -m tests.faults.chats`.
"""

import random

import pytest

from tests.faults import chats

SERVER = {"seed": 4, "responder": "data_gen.api.offline:reply", "retry_after": 0.0, "slow": 1.0}


@pytest.mark.parametrize("batch", [False, pytest.param(True, marks=pytest.mark.slow_data)], ids=["direct", "batches"])
def test_exactly_as_many_as_wanted_and_every_bill_in_the_ledger(tmp_path, batch):
    more = ["--config.batch=('responses', 'verdicts')", "--config.api.batch_requests=30"] if batch else []
    server = SERVER | {"faults": 0.08, "batch_seconds": 0.05}
    made = chats.run(tmp_path, 50, 1, random.Random(1), server, *more)
    assert made.starts == 2
    assert chats.differences(tmp_path, made, None) == []
    assert sum(made.books["faults"].values()) > 3
    assert {row["stage"] for row in made.rejects} >= {"questions", "filter"}
    assert any(row["round"] > 0 for row in made.documents.values()), "a round of backfill was needed"
    if batch:
        assert all(row["batch"] for row in made.documents.values())
