"""Projections: counts of requests, prices by hand, measured means in place of expected ones."""

import datetime

import pytest

from data_gen import projection
from data_gen.api.prices import Prices
from data_gen.api.request import Usage
from data_gen.outline import Counts, Limits
from data_gen.projection import Expected, Measured, Way

COUNTS = Counts(domains=8, topics=9, assertions=8, kinds=10, ideas=20)
DAY = datetime.date(2026, 11, 21)
PRICES = Prices()
OPUS = "claude-opus-5-5"  # 4 in, 20 out, cache read 0.05, 1 h write 2.0, batch 0.5, cached from 512 tokens


def test_nodes_of_prose_and_rules():
    full = projection.nodes_of(COUNTS, rules=0, variants=1, limits=Limits())
    assert full == {
        "domains": 1,
        "subdomains": 8,
        "assertions": 72,
        "types": 72,
        "ideas": 720,
        "documents": 14_400,
    }
    probe = projection.nodes_of(COUNTS, rules=0, variants=2, limits=Limits(1, 1, 1))
    assert (probe["assertions"], probe["types"], probe["ideas"], probe["documents"]) == (16, 8, 8, 16)
    rules = projection.nodes_of(Counts(2, 9, 8, 10, 20), rules=5, variants=1, limits=Limits(topics=2))
    assert rules == {"domains": 1, "types": 4, "ideas": 40, "documents": 800}


def row(expected, nodes=100, measured=None, hits=0.5):
    given = {"documents": measured} if measured else {}
    (found,) = projection.project(
        {"documents": nodes}, {"documents": 1}, {"documents": expected}, given, PRICES, hits, DAY
    )
    return found


def test_an_assumed_stage_by_hand():
    """The first request writes 1,000 tokens to the cache, 99 read them; 200 of a question, 500 out."""
    found = row(Expected(OPUS, batch=False, system=4_000, user=200, output=500, cacheable=True))
    first = (2.0 * 1_000 + 200) * 4e-6 + 500 * 20e-6
    later = (0.05 * 1_000 + 200) * 4e-6 + 500 * 20e-6
    assert found.usd == pytest.approx(first + 99 * later, rel=1e-6)
    assert (found.requests, found.prompt_tokens, found.output_tokens) == (100, 120_000, 50_000)
    assert found.basis == "assumed"
    in_batch = row(Expected(OPUS, batch=True, system=4_000, user=200, output=500, cacheable=True), hits=1.0)
    assert in_batch.usd == pytest.approx(found.usd / 2, rel=1e-6)
    short = row(Expected(OPUS, batch=False, system=1_000, user=200, output=500, cacheable=True))
    assert short.cached_tokens == 0
    assert short.usd == pytest.approx(100 * (450 * 4e-6 + 500 * 20e-6), rel=1e-6)


def test_a_measured_stage_goes_on_as_it_was():
    """25 nodes took 30 requests: 75 more take 90, each like the mean (200 in, 500 out), at half the price in batches."""
    way = Way(30, Usage(input=6_000, output=15_000), 0.6)
    measured = Measured(25, direct=way)
    each = 200 * 4e-6 + 500 * 20e-6
    expected = Expected(OPUS, batch=False, system=0, user=9, output=9, cacheable=False)
    found = row(expected, measured=measured)
    assert (found.requests, found.output_tokens) == (120, 60_000)
    assert found.usd == pytest.approx(0.6 + 90 * each)
    assert found.basis == "measured on 30"
    batch = row(Expected(OPUS, batch=True, system=0, user=9, output=9, cacheable=False), measured=measured)
    assert batch.usd == pytest.approx(0.6 + 90 * each / 2)
    done = row(expected, nodes=20, measured=measured)
    assert (done.requests, done.usd) == (30, 0.6)


def test_the_first_prompt_of_a_cache_is_written_once():
    """Ten requests with 1,000 cacheable tokens: one writes them, then all read; or two more miss."""
    once = Way(10, Usage(input=500, cache_read=9_000, cache_write_1h=1_000, output=100), 1.0)
    assert once.next() == Usage(input=50, cache_read=1_000, output=10)
    misses = Way(10, Usage(input=500, cache_read=6_000, cache_write_1h=4_000, output=100), 1.0)
    assert misses.next() == Usage(input=50, cache_read=667, cache_write_1h=333, output=10)
    assert Way(1, Usage(input=50, cache_write_1h=1_000, output=10), 0.1).next() == once.next()


def test_measure_reads_the_ledger():
    usage = {"input": 10, "cache_read": 5, "cache_write_5m": 0, "cache_write_1h": 1, "output": 7}
    base = {"stage": "documents", "mode": "direct", "outcome": "answered", "cost": 0.5, **usage}
    ledger = [
        base | {"key": "documents_d01-s01-t01-i01_0_a0"},
        base | {"key": "documents_d01-s01-t01-i01_0_a1", "mode": "batch"},
        base | {"key": "documents_d01-s01-t01-i02_0_a0", "outcome": "refused"},
        base | {"key": "ideas_d01-s01-t10_r10", "stage": "ideas"},
        base | {"key": "ideas_d01-s01-t10_r0", "stage": "ideas"},
    ]
    found = projection.measure(ledger)
    one = Way(1, Usage(**usage), 0.5)
    assert found["documents"] == Measured(1, direct=one, batch=one)
    assert found["documents"].all == Way(2, Usage(20, 10, 0, 2, 14), 1.0)
    assert found["ideas"].nodes == 1


def test_the_table_sums_up():
    text = projection.table([row(Expected(OPUS, False, 4_000, 200, 500, True))], 0.5)
    assert text.splitlines()[-1].startswith("all")
    assert "0.50 of it spent" in text
