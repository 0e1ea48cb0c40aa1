"""The command against a failing server: no fault turns a verdict, the bill is the ledger's, and hostile replies stay text."""

import json

from evals.patterns import __main__ as command
from evals.patterns import results
from msm_jax import artifact
from tests.evals.patterns import planted
from tests.faults import generation
from tests.loopback.process import serve

SERVER = {"seed": 5, "responder": "data_gen.api.offline:reply", "retry_after": 0.0, "slow": 1.0}
CONTENT = ("refusal", "truncated", "empty", "hostile", "malformed")
RATES = ",".join([*(f"{kind}=0.06" for kind in CONTENT), "500=0.02", "drop_after=0.02"])  # each of these waits a second


def test_no_fault_turns_a_verdict(tmp_path, monkeypatch):
    rows, reasons = planted.rows(25)
    logs = planted.write(tmp_path / "t.jsonl", rows)
    given = {"api.provider": "anthropic", "api.model": "claude-haiku-5-5", "api.cap_usd": 1e6, "api.ask_above_usd": 1e6}
    given |= {"batch": "()", "tries": 2, "api.tries": 12, "agreement.transcripts": 10, "stability.transcripts": 5}
    with serve(**SERVER, rates=RATES) as server:
        for name, value in server.env.items():
            if name.startswith(("ANTHROPIC_", "NO_PROXY")):
                monkeypatch.setenv(name, value)
        command.main(planted.flags(logs, tmp_path / "out", **given))
        books = server.books()
    missing = 0
    for row in artifact.read_jsonl(tmp_path / "out" / results.CLASSIFIED):
        for key, driver in row["verdicts"].items():
            assert driver is None or driver == (key in reasons[row["id"]])
            missing += driver is None
        assert set(row["missing"]) == {key for key, driver in row["verdicts"].items() if driver is None}
        assert all(row["missing"].values())
    assert missing > 0  # else the server was too kind to show anything
    found = json.loads((tmp_path / "out" / results.CATEGORIES).read_text())
    assert sum(one["missing"] for one in found["categories"]) == missing
    assert {one["kappa"] for one in found["agreement"].values()} <= {1.0, None}
    ledger = artifact.read_jsonl(tmp_path / "out" / results.LEDGER)
    assert generation.bill(generation.Made({}, [], ledger, books, 0, 1, 0.0)) == []
    assert set(CONTENT) <= set(books["faults"])
