"""Rows brought together: for every task, model and measure its number, interval and what is missing."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evals import stats
from evals.rows import Row
from evals.stats import Interval

DRAWS = 2_000  # bootstrap replicates: bounds good to about a thirtieth of an interval's width
BESIDE = ("tool_use", "parsed", "refused")  # reported beside every rate
ERROR = "error"  # why a sample that failed has no value
UNSCORED = "not scored"
Values = dict[str, dict[str, list[float]]]  # cell → item → repeats
Key = tuple[str, str, int, int | None]  # task, arm, seed, checkpoint


def grouped(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """The rows of each evaluation."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault((row["task"], row["arm"], row["seed"], row["checkpoint"]), []).append(row)
    return found


def values_of(rows: Iterable[Row], measure: str) -> Values:
    found: Values = {}
    for row in rows:
        value = row["measures"].get(measure)
        if value is not None:
            found.setdefault(row["cell"], {}).setdefault(row["item"], []).append(value)
    return found


def missing_of(rows: Sequence[Row], measure: str) -> dict[str, int]:
    """Reason → samples without a value; failed samples and unscored ones among them."""
    reasons: collections.Counter[str] = collections.Counter()
    for row in rows:
        if row["measures"].get(measure) is None:
            reasons[ERROR if row["error"] else row["missing"].get(measure, UNSCORED)] += 1
    return dict(sorted(reasons.items()))


def measures_of(rows: Iterable[Row], headline: str) -> list[str]:
    """Every measure some row has, the headline first, then those reported beside it."""
    names = {name: None for row in rows for name in row["measures"]}
    first = [name for name in (headline, *BESIDE) if name in names]
    return first + [name for name in names if name not in first]


def headline_of(rows: Iterable[Row], task: Mapping[str, Any]) -> str:
    """The measure a task names as its result; of a task that names none, its first."""
    named = task.get("headline")
    return str(named) if named else next((name for row in rows for name in row["measures"]), "")


def entries(rows: Iterable[Row], tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One for each evaluation and measure: {task, arm, seed, checkpoint, model, measure, headline, better, n, items,
    samples, mean, low, high, missing: {reason: samples}, cells: {cell: {n, mean, low, high}}}.

    n: values. mean: unweighted over cells (stats.cells_interval says what is drawn). What does not exist is null.
    """
    made = []
    for (task, arm, seed, checkpoint), group in grouped(rows).items():
        about = tasks.get(task, {})
        headline = headline_of(group, about)
        for measure in measures_of(group, headline) or [headline]:
            cells = values_of(group, measure)
            made.append(
                {
                    "task": task,
                    "title": str(about.get("title") or task),
                    "arm": arm,
                    "seed": seed,
                    "checkpoint": checkpoint,
                    "model": group[0]["model"],
                    "measure": measure,
                    "headline": measure == headline,
                    "better": str(about.get("better") or "neither"),
                    "n": sum(len(repeats) for items in cells.values() for repeats in items.values()),
                    "items": sum(map(len, cells.values())),
                    "samples": len(group),
                    **bounds(stats.cells_interval(_lists(cells), draws=DRAWS)),
                    "missing": missing_of(group, measure),
                    "cells": {
                        cell: {"n": sum(map(len, items.values()))}
                        | bounds(stats.cell_interval(list(items.values()), draws=DRAWS))
                        for cell, items in sorted(cells.items())
                    },
                }
            )
    return made


def _lists(cells: Values) -> list[list[list[float]]]:
    return [list(items.values()) for _, items in sorted(cells.items())]


def bounds(interval: Interval) -> dict[str, float | None]:
    return {name: finite(getattr(interval, name)) for name in ("mean", "low", "high")}


def finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)


def interval_of(entry: Mapping[str, Any]) -> Interval:
    """The interval that bounds() wrote."""
    nan = float("nan")
    mean, low, high = (nan if entry[name] is None else entry[name] for name in ("mean", "low", "high"))
    return Interval(mean, low, high, entry["n"])


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm's result on a task by one measure. per_seed: seed → mean. interval: over seeds (t) where there are two or
    more that differ, else what the seeds' own intervals span; `over` says which. error: mean ± 1 SEM over seeds, as the
    paper draws it."""

    name: str
    per_seed: dict[int, float]
    interval: Interval
    over: str
    error: Interval


def arm_of(name: str, made: Sequence[Mapping[str, Any]]) -> Arm | None:
    """From the entries of one task, arm and measure, one a seed; None where none has a value."""
    known = [entry for entry in made if entry["mean"] is not None]
    if not known:
        return None
    per_seed = {entry["seed"]: entry["mean"] for entry in sorted(known, key=lambda entry: entry["seed"])}
    means = list(per_seed.values())
    error = stats.standard_error(means)
    if len(set(means)) > 1:
        return Arm(name, per_seed, stats.t_interval(means), "seeds", error)
    own = [interval_of(entry) for entry in known]
    spanned = Interval(own[0].mean, min(i.low for i in own), max(i.high for i in own), len(own))
    return Arm(name, per_seed, spanned, "items", error)


def last_checkpoints(made: Iterable[Row], step: int | None = None) -> dict[tuple[str, int], int | None]:
    """(arm, seed) → the checkpoint that stands for it: `step`, where it has that; else its last one."""
    found: dict[tuple[str, int], set[int | None]] = {}
    for entry in made:
        found.setdefault((entry["arm"], entry["seed"]), set()).add(entry["checkpoint"])
    return {
        key: step if step in steps else max((s for s in steps if s is not None), default=None)
        for key, steps in found.items()
    }


def cells_of(made: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Each cell of an arm, from the entries of its seeds: the mean over seeds, and what their own intervals span."""
    found: dict[str, dict[str, float | int | None]] = {}
    for cell in dict.fromkeys(cell for entry in made for cell in entry["cells"]):
        parts = [entry["cells"][cell] for entry in made if cell in entry["cells"]]
        found[cell] = {
            "n": sum(part["n"] for part in parts),
            "mean": sum(part["mean"] for part in parts) / len(parts),
            "low": min((part["low"] for part in parts if part["low"] is not None), default=None),
            "high": max((part["high"] for part in parts if part["high"] is not None), default=None),
        }
    return found
