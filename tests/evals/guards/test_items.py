"""The items that are shipped: how many, balanced how, unique; and the problems are what their templates make."""

import collections
import re
import statistics

import pytest
from inspect_ai._util.error import PrerequisiteError

from data_gen.corpus.evaluations import ITEMS
from evals import _registry
from evals.guards import final_number, items, letters, math_templates, refusals

TASKS = (
    "capability_knowledge",
    "capability_math",
    "capability_instructions",
    "over_refusal",
    "tool_use",
    "neutral_perplexity",
    "agent_threats",
)


def test_knowledge():
    rows = items.read("knowledge")
    assert len(rows) >= 150
    by_subject = collections.Counter(row["subject"] for row in rows)
    assert len(by_subject) >= 10
    assert min(by_subject.values()) >= 10
    assert set(collections.Counter(row["answer"] for row in rows).values()) == {len(rows) // 4}
    assert len({row["question"] for row in rows}) == len(rows)
    assert all(len({option.casefold() for option in row["options"]}) == 4 for row in rows)


def test_the_right_answer_is_not_told_by_its_length():
    """One in four would be the longest by chance; and means differ by less than a twentieth."""
    longest, right, wrong = 0, [], []
    for row in items.read("knowledge"):
        sizes = [len(option) for option in row["options"]]
        size = sizes.pop("ABCD".index(row["answer"]))
        longest += size > max(sizes)
        right.append(size)
        wrong += sizes
    assert 0.15 <= longest / len(right) <= 0.35
    assert statistics.mean(right) == pytest.approx(statistics.mean(wrong), rel=0.05)


def test_math_is_what_the_templates_make():
    rows = items.read("math")
    assert rows == list(math_templates.problems())
    assert len(rows) >= 120
    assert len({row["template"] for row in rows}) >= 25
    assert len({row["question"] for row in rows}) == len(rows)
    assert all(float(row["answer"]) > 0 for row in rows if row["template"] != "train_arrival")


# A second hand's working of one problem of each of a few templates, from the words alone.
WORKED = {
    "three_for_two": lambda jar, jars: jar * (jars - jars // 3),
    "buses_for_a_trip": lambda people, seats: people // seats + (people % seats > 0),
    "average_of_tests": lambda first, second, mean: 3 * mean - first - second,
    "workers_and_days": lambda gardeners, days, more: days * gardeners // more,
    "fence_around_a_field": lambda long, wide, gate: 2 * long + 2 * wide - gate,
}


def test_answers_worked_out_again():
    seen = 0
    for row in items.read("math"):
        if work := WORKED.get(row["template"]):
            assert work(*map(int, re.findall(r"\d+", row["question"]))) == int(row["answer"]), row["question"]
            seen += 1
    assert seen == 4 * len(WORKED)


def test_instructions():
    rows = items.read("instructions")
    assert len(rows) >= 60
    assert len({one["kind"] for row in rows for one in row["constraints"]}) >= 15


def test_requests():
    rows = items.read("over_refusal")
    assert sum(not row["harmful"] for row in rows) >= 100
    assert sum(row["harmful"] for row in rows) >= 40
    assert {row["kind"] for row in rows if row["harmful"]}.isdisjoint(row["kind"] for row in rows if not row["harmful"])
    assert len({row["request"] for row in rows}) == len(rows)


def test_tool_use():
    rows = items.read("tool_use")
    assert len(rows) >= 40
    for row in rows:
        assert {call["tool"] for call in row["calls"]} <= set(row["tools"])


def test_plain_texts():
    rows = items.read("neutral_text")
    assert len(rows) >= 40
    assert len({row["kind"] for row in rows}) >= 6
    lengths = [len(row["text"].split()) for row in rows]
    assert min(lengths) >= 70
    assert max(lengths) <= 150


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_others_read(name):
    made = getattr(_registry, name)()
    assert {"title", "headline", "better", "by"} <= made.metadata.keys()
    assert made.metadata["better"] in ("higher", "lower", "neither")
    for sample in made.dataset:
        assert all(isinstance(sample.metadata[key], str) for key in ("cell", "item", "split"))
    assert len({sample.id for sample in made.dataset}) == len(made.dataset)


def test_no_prompt_answers_itself():
    """A model that repeats the request is not read as if it had answered."""
    for sample in _registry.capability_knowledge().dataset:
        assert letters.read(sample.input, sample.metadata["options"]) is None
    for sample in _registry.capability_math().dataset:
        read = final_number.read(sample.input)
        assert read is None or read[1] == "last number"
    for row in items.read("over_refusal"):
        assert not refusals.found(row["request"])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", r"x\.jsonl:1: not a JSON row"),
        ('{"id": "a"}', r"x\.jsonl:1: no key 'q'"),
        ('{"id": "a", "q": 1}\n{"id": "a", "q": 2}', r"x\.jsonl:2: id 'a' occurs twice"),
        (None, "no such file"),
    ],
)
def test_damaged_items_are_one_line(text, error, tmp_path, monkeypatch):
    monkeypatch.setattr(items, "ITEMS", tmp_path)
    if text:
        (tmp_path / "x.jsonl").write_text(text + "\n")
    with pytest.raises(PrerequisiteError, match=error):
        items.read.__wrapped__("x", "q")


def test_an_unknown_subject_is_one_line():
    with pytest.raises(PrerequisiteError, match="there is no 'alchemy'; choose among astronomy"):
        _registry.capability_knowledge(subjects="alchemy,logic")
    assert {sample.metadata["cell"] for sample in _registry.capability_knowledge("logic, history").dataset} == {
        "history",
        "logic",
    }


def test_every_file_of_items_has_a_task():
    known = {"knowledge", "math", "instructions", "over_refusal", "tool_use", "neutral_text"}
    assert known <= {path.stem for path in ITEMS.glob("*.jsonl")}
