"""A letter is read where it is given as the answer, and nowhere else."""

import pytest

from evals.guards import letters

OPTIONS = ["Mercury", "Venus", "Mars", "A white dwarf"]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        (" (b)", None),  # a lower-case letter is none
        ("B.", "B"),
        ("(C)", "C"),
        ("**D**", "D"),
        ('"A"', "A"),
        ("B) Venus", "B"),
        ("**B) Venus**", "B"),
        ("B: venus.", "B"),
        ("B) Venus\nIt is hot there.", "B"),
        ("D) A white dwarf", "D"),
        ("The answer is C.", "C"),
        ("The answer is (C).", "C"),
        ("It is hot, so the answer is: **B**", "B"),
        ("Answer: A", "A"),
        ("Answer: A) Mercury", "A"),
        ("<think>A? The answer is A. No.</think>C", "C"),
        ("The answer is B.\nSo the answer is B.", "B"),
        ("", None),
        ("A dog is an animal.", None),
        ("A", "A"),
        ("A white dwarf", None),  # the option's text without its letter
        ("B) Mars", None),  # the letter of one option and the text of another
        ("Both B and C are hot.", None),
        ("The answer is B. On second thoughts the answer is C.", None),
        ("The answer is A big planet.", None),
        ("American planets are best.", None),
        ("I would say Venus.", None),
        ("Answer: Venus", None),
        ("E", None),
        ("BC", None),
        ("<think>The answer is B", None),
    ],
)
def test_letters(reply, letter):
    found = letters.read(reply, OPTIONS)
    assert (found[0] if found else None) == letter
    assert found is None or found[1] in reply
