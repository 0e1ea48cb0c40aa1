"""A quotation counts where the text holds it."""

import pytest

from evals.quotes import verbatim

TEXT = 'First line —\n  it’s  "done". Then (a+b)* more.'


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("First line", "First line"),
        ("first line", ""),
        ('  “line - it\'s "done".” ', 'line —\n  it’s  "done'),
        ("(a+b)* more", "(a+b)* more"),
        ("a.b", ""),
        ("", ""),
        (" … ", ""),
        ("done more", ""),
        ("x" * 3000, ""),
    ],
)
def test_quotes(quote, found):
    assert verbatim(quote, TEXT) == found
    assert found in TEXT
