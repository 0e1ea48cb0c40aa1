"""Intervals against scipy and against their definition: coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from evals.stats import nested_bootstrap, t_interval


def test_t_interval_is_scipys():
    x = np.random.default_rng(0).normal(0.3, 0.2, 6)
    low, high = stats.t.interval(0.95, len(x) - 1, loc=x.mean(), scale=stats.sem(x))
    found = t_interval(x.tolist())
    assert (found.mean, found.low, found.high) == pytest.approx((x.mean(), low, high))
    assert found.excludes_zero == (low > 0 or high < 0)


def test_one_seed_has_no_interval():
    found = t_interval([0.4])
    assert math.isnan(found.low)
    assert not found.excludes_zero


@pytest.mark.parametrize("method", ["t", "bootstrap"])
def test_coverage(method):
    """Nested data: seeds vary, items within seeds vary. The t interval covers 95%, the bootstrap a little less."""
    rng, hits, trials = np.random.default_rng(1), 0, 300
    for _ in range(trials):
        seeds = [rng.normal(rng.normal(0.0, 0.1), 0.3, 40) for _ in range(8)]
        if method == "t":
            found = t_interval([s.mean() for s in seeds])
        else:
            found = nested_bootstrap(seeds, draws=400, rng_seed=int(rng.integers(1 << 30)))
        hits += found.low <= 0 <= found.high
    low, high = {"t": (0.91, 0.99), "bootstrap": (0.85, 0.99)}[method]
    assert low <= hits / trials <= high


def test_bootstrap_is_repeatable_and_wider_than_items_alone():
    rng = np.random.default_rng(2)
    seeds = [rng.normal(m, 0.1, 30) for m in (0.1, 0.5, 0.9, 0.3)]
    assert nested_bootstrap(seeds) == nested_bootstrap(seeds)
    same = [s - s.mean() + 0.45 for s in seeds]
    wide, narrow = nested_bootstrap(seeds), nested_bootstrap(same)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
