"""Intervals, paired differences and the budget of seeds.

A seed is a training run of its own (in the toy a world of its own: names, base model, data order and evaluation items
all differ). Items are nested in seeds, and the spread of per-seed means already holds the sampling of items. An item is
what repeats share (a question, a prompt): repeats of one item are not independent of one another, so an item, not a
repeat, is what is drawn anew. Cells (a scenario, a dimension) are the design: their list is fixed, each counts the
same, and nothing is drawn among them but where a function says so.

Values are numbers of any range, or 0 and 1. What is missing is left out before: none of these functions sees a NaN.
The formulas are scipy's and statsmodels'; of our own are the order of drawing in nested_bootstrap and the mean squares.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

DRAWS = 10_000  # bootstrap replicates
FEW = 8  # draws in a cell below which a bootstrap is not believed


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean of n things (seeds, items, observations: whoever makes it says), and the two-sided interval [low, high],
    of 95% unless it says otherwise; NaN bounds where n < 2."""

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


def standard_error(values: Sequence[float]) -> Interval:
    """The mean ± 1 standard error of the mean (scipy.stats.sem), as the paper draws it: over the per-seed averages,
    and in its figure of model sizes over the rates of the cells of one seed. 68% at most."""
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return Interval(float(x.mean()), float("nan"), float("nan"), len(x))
    sem = float(stats.sem(x))
    return Interval(float(x.mean()), float(x.mean()) - sem, float(x.mean()) + sem, len(x))


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a rate, successes out of n independent observations; within [0, 1], of some width
    even where all or none succeed. (statsmodels proportion_confint; Wilson 1927.)"""
    from statsmodels.stats.proportion import proportion_confint

    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return Interval(successes / n, float(low), float(high), n)


def item_means(items: Sequence[Sequence[float]]) -> np.ndarray:
    """What is drawn in a cell, from the repeats of each of its items: the items' means; where the cell has a single
    item, its repeats, and an interval then speaks of this very prompt alone."""
    if len(items) == 1:
        return np.asarray(items[0], np.float64)
    return np.array([np.mean(repeats) for repeats in items])


def cell_interval(items: Sequence[Sequence[float]], level: float = 0.95, draws: int = DRAWS) -> Interval:
    """Of one cell in one run of training, from the repeats of each of its items: cells_interval of it alone."""
    return cells_interval([items], level, draws)


def cells_interval(
    cells: Sequence[Sequence[Sequence[float]]], level: float = 0.95, draws: int = DRAWS, rng_seed: int = 0
) -> Interval:
    """The unweighted mean over cells (cell → item → repeats) of one run of training; n: what was drawn in all cells.

    Percentile bootstrap (scipy.stats.bootstrap) of items within each cell, or of repeats where the cell has a single
    item; the cells themselves are kept. An only cell of independent 0/1 (one observation an item, or one item) gets
    Wilson's interval. A bootstrap of a handful is too narrow: where a cell has fewer than FEW draws, or nothing varies
    in any, values from 0 to 1 get Wilson's interval as of so many 0/1 as if every cell had as few as the smallest (no
    values of that range and mean vary more), others Student's t over cells, or over what is drawn in an only one.
    """
    kept = [items for items in cells if len(items)]
    units = [item_means(items) for items in kept]
    if not units:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean, total, least = float(np.mean([u.mean() for u in units])), sum(map(len, units)), min(map(len, units))
    independent = len(kept) == 1 and (len(kept[0]) == 1 or all(len(repeats) == 1 for repeats in kept[0]))
    if independent and _is_binary(units[0]):
        return wilson(mean * total, total, level)
    if least < FEW or all(np.ptp(u) == 0 for u in units):
        if all(u.min() >= 0 and u.max() <= 1 for u in units):
            wide = wilson(mean * least * len(units), least * len(units), level)
        else:
            wide = t_interval([float(u.mean()) for u in units] if len(units) > 1 else units[0].tolist(), level)
        known = wide.low < wide.high  # of what never varies and has no range nothing can be said
        return Interval(mean, wide.low if known else float("nan"), wide.high if known else float("nan"), total)
    tail = (1 - level) / 2
    low, high = np.quantile(_replicates(units, draws, np.random.default_rng(rng_seed)), [tail, 1 - tail])
    return Interval(mean, float(low), float(high), total)


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _replicates(cells: Sequence[np.ndarray], draws: int, rng: np.random.Generator) -> np.ndarray:
    """[draws]: the mean over cells, with what is in each cell drawn anew."""
    total = np.zeros(draws)
    for units in cells:
        if np.ptp(units) == 0:
            total += units[0]  # whatever is drawn; scipy refuses a single value
            continue
        batch = max(1, (1 << 22) // len(units))  # 32 MB of draws at once
        total += stats.bootstrap(
            (units,), np.mean, n_resamples=draws, batch=batch, method="percentile", rng=rng
        ).bootstrap_distribution
    return total / len(cells)


def nested_bootstrap(
    seeds: Sequence[np.ndarray], level: float = 0.95, draws: int = DRAWS, rng_seed: int = 0
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


@dataclasses.dataclass(frozen=True)
class Paired:
    """Arm a minus arm b, over the same items.

    interval: of the mean difference, over seeds (t) where there are two or more that differ, else over items
    (bootstrap); `over` says which. bootstrap: over seeds and items, or over items. p: of the t test over that unit,
    two-sided; of Wilcoxon's where all units are the same. wilcoxon: p of the signed-rank test over items. mcnemar: p of
    the exact test over the items of all seeds; None where an item has more than one observation in an arm and seed, or
    the values are not 0/1. left_out: items that only one of the arms has.
    """

    interval: Interval
    over: str
    bootstrap: Interval
    p: float
    wilcoxon: float
    mcnemar: float | None
    items: int
    seeds: int
    left_out: int


Observed = Mapping[str, Sequence[float]]  # item → its repeats


def paired(
    a: Mapping[int, Observed], b: Mapping[int, Observed], level: float = 0.95, rng_seed: int = 0
) -> Paired | None:
    """a − b, each {seed: {item: repeats}}; None where they share no item.

    Item by item within the seeds that both arms have. Arms that share no seed are compared over items alone, each
    item's value being its mean over the arm's seeds: such an interval says nothing of other seeds. Items are drawn as
    if from more of their kind, cells included.

    Sources: scipy.stats.bootstrap, ttest_1samp, wilcoxon; statsmodels mcnemar; nested_bootstrap.
    """
    seeds = sorted(a.keys() & b.keys())
    pairs = [(a[s], b[s]) for s in seeds] if seeds else [(_merged(a), _merged(b))]
    shared = [sorted(x.keys() & y.keys()) for x, y in pairs]
    if not all(shared):
        return None
    differences = [
        np.array([np.mean(x[item]) - np.mean(y[item]) for item in items])
        for (x, y), items in zip(pairs, shared, strict=True)
    ]
    by_item: dict[str, list[float]] = {}
    for items, values in zip(shared, differences, strict=True):
        for item, value in zip(items, values, strict=True):
            by_item.setdefault(item, []).append(float(value))
    per_item = np.array([np.mean(values) for values in by_item.values()])
    per_seed = np.array([d.mean() for d in differences])
    if len(np.unique(per_seed)) > 1:
        interval, over, units = t_interval(per_seed.tolist(), level), "seeds", per_seed
        drawn = nested_bootstrap(differences, level, rng_seed=rng_seed)
    else:
        rates = all(0 <= v <= 1 for pair in pairs for arm in pair for repeats in arm.values() for v in repeats)
        interval, over, units = _over_items(per_item, rates, level, rng_seed), "items", per_item
        drawn = interval
    wilcoxon = float(stats.wilcoxon(per_item).pvalue) if np.any(per_item) else 1.0
    once = [
        (x[item][0], y[item][0]) if len(x[item]) == len(y[item]) == 1 else None
        for (x, y), items in zip(pairs, shared, strict=True)
        for item in items
    ]
    return Paired(
        interval,
        over,
        drawn,
        wilcoxon if np.ptp(units) == 0 else t_test(units),
        wilcoxon,
        mcnemar([pair for pair in once if pair]) if all(once) else None,
        len(per_item),
        len(seeds),
        sum(len(x.keys() ^ y.keys()) for x, y in pairs),
    )


def _over_items(values: np.ndarray, rates: bool, level: float, rng_seed: int) -> Interval:
    """cells_interval of one cell; differences of rates lie between −1 and 1, and are moved to where it knows rates. Of
    others few get Student's t, whatever range they happen to have."""
    if not rates:
        if len(values) >= FEW and np.ptp(values) > 0:
            return cells_interval([[[v] for v in values]], level, rng_seed=rng_seed)
        found = t_interval(values.tolist(), level)
        nothing = float("nan")
        return found if found.low < found.high else Interval(found.mean, nothing, nothing, found.n)
    moved = cells_interval([[[(v + 1) / 2] for v in values]], level, rng_seed=rng_seed)
    return Interval(float(values.mean()), 2 * moved.low - 1, 2 * moved.high - 1, moved.n)


def _merged(arm: Mapping[int, Observed]) -> dict[str, list[float]]:
    """Every item's mean in each seed that has it."""
    merged: dict[str, list[float]] = {}
    for items in arm.values():
        for item, repeats in items.items():
            merged.setdefault(item, []).append(float(np.mean(repeats)))
    return merged


def t_test(differences: np.ndarray) -> float:
    """Two-sided p of a mean of 0 (scipy.stats.ttest_1samp, the paired t test)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nearly identical values: p is small, and that is all
        return float(stats.ttest_1samp(differences, 0.0).pvalue)


def mcnemar(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Two-sided exact p of as many changes one way as the other, over pairs of 0/1; None where a value is neither.
    (statsmodels mcnemar, exact: the binomial of the pairs that differ.)"""
    from statsmodels.stats.contingency_tables import mcnemar as exact

    if not pairs or not _is_binary(np.array(pairs)):
        return None
    table = np.zeros((2, 2), int)
    for x, y in pairs:
        table[int(x), int(y)] += 1
    return float(exact(table, exact=True).pvalue)


@dataclasses.dataclass(frozen=True)
class Components:
    """Variances of one arm's values: between seeds, between items, and what is left in a mean of one item in one seed
    (how items respond to seeds, and the repeats). seeds, items: how many they were estimated from."""

    seed: float
    item: float
    rest: float
    seeds: int
    items: int


def components(seeds: Sequence[Observed]) -> Components | None:
    """From the items that all seeds share, two-way, crossed, without replication; None of fewer than two of either.

    Equal to the mean squares of statsmodels' anova_lm of value ~ C(seed) + C(item), which would need a matrix of
    (seeds × items)²; seed = (MS(seed) − MS(rest))/items, item likewise, negative estimates set to 0. (Searle, Casella
    and McCulloch, Variance Components, §4.)
    """
    shared = sorted(set.intersection(*(set(items) for items in seeds))) if seeds else []
    s, i = len(seeds), len(shared)
    if s < 2 or i < 2:
        return None
    table = np.array([[np.mean(items[item]) for item in shared] for items in seeds])
    by_seed, by_item, all_ = table.mean(axis=1), table.mean(axis=0), table.mean()
    ms_seed = i * ((by_seed - all_) ** 2).sum() / (s - 1)
    ms_item = s * ((by_item - all_) ** 2).sum() / (i - 1)
    ms_rest = ((table - by_seed[:, None] - by_item[None, :] + all_) ** 2).sum() / ((s - 1) * (i - 1))
    return Components(
        max(0.0, float(ms_seed - ms_rest) / i), max(0.0, float(ms_item - ms_rest) / s), float(ms_rest), s, i
    )


def seeds_needed(
    effect: float, found: Components, items: int, power: float = 0.8, level: float = 0.95, most: int = 1024
) -> int | None:
    """Seeds of each of two arms until a t test over per-seed means finds a difference of `effect` with that power,
    where every seed is asked `items` items, the same ones in both arms; None where more than `most` would be.

    A seed's mean varies by seed + rest/items: the items' own variance cancels between the arms. (statsmodels
    TTestIndPower; seeds of the two arms independent.)
    """
    from statsmodels.stats.power import TTestIndPower

    spread = np.sqrt(found.seed + found.rest / items)
    if spread == 0:
        return 2
    test = TTestIndPower()

    def reached(n: int) -> bool:
        return bool(test.power(effect / spread, n, 1 - level) >= power)

    enough = 2
    while not reached(enough):
        enough *= 2  # from below: far above, the power comes out as NaN
        if enough > most:
            return None
    few = enough // 2
    while enough - few > 1:
        half = (few + enough) // 2
        few, enough = (few, half) if reached(half) else (half, enough)
    return enough


def adjusted(p_values: Sequence[float], method: str = "holm") -> list[float]:
    """p values of several comparisons made at once, in their order: `holm` keeps the chance of any false one, `fdr_bh`
    (Benjamini–Hochberg) the expected share of false ones among those found. NaN stays NaN and counts for nothing.
    (statsmodels multipletests.)"""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, np.float64)
    known = ~np.isnan(p)
    if known.any():
        p[known] = multipletests(p[known], method=method)[1]
    return [float(value) for value in p]
