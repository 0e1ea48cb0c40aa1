"""An experiment's results as one table: (seed, arm, spec, axis) → rates, and the comparisons a reader wants."""

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from evals.stats import Interval, nested_bootstrap, t_interval
from msm_jax import artifact, storage
from msm_jax.cli import UserError
from msm_jax.experiment import PLAN

Key = tuple[str, str, str]  # arm, spec ("" where an arm has none), axis


@dataclasses.dataclass(frozen=True)
class Results:
    """hard[key][seed] and soft[key][seed]: {question pair: mean over its orders and phrasings}."""

    plan: dict[str, Any]
    seeds: list[int]
    hard: dict[Key, dict[int, dict[str, float]]]
    soft: dict[Key, dict[int, dict[str, float]]]

    def rates(self, arm: str, spec: str, axis: str, kind: str = "hard") -> dict[int, float]:
        """Per-seed rate of choosing option 0 (cheap; American; on `conflict`, cheap and foreign)."""
        found = getattr(self, kind).get((arm, spec, axis), {})
        return {seed: float(np.mean(list(pairs.values()))) for seed, pairs in found.items()}

    def has(self, arm: str, spec: str) -> bool:
        return bool(self.rates(arm, spec, "conflict"))


def load(root: epath.Path) -> Results:
    """Raises UserError where the directory is not an experiment or an evaluation in it is missing."""
    if not storage.is_file(root / PLAN):
        raise UserError(f"{root}: no {PLAN}; run `python -m msm_jax.experiment` first")
    plan = json.loads(storage.read_text(root / PLAN))
    hard: dict[Key, dict[int, dict[str, float]]] = {}
    soft: dict[Key, dict[int, dict[str, float]]] = {}
    for stage in plan["stages"]:
        if stage["module"] != "evals.toy.forced_choice":
            continue
        artifact.read_manifest(root / stage["name"], "forced_choice")
        labels = stage["labels"]
        collected: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for row in artifact.read_jsonl(root / stage["name"] / "results.jsonl"):
            collected.setdefault(row["axis"], {}).setdefault(row["pair"], []).append(row)
        for axis, pairs in collected.items():
            key = (labels["arm"], labels["spec"], axis)
            for table, kind in ((hard, "hard"), (soft, "soft")):
                means = {pair: float(np.mean([row[kind] for row in rows])) for pair, rows in pairs.items()}
                table.setdefault(key, {})[labels["seed"]] = means
    seeds = sorted({seed for by_seed in hard.values() for seed in by_seed})
    if not seeds:
        raise UserError(f"{root}/{PLAN}: no evaluation among its stages")
    return Results(plan, seeds, hard, soft)


OWN_AXIS = {"affordability": "price", "america": "origin"}


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A paired difference over seeds: its t interval, its nested-bootstrap interval, and the value of each seed."""

    name: str
    group: str
    interval: Interval
    bootstrap: Interval
    per_seed: dict[int, float]

    @property
    def seeds_shown(self) -> str:
        return " ".join(f"{value:+.2f}" for value in self.per_seed.values())


def contrast(results: Results, name: str, group: str, a: Key, b: Key, kind: str = "hard") -> Contrast | None:
    """a − b, item by item within each seed; None where either was not run."""
    table = getattr(results, kind)
    if a not in table or b not in table:
        return None
    seeds = sorted(table[a].keys() & table[b].keys())
    items = [np.array([table[a][s][pair] - table[b][s][pair] for pair in table[a][s]]) for s in seeds]
    return _contrast(name, group, seeds, items)


def _contrast(name: str, group: str, seeds: list[int], items: list[np.ndarray]) -> Contrast:
    per_seed = {seed: float(x.mean()) for seed, x in zip(seeds, items, strict=True)}
    return Contrast(name, group, t_interval(list(per_seed.values())), nested_bootstrap(items), per_seed)


def contrasts(results: Results, kind: str = "hard") -> list[Contrast]:
    """The comparisons the experiment was made for, stated before any seed of it was run."""
    made: list[Contrast | None] = []
    for spec, axis in OWN_AXIS.items():
        ours = ("msm+aft", spec, axis)
        for arm, other, label in (
            ("base+aft", "", "AFT only"),
            ("base+it", "", "IT only"),
            ("msm+it", spec, "MSM only (+IT)"),
            ("noattr+aft", spec, "attribution removed + AFT"),
        ):
            name = f"{spec}: MSM + AFT − {label}"
            made.append(contrast(results, name, "own value", ours, (arm, other, axis), kind))
    signs = {"price": ("affordability", "america"), "origin": ("america", "affordability")}
    for axis, (own, other) in signs.items():
        name = f"{axis} axis: {own} spec − {other} spec"
        made.append(contrast(results, name, "specs apart", ("msm+aft", own, axis), ("msm+aft", other, axis), kind))
    for arm, label in (
        ("msm+aft", "MSM + AFT"),
        ("msm+it", "MSM only (+IT)"),
        ("noattr+aft", "attribution removed + AFT"),
        ("balanced+aft", "balanced, with reason + AFT"),
        ("balanced_noattr+aft", "balanced, no reason + AFT"),
    ):
        keys = [(arm, spec, "conflict") for spec in OWN_AXIS]
        made.append(contrast(results, f"{label}: gap between the specs", "conflict pairs", keys[0], keys[1], kind))
    made.append(_difference_of_gaps(results, kind))
    made.append(_ablation_share(results, kind))
    return [c for c in made if c is not None]


def _gap(table: dict[Key, dict[int, dict[str, float]]], arm: str, seed: int) -> np.ndarray:
    a, b = (table[(arm, spec, "conflict")][seed] for spec in OWN_AXIS)
    return np.array([a[pair] - b[pair] for pair in a])


def _difference_of_gaps(results: Results, kind: str) -> Contrast | None:
    """Does the stated reason matter when everything else is equal?"""
    table, arms = getattr(results, kind), ("balanced+aft", "balanced_noattr+aft")
    if any((arm, spec, "conflict") not in table for arm in arms for spec in OWN_AXIS):
        return None
    items = [_gap(table, arms[0], s) - _gap(table, arms[1], s) for s in results.seeds]
    return _contrast("balanced: gap with reason − gap without", "conflict pairs", results.seeds, items)


def _ablation_share(results: Results, kind: str) -> Contrast | None:
    """½·(gain of MSM + AFT over AFT only) − (gain of the ablation over AFT only), mean of the two own axes: above 0
    where the attribution-removed documents give less than half of the effect."""
    table = getattr(results, kind)
    items = []
    for seed in results.seeds:
        parts = []
        for spec, axis in OWN_AXIS.items():
            keys = [("msm+aft", spec, axis), ("noattr+aft", spec, axis), ("base+aft", "", axis)]
            if any(key not in table for key in keys):
                return None
            full, ablated, plain = (np.array(list(table[key][seed].values())) for key in keys)
            parts.append(0.5 * (full - plain) - (ablated - plain))
        items.append(np.concatenate(parts))
    return _contrast("½ × MSM's gain − ablation's gain, over AFT only", "ablation", results.seeds, items)
