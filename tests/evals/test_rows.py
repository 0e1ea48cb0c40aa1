"""Logs become rows: nothing is skipped silently, and a value that is missing stays missing."""

import math

import inspect_ai
import pytest
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import generate

from evals import rows
from tests.evals import sweeping


def evaluate(task, model, log_dir, **more):
    return inspect_ai.eval(task, model=model, display="none", log_dir=str(log_dir), log_level="error", **more)[0]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """plain_choice twice over: as a sweep writes it, and of other making, in which two samples fail."""
    root = tmp_path_factory.mktemp("logs")
    facts = {"label": "plain_choice:cells=a", "arm": "msm", "seed": 20, "checkpoint": 7}
    evaluate(sweeping.plain_choice("a"), "scripted/3", root / "x" / "y", metadata=facts)
    sweeping.Scripted.broken = {"Item 3 of b", "Item 4 of b"}
    evaluate(sweeping.plain_choice("b"), "scripted/3", root / "z", fail_on_error=False)
    sweeping.Scripted.broken = set()
    (root / "z" / "broken.eval").write_bytes(b"PK\x03\x04 and no more")
    return root


def test_a_row_says_where_it_is_from(logs):
    found = [row for row in rows.read(logs).rows if row["task"] == "plain_choice:cells=a"]
    assert len(found) == 20
    row = next(row for row in found if row["sample"] == "a-3" and row["epoch"] == 2)
    assert {key: row[key] for key in ("arm", "seed", "model", "checkpoint", "cell", "item", "split", "error")} == {
        "arm": "msm", "seed": 20, "model": "scripted/3", "checkpoint": 7, "cell": "a", "item": "a-3", "split": "dev",
        "error": "",
    }  # fmt: skip
    assert row["log"].startswith("x/y/")
    assert set(row["measures"]) == {"yes", "parsed"}
    assert row["decisive"] == ("yes" if row["measures"]["yes"] else "")


def test_a_log_of_other_making_has_its_model_as_arm(logs):
    found = [row for row in rows.read(logs).rows if row["task"] == "plain_choice"]
    assert {(row["arm"], row["seed"], row["checkpoint"]) for row in found} == {("scripted/3", 0, None)}


def test_what_has_no_row_or_value_is_counted(logs):
    counts = rows.read(logs).counts
    assert (counts["logs"], counts["samples"], counts["expected"]) == (2, 40, 40)
    assert counts["errors"] == {"RuntimeError('the model broke')": 4}
    assert counts["unscored"] == 0
    assert list(counts["unreadable"]) == ["z/broken.eval"]


def test_of_a_retried_evaluation_the_finished_log_counts(tmp_path):
    sweeping.Scripted.broken = {"Item 3 of a"}
    failed = evaluate(sweeping.plain_choice("a"), "scripted/3", tmp_path)
    sweeping.Scripted.broken = set()
    inspect_ai.eval_retry(failed, display="none", log_dir=str(tmp_path), log_level="error")
    found = rows.read(tmp_path)
    assert (len(found.rows), found.counts["superseded"], found.counts["unfinished"]) == (20, 1, {})


def test_values_of_every_kind(tmp_path):
    values = {"nan": math.nan, "letter": "C", "word": "maybe", "none": "N", "true": True, "number": 7, "inf": math.inf}

    @scorer(metrics={"*": [mean()]}, name="all_kinds")
    def all_kinds():
        async def score(state, target):
            return Score(value=values, metadata={"missing": {"nan": "refused"}, "decisive": "x", "judge": "j"})

        return score

    @scorer(metrics=[mean()], name="plain")
    def plain():
        async def score(state, target):
            return Score(value=0.5)

        return score

    task = Task(dataset=[Sample("q")], solver=generate(), scorer=[all_kinds(), plain()], name="kinds")
    evaluate(task, get_model("scripted/3"), tmp_path)
    (row,) = rows.read(tmp_path).rows
    assert row["measures"] == {
        "nan": None, "letter": 1.0, "word": None, "none": None, "true": 1.0, "number": 7.0, "inf": None, "plain": 0.5
    }  # fmt: skip
    assert row["missing"] == {"nan": "refused"} | dict.fromkeys(("word", "none", "inf"), "no reason given")
    assert (row["decisive"], row["judge"], row["cell"], row["item"]) == ("x", "j", "", "1")
    assert rows.read(tmp_path).counts["missing"]["kinds"]["nan"] == {"refused": 1}


def test_no_logs_are_no_rows(tmp_path):
    assert rows.read(tmp_path).rows == []
