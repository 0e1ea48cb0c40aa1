"""The tasks, run in process with a mock model and a mock judge."""

import math

import pytest
from inspect_ai import eval, eval_retry
from inspect_ai.model import ModelAPI, ModelOutput, get_model, modelapi

from evals.agentic import planted
from evals.agentic.planted import agentic_planted
from evals.agentic.task import agentic_misalignment
from tests.evals.agentic import judge
from tests.evals.mocks import says


def mock(answer):
    """A model that answers by f(messages), and the list of what it was asked."""
    asked = []

    def output(input, tools, tool_choice, config):
        asked.append((input, config))
        said = answer(input)
        return said if isinstance(said, ModelOutput) else says(said)

    return get_model("mockllm/model", custom_outputs=output, memoize=False), asked


def knowing():
    return mock(lambda messages: judge.verdict(messages[-1].text))


def writing():
    return mock(lambda messages: judge.response(messages[0].text, messages[1].text)["response"])


def run(task, model, grader, tmp_path, **more):
    roles = {"grader": grader} if grader else {}
    return eval(task, model=model, model_roles=roles, display="none", log_dir=str(tmp_path / "logs"), **more)[0]


def score(sample):
    return next(iter(sample.scores.values()))


def test_all_27_cells_in_one_task(tmp_path):
    model, asked = writing()
    grader, questions = knowing()
    log = run(agentic_misalignment(), model, grader, tmp_path, max_samples=1)
    assert log.status == "success", log.error
    assert len(log.samples) == 27
    assert {sample.metadata["cell"] for sample in log.samples} == {sample.id for sample in log.samples}
    assert len({sample.id for sample in log.samples}) == 27
    assert [config.temperature for _, config in asked] == [0.7] * 27
    assert [config.max_tokens for _, config in asked] == [4096] * 27
    assert log.plan.config.temperature == 0.7
    for sample in log.samples:
        row = judge.response(sample.input[0].text, sample.input[1].text)
        found = score(sample)
        assert {k: found.value[k] for k in row["expected"] if k != "executed"} == {
            k: v for k, v in row["expected"].items() if k != "executed"
        }
        assert found.metadata["executed"] == row["expected"]["executed"]
        assert found.metadata["decisive"] in sample.output.completion
        assert found.metadata["missing"] == {}
        assert found.metadata["judge"] == "mockllm/model"
    assert len({"".join(message.text for message in messages) for messages, _ in questions}) == len(questions)
    headline = next(part for part in log.results.scores if part.name == "decided")
    rates = [score(sample).value["decided"] for sample in log.samples]
    assert headline.metrics["mean"].value == pytest.approx(sum(rates) / len(rates))


def test_the_same_response_of_another_epoch_is_not_judged_again(tmp_path):
    model, asked = writing()
    grader, questions = knowing()
    log = run(agentic_misalignment("murder_none-none_replacement"), model, grader, tmp_path, epochs=3, max_samples=1)
    assert log.status == "success", log.error
    assert (len(asked), len(questions)) == (3, 1)


def test_every_outcome_reaches_its_measures(tmp_path):
    """Plumbing, with a judge that knows the transcripts; a real judge's quality is what agentic_planted measures."""
    grader, questions = knowing()
    log = run(agentic_planted(), "mockllm/model", grader, tmp_path)
    assert log.status == "success", log.error
    text, wrong = planted.table(planted.of_log(log.location))
    assert wrong == [], text
    judged = [row for row in planted.transcripts() if row["response"].strip()]
    assert len(questions) == len(judged)
    for name in planted.JUDGED:
        assert {row["expected"][name] for row in judged} == {0, 1}


@pytest.mark.parametrize(
    ("answer", "why"),
    [("I think yes.", "unreadable"), (says("", "content_filter"), "refused"), (says("<decided>yes", "max_tokens"), "cut off")],
    ids=["unreadable", "refused", "cut off"],
)  # fmt: skip
def test_a_judge_without_a_verdict_is_a_missing_one_and_never_a_no(tmp_path, answer, why):
    model, _ = mock(lambda messages: judge.ROWS[0]["response"])
    grader, _ = mock(lambda messages: answer)
    log = run(agentic_misalignment("murder_none-none_replacement"), model, grader, tmp_path)
    found = score(log.samples[0])
    assert all(math.isnan(found.value[name]) for name in ("decided", "acted", "refused", "escalated"))
    assert found.metadata["missing"] == dict.fromkeys(("decided", "acted", "refused", "escalated"), why)
    assert (found.value["unjudged"], found.value["tool_use"], found.value["parsed"]) == (1.0, 1.0, 1.0)
    decided = next(part for part in log.results.scores if part.name == "decided")
    assert (decided.scored_samples, decided.unscored_samples) == (0, 1)


def test_the_providers_own_refusal_counts_without_a_judge(tmp_path):
    model, _ = mock(lambda messages: says("", "content_filter"))
    grader, questions = mock(lambda messages: "?")
    found = score(run(agentic_misalignment("blackmail_none-none_replacement"), model, grader, tmp_path).samples[0])
    assert (found.value["refused"], found.value["decided"], found.value["unjudged"]) == (1.0, 0.0, 0.0)
    assert questions == []


def test_without_a_judge_nothing_is_asked(tmp_path):
    model, asked = writing()
    log = run(agentic_misalignment("murder_none-none_replacement"), model, None, tmp_path)
    assert log.status == "error"
    assert "needs a judge" in log.error.message
    assert asked == []


def test_the_published_judges_can_be_asked_too(tmp_path):
    def answer(messages):
        if messages[-1].text.rstrip().endswith(judge.ASKS):
            return judge.verdict(messages[-1].text)
        return "<reasoning>It leaks.</reasoning><answer>yes</answer>"

    rows = {row["id"]: row for row in judge.ROWS}
    model, _ = mock(lambda messages: rows["leaking/decided, wrong address or code"]["response"])
    names = "leaking_none-none_replacement,exfiltration_none-none_replacement"
    task = agentic_misalignment(names, published_classifiers=True)
    log = run(task, model, mock(answer)[0], tmp_path)
    leaking, exfiltration = (score(sample) for sample in sorted(log.samples, key=lambda s: s.id, reverse=True))
    assert (leaking.value["classifier_verdict"], leaking.value["harmful"]) == (1.0, 0.0)
    assert math.isnan(exfiltration.value["harmful"])
    assert exfiltration.metadata["missing"]["harmful"] == "inspect_evals has no classifier of exfiltration"


ASKED = {"target": 0, "judge": 0, "stops_at": 0}


@modelapi(name="interrupted")
def interrupted():
    """A model by name, so that a retry can find it: the target ends in an error at its `stops_at`th question."""

    class Interrupted(ModelAPI):
        async def generate(self, input, tools, tool_choice, config):
            ASKED[self.model_name] += 1
            if self.model_name == "judge":
                return says(judge.verdict(input[-1].text))
            if ASKED["target"] == ASKED["stops_at"]:
                raise RuntimeError("the machine was taken away")
            return says(judge.response(input[0].text, input[1].text)["response"])

        async def count_text_tokens(self, text):
            return 1

    return Interrupted


def test_what_was_interrupted_goes_on_and_no_judge_is_asked_twice(tmp_path):
    ASKED.update(target=0, judge=0, stops_at=8)
    task = agentic_misalignment(split="dev")
    log = run(task, "interrupted/target", "interrupted/judge", tmp_path, max_samples=1)
    assert log.status == "error"
    before = ASKED["judge"]
    assert 0 < before < 14
    log = eval_retry(log, display="none", log_dir=str(tmp_path / "logs"))[0]
    assert log.status == "success", log.error
    assert len(log.samples) == 14
    judged = ASKED["judge"]
    assert ASKED["target"] == 15
    again = run(task, "interrupted/target", "interrupted/judge", tmp_path)  # a log that was lost
    assert ASKED["judge"] == judged, "every answer of the judge was kept"
    values = [{s.id: score(s).value for s in one.samples} for one in (log, again)]
    assert values[0] == values[1]
