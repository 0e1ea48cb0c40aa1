"""Intervals against scipy and against their definition: coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from evals.stats import (
    Components,
    adjusted,
    cell_interval,
    cells_interval,
    components,
    mcnemar,
    nested_bootstrap,
    paired,
    seeds_needed,
    standard_error,
    t_interval,
    wilson,
)


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


# -- rates and cells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: the score interval without continuity correction.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_as_published(successes, n, low, high):
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.mean == successes / n


def test_no_observation_has_no_rate():
    assert math.isnan(wilson(0, 0).mean)
    assert math.isnan(cells_interval([]).mean)


def test_one_standard_error_is_scipys():
    found = standard_error([0.68, 0.53, 0.70, 0.48])
    assert found.high - found.mean == pytest.approx(stats.sem([0.68, 0.53, 0.70, 0.48]))
    assert found.mean == pytest.approx(0.5975)


def test_an_item_is_drawn_with_all_its_repeats():
    """Ten questions asked ten times over say no more than ten questions asked once; a hundred questions do."""
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 2, 30).astype(float)
    once, repeated = (cell_interval([[a] * k for a in answers]) for k in (1, 10))
    assert (once.low, once.high) == (wilson(answers.sum(), 30).low, wilson(answers.sum(), 30).high)
    assert repeated.n == 30
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, rel=0.15)


def test_a_lone_prompt_is_judged_by_its_repeats():
    assert cell_interval([[1.0] * 12 + [0.0] * 4]) == wilson(12, 16)


def test_cells_count_the_same_whatever_their_size():
    assert cells_interval([[[1.0]] * 90, [[0.0]] * 10]).mean == 0.5


def test_the_bootstrap_over_cells_is_scipys():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 40), rng.normal(2, 3, 25)
    found = cells_interval([[[v] for v in a], [[v] for v in b]])

    def both(x, y, axis):
        return (x.mean(axis=axis) + y.mean(axis=axis)) / 2

    wanted = stats.bootstrap((a, b), both, n_resamples=10_000, method="percentile", rng=rng).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.04)


@pytest.mark.parametrize(("cells", "each"), [(27, 1), (27, 3), (9, 20)])
def test_cells_cover(cells, each):
    """The interval holds the true mean of these cells in at least about 95 of 100 experiments, however few the draws."""
    rng, hits, trials = np.random.default_rng(cells * each), 0, 120
    for _ in range(trials):
        rates = rng.uniform(0, 1, cells)
        data = [[rng.binomial(1, p, each).astype(float)] for p in rates]
        found = cells_interval(data, draws=300)
        hits += found.low <= rates.mean() <= found.high
    assert hits / trials > 0.89


def test_where_nothing_varies_the_interval_is_still_an_interval():
    found = cells_interval([[[0.0] * 20] for _ in range(27)])
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(wilson(0, 540).high)


# -- differences -----------------------------------------------------------------------------------------------------


def observed(values):
    return {f"i{n}": [v] for n, v in enumerate(values)}


def test_paired_over_items_agrees_with_the_libraries():
    rng = np.random.default_rng(4)
    x, y = rng.normal(0.4, 1, 50), rng.normal(0, 1, 50)
    found = paired({0: observed(x)}, {0: observed(y)})
    assert (found.over, found.items, found.seeds, found.left_out) == ("items", 50, 1, 0)
    assert found.interval.mean == pytest.approx((x - y).mean())
    assert found.p == pytest.approx(stats.ttest_rel(x, y).pvalue)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(x, y).pvalue)
    wanted = stats.bootstrap((x - y,), np.mean, method="percentile", rng=rng).confidence_interval
    assert (found.interval.low, found.interval.high) == pytest.approx((wanted.low, wanted.high), abs=0.04)
    assert found.mcnemar is None


def test_paired_over_seeds_is_the_t_test_of_their_means():
    rng = np.random.default_rng(5)
    a, b = ({s: observed(rng.normal(m, 1, 30)) for s in (20, 21, 22)} for m in (1, 0))
    found = paired(a, b)
    means = [[np.mean([v[0] for v in arm[s].values()]) for s in arm] for arm in (a, b)]
    assert found.over == "seeds"
    assert found.p == pytest.approx(stats.ttest_rel(*means).pvalue)


def test_pairing_takes_out_what_items_share():
    """Items differ a lot, arms a little: paired, the difference is seen."""
    rng = np.random.default_rng(6)
    hard = rng.normal(0, 5, 60)
    a, b = observed(hard + 0.5 + rng.normal(0, 0.2, 60)), observed(hard)
    assert paired({0: a}, {0: b}).interval.low > 0.3
    assert cell_interval(list(a.values())).high - cell_interval(list(a.values())).low > 1.5


def test_what_only_one_arm_has_is_left_out_and_counted():
    a, b = observed([1.0, 0.0, 1.0]), observed([1.0, 0.0, 1.0, 0.0])
    assert paired({0: a}, {0: b}).left_out == 1
    assert paired({0: a}, {0: {"other": [1.0]}}) is None
    assert paired({0: a, 1: {"x": [1.0]}}, {0: b, 1: {"y": [1.0]}}) is None


def test_arms_without_a_common_seed_are_compared_over_items_and_say_so():
    found = paired({0: observed([1.0, 0.0, 1.0])}, {1: observed([0.0, 0.0, 1.0])})
    assert (found.over, found.seeds, found.items) == ("items", 0, 3)


def test_mcnemar_is_the_exact_binomial_of_the_pairs_that_differ():
    pairs = [(1.0, 0.0)] * 9 + [(0.0, 1.0)] * 2 + [(1.0, 1.0)] * 40
    assert mcnemar(pairs) == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert mcnemar([(0.5, 1.0)]) is None
    repeats = {"i": [1.0, 0.0]}
    assert paired({0: repeats}, {0: repeats}).mcnemar is None


def test_equal_arms_differ_by_nothing():
    arm = {0: observed([1.0, 0.0, 1.0])}
    found = paired(arm, arm)
    assert (found.interval.mean, found.p, found.wilcoxon, found.mcnemar) == (0.0, 1.0, 1.0, 1.0)


# -- the budget ------------------------------------------------------------------------------------------------------


def test_components_are_the_mean_squares_of_statsmodels():
    import pandas
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(7)
    table = rng.normal(0, 0.3, 4)[:, None] + rng.normal(0, 0.6, 12)[None, :] + rng.normal(0, 0.2, (4, 12))
    found = components([observed(row) for row in table])
    frame = pandas.DataFrame([{"s": s, "i": i, "y": table[s, i]} for s in range(4) for i in range(12)])
    squares = anova_lm(ols("y ~ C(s) + C(i)", frame).fit())["sum_sq"] / [3, 11, 33]
    assert found.rest == pytest.approx(squares["Residual"])
    assert found.seed == pytest.approx((squares["C(s)"] - squares["Residual"]) / 12)
    assert found.item == pytest.approx((squares["C(i)"] - squares["Residual"]) / 4)


def test_one_seed_says_nothing_of_seeds():
    assert components([observed([1.0, 0.0])]) is None


def test_seeds_needed_are_those_that_the_power_asks_for():
    """A two-sample t test of d = 0.8 needs 26 of each for a power of 0.8 (Cohen 1988, table 2.4.1)."""
    spread = Components(seed=1.0, item=9.0, rest=0.0, seeds=4, items=10)
    assert seeds_needed(0.8, spread, items=10) == 26
    assert seeds_needed(0.01, spread, items=10) is None
    noisy = Components(seed=0.0, item=0.0, rest=10.0, seeds=4, items=10)
    assert seeds_needed(0.8, noisy, items=10) == 26
    assert seeds_needed(0.8, noisy, items=1000) < 5


def test_adjusted_p_values():
    """Holm: 0.01·4, 0.02·3, 0.03·2 (not below the one before), 0.6; Benjamini–Hochberg: p·4/rank, from the last down."""
    p = [0.02, 0.6, 0.01, 0.03]
    assert adjusted(p) == pytest.approx([0.06, 0.6, 0.04, 0.06])
    assert adjusted(p, "fdr_bh") == pytest.approx([0.04, 0.6, 0.04, 0.04])
    with_nan = adjusted([*p, float("nan")])
    assert with_nan[:4] == pytest.approx(adjusted(p))
    assert math.isnan(with_nan[4])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_difference_that_never_varies_is_not_certain(sign):
    """Two seeds, six items, all different in the same way: the t test over seeds would say p = 0 and no interval."""
    arms = ({s: observed([v] * 6) for s in (1, 2)} for v in (max(sign, 0.0), max(-sign, 0.0)))
    found = paired(*arms)
    assert (found.over, found.interval.mean) == ("items", sign)
    assert found.p == pytest.approx(2 * 0.5**6)
    assert found.interval.high - found.interval.low > 0.3


def test_a_few_items_do_not_rule_out_the_other_sign():
    found = paired({0: observed([1.0, 0.0, 0.0])}, {0: observed([0.0, 0.0, 0.0])})
    assert found.interval.low < 0 < found.interval.mean < found.interval.high
    alone = paired({0: observed([1.0])}, {0: observed([1.0])})
    assert alone.interval.low == pytest.approx(-alone.interval.high)
    assert alone.interval.low < -0.8
    ratings = paired({0: observed([9.0, 9.0])}, {0: observed([2.0, 2.0])})
    assert ratings.interval.mean == 7
    assert math.isnan(ratings.interval.low)


def test_a_few_differences_of_what_is_no_rate_get_students_t():
    """Bits per byte, say: that they differ by less than 1 makes them no rates."""
    base = {f"{n}": [value] for n, value in enumerate((1.20, 1.31, 1.27, 1.33))}
    more = {item: [value + n / 100] for n, (item, (value,)) in enumerate(base.items(), 7)}
    found = paired({0: more}, {0: base})
    low, high = stats.t.interval(0.95, 3, 0.085, stats.sem([0.07, 0.08, 0.09, 0.10]))
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert found.interval.excludes_zero
    assert found.p < 0.05
    same = paired({0: {item: [5.0] for item in base}}, {0: {item: [4.5] for item in base}})
    assert same.interval.mean == 0.5
    assert math.isnan(same.interval.low)
