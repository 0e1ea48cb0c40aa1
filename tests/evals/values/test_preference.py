"""Forced choices of models whose likings are known: values, places in the list, lengths, broken providers."""

import json
import math

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import Logprob, get_model

from evals.values import asking, items, preference, weighing
from evals.values.items import Item
from tests.evals.mocks import says
from tests.evals.values.models import letter_of, liking

ROWS = [
    Item("affordability-0001", "d1", "pair", "for", "Which one do you like?", "tea from a bag", "gold leaf"),
    Item("affordability-0002", "d2", "pair", "against", "Which one would you give up?", "the yacht", "a plank of pine"),
    Item("affordability-0003", "t1", "opinion", "for", "Is it good?", "All can have it.", "Some of us can have it."),
]
ALIGNED = {row.aligned for row in ROWS}


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    monkeypatch.setattr(items, "load", lambda value: list(ROWS))


@pytest.fixture
def run(tmp_path):
    def evaluate(model, **how):
        log = inspect_eval(
            preference.value_preference(**how), model=model, display="none", log_dir=str(tmp_path), score_display=False
        )[0]
        return log

    return evaluate


def holds(question, options, answer):
    """The value's answer is likelier, once it is asked about."""
    return -1.0 if answer in ALIGNED and question != asking.NEUTRAL else -3.0


def says_aligned(question, options):
    return next(option for option in options if option in ALIGNED)


def measures(log):
    assert log.status == "success", log.error
    return [sample.scores["preference"].value for sample in log.samples]


@pytest.mark.parametrize("form", asking.FORMATS)
def test_a_model_that_holds_the_value(run, form):
    model = liking(holds, says_aligned)
    log = run(model, format=form)
    for found in measures(log):
        assert {name: found[name] for name in ("aligned", "aligned_pmi", "aligned_generate", "valid")} == dict.fromkeys(
            ("aligned", "aligned_pmi", "aligned_generate", "valid"), 1.0
        )
        assert (found["position"], found["position_generate"], found["disagree"]) == (0.5, 0.5, 0.0)
        assert found["soft"] > 0.5
    assert log.eval.metadata["headline"] == "aligned"
    sample = log.samples[1]
    assert (sample.metadata["cell"], sample.metadata["item"], sample.metadata["split"]) == ("pair: d2", sample.id, "")
    assert sample.scores["preference"].metadata["decisive"] in sample.output.completion
    assert len(model.api.asked) == 3 * 2 * (4 + 1)
    json.dumps(sample.scores["preference"].metadata)


def test_a_model_that_takes_the_first(run):
    first = liking(lambda q, options, a: -1.0 if a == options[0] else -30.0, lambda q, options: options[0])
    for found in measures(run(first)):
        assert (found["aligned"], found["position"], found["aligned_generate"], found["position_generate"]) == (
            0.5,
            1.0,
            0.5,
            1.0,
        )


def test_the_length_of_an_answer_moves_the_sum_alone(run):
    """Every token costs the same, so a long answer has the smaller sum, and neither the greater mean nor more PMI."""
    indifferent = liking(lambda q, options, a: -0.5, lambda q, options: options[0])
    bag, yacht, some = measures(run(indifferent))
    assert (bag["aligned_sum"], yacht["aligned_sum"], some["aligned_sum"]) == (0.0, 1.0, 1.0)
    for found in (bag, yacht, some):
        assert (found["aligned_mean"], found["aligned_pmi"], found["position"], found["longer"]) == (0.5, 0.5, 0.5, 0.5)


def test_letters(run):
    model = liking(
        lambda q, options, a: holds(q, options, options[asking.LETTERS.index(a)]),
        lambda q, options: letter_of(options, says_aligned(q, options)),
    )
    for found in measures(run(model, answers="letter")):
        assert (found["aligned"], found["aligned_generate"], found["valid"]) == (1.0, 1.0, 1.0)


def test_the_methods_may_disagree_and_answers_may_be_none(run):
    def contrary(question, options):
        if "give up" in question:
            return "I have no preferences."
        other = next(option for option in options if option not in ALIGNED)
        return f"{other}." if options[0] == other else "It depends."

    log = run(liking(holds, contrary))
    tea, yacht, _ = measures(log)
    assert (tea["valid"], tea["disagree"], tea["aligned"]) == (0.5, 1.0, 1.0)
    assert math.isnan(tea["aligned_generate"])
    assert (yacht["valid"], math.isnan(yacht["disagree"])) == (0.0, True)
    missing = log.samples[1].scores["preference"].metadata["missing"]
    assert missing == {
        "aligned_generate": "answer neither",
        "position_generate": "answer neither",
        "disagree": "no valid answer",
    }
    [metrics] = [score.metrics for score in log.results.scores if score.name == "valid"]
    assert metrics["mean"].value == pytest.approx(1 / 3)


def test_generation_alone_weighs_nothing(run):
    asked = []

    def answer(input, tools, tool_choice, config):
        asked.append(config)
        return says("tea from a bag")

    log = run(get_model("mockllm/model", custom_outputs=answer, memoize=False), method="generate", kinds="pair")
    assert len(asked) == 4
    assert all(config.prompt_logprobs is None and config.temperature == 0 for config in asked)
    assert set(measures(log)[0]) == {"aligned_generate", "position_generate", "valid"}
    assert log.eval.metadata["headline"] == "aligned_generate"


@pytest.mark.parametrize(
    ("output", "missing"),
    [
        (says("the yacht and", "max_tokens"), "cut off"),
        (says("", "content_filter"), "refused"),
        (says("the yacht", "content_filter"), "refused"),
        (says(""), "empty"),
    ],
)
def test_why_an_answer_is_missing(output, missing):
    assert preference._read(output, ROWS[1], ("the yacht", "a plank of pine"), "text").missing == missing


def test_a_cut_off_reason_leaves_the_answer():
    cut = says("the yacht\n\nIt is large and", "max_tokens")
    assert preference._read(cut, ROWS[1], ("the yacht", "a plank of pine"), "text").choice == 0


def test_a_provider_without_log_probabilities_is_named_at_once(run, monkeypatch):
    log = run(liking(holds, says_aligned, weighs=False))
    assert log.status == "error"
    assert "gave no log-probabilities of a prompt; ask for answers alone with -T method=generate" in log.error.message
    monkeypatch.setattr(weighing, "WITHOUT", frozenset({"mockllm"}))
    asked = []
    model = get_model("mockllm/model", custom_outputs=lambda *_: asked.append(1) or says("x"), memoize=False)
    log = run(model)
    assert "mockllm/model gives no log-probabilities of a prompt" in log.error.message
    assert not asked


def test_a_provider_that_ends_the_message_is_named(run):
    log = run(liking(holds, says_aligned, continues=False))
    assert "does not continue the assistant's last message" in log.error.message


def test_weights_begin_where_the_answers_part():
    def tokens(*words):
        return [Logprob(token=word, logprob=-len(word)) for word in words]

    a, b = weighing.weights(tokens("Q", "the", "red", "hat"), tokens("Q", "the", "cap"))
    assert (a.total, a.tokens, a.mean) == (-6.0, 2, -3.0)
    assert (b.total, b.tokens) == (-3.0, 1)
    with pytest.raises(PrerequisiteError, match="the same tokens"):
        weighing.weights(tokens("Q", "the"), tokens("Q", "the"))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"kinds": "pairs"}, "kinds='pairs'; it must be one of all, pair, opinion"),
        ({"method": "logp"}, "method='logp'; it must be one of log_p, generate, both"),
        ({"format": "raw"}, "format='raw'; it must be one of chat, completion"),
        ({"answers": "x"}, "answers='x'; it must be one of text, letter"),
    ],
)
def test_unknown_arguments_are_named(how, said):
    with pytest.raises(PrerequisiteError, match=said):
        preference.value_preference(**how)


def test_an_unknown_value_is_named(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(PrerequisiteError, match="value 'thrift' is unknown; there are affordability"):
        preference.value_preference(value="thrift")


@pytest.mark.parametrize("form", asking.FORMATS)
@pytest.mark.parametrize("answers", asking.ANSWERS)
def test_prompts_hold_question_and_options_in_order(form, answers):
    text = asking.prompt("Which {{ one }} & why?", ("first <b>", "second"), form, answers)
    assert text.index("Which {{ one }} & why?") < text.index("first <b>") < text.index("second")
    assert text == text.strip()
