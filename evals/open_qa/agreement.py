"""How well a judge agrees with itself: grades of the same answers, given again and again.

    python -m evals.open_qa.agreement --config=configs/evals/open_qa_agreement.py --config.logs=logs

Of every log of the task open_qa: pairs of grades of one answer that are the same, those at most one apart, and
Krippendorff's alpha (ordinal, as the grades are ranks first of all, and interval), each with a percentile bootstrap
interval over items: the answers to one question are drawn together. The task's log holds the same figures as metrics.
"""

import dataclasses
import functools
import itertools
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log
from inspect_ai.scorer import Metric, SampleScore, Score, krippendorff_alpha, metric
from scipy import stats

from msm_jax import cli, storage
from msm_jax.cli import UserError

DRAWS, LEVEL = 200, 0.95  # in a log; the command draws as often as it is told to
Grades = Sequence[float]  # of one answer, as many as could be read


@dataclasses.dataclass(frozen=True)
class Figure:
    """A measure of agreement, from -1 (alpha) or 0 to 1, and its interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


def same(grades: Grades, apart: float = 0) -> float:
    """The share of pairs of grades of one answer that are at most so far apart."""
    return float(np.mean([abs(a - b) <= apart for a, b in itertools.combinations(grades, 2)]))


def alpha(answers: Sequence[SampleScore], level: str) -> float:
    """Krippendorff's alpha. NaN where all grades are the same: they would agree as well by chance.

    Args:
      answers: each with its grades as the score's value.
      level: "ordinal" or "interval".
    """
    if len({grade for one in answers for grade in one.score.value}) < 2:  # type: ignore[union-attr]
        return math.nan
    return float(krippendorff_alpha(level=level)(answers))  # type: ignore[arg-type, operator]


def _rated(grades: Grades) -> SampleScore:
    return SampleScore(score=Score(value=list(grades)))


# Measure → what is made of each answer's grades, once, and what the measure is of these.
MEASURES: dict[str, tuple[Callable[[Grades], Any], Callable[[Sequence[Any]], float]]] = {
    "exact": (same, np.mean),
    "within_1": (functools.partial(same, apart=1), np.mean),
    "alpha_ordinal": (_rated, functools.partial(alpha, level="ordinal")),
    "alpha_interval": (_rated, functools.partial(alpha, level="interval")),
}


def agreement(items: Mapping[str, Sequence[Grades]], draws: int = DRAWS) -> dict[str, Figure]:
    """Measure → figure.

    Args:
      items: item → the grades of each answer to it; those of fewer than two grades say nothing.
      draws: of items, for the intervals.
    """
    kept = [[grades for grades in answers if len(grades) > 1] for answers in items.values()]
    groups = [answers for answers in kept if answers]
    return {
        name: _figure([[each(one) for one in group] for group in groups], of, draws)
        for name, (each, of) in MEASURES.items()
    }


def _figure(groups: Sequence[Sequence[Any]], measure: Callable[[Sequence[Any]], float], draws: int) -> Figure:
    def of(chosen: np.ndarray) -> float:
        return float(measure([one for i in chosen for one in groups[i]]))

    value = of(np.arange(len(groups))) if groups else math.nan
    if len(groups) < 2 or math.isnan(value):
        return Figure(value, math.nan, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # where all draws are the same, so are the bounds
        drawn = stats.bootstrap(
            (np.arange(len(groups)),), of, vectorized=False, n_resamples=draws, method="percentile", rng=0
        ).bootstrap_distribution
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])  # a draw of one single grade has no alpha
    return Figure(value, float(low), float(high))


@metric
def judge_agreement(draws: int = DRAWS) -> Metric:
    """The figures of a log, from the grades in Score.metadata; with several epochs, of the first one's answers."""

    def compute(scores: list[SampleScore]) -> dict[str, float]:
        items: dict[str, list[Grades]] = {}
        for one in scores:
            items.setdefault(_item(one.sample_metadata, one.sample_id), []).append(grades_of(one.score))
        found: dict[str, float] = {}
        for name, figure in agreement(items, draws).items():
            found |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        return found

    return compute  # type: ignore[return-value]


def grades_of(score: Score) -> list[float]:
    """The grades that the scorer of the task put beside its mean."""
    return list((score.metadata or {}).get("grades", []))


def _item(metadata: Mapping[str, object] | None, sample: object) -> str:
    return str((metadata or {}).get("item", sample))


def of_log(log: EvalLog, draws: int = DRAWS) -> dict[str, Figure]:
    """The same over all epochs of a log that was read with its samples.

    Raises:
      UserError: a log of another task, or of one without repeated judgements.
    """
    items: dict[str, list[Grades]] = {}
    for sample in log.samples or []:
        for score in (sample.scores or {}).values():
            if len(grades_of(score)) > 1:
                items.setdefault(_item(sample.metadata, sample.id), []).append(grades_of(score))
    if not items:
        raise UserError(f"{log.location}: no answer was judged twice; ask for more by -T judgements=3")
    return agreement(items, draws)


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if not config.logs or not (storage.is_dir(config.logs) or storage.is_file(config.logs)):
        raise UserError(f"config.logs = {config.logs!r}: no such log or directory of logs")
    logs = [info for info in list_eval_logs(str(config.logs)) if "open" in info.task and "qa" in info.task]
    if not logs:
        raise UserError(f"config.logs = {config.logs}: no log of the task open_qa")
    for info in logs:
        log = read_eval_log(info)
        figures = {name: dataclasses.asdict(figure) for name, figure in of_log(log, config.draws).items()}
        print(json.dumps({"log": log.location, "model": log.eval.model, "agreement": figures}, indent=1))


if __name__ == "__main__":
    cli.entry(main)
