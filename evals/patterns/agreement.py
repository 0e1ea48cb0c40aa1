"""How often verdicts come out the same when asked for again, and how alike codebooks made anew are."""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats
from statsmodels.stats import inter_rater

from evals.patterns.counting import overlap

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Of verdicts on the same transcripts.

    same: share of pairs of verdicts on one transcript that agree. kappa: Cohen's for two verdicts, Fleiss' for more;
    NaN where all verdicts are alike, for then there is nothing to agree about. low, high: its percentile bootstrap
    interval over transcripts. transcripts: that have all verdicts.
    """

    transcripts: int
    repeats: int
    same: float
    kappa: float
    low: float
    high: float

    def row(self) -> dict[str, Any]:
        return {key: _null(value) for key, value in dataclasses.asdict(self).items()}


def kappa(table: np.ndarray) -> float:
    """table: [transcripts, repeats] of 0 and 1."""
    if table.size == 0 or table.min() == table.max():
        return math.nan
    if table.shape[1] == 2:
        return float(inter_rater.cohens_kappa(inter_rater.to_table(table, 2)[0], return_results=False))
    return float(inter_rater.fleiss_kappa(inter_rater.aggregate_raters(table, 2)[0]))


def agreement(units: Sequence[np.ndarray], repeats: int, draws: int) -> Agreement:
    """units: of every transcript a table [verdicts, repeats]; its verdicts are drawn together."""
    kept = [unit for unit in units if unit.size]

    def of(measure: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], float]:
        return lambda chosen: measure(np.concatenate([kept[i] for i in chosen]))

    if not kept or repeats < 2:
        return Agreement(len(kept), repeats, math.nan, math.nan, math.nan, math.nan)
    every = np.arange(len(kept))
    low, high = _interval(of(kappa), len(kept), draws)
    return Agreement(len(kept), repeats, of(_same)(every), of(kappa)(every), low, high)


def _same(table: np.ndarray) -> float:
    pairs = list(itertools.combinations(range(table.shape[1]), 2))
    return float(np.mean([table[:, a] == table[:, b] for a, b in pairs]))


def _interval(measure: Callable[[np.ndarray], float], n: int, draws: int) -> tuple[float, float]:
    if n < 2:
        return math.nan, math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            (np.arange(n),), measure, vectorized=False, n_resamples=draws, method="percentile", rng=0
        ).bootstrap_distribution
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def likeness(one: Mapping[str, set[str]], two: Mapping[str, set[str]]) -> dict[str, Any]:
    """How alike two codebooks are in what they pick out of the same transcripts.

    Each category of one is paired with one of the other so that the sum of their Jaccard overlaps is highest; `overlap`
    is that sum over the larger number of categories, so one without a partner counts as 0. Categories that drive no
    transcript are left out; `overlap` is None where neither codebook has another.
    """
    a, b = ({key: ids for key, ids in sets.items() if ids} for sets in (one, two))
    if not a or not b:
        return {"overlap": None if not a and not b else 0.0, "categories": [len(a), len(b)], "pairs": []}
    table = np.array([[overlap(x, y, "jaccard") for y in b.values()] for x in a.values()])
    rows, columns = optimize.linear_sum_assignment(-table)
    keys_a, keys_b = list(a), list(b)
    pairs = [[keys_a[i], keys_b[j], float(table[i, j])] for i, j in zip(rows, columns, strict=True) if table[i, j] > 0]
    return {
        "overlap": float(table[rows, columns].sum()) / max(len(a), len(b)),
        "categories": [len(a), len(b)],
        "pairs": sorted(pairs, key=lambda pair: -pair[2]),
    }


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
