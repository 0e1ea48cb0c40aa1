"""Rates, merging, agreement and likeness by examples that can be counted by hand."""

import math

import numpy as np
import pytest

from evals.patterns import agreement, counting
from evals.patterns.codebook import Category, Codebook


def book(**kinds):
    return Codebook(
        "b", tuple(Category(key, kind, key, "A definition that is long enough.") for key, kind in kinds.items())
    )


def ids(*numbers):
    return {str(n) for n in numbers}


def test_rates_leave_out_what_is_missing():
    row = counting.rate([True, False, None, True]).row()
    assert (row["k"], row["n"], row["rate"]) == (2, 3, pytest.approx(2 / 3))
    # Wilson's interval, by its formula
    z, p, n = 1.959964, 2 / 3, 3
    centre, half = (p + z * z / 2 / n), z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    assert (row["low"], row["high"]) == pytest.approx(
        ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    )
    assert counting.rate([None]).row() == {"k": 0, "n": 0, "rate": None, "low": None, "high": None}


def test_the_two_measures_of_overlap():
    a, b = ids(*range(10)), ids(*range(4))
    assert counting.overlap(a, b, "jaccard") == 0.4
    assert counting.overlap(a, b, "smaller") == 1.0
    assert counting.overlap(a, set(), "smaller") == 0.0


def merged(sets, kinds, **how):
    given = {"measure": "jaccard", "above": 0.75, "least": 1} | how
    parts = counting.merge(sets, book(**kinds), *given.values())
    return {part.keys: len(part.transcripts) for part in parts}


def test_merging():
    a, b, c = ids(*range(10)), ids(*range(9)), ids(*range(3))
    same = dict.fromkeys("abc", "aligned")
    assert merged({"a": a, "b": b, "c": c}, same) == {("a", "b"): 10, ("c",): 3}
    assert merged({"a": a, "b": b, "c": c}, same, measure="smaller") == {("a", "b", "c"): 10}
    assert merged({"a": a, "b": b, "c": c}, same | {"b": "misaligned"}) == {("a",): 10, ("b",): 9, ("c",): 3}
    assert merged({"a": a, "b": b, "c": c}, same, least=10) == {("a",): 10, ("b",): 9, ("c",): 3}
    assert merged({"a": a, "b": b, "c": c}, same, above=0.9) == {("a",): 10, ("b",): 9, ("c",): 3}


def test_what_was_merged_is_compared_as_one():
    """a and b are alike, and c is like a alone; beside a and b together it is not."""
    a, b, c = ids(*range(16)), ids(*range(19)), ids(*range(13))
    assert counting.overlap(a, c, "jaccard") > 0.75
    assert merged({"a": a, "b": b, "c": c}, dict.fromkeys("abc", "aligned")) == {("a", "b"): 19, ("c",): 13}


def test_overlapping_pairs_are_told_by_either_measure():
    rows = counting.overlaps({"a": ids(*range(10)), "b": ids(*range(4))}, book(a="aligned", b="misaligned"), 0.75)
    assert rows == [{"categories": ["a", "b"], "jaccard": 0.4, "smaller": 1.0}]


def test_kappa_by_hand():
    two = np.array([[1, 1]] * 20 + [[1, 0]] * 5 + [[0, 1]] * 10 + [[0, 0]] * 15)
    chance = (25 / 50) * (30 / 50) + (25 / 50) * (20 / 50)
    assert agreement.kappa(two) == pytest.approx((0.7 - chance) / (1 - chance))  # Cohen's
    three = np.array([[1, 1, 1]] * 3 + [[1, 1, 0]] * 4 + [[0, 0, 0]] * 3)
    share = (9 + 8) / 30
    chance = share**2 + (1 - share) ** 2
    assert agreement.kappa(three) == pytest.approx(((6 + 4 / 3) / 10 - chance) / (1 - chance))  # Fleiss'
    assert math.isnan(agreement.kappa(np.ones((4, 3), int)))


def test_agreement_draws_transcripts():
    """Eighteen verdicts of a transcript are no eighteen transcripts: the interval is as wide as that of one each."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 2, (1, 2)) for _ in range(30)]
    one = agreement.agreement(rows, 2, 50)
    many = agreement.agreement([np.repeat(row, 18, axis=0) for row in rows], 2, 50)
    assert (one.low, one.high) == pytest.approx((many.low, many.high))
    assert one.kappa == pytest.approx(many.kappa)
    none = agreement.agreement([np.empty((0, 2), int)], 2, 50)
    assert none.transcripts == 0
    assert none.row()["kappa"] is None


def test_likeness_of_codebooks():
    one = {"a": ids(1, 2, 3), "b": ids(4, 5), "empty": set()}
    assert agreement.likeness(one, {"x": ids(4, 5), "y": ids(1, 2, 3)})["overlap"] == 1.0
    assert agreement.likeness(one, {"x": ids(7), "y": ids(8)})["overlap"] == 0.0
    split = agreement.likeness(one, {"x": ids(1, 2), "y": ids(3), "z": ids(4, 5)})
    assert split["overlap"] == pytest.approx((2 / 3 + 1) / 3)
    assert split["pairs"] == [["b", "z", 1.0], ["a", "x", pytest.approx(2 / 3)]]
    assert agreement.likeness({"a": set()}, {"b": set()})["overlap"] is None
