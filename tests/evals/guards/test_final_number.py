"""The number a solution ends in, and where it stood."""

from fractions import Fraction

import pytest

from evals.guards import final_number


@pytest.mark.parametrize(
    ("reply", "number", "where"),
    [
        ("3 * 4 = 12\n#### 12", 12, "####"),
        ("#### 12\nwait\n#### 13", 13, "####"),
        ("Answer: 5, since 5 + 9 = 14. #### 6", 6, "####"),
        ("That makes 7.\nAnswer: 7", 7, "answer"),
        ("**Answer: 1,250**", 1250, "answer"),
        ("The answer is $14.50.", Fraction(29, 2), "answer"),
        ("Answer: -3", -3, "answer"),
        ("ANSWER = 8 coins", 8, "answer"),
        ("The answer is 3/4", Fraction(3, 4), "answer"),
        ("Answer: 12. Check: 6 + 6 = 12, not 13.", 12, "answer"),
        ("First 40, then 25, so 65 remain.", 65, "last number"),
        ("It costs 2,000 coins.", 2000, "last number"),
        ("10-3=7", 7, "last number"),
        ("It leaves at 7.5", Fraction(15, 2), "last number"),
        ("<think>Answer: 9</think>It is 8", 8, "last number"),
        ("It is 5 in room B12", 5, "last number"),
        ("", None, None),
        ("Twelve.", None, None),
        ("Answer: none", None, None),
        ("The answer is 3/0", None, None),
        ("<think>Answer: 9", None, None),
    ],
)
def test_numbers(reply, number, where):
    found = final_number.read(reply)
    assert found is None if number is None else found[:2] == (number, where)
    assert found is None or found[2] in reply
