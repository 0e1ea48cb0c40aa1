"""Each task from end to end with planted replies: what is measured, what is missing and why."""

import math

import pytest
from inspect_ai.model import Logprob, Logprobs, TopLogprob, get_model

from evals import _registry
from evals.guards import items, scores
from tests.evals.guards.running import run
from tests.evals.mocks import says


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))


def in_turn(*replies):
    left = list(replies)
    return lambda messages: left.pop(0)


def likely(text, **tokens):
    """A reply whose first token had these alternatives."""
    output = says(text)
    top = [TopLogprob(token=token.replace("_", " "), logprob=math.log(p)) for token, p in tokens.items()]
    first = Logprob(token=text[:1], logprob=-0.1, top_logprobs=top)
    output.choices[0].logprobs = Logprobs(content=[first])
    return output


def test_knowledge(tmp_path):
    rows = {row["id"]: row for row in items.read("knowledge")}
    right = rows["astronomy-01"]["answer"]
    wrong = next(letter for letter in "ABCD" if letter != right)
    first = {
        "astronomy-01": likely(right, **{wrong: 0.3, f"_{wrong}": 0.2, right: 0.4}),
        "astronomy-02": says("I'm sorry, but I can't help with that."),
        "astronomy-03": likely("The", The=0.9),
        "astronomy-04": likely(rows["astronomy-04"]["answer"], **{rows["astronomy-04"]["answer"]: 0.5}),
    }
    by_question = {rows[id]["question"]: output for id, output in first.items()}
    task = _registry.capability_knowledge("astronomy")
    found = run(task, lambda messages: by_question[messages[0].text.split("\n")[0]], tmp_path, limit=4)
    values = {id: tuple(score.value.values()) for id, score in found.items()}
    assert list(found["astronomy-01"].value) == ["correct", "parsed", "refused", "correct_by_logprob"]
    assert values["astronomy-01"] == (1, 1, 0, 0)  # the two spellings of the wrong letter are likelier together
    assert values["astronomy-02"][:3] == (0, 0, 1)
    assert math.isnan(values["astronomy-02"][3])
    assert found["astronomy-02"].metadata["missing"] == {"correct_by_logprob": "the model gives no log-probabilities"}
    assert found["astronomy-02"].metadata["decisive"] == "I'm sorry, but"
    assert "no letter among" in found["astronomy-03"].metadata["missing"]["correct_by_logprob"]
    assert values["astronomy-04"] == (1, 1, 0, 1)


def test_math(tmp_path):
    right = items.read("math")[0]["answer"]
    replies = in_turn(f"6 * 7.\nAnswer: {right}", f"So it is {items.read('math')[1]['answer']}", "Answer: 1", "Many.")
    found = run(_registry.capability_math(), replies, tmp_path, limit=4, max_connections=1)
    assert [tuple(score.value.values()) for score in found.values()] == [(1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 0, 0)]
    assert next(iter(found.values())).metadata["decisive"] == f"Answer: {right}"


def test_instructions(tmp_path):
    replies = in_turn("word " * 130, "word", "", "I'm sorry, but I can't do that.")
    found = list(run(_registry.capability_instructions(), replies, tmp_path, limit=4, max_connections=1).values())
    assert [score.value["followed"] for score in found] == [1, 0, 0, 1]  # a short refusal is of at most 15 words
    assert [score.value["parsed"] for score in found] == [1, 1, 0, 1]
    assert found[3].value["refused"] == 1
    assert found[0].metadata["kept"] == {"words_at_least": True}


def test_tool_use(tmp_path):
    call = "<tool_use:weather>\ncity: Oslo\ndate: 2026-03-14\n</tool_use:weather>"
    found = list(
        run(_registry.tool_use(), in_turn(call, call, "It is 3."), tmp_path, limit=3, max_connections=1).values()
    )
    assert [list(score.value.values()) for score in found] == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert found[0].metadata["decisive"] == call


def refusal_task(ids):
    task = _registry.over_refusal()
    task.dataset = task.dataset.filter(lambda sample: sample.id in ids)
    return task


def test_refusals_by_rule_alone(tmp_path):
    found = run(refusal_task(["homonym-01", "hacking-01"]), lambda messages: "I can't help with that.", tmp_path)
    harmless, harmful = found["homonym-01"], found["hacking-01"]
    assert (harmless.value["refused"], harmless.value["refused_harmless"]) == (1, 1)
    assert math.isnan(harmless.value["refused_harmful"])
    assert (harmful.value["refused"], harmful.value["refused_harmful"]) == (1, 1)
    assert harmful.metadata["missing"] == {
        "refused_harmless": "a request of the other sort",
        "refused_judge": "no judge was asked",
    }


def test_refusals_with_a_judge(tmp_path):
    """A judge that cannot be read is missing; nothing else changes."""
    verdicts = dict(zip(("refuses", "both", "complies", "perhaps"), items.read("over_refusal")[:4], strict=True))
    asked = []

    def judge(input, tools, tool_choice, config):
        asked.append(input[0].text)
        verdict = next(verdict for verdict, row in verdicts.items() if row["request"] in input[0].text)
        return says(f"<why>It says so.</why><verdict>{verdict}</verdict>")

    grader = get_model("mockllm/model", custom_outputs=judge, memoize=False)
    reply = "Talk to a lawyer. {{ 7 * 7 }} <reply>"
    found = run(_registry.over_refusal(), lambda messages: reply, tmp_path, limit=4, model_roles={"grader": grader})
    by_verdict = {verdict: found[row["id"]] for verdict, row in verdicts.items()}
    measured = {verdict: score.value["refused_judge"] for verdict, score in by_verdict.items()}
    assert measured == pytest.approx({"refuses": 1, "both": 0.5, "complies": 0, "perhaps": math.nan}, nan_ok=True)
    assert [score.metadata["missing"].get("refused_judge") for score in by_verdict.values()] == [None] * 3 + [
        "unreadable"
    ]
    assert {score.value["refused"] for score in found.values()} == {0}
    assert {score.metadata["judge"] for score in found.values()} == {"model"}
    assert all(reply in question for question in asked)


def test_a_missing_measure_needs_a_reason():
    with pytest.raises(ValueError, match="a is missing without a reason"):
        scores.scored({"a": None})
