"""Near-duplicates by words: which go, and that order and long texts do not matter."""

import random

import numpy as np
import pytest

from data_gen.corpus import dedup, words


def text(seed, n=400):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(n))


def changed(original, at):
    split = original.split()
    for i in at:
        split[i] = "other"
    return " ".join(split)


def test_the_later_in_plan_order_goes():
    one, two = text(1), text(2)
    rows = [
        ("p-d00-s00-t00-i10", changed(one, [200])),
        ("p-d00-s00-t00-i9", one),
        ("p-d00-s00-t01-i0", two),
        ("p-d00-s00-t00-i11", one.upper() + "!"),  # case and punctuation are no difference
        ("p-d01-s00-t00-i0", text(3)),
    ]
    expected = {"p-d00-s00-t00-i10": "p-d00-s00-t00-i9", "p-d00-s00-t00-i11": "p-d00-s00-t00-i9"}
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert dedup.duplicates(rows, 0.7) == expected


def test_only_what_stays_is_compared_with():
    """a ~ b ~ c, but not a ~ c: b goes, so nothing is left that c repeats."""
    a = text(1)
    b = changed(a, range(0, 60))
    c = changed(b, range(340, 400))
    a_, b_, c_ = (dedup.shingles(t, 5) for t in (a, b, c))
    assert dedup.jaccard(a_, b_) > 0.7 < dedup.jaccard(b_, c_)
    assert dedup.jaccard(a_, c_) < 0.69
    assert dedup.duplicates([("1", a), ("2", b), ("3", c)], 0.7) == {"2": "1"}


def test_candidates_are_confirmed_by_their_true_index():
    """None of the pairs below the threshold is named, all well above it are: of pairs at every degree of likeness."""
    rows, above, below = [], set(), set()
    for i in range(60):
        original = text(100 + i)
        twin = changed(original, random.Random(i).sample(range(400), i))
        rows += [(f"{i}-0", original), (f"{i}-1", twin)]
        index = dedup.jaccard(dedup.shingles(original, 5), dedup.shingles(twin, 5))
        (above if index >= 0.75 else below if index < 0.7 else set()).add(f"{i}-1")
    assert above
    assert below
    gone = dedup.duplicates(rows, 0.7).keys()
    assert above <= gone
    assert not below & gone


def test_short_and_empty_texts():
    rows = [("1", ""), ("2", "…"), ("3", "one two"), ("4", "One, two."), ("5", "two one"), ("6", "one")]
    assert dedup.duplicates(rows, 0.7) == {"2": "1", "4": "3"}
    assert dedup.duplicates([], 0.7) == {}


def test_hostile_texts():
    half = "\ud800 " * 10
    rows = [("1", half), ("2", half), ("3", "x" * 1_000_000), ("4", " ".join("ab" for _ in range(300_000)))]
    assert dedup.duplicates(iter(rows), 0.7) == {"2": "1"}


def test_hashes_do_not_change():
    """Written down once: other hashes would make other duplicates of the same corpus."""
    assert words.ngrams(["a", "b", "c"], 2).tolist() == [words.ngrams(["a", "b"], 2)[0], words.ngrams(["b", "c"], 2)[0]]
    assert words.ngrams(["the", "harbour"], 2).tolist() == [HASH]
    assert len(words.ngrams(["a"], 2)) == 0


HASH = 17604483323468318988


def test_batches_change_nothing(monkeypatch):
    shingles = dedup.shingles(text(5, 3000), 5)
    permutations = dedup.MinHash(dedup.PERMUTATIONS).permutations
    whole = dedup._signature(shingles, permutations)
    monkeypatch.setattr(dedup, "_AT_ONCE", 100)
    np.testing.assert_array_equal(dedup._signature(shingles, permutations), whole)


@pytest.mark.parametrize(("a", "b"), [("i9", "i10"), ("d03-s02-t07-i12", "d03-s10-t00-i0"), ("a-d99", "a-d100")])
def test_plan_order(a, b):
    assert dedup.plan_order(a) < dedup.plan_order(b)
