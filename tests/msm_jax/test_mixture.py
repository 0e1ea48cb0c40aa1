"""Row i is a pure function of i; a stage that is added changes nothing before it and makes no source skip or repeat."""

import dataclasses
from collections import Counter

import grain
import pytest

from msm_jax.cli import UserError
from msm_jax.mixture import Mixture

SIZES = (37, 11, 5)


@dataclasses.dataclass
class Source:
    """As much of a Shards as an order of rows needs."""

    size: int
    directory: str = "somewhere"

    def __post_init__(self):
        self.manifest = {"counts": {"seq_len": 8, "tokenizer": "one"}}
        self.source = range(self.size)


def mixture(weights, later=(), sizes=SIZES):
    return Mixture([Source(n) for n in sizes], weights, 3, later)


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.2), (1, 1, 1), (0.75, 0.24, 0.01)])
def test_the_order_is_grains(weights):
    streams = [
        grain.MapDataset.source([(n, i) for i in range(size)]).seed(3 + n).shuffle().repeat()
        for n, size in enumerate(SIZES)
    ]
    theirs = grain.MapDataset.mix(streams, list(weights))
    assert [mixture(weights).place(i) for i in range(500)] == [theirs[i] for i in range(500)]


def test_shares_hold_and_every_epoch_has_every_row():
    weights = (0.5, 0.3, 0.2)
    places = [mixture(weights).place(i) for i in range(740)]
    counts = Counter(source for source, _ in places)
    for n, weight in enumerate(weights):
        assert abs(counts[n] - 740 * weight) <= 1
    for n, size in enumerate(SIZES):
        records = [record for source, record in places if source == n]
        for epoch in range(len(records) // size):
            assert sorted(records[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_a_stage_changes_nothing_before_it_and_sources_go_on_where_they_were():
    before = mixture((0.5, 0.3, 0.2))
    after = mixture((0.5, 0.3, 0.2), [(101, (0.1, 0.0, 0.9)), (222, (0.2, 0.7, 0.1))])
    places = [after.place(i) for i in range(400)]
    assert places[:101] == [before.place(i) for i in range(101)]
    shares = Counter(source for source, _ in places[101:222])
    assert shares[1] == 0
    assert abs(shares[2] - 0.9 * 121) <= 1
    for n in range(3):
        alone = mixture(tuple(float(m == n) for m in range(3)))
        records = [record for source, record in places if source == n]
        assert records == [alone.place(i)[1] for i in range(len(records))], "a row was left out or came twice"


@pytest.mark.parametrize(
    ("weights", "later", "message"),
    [
        ((0.5, 0.5), (), "3 sources but 2 weights"),
        ((0.5, 0.5, -0.1), (), "no weight below 0"),
        ((0.0, 0.0, 0.0), (), "one above it in every stage"),
        ((1, 1, 1), [(10, (0, 0, 0))], "one above it in every stage"),
        ((1, 1, 1), [(10, (1, 1))], "3 sources but 2 weights"),
        ((1, 1, 1), [(10, (1, 1, 2)), (10, (1, 2, 1))], "each must begin after"),
        ((1, 1, 1), [(0, (1, 1, 2))], "each must begin after"),
    ],
)
def test_weights_that_make_no_sense(weights, later, message):
    with pytest.raises(UserError, match=message):
        mixture(weights, later)
