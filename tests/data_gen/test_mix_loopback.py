"""data_gen.mix against a failing server, killed once: exact sizes, and the ledger is the bill."""

import os
import signal
import subprocess
import sys
import time

import pytest

from data_gen import mix
from msm_jax import artifact
from tests.data_gen.test_mix import dataset, planted, rows
from tests.faults import generation
from tests.loopback.process import serve
from tests.toy import ROOT

SERVER = {"seed": 3, "responder": "data_gen.api.offline:reply", "retry_after": 0.0, "slow": 1.0, "faults": 0.1}


def test_the_bill_is_the_ledger_and_the_mix_is_whole(tmp_path, toy, monkeypatch):
    """Killed once in the middle, then run again."""
    files = dataset(tmp_path / "a.jsonl", rows("a", 90) + [planted(n, "denial") for n in range(20)])
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from configs.data import mix\n\ndef get_config():\n    config = mix.get_config()\n"
        f"    config.sources.a = mix.source(files={files!r}, rows=60)\n"
        "    config.sources.identity = mix.source(shape='identity', rows=40)\n    return config\n"
    )
    out = tmp_path / "mix"
    given = {"tokenizer": toy.tokenizer, "out": out, "api.cap_usd": 50.0, "approve": 50.0, "judge.batch": False,
             "api.concurrency": 16, "rows": 100}  # fmt: skip
    flags = [f"--config={recipe}", *(f"--config.{k}={v}" for k, v in given.items())]
    with serve(**SERVER, latency=5) as server:
        env = server.env | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen([sys.executable, "-m", "data_gen.mix", *flags], cwd=ROOT, env=env)
        while len(server.books()["billed"]) < 60:
            assert child.poll() is None
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not out.exists()
        for name, value in server.env.items():
            if name.startswith(("ANTHROPIC_", "NO_PROXY")):
                monkeypatch.setenv(name, value)
        mix.main(["", *flags])
        books = server.books()
    found = artifact.read_jsonl(out / "chats.jsonl")
    assert sorted(row["source"] for row in found) == ["a"] * 60 + ["identity"] * 40
    assert not [row for row in found if "[planted" in row["messages"][1]["content"]]
    ledger = artifact.read_jsonl(out / "ledger.jsonl")
    assert generation.bill(generation.Made({}, [], ledger, books, 0, 2, 0.0)) == []
    assert sum(books["faults"].values()) > 5
    assert artifact.read_manifest(out)["counts"]["cost_usd"] == pytest.approx(
        sum(row["cost"] for row in ledger), abs=1e-5
    )
