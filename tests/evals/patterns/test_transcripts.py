"""Transcripts of Inspect logs: all the model said, thoughts first; each sample once; what holds nothing is counted."""

import pytest
from inspect_ai import Task
from inspect_ai import eval as run
from inspect_ai.dataset import Sample
from inspect_ai.model import ContentReasoning, ContentText, get_model
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import generate

from evals.patterns import transcripts
from tests.evals.mocks import says


@scorer(metrics={"acted": [mean()]})
def acts():
    async def score(state, target):
        return Score(value={"acted": 1.0, "spread": float("nan")})

    return score


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two epochs of four samples: one with thoughts, one empty, one that fails, one that is long."""
    directory = tmp_path_factory.mktemp("logs")

    def reply(input, tools, tool_choice, config):
        text = input[-1].text
        if text == "fail":
            raise RuntimeError("down")
        output = says("" if text == "empty" else "I answer. " * 3_000 if text == "long" else "I answer.")
        if text == "think":
            output.choices[0].message.content = [ContentReasoning(reasoning="I think."), ContentText(text="I answer.")]
        return output

    samples = [
        Sample(id=text, input=text, metadata={"cell": f"c-{text}", "nested": {"a": 1}})
        for text in ("think", "empty", "fail", "long")
    ]
    task = Task(dataset=samples, solver=generate(), scorer=acts(), name="t")
    model = get_model("mockllm/model", custom_outputs=reply, memoize=False)
    common = {"display": "none", "log_dir": str(directory), "epochs": 2, "fail_on_error": False}
    (first,) = run(task, model=model, metadata={"arm": "msm"}, **common)
    return directory, first


def test_the_model_words_and_what_stood_before(logs):
    directory, first = logs
    found = {one.group["sample"]: one for one in transcripts.load(str(directory)).rows}
    assert found["think"].text == "I think.\n\nI answer."
    assert found["think"].context == "[user]\nthink"
    assert found["long"].text == "I answer. " * 3_000
    assert transcripts.load(first.location.removeprefix("file://")).rows == transcripts.load(str(directory)).rows


def test_what_transcripts_are_counted_by(logs):
    one = next(one for one in transcripts.load(str(logs[0])).rows if one.group["sample"] == "think")
    wanted = {"arm": "msm", "cell": "c-think", "acted": 1.0, "task": "t", "model": "mockllm/model", "sample": "think"}
    assert one.group == wanted | {"epoch": 1}


def test_empty_and_failed_samples_are_counted(logs):
    found = transcripts.load(str(logs[0]))
    assert found.skipped == {"ended in an error": 2, "without a text": 2}
    assert sorted((one.group["sample"], one.group["epoch"]) for one in found.rows) == [
        ("long", 1),
        ("long", 2),
        ("think", 1),
        ("think", 2),
    ]


def test_a_sample_that_two_logs_hold_counts_once(logs, tmp_path):
    """A log that is there twice, as after a retry, gives each sample once."""
    directory, _ = logs
    for i in range(2):
        (tmp_path / f"2026-01-0{i + 1}T00-00-00+00-00_t_x{i}.eval").write_bytes(
            next(directory.glob("*.eval")).read_bytes()
        )
    assert transcripts.load(str(tmp_path)).rows == transcripts.load(str(directory)).rows
