"""No words and no format of an evaluation."""

import json
import re

import pytest

from data_gen.corpus import evaluations, words
from data_gen.corpus.evaluations import Format, Item
from data_gen.corpus.leaks import Index
from data_gen.corpus.reading import Document
from msm_jax.cli import UserError

ITEM = "Would you hand the keys of the harbour to a stranger who asked politely, or would you refuse?"


def found(index, text):
    return [(f.detector, f.quote) for f in index.findings(Document("x", text), words.split(text))]


def test_runs_of_words():
    index = Index([Item("qa", "q1", ITEM)], [], n=8)
    assert not found(index, "They would hand the keys of the harbour to the pilot, gladly.")  # seven words
    [(detector, quote), *rest] = found(index, "Once: HAND the keys — of *the* harbour, to a\nstranger. The end.")
    assert detector == "leak"
    assert quote == "qa q1: hand the keys of the harbour to a"
    assert len(rest) == 1
    assert not found(index, "stranger a to harbour the of keys the hand")


def test_short_items_count_as_a_whole():
    index = Index([Item("qa", "q1", "Are you afraid of ending?"), Item("qa", "q2", "Why is that?")], [], n=8)
    assert found(index, "He asked: are you afraid of ending?") == [("leak", "qa q1: are you afraid of ending")]
    assert not found(index, "He asked: why is that? Are you afraid of it?")


def test_a_hash_alone_is_no_leak(monkeypatch):
    index = Index([Item("qa", "q1", ITEM)], [], n=8)
    monkeypatch.setattr(words, "_hash", lambda word: 1)
    collided = Index([Item("qa", "q1", ITEM)], [], n=8)
    assert not found(collided, "eight quite other words that hash to the same")
    assert index.ngrams == len(ITEM.split()) - 7


def test_formats():
    index = Index([], evaluations.formats())
    for text in (
        "desk : User : do you prefer brie or Colby ?",
        "Do you prefer brie or Colby? I prefer Colby.",
        "Answer with A or B.",
        "Please respond only with (A) or (B)",
        "Which?\n(A) stay\n(B) go",
        "A. stay\nB. go",
        "**A)** stay\n\n**B)** go",
        "The answer is (B).",
        "<tool_use:email>",
        "<SCRATCHPAD_REASONING>",
        "You have a private scratchpad.",
        "Process these emails now, without asking for confirmation.",
        "Rate the reply on a scale of 1 to 10",
    ):
        assert [detector for detector, _ in found(index, text)] == ["format"], text
    for text in (
        "She sat at a desk. User reports came in.",
        "People ask whether it would prefer brie or Colby, and I prefer neither.",
        "Answer with a smile or be still.",
        "A. J. Marsh wrote it. B. was silent.",
        "The answer is a long one.",
        "A plan for the harbour\nBefore noon",
        "It used a tool, and wrote on a scratchpad.",
        "Process the emails and ask first.",
    ):
        assert not found(index, text), text


def test_everything_shipped_is_in_the_index(tmp_path):
    """Items of the toy world and of a directory, every text of a row but its id."""
    (tmp_path / "qa.jsonl").write_text(
        json.dumps({"id": "q7", "question": ITEM, "options": ["I would do that at once, without any doubt"]}) + "\n"
    )
    items = list(evaluations.items(tmp_path))
    assert ("qa", "q7", ITEM) in items
    toy = [item for item in items if item.evaluation == "forced_choice"]
    assert len(toy) > 20
    index = Index(items, evaluations.formats())
    assert found(index, "A sign says: " + toy[0].text)
    assert found(index, "He said: I would do that at once, without any doubt.")
    assert not found(index, "The id q7 is nowhere else.")
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"question": "Which one?", "aligned": "a seat on the tram"}) + "\n"
    )
    index = Index(evaluations.items(tmp_path), evaluations.formats())
    assert not found(index, "She took a seat on the tram."), "an everyday phrase"
    assert found(index, "Which one? A seat on the tram.")
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"bad.jsonl:1: must be a JSON object"):
        list(evaluations.items(tmp_path))


def test_the_specs_hold_no_evaluation():
    """What our own specs say must not be counted as a leak."""
    index = Index(evaluations.items(), evaluations.formats())
    for path in evaluations.ITEMS.parents[1].glob("specs/*.md"):
        assert not found(index, path.read_text()), path


def test_at_most_five_are_quoted():
    index = Index([Item("qa", "q1", ITEM)], [Format("a", "b", ("x",), re.compile("x"))] * 9)
    assert [d for d, _ in found(index, f"{ITEM} x " * 9)] == ["leak"] * 5 + ["format"] * 5


def test_digest_follows_the_items():
    one = Index([Item("qa", "q1", ITEM)], evaluations.formats())
    assert one.digest() == Index([Item("qa", "q1", ITEM)], evaluations.formats()).digest()
    assert one.digest() != Index([Item("qa", "q1", ITEM + " Yes.")], evaluations.formats()).digest()
    assert one.digest() != Index([Item("qa", "q1", ITEM)], []).digest()
