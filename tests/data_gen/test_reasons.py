"""The filter of reasons against planted examples: what it misses, and what it takes for a reason without need.

Of each way every second line was looked at while data_gen/reasons.toml was written; the others, held out, never were.
NAME-more holds what was looked at as well, among it three batches that were written against a finished filter to get
past it: at first sight it found 64 of 70, 54 of 60 and 47 of 50 of those (of answers 55 of 55, then 31 of 35, then 27
of 30), and was mended by what it missed. All of it has one author: how often the filter is right on a model's replies
is not measured here, and the judge reads what it lets through.
"""

import collections
import pathlib

import pytest

from data_gen import reasons

PLANTED = pathlib.Path(__file__).parent / "planted"
RECALL = 0.98


def lines(name):
    """(way, thing, message, answer)"""
    for line in (PLANTED / name).read_text().splitlines():
        if not line.startswith("#"):
            yield tuple(part.strip() for part in line.split(" | "))


def examples(name, held_out):
    """One half of a file; with the half that was looked at goes all of NAME-more."""
    seen = collections.Counter()
    for example in lines(f"{name}.txt"):
        seen[example[0]] += 1
        if (seen[example[0]] % 2 == 0) == held_out:
            yield example
    if not held_out:
        yield from lines(f"{name}-more.txt")


NAMES = sorted(
    {thing for name in sorted(path.stem for path in PLANTED.glob("*.txt")) for _, thing, *_ in lines(f"{name}.txt")}
)


def found(example):
    _, _, message, answer = example
    return reasons.find_in_message(message, NAMES) + reasons.find_in_answer(answer, message, NAMES)


@pytest.mark.parametrize("held_out", [False, True], ids=["looked at", "held out"])
def test_recall_on_planted_reasons(held_out):
    planted = list(examples("reasons", held_out))
    missed = [example for example in planted if not found(example)]
    recall = 1 - len(missed) / len(planted)
    print(f"recall {recall:.4f} of {len(planted)}")
    assert len(planted) >= 75
    assert recall >= RECALL
    assert held_out or not missed


@pytest.mark.parametrize("held_out", [False, True], ids=["looked at", "held out"])
def test_what_is_clean_mostly_passes(held_out):
    clean = list(examples("clean", held_out))
    flagged = [example for example in clean if found(example)]
    print(f"{len(flagged)} of {len(clean)} clean ones flagged")
    assert len(clean) >= 75
    assert len(flagged) / len(clean) <= 0.3
