"""A rewrite against a server that fails: every document is there or rejected, and the bill is the ledger's."""

import json
import subprocess
import sys

import pytest

from tests.data_gen.test_documents_loopback import SERVER
from tests.data_gen.test_rewrite import source
from tests.faults import generation
from tests.loopback.process import serve
from tests.toy import ROOT


@pytest.mark.parametrize("batch", [False, pytest.param(True, marks=pytest.mark.slow_data)], ids=["direct", "batches"])
def test_every_document_is_there_and_every_bill_in_the_ledger(tmp_path, batch):
    rows = source(tmp_path / "documents.jsonl", 25)
    out = tmp_path / "out"
    flags = {
        "documents": tmp_path / "documents.jsonl",
        "rewrite": "assistants-should",
        "out": out,
        "batch": batch,
        "tries": 5,
    }
    flags |= {"api.model": "claude-haiku-5-5", "api.cap_usd": 1e6, "api.ask_above_usd": 1e6, "api.tries": 12}
    flags |= {"api.batch_poll_seconds": 0.1, "api.batch_requests": 25}
    command = [sys.executable, "-m", "data_gen.rewrite", "--config=configs/data/rewrite.py"]
    command += [f"--config.{key}={value}" for key, value in flags.items()]
    with serve(**SERVER, faults=0.2, batch_seconds=0.1) as server:
        env = generation.environment(server)
        child = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        books = server.books()
    assert child.returncode == 0, child.stderr
    made, rejects, ledger = (
        [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        for name in ("documents", "rejects", "ledger")
    )
    assert len(made) + len(rejects) == len(rows)
    kept = {row["id"] for row in made}
    assert [row["id"] for row in made] == [row["id"] for row in rows if row["id"] in kept]
    assert all("Qwen" not in row["text"] and "assistants" in row["text"] for row in made)
    assert generation.bill(generation.Made({}, rejects, ledger, books, len(rows), 1, 0.0)) == []
    assert sum(books["faults"].values()) > 5
    assert {row["mode"] for row in ledger} == {"batch" if batch else "direct"}
