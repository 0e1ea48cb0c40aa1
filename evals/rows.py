"""Inspect's logs as rows, one flat dict a sample: what every table, interval and figure is made of.

    {task, arm, seed, model, checkpoint, cell, item, split, sample, epoch,
     measures: {name: number or null}, missing: {name: reason}, decisive, judge, error, log}

`arm`, `seed` and `checkpoint` (a step, or null) are what the sweep wrote into the log's metadata; a log of other making
has its model as arm, seed 0, and the step it was loaded with. Nothing is left out silently: `counts` says how many logs
and samples there are, which of them have no row or no value, and why.
"""

import collections
import dataclasses
import math
from pathlib import Path
from typing import Any

from etils import epath
from inspect_ai.log import EvalLog, EvalSample, read_eval_log

from msm_jax import storage

Row = dict[str, Any]
HEAVY = {"attachments", "events", "messages", "store"}  # fields of a sample that rows have no use for
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0}  # Inspect's letters; N, no answer, is no number


@dataclasses.dataclass(frozen=True)
class Logs:
    """rows: of all logs. tasks: label → the task's metadata {title, headline, better, …}. counts: see read()."""

    rows: list[Row]
    tasks: dict[str, dict[str, Any]]
    counts: dict[str, Any]


def files(directory: epath.PathLike) -> dict[str, Path]:
    """Name below the directory → a local file, of every log there; those in a bucket are fetched."""
    root = storage.at(directory)
    names = [name for name in storage.files(root) if name.endswith(".eval")]
    found = {}
    for name in names:
        path = root / name
        found[name] = storage.nearby(path.parent, [path.name]) / path.name
    return found


def read(directory: epath.PathLike) -> Logs:
    """All rows of the logs below a directory, here or in a bucket. Of several logs of one evaluation (what a retry
    leaves behind) the finished one counts, else the latest.

    counts: logs (read), superseded, unreadable {log: reason}, unfinished {log: status}, expected and samples (numbers),
    errors {first line: samples}, unscored (samples without error and without score), missing {task: {measure: {reason:
    samples}}}.
    """
    latest: dict[str, tuple[str, EvalLog]] = {}
    unreadable: dict[str, str] = {}
    superseded = 0
    for name, path in sorted(files(directory).items()):
        try:
            log = read_eval_log(str(path), exclude_fields=HEAVY)
        except Exception as error:  # a zip cut short, JSON that is none: each library has its own
            unreadable[name] = f"{type(error).__name__}: {_line(error)}"
            continue
        before = latest.get(log.eval.task_id)
        superseded += before is not None
        if before is None or before[1].status != "success" or log.status == "success":
            latest[log.eval.task_id] = (name, log)
    found: list[Row] = []
    tasks: dict[str, dict[str, Any]] = {}
    unfinished, expected = {}, 0
    for name, log in sorted(latest.values(), key=lambda pair: pair[0]):
        facts = dict(log.eval.metadata or {})
        tasks.setdefault(label_of(log), facts | {"name": log.eval.task})
        if log.status != "success":
            unfinished[name] = log.status
        expected += _expected(log)
        found += [row_of(log, sample, name) for sample in log.samples or []]
    counts = {
        "logs": len(latest),
        "superseded": superseded,
        "unreadable": unreadable,
        "unfinished": unfinished,
        "expected": expected,
        "samples": len(found),
        "errors": dict(collections.Counter(row["error"] for row in found if row["error"])),
        "unscored": sum(not row["measures"] and not row["error"] for row in found),
        "missing": missing(found),
    }
    return Logs(found, tasks, counts)


def label_of(log: EvalLog) -> str:
    """What the sweep calls the task and its arguments; else the task's own name."""
    return str((log.eval.metadata or {}).get("label") or log.eval.task.split("/")[-1])


def _expected(log: EvalLog) -> int:
    """Samples that the evaluation has when it is finished."""
    ids = log.eval.dataset.sample_ids
    return len(ids if ids is not None else log.samples or []) * (log.eval.config.epochs or 1)


def missing(rows: list[Row]) -> dict[str, dict[str, dict[str, int]]]:
    """task → measure → reason → samples."""
    table: dict[str, dict[str, collections.Counter[str]]] = {}
    for row in rows:
        for measure, reason in row["missing"].items():
            table.setdefault(row["task"], {}).setdefault(measure, collections.Counter())[reason] += 1
    return {task: {m: dict(c) for m, c in measures.items()} for task, measures in table.items()}


def row_of(log: EvalLog, sample: EvalSample, name: str) -> Row:
    """The row of one sample of the log that is called `name`."""
    facts = log.eval.metadata or {}
    model = str(log.eval.model)
    checkpoint = facts.get("checkpoint", (log.eval.model_args or {}).get("step"))
    row: Row = {
        "task": label_of(log),
        "arm": str(facts.get("arm") or model),
        "seed": int(facts.get("seed") or 0),
        "model": model,
        "checkpoint": None if checkpoint is None else int(checkpoint),
        "cell": str(sample.metadata.get("cell", "")),
        "item": str(sample.metadata.get("item", sample.id)),
        "split": str(sample.metadata.get("split", "")),
        "sample": str(sample.id),
        "epoch": sample.epoch,
        "measures": {},
        "missing": {},
        "decisive": "",
        "judge": "",
        "error": _line(sample.error.message) if sample.error else "",
        "log": name,
    }
    for scorer, score in (sample.scores or {}).items():
        said = score.metadata or {}
        reasons = said.get("missing") or {}
        values = score.value if isinstance(score.value, dict) else {scorer: score.value}
        for key, value in values.items():
            measure = key if key not in row["measures"] else f"{scorer}.{key}"
            found = number(value)
            row["measures"][measure] = found
            if found is None:
                row["missing"][measure] = str(reasons.get(key) or "no reason given")
        row["decisive"] = row["decisive"] or str(said.get("decisive") or "")
        row["judge"] = row["judge"] or str(said.get("judge") or "")
    return row


def number(value: object) -> float | None:
    """A score's value; None for NaN and for what is no number."""
    if isinstance(value, str):
        return GRADES.get(value)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _line(error: object) -> str:
    """The first line of a message, cut: it goes into tables."""
    return (str(error).strip().splitlines() or [""])[0][:200]
