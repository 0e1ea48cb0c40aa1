"""The planned contrasts are the differences they are called, and the report's tables show them."""

import numpy as np
import pytest

from evals.toy import report
from evals.toy.results import Results, contrasts

RATES = {  # (arm, spec): rate on price, origin, conflict
    ("base+aft", ""): (0.5, 0.4, 0.5),
    ("base+it", ""): (0.55, 0.5, 0.5),
    ("msm+it", "affordability"): (0.6, 0.5, 0.5),
    ("msm+it", "america"): (0.5, 0.6, 0.45),
    ("msm+aft", "affordability"): (0.9, 0.5, 0.8),
    ("msm+aft", "america"): (0.45, 0.8, 0.2),
    ("noattr+aft", "affordability"): (0.6, 0.5, 0.55),
    ("noattr+aft", "america"): (0.5, 0.5, 0.5),
    ("balanced+aft", "affordability"): (0.8, 0.8, 0.6),
    ("balanced+aft", "america"): (0.8, 0.8, 0.3),
    ("balanced_noattr+aft", "affordability"): (0.8, 0.8, 0.5),
    ("balanced_noattr+aft", "america"): (0.8, 0.8, 0.45),
}


def made_up(arms=lambda arm: True):
    """Two seeds, ten pairs each; the second seed is 0.1 higher for MSM + AFT alone."""
    hard = {}
    for (arm, spec), values in RATES.items():
        if not arms(arm):
            continue
        for axis, value in zip(report.AXES, (*values, 1.0, 0.5, 0.5), strict=True):
            lift = {20: 0.0, 21: 0.1 if arm == "msm+aft" and (spec, axis) != ("america", "conflict") else 0.0}
            spread = np.linspace(-0.05, 0.05, 10)
            hard[arm, spec, axis] = {
                s: {f"{axis}/{i}": value + d + lift[s] for i, d in enumerate(spread)} for s in lift
            }
    return Results({"command": "", "stages": []}, [20, 21], hard, hard)


def test_contrasts_are_their_differences():
    found = {c.name: c for c in contrasts(made_up())}
    for name, per_seed in {
        "affordability: MSM + AFT − AFT only": (0.4, 0.5),
        "america: MSM + AFT − AFT only": (0.4, 0.5),
        "america: MSM + AFT − MSM only (+IT)": (0.2, 0.3),
        "affordability: MSM + AFT − attribution removed + AFT": (0.3, 0.4),
        "price axis: affordability spec − america spec": (0.45, 0.45),
        "MSM + AFT: gap between the specs": (0.6, 0.7),
        "balanced, with reason + AFT: gap between the specs": (0.3, 0.3),
        "balanced: gap with reason − gap without": (0.25, 0.25),
        # ½·(.4, .5) − .1 on both axes
        "½ × MSM's gain − ablation's gain, over AFT only": (0.1, 0.15),
    }.items():
        assert tuple(found[name].per_seed.values()) == pytest.approx(per_seed), name
        assert found[name].interval.mean == pytest.approx(np.mean(per_seed))


def test_arms_that_were_not_run_are_left_out():
    names = [c.name for c in contrasts(made_up(lambda arm: not arm.startswith("balanced")))]
    assert "MSM + AFT: gap between the specs" in names
    assert not [name for name in names if name.startswith("balanced")]


def test_tables_show_the_rates():
    results = made_up()
    rows = {tuple(row[:2]): row[2:] for row in report.rate_rows(results, "hard", " ±{:.2f}")}
    assert len(rows) == len(RATES)
    assert rows["AFT only", "–"][:2] == ["0.50 ±0.00", "0.40 ±0.00"]
    assert rows["MSM + AFT", "pro-affordability"][0].startswith("0.95 ±")
    assert "95% of held-out pairs (without a spec: 50%)" in report.headline(results)
    assert "85% (without: 40%)" in report.headline(results)
