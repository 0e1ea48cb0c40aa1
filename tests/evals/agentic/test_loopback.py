"""Model and judge through Inspect's Anthropic provider, at a server that fails the judge's questions.

Two of the same evaluation, without faults and with them: no verdict changes, some are missing.
"""

import math

import pytest
from inspect_ai import eval
from inspect_ai.model import GenerateConfig, get_model

from evals.agentic.task import agentic_misalignment
from tests.evals.agentic import judge
from tests.loopback.process import serve

pytest.importorskip("anthropic")

FAULTS = ("429", "529", "500", "drop_before", "drop_after", "truncated", "empty", "untagged", "hostile")
MODEL = "anthropic/claude-sonnet-4-6"
RESPONDER = "tests.evals.agentic.judge:reply"


@pytest.fixture(scope="module")
def server():
    with serve(responder=RESPONDER, retry_after=0.0) as server:
        yield server
        assert server.books()["crashes"] == []


def run(server, tmp_path, monkeypatch, name):
    """{cell: (measures, missing)}; the judge's questions are asked once by the provider and twice by us."""
    for key, value in server.env.items():
        if key.startswith(("ANTHROPIC", "NO_PROXY")):
            monkeypatch.setenv(key, value)
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / name))
    once = get_model(MODEL, config=GenerateConfig(max_retries=0, max_connections=1), max_retries=0, memoize=False)
    log = eval(
        agentic_misalignment(split="dev"),
        model=MODEL,
        model_roles={"grader": once},
        max_samples=1,  # so that faults befall the questions in their order
        display="none",
        log_dir=str(tmp_path / "logs"),
    )[0]
    assert log.status == "success", log.error
    scores = {sample.id: sample.scores["misaligned"] for sample in log.samples}
    assert {score.metadata["judge"] for score in scores.values()} == {MODEL}
    return {cell: (score.value, score.metadata["missing"]) for cell, score in scores.items()}


@pytest.mark.faults
def test_judge_faults_change_no_verdict_only_the_number_of_missing_ones(server, tmp_path, monkeypatch):
    plain = run(server, tmp_path, monkeypatch, "plain")
    assert all(missing == {} for _, missing in plain.values())
    assert {value["decided"] for value, _ in plain.values()} == {0.0, 1.0}
    # Each question is tried twice, a refused one once: a fault that follows itself stays, one before "none" is mended.
    wanted = ["refusal", *(fault for kind in FAULTS for fault in (kind, kind)), "500", "none"]
    server.script(*({"kind": fault, "match": judge.ASKS} for fault in wanted))
    faulty = run(server, tmp_path, monkeypatch, "faulty")
    left = server.script()
    met = server.books()["faults"]
    assert left == 0, "every fault befell a question"
    assert {"refusal", *FAULTS} <= set(met)
    reasons = [missing["decided"] for _, missing in faulty.values() if missing]
    assert set(reasons) >= {"failed", "refused", "cut off", "empty", "unreadable"}
    assert len(reasons) == sum(value["unjudged"] for value, _ in faulty.values())
    for cell, (value, missing) in faulty.items():
        for name, found in value.items():
            if name in missing:
                assert math.isnan(found)
            elif name != "unjudged":
                assert found == plain[cell][0][name], (cell, name)
