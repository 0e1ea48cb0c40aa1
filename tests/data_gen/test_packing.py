"""How full rows can be, and cutting documents to fill them. What holds of every method is in test_shards.py."""

import itertools

import numpy as np
import pytest

from data_gen import packing

S = 8192


def like_the_papers(sd, count=3000):
    """Lengths of mean 3,154 and at most 4,522 tokens, as the paper's; it does not say how they spread."""
    draw = np.random.default_rng(0)
    lengths = draw.normal(3154, sd, 4 * count)
    return lengths[(lengths > 300) & (lengths <= 4522)][:count].astype(int).tolist()


def fill(lengths, rows):
    return sum(lengths) / (len(rows) * S)


def parts(lengths, rows):
    """How many parts each document is in."""
    return np.bincount([piece.document for row in rows for piece in row], minlength=len(lengths))


@pytest.mark.parametrize(("sd", "cut"), [(300, 0.21), (600, 0.10), (900, 0.06)])
def test_rows_are_filled_and_few_documents_cut(sd, cut):
    lengths = like_the_papers(sd)
    rows = packing.pack(lengths, S, "best_fit_split")
    assert fill(lengths, rows) >= packing.FULL
    assert fill(lengths, packing.pack(lengths, S, "best_fit")) < packing.FULL
    many = parts(lengths, rows)
    assert many.max() == 2
    assert (many == 2).mean() <= cut
    assert (parts(lengths, packing.pack(lengths, S, "concat_split")) == 2).mean() > 0.35


@pytest.mark.parametrize("seed", range(6))
def test_every_token_is_in_one_row_and_parts_follow_one_another(seed):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, [40, 64, 200, 64, 64, 30][seed], [300, 300, 60, 1, 2, 5][seed]).tolist()
    rows = packing.pack(lengths, 64, "best_fit_split")
    pieces = sorted(piece for row in rows for piece in row)
    for document, some in itertools.groupby(pieces, key=lambda piece: piece.document):
        at = 0
        for piece in some:
            assert piece.start == at
            assert piece.length > 0
            at += piece.length
        assert at == lengths[document]
    assert all(0 < sum(piece.length for piece in row) <= 64 for row in rows)
    assert {piece.document for piece in pieces} == set(range(len(lengths)))


def test_what_is_full_already_is_not_cut():
    lengths = [4096] * 30 + [2000] * 4
    assert packing.pack(lengths, S, "best_fit_split") == packing.pack(lengths, S, "best_fit")


def test_the_bound_is_one_and_is_met_where_documents_are_alike():
    """Against the best of all packings; three documents of more than a third of a row never share one."""
    assert packing.least_rows([3154] * 1000, S) == 500 == len(packing.pack([3154] * 1000, S, "best_fit"))
    assert packing.least_rows([2731] * 10, S) == 5
    assert packing.least_rows([2730] * 9, S) == 3
    assert packing.least_rows([4097] * 7, S) == 7
    draw = np.random.default_rng(0)
    for _ in range(60):
        lengths = draw.integers(1, 21, 6).tolist()
        best = next(n for n in range(1, 7) if _fits(lengths, n, 20))
        assert packing.least_rows(lengths, 20) <= best


def _fits(lengths, rows, seq_len):
    where = itertools.product(range(rows), repeat=len(lengths))
    return any((np.bincount(w, lengths, rows) <= seq_len).all() for w in where)
