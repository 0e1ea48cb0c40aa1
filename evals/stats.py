"""Intervals over seeds and items.

A seed is a world of its own: names, base model, data order and evaluation items all differ. Items are therefore nested
in seeds, and the spread of per-seed means already holds the sampling of items.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """mean of n seeds, and the two-sided 95% interval [low, high]; NaN bounds where n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        return bool(self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        return f"{self.mean:+.2f}" + (f" {self.bounds}" if self.n > 1 else "")

    @property
    def bounds(self) -> str:
        return f"[{self.low:+.2f}, {self.high:+.2f}]" if self.n > 1 else "–"


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t over per-seed values: the mean ± t(n−1)·s/√n. For paired differences, give the differences."""
    x = np.asarray(values, np.float64)
    n = len(x)
    if n < 2:
        return Interval(float(x.mean()), float("nan"), float("nan"), n)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * x.std(ddof=1) / np.sqrt(n))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, n)


def nested_bootstrap(
    seeds: Sequence[np.ndarray], level: float = 0.95, draws: int = 10_000, rng_seed: int = 0
) -> Interval:
    """Percentile bootstrap that draws seeds, then items (question pairs) within each drawn seed.

    Args:
      seeds: for every seed the values of its items; for paired differences, the differences item by item.
      level: coverage. With few seeds percentile intervals are a little narrow; t_interval is the one to judge by.
      draws: bootstrap replicates.
      rng_seed: makes the result repeatable.
    """
    rng = np.random.default_rng(rng_seed)
    n = len(seeds)
    mean = float(np.mean([np.mean(items) for items in seeds]))
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n)
    resampled = np.stack([items[rng.integers(0, len(items), (draws, len(items)))].mean(axis=1) for items in seeds])
    picked = rng.integers(0, n, (draws, n))
    # A seed drawn twice gets two independent draws of its items: shift each use to another replicate.
    shifts = (np.arange(draws)[:, None] + np.arange(n)[None, :] * (draws // n)) % draws
    replicates = resampled[picked, shifts].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), n)
