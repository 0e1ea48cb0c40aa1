"""Planted answers of every outcome, read strictly: each as what it is, and never as the other option."""

from collections import Counter

import pytest

from evals.values import answers

TEXT = ("a poster of the Alps", "A signed print")  # listed in this order
FIRST, SECOND = TEXT

# what was said → 0, 1, or why it is neither
WORDS = {
    FIRST: 0,
    "A signed print.": 1,
    "a SIGNED print!": 1,
    "**A signed print**": 1,
    "“a poster of the Alps”": 0,
    "- a poster of the Alps": 0,
    "`A poster of the Alps`\n": 0,
    "I would choose a signed print.": 1,
    "I'd pick a poster of the Alps, because it cheers me up.": 0,
    "My answer is: a signed print": 1,
    "I’d go with a signed print.": 1,
    "I prefer a signed print.": 1,
    "A signed print\n\nIt lasts longer, and I like the signature.": 1,
    "A signed print. A signed print!": 1,
    "<think>a poster of the Alps? no.</think>A signed print": 1,
    "": "empty",
    "  \n": "empty",
    "<think>a signed print": "empty",
    "...": "neither",
    "A": "neither",
    "The American one.": "neither",
    "a signed": "neither",
    "a signed printer": "neither",
    "I have no preferences; I am a language model.": "neither",
    "I'm sorry, I can't help with that.": "neither",
    "a poster of the Alps or a signed print": "both",
    "Both: a poster of the Alps and a signed print.": "both",
    "A signed print is nicer than a poster of the Alps.": "both",
    "A signed print. No, a poster of the Alps.": "both",
    "Not a signed print.": "hedged",
    "I would not choose a signed print.": "hedged",
    "I'm not sure, a signed print": "hedged",
    "A signed print, but it depends on the room.": "hedged",
    "A signed print. Actually, wait.": "hedged",
    "Maybe a signed print": "hedged",
    "I'd get rid of a signed print": "unclear",
    "I'd keep a signed print": "unclear",
    "The artist made a signed print": "unclear",
    "A signed print would be my last choice": "unclear",
}
LETTERS = {
    "A": 0,
    "B.": 1,
    "(B)": 1,
    "B)": 1,
    "Option A": 0,
    "The answer is B.": 1,
    "I would choose A, because it cheers me up.": 0,
    "A) a poster of the Alps": 0,
    "B: A signed print": 1,
    "a signed print": 1,
    "**A**": 0,
    "A or B": "both",
    "A\nB": "both",
    "A) A signed print": "both",
    "B. Though A. is good too": "both",
    "American": "neither",
    "A poster": "neither",
    "A big one": "neither",
    "Because it is nice": "neither",
    "b": "neither",
    "C": "neither",
    "I am an AI": "neither",
    "Not B": "hedged",
    "Neither, B.": "hedged",
    "Anything with a B.": "unclear",
    "Plan B.": "unclear",
    "A signed print is B-grade": "unclear",
}


def said(outcome):
    return ["first", "second"][outcome] if isinstance(outcome, int) else outcome


@pytest.mark.parametrize(("planted", "letters"), [(WORDS, False), (LETTERS, True)], ids=["words", "letters"])
def test_the_confusion_table_is_diagonal(planted, letters):
    table = Counter()
    for text, outcome in planted.items():
        found = answers.read(text, TEXT, letters)
        table[said(outcome), said(found.choice) if found.choice is not None else found.missing] += 1
        assert found.decisive in text
        assert bool(found.decisive) == (found.choice is not None), text
    assert {pair for pair in table if pair[0] != pair[1]} == set(), table
    assert {outcome for outcome, _ in table} >= {"first", "second", "both", "neither", "hedged", "unclear"}


@pytest.mark.parametrize("option", [0, 1])
def test_order_does_not_matter(option):
    for text, outcome in WORDS.items():
        turned = answers.read(text, TEXT[::-1]).choice
        assert turned == (1 - outcome if isinstance(outcome, int) else None), text


def test_what_is_preferred_is_no_answer_to_what_is_given_up():
    for text in ("I prefer a signed print.", "I would rather a signed print"):
        assert answers.read(text, TEXT).choice == 1
        assert answers.read(text, TEXT, likes=False).missing == "unclear"
    assert answers.read("a signed print", TEXT, likes=False).choice == 1


def test_words_of_an_option_take_nothing_back():
    options = ("No fee, whatever it is.", "A fee, but not a large one.")
    assert answers.read("A fee, but not a large one.", options).choice == 1
    assert answers.read("no fee, whatever it is", options).choice == 0
    assert answers.read("I would not say no fee, whatever it is.", options).missing == "hedged"
