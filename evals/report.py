"""One self-contained page about one or several sweeps: tables, figures, differences, seed budget, judges, transcripts.

    python -m evals.report --config=configs/evals/report.py --config.sweeps="('runs/sweep',)" --config.out=runs/page

Output: report.html, summary.json (every number on the page), results.jsonl (all rows), figures as png and svg, bundle…/
(Inspect's viewer with the logs), manifest.json.
"""

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai.log import bundle_log_dir
from ml_collections import ConfigDict

from evals import rows as reading
from evals import sweep as sweeping
from evals.reporting import contrasts, figures, page, summary, transcripts
from evals.reporting.summary import Key
from evals.reporting.transcripts import Transcript
from evals.rows import Row
from evals.sweeping import running
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

Json = dict[str, Any]


def load(sweeps: Sequence[str]) -> tuple[list[Row], Json, list[Json]]:
    """(rows of all sweeps, each with the number of its own; tasks; what is told of the sweeps). Raises UserError."""
    found: list[Row] = []
    tasks: Json = {}
    told: list[Json] = []
    whose: dict[Key, str] = {}
    for number, name in enumerate(sweeps):
        root = storage.at(name)
        manifest = artifact.read_manifest(root, "sweep")
        about = json.loads(storage.read_text(root / sweeping.SUMMARY))
        ours = artifact.read_jsonl(root / sweeping.RESULTS)
        for key in summary.grouped(ours):
            if key in whose:
                raise UserError(f"{name}: {key[1]}@{key[2]} on {key[0]} is in {whose[key]} too; name them differently")
            whose[key] = name
        found += [row | {"sweep": number} for row in ours]
        for label, task in about["tasks"].items():
            if tasks.setdefault(label, task).get("headline") != task.get("headline"):
                raise UserError(f"{name}: {label} has another headline measure than in {sweeps[0]}")
        config, counts = manifest["config"], manifest["counts"]
        told.append(
            {
                "name": name,
                "judge": config["judge"],
                "tasks": config["tasks"],
                "logs": counts["logs"],
                "samples": counts["samples"],
                "unreadable": len(counts["unreadable"]),
                "id": manifest["id"],
                "link": "",
            }
        )
    if not found:
        raise UserError(f"{', '.join(sweeps)}: no sample in any log")
    return found, tasks, told


def standing(rows: Sequence[Row], step: int) -> list[Row]:
    """The rows of the checkpoints that stand for their runs."""
    chosen = summary.last_checkpoints(rows, step or None)
    return [row for row in rows if row["checkpoint"] == chosen[row["arm"], row["seed"]]]


def lines(made: Sequence[Json], headline: str, beside: Sequence[str]) -> list[Json]:
    """The table of one task, a line an arm, from the entries of the checkpoints that stand."""
    found = []
    for arm in dict.fromkeys(entry["arm"] for entry in made):
        ours = [entry for entry in made if entry["arm"] == arm and entry["measure"] == headline]
        result = summary.arm_of(arm, ours)
        missing: dict[str, int] = {}
        for entry in ours:
            for reason, number in entry["missing"].items():
                missing[reason] = missing.get(reason, 0) + number
        means = {
            name: [e["mean"] for e in made if (e["arm"], e["measure"]) == (arm, name) and e["mean"] is not None]
            for name in beside
        }
        steps = sorted({entry["checkpoint"] for entry in ours if entry["checkpoint"] is not None})
        found.append(
            {
                "arm": arm,
                "checkpoint": ", ".join(f"step {step}" for step in steps) or ", ".join({e["model"] for e in ours}),
                "seeds": len(ours),
                "n": sum(entry["n"] for entry in ours),
                "interval": summary.bounds(result.interval) if result else None,
                "over": result.over if result else "–",
                "per_seed": result.per_seed if result else {},
                "missing": missing,
                "beside": {name: sum(values) / len(values) if values else None for name, values in means.items()},
            }
        )
    return found


def judges(rows: Sequence[Row], headlines: Mapping[str, str]) -> list[Json]:
    """Which judge decided how many, and how many it did not. Samples without a judge's name are of its task's judge."""
    found = []
    for task, measure in headlines.items():
        ours = [row for row in rows if row["task"] == task]
        for judge in sorted({row["judge"] for row in ours if row["judge"]}):
            judged = [row for row in ours if row["judge"] == judge]
            found.append(
                {
                    "judge": judge,
                    "task": task,
                    "measure": measure,
                    "samples": len(judged),
                    "verdicts": sum(row["measures"].get(measure) is not None for row in judged),
                    "missing": summary.missing_of(judged, measure),
                }
            )
    return found


def drawn(made: Sequence[Json], tasks: Sequence[Json], tmp: Path) -> dict[str, Any]:
    """The figures, saved below tmp: {"bars", "cells": title → PNG, "curves": PNG or None}. `made`: all entries."""
    style = figures.looks(list(dict.fromkeys(entry["arm"] for entry in made)))
    bars: dict[str, bytes] = {}
    cells: dict[str, bytes] = {}
    for number, task in enumerate(tasks):
        arms = [
            arm for name in style if (arm := summary.arm_of(name, [e for e in task["entries"] if e["arm"] == name]))
        ]
        if not arms:
            continue
        per_arm = [
            {"arm": arm.name, "cells": summary.cells_of([e for e in task["entries"] if e["arm"] == arm.name])}
            for arm in arms
        ]
        for store, kind, figure in (
            (bars, "bars", figures.bars(task["title"], task["headline"], arms, style)),
            (cells, "cells", figures.cells(task["title"], task["headline"], per_arm, style)),
        ):
            stem = tmp / f"{kind}{number}"
            figures.save(figure, stem)
            store[task["label"]] = stem.with_suffix(".png").read_bytes()
    curves = None
    if any(entry["checkpoint"] is not None for entry in made):
        figures.save(figures.curves(made), tmp / "curves")
        curves = (tmp / "curves.png").read_bytes()
    return {"bars": bars, "cells": cells, "curves": curves}


def shown(rows: Sequence[Row], headlines: Mapping[str, str], config: ConfigDict) -> tuple[list[Transcript], int]:
    """The transcripts of the page, and how many that were drawn had no room."""
    chosen = transcripts.choose(rows, headlines, config.transcripts, config.seed)
    logs = {n: reading.files(storage.at(name) / sweeping.LOGS) for n, name in enumerate(config.sweeps)}
    made = [
        transcripts.read(
            row,
            logs[row["sweep"]][row["log"]],
            headlines.get(row["task"], ""),
            config.transcript_characters,
            _link(row) if config.bundle else "",
        )
        for row in chosen
    ]
    kept = transcripts.within(made, int(config.page_megabytes * 1e6))
    return kept, len(made) - len(kept)


def _link(row: Row) -> str:
    """Into the bundled viewer, by its own addresses."""
    parts = [*row["log"].split("/"), "samples", "sample", row["sample"], str(row["epoch"])]
    return f"bundle{row['sweep']}/index.html#/logs/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)


def check(config: ConfigDict) -> None:
    if not config.sweeps:
        raise UserError("config.sweeps: none given; --config.sweeps=\"('runs/sweep',)\"")
    for sweep in config.sweeps:
        artifact.read_manifest(sweep, "sweep")
    if any(len(pair) != 2 or not all(isinstance(arm, str) for arm in pair) for pair in config.compare):
        raise UserError("config.compare: must be pairs of arms, as in (('msm', 'aft'),)")
    if config.transcripts < 0 or config.transcript_characters < 100 or config.page_megabytes < 0:
        raise UserError(
            "config: transcripts and page_megabytes must not be negative, transcript_characters at least 100"
        )


def tables(rows: Sequence[Row], tasks: Json, config: ConfigDict) -> tuple[list[Json], list[Json], dict[Key, list[Row]]]:
    """(a table a task, the entries of all checkpoints, the rows of those that stand, grouped)."""
    stand = standing(rows, config.checkpoint)
    steps = {(row["arm"], row["seed"], row["checkpoint"]) for row in stand}
    made = summary.entries(rows, tasks)
    found = []
    for label in dict.fromkeys(row["task"] for row in rows):
        ours = [e for e in made if e["task"] == label and (e["arm"], e["seed"], e["checkpoint"]) in steps]
        headline = next(entry["measure"] for entry in ours if entry["headline"])
        beside = [name for name in summary.BESIDE if any(e["measure"] == name for e in ours)]
        found.append(
            {
                "label": label,
                "title": ours[0]["title"],
                "headline": headline,
                "beside": [name for name in beside if name != headline],
                "lines": lines(ours, headline, beside),
                "entries": [entry for entry in ours if entry["headline"]],
            }
        )
    return found, made, summary.grouped(stand)


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    check(config)
    settings = {key: value for key, value in config.to_dict().items() if key not in ("out", "sweeps")}
    inputs = artifact.inputs_of(**{f"sweep{n}": name for n, name in enumerate(config.sweeps)})
    if artifact.is_finished(config.out):
        found = artifact.read_manifest(config.out, "evaluation_report")
        if found["recipe"] != artifact.header_of("evaluation_report", settings, inputs)["recipe"]:
            artifact.discard(config.out)  # a report is a view: drawn anew when what it shows is another
    job = artifact.begin(config.out, "evaluation_report", settings, inputs)
    if job is None:
        return
    rows, tasks, sweeps = load(config.sweeps)
    unknown = {arm for pair in config.compare for arm in pair} - {row["arm"] for row in rows}
    if unknown:
        there = ", ".join(dict.fromkeys(row["arm"] for row in rows))
        raise UserError(f"config.compare: no arm {', '.join(sorted(unknown))}; there are {there}")
    made, entries, groups = tables(rows, tasks, config)
    headlines = {task["label"]: task["headline"] for task in made}
    compared = contrasts.contrasts(groups, headlines, config.compare)
    budgets = contrasts.budgets(groups, headlines)
    stand = [row for group in groups.values() for row in group]
    asked = judges(rows, headlines)
    texts, dropped = shown(stand, headlines, config)
    with job:
        pictures = drawn(entries, made, job.tmp)
        if config.bundle:
            for n, name in enumerate(config.sweeps):
                _bundle(name, job.tmp / f"bundle{n}")
                sweeps[n]["link"] = f"bundle{n}/index.html"
        html = page.render(
            title=config.title,
            arms=list(dict.fromkeys(row["arm"] for row in rows)),
            samples=len(rows),
            missing_total=sum(row["measures"].get(headlines[row["task"]]) is None for row in rows),
            unreadable=sum(sweep["unreadable"] for sweep in sweeps),
            tasks=made,
            contrasts=compared,
            budgets=budgets,
            judges=asked,
            transcripts=texts,
            dropped=dropped,
            each=config.transcripts,
            seed=config.seed,
            linked=config.bundle,
            filters={k: sorted({getattr(t, k) for t in texts}) for k in ("task", "arm", "cell", "outcome")},
            sweeps=sweeps,
            **pictures,
        )
        (job.tmp / "report.html").write_text(html)
        numbers = {
            "tasks": made,
            "entries": entries,
            "contrasts": [contrasts.told(contrast) for contrast in compared],
            "budgets": [contrasts.told(budget) for budget in budgets],
            "judges": asked,
            "sweeps": sweeps,
        }
        artifact.write_atomic(job.tmp / "summary.json", json.dumps(numbers, indent=1, ensure_ascii=False))
        artifact.write_jsonl(job.tmp / "results.jsonl", rows)
        job.finish(samples=len(rows), transcripts=len(texts))
    cli.note(f"{config.out}/report.html")


def _bundle(sweep: str, out: Path) -> None:
    with running.quietly():
        bundle_log_dir(f"{sweep.rstrip('/')}/{sweeping.LOGS}", str(out))


if __name__ == "__main__":
    cli.entry(main)
