"""Arms compared by a task's headline measure: paired differences, and how many seeds a difference takes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evals import stats
from evals.reporting.summary import Key, values_of
from evals.rows import Row
from evals.stats import Components, Paired

EFFECTS = (0.02, 0.05, 0.1, 0.2)  # of a rate, or of a measure's range
POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Arm a minus arm b on a task. holm, benjamini_hochberg: its p among all contrasts that are shown."""

    task: str
    a: str
    b: str
    paired: Paired
    holm: float = float("nan")
    benjamini_hochberg: float = float("nan")


def seeds_of(
    groups: Mapping[Key, Sequence[Row]], task: str, arm: str, measure: str
) -> dict[int, dict[str, list[float]]]:
    """seed → item → repeats, of an arm whose groups are one a seed. Items of two cells are two items."""
    found = {}
    for (of, name, seed, _), rows in groups.items():
        if (of, name) == (task, arm):
            cells = values_of(rows, measure)
            items = {f"{cell}\0{item}": repeats for cell, held in cells.items() for item, repeats in held.items()}
            if items:
                found[seed] = items
    return found


def pairs_of(arms: Sequence[str], wanted: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """The pairs asked for, of those arms; else every other arm with the first."""
    asked = [(a, b) for a, b in wanted if a in arms and b in arms]
    return asked or [(arm, arms[0]) for arm in arms[1:]]


def contrasts(
    groups: Mapping[Key, Sequence[Row]], headlines: Mapping[str, str], wanted: Iterable[Sequence[str]]
) -> list[Contrast]:
    """Every pair on every task (task → headline measure) that both arms have; `groups`: the checkpoints compared."""
    wanted, made = list(wanted), []
    for task, measure in headlines.items():
        arms = list(dict.fromkeys(arm for of, arm, _, _ in groups if of == task))
        for a, b in pairs_of(arms, wanted):
            found = stats.paired(seeds_of(groups, task, a, measure), seeds_of(groups, task, b, measure))
            if found:
                made.append(Contrast(task, a, b, found))
    p = [contrast.paired.p for contrast in made]
    if not p:
        return []
    holm, bh = stats.adjusted(p), stats.adjusted(p, "fdr_bh")
    return [
        dataclasses.replace(contrast, holm=h, benjamini_hochberg=b)
        for contrast, h, b in zip(made, holm, bh, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Budget:
    """needed: effect → seeds of each arm that a test over seeds takes to find it (None: more than 1024)."""

    task: str
    arm: str
    components: Components
    needed: dict[float, int | None]


def budgets(groups: Mapping[Key, Sequence[Row]], headlines: Mapping[str, str]) -> list[Budget]:
    """Of every arm with two seeds or more. Effects are shares of 1, or of the range of values seen where that is
    more."""
    made = []
    for task, measure in headlines.items():
        for arm in dict.fromkeys(arm for of, arm, _, _ in groups if of == task):
            seeds = seeds_of(groups, task, arm, measure)
            found = stats.components(list(seeds.values()))
            if found is None:
                continue
            values = [v for items in seeds.values() for repeats in items.values() for v in repeats]
            unit = max(1.0, max(values) - min(values))
            needed = {e * unit: stats.seeds_needed(e * unit, found, found.items, POWER) for e in EFFECTS}
            made.append(Budget(task, arm, found, needed))
    return made


def told(found: Contrast | Budget) -> dict[str, Any]:
    """For JSON: NaN becomes null."""
    return dict(_without_nan(dataclasses.asdict(found)))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and value != value else value
