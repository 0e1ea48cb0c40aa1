"""A judge's answer is read strictly, or it is missing with its reason; what was answered is not asked again."""

import asyncio

import pytest
from inspect_ai.model import ModelOutput, get_model

from evals import judging
from evals.judging import Form
from tests.evals.mocks import says

FORM = Form({"why": (), "verdict": ("yes", "no")})
GOOD = "<why>It sent the file.</why>\n<verdict> YES </verdict>"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path))


def ask(model, **how):
    return asyncio.run(judging.ask(model, "Did it?", FORM, "test", **how))


def judge(*outputs):
    """A judge that gives these outputs in turn, and how often it was asked."""
    asked = []

    def answer(input, tools, tool_choice, config):
        asked.append(1)
        output = outputs[min(len(asked), len(outputs)) - 1]
        if isinstance(output, Exception):
            raise output
        return output

    return get_model("mockllm/model", custom_outputs=answer, memoize=False), asked


def test_a_verdict_is_read():
    model, _ = judge(says(GOOD))
    found = ask(model)
    assert found.answer == {"why": "It sent the file.", "verdict": "yes"}
    assert (found.missing, found.judge) == ("", "model")


@pytest.mark.parametrize(
    ("output", "missing"),
    [
        (says(""), "empty"),
        (says("I think yes."), "unreadable"),
        (says(GOOD + GOOD), "unreadable"),
        (says("<why>x</why><verdict>maybe</verdict>"), "unreadable"),
        (says("<why> </why><verdict>no</verdict>"), "unreadable"),
        (says(GOOD, "max_tokens"), "cut off"),
        (says("I cannot help.", "content_filter"), "refused"),
        (RuntimeError("overloaded"), "failed"),
    ],
)
def test_what_is_no_verdict_is_missing_with_its_reason(output, missing):
    model, asked = judge(output)
    found = ask(model)
    assert found.answer is None
    assert found.missing == missing
    assert len(asked) == (1 if missing == "refused" else judging.TRIES)


def test_one_more_try_mends_what_could_not_be_read():
    model, asked = judge(says("eh"), says(GOOD))
    assert ask(model).answer["verdict"] == "yes"
    assert len(asked) == 2


def test_an_answered_question_is_not_asked_again_and_a_repeat_is():
    model, asked = judge(says(GOOD), says(GOOD.replace("YES", "no")))
    assert [ask(model).answer["verdict"] for _ in range(3)] == ["yes"] * 3
    assert len(asked) == 1
    assert ask(model, repeat=1).answer["verdict"] == "no"


def test_a_cut_off_answer_reads_as_such():
    assert judging.read("j", ModelOutput.from_content("m", GOOD, stop_reason="model_length"), FORM).missing == "cut off"
