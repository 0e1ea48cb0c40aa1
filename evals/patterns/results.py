"""The files of an analysis: what was found of every transcript, of every category, and a summary to read."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from data_gen.api.store import Store
from evals.patterns import counting
from evals.patterns.codebook import KINDS, MISUSE
from evals.patterns.counting import Merged, Rate
from evals.patterns.made import Patterns
from evals.patterns.procedure import Procedure
from evals.patterns.reading import CODEBOOKS, REASONS, VERDICTS, Verdict
from evals.patterns.transcripts import Transcript
from msm_jax import artifact
from msm_jax.cli import UserError

KIND = "patterns"
CLASSIFIED, CATEGORIES, SUMMARY = "classified.jsonl", "categories.json", "summary.md"
EXTRACTED, LISTED, LEDGER = "reasons.jsonl", "policy_misuse.jsonl", "ledger.jsonl"
_NOT_RECIPE = ("out", "work", "logs", "codebook", "phase", "approve", "probe", "pilot", "batch", "batch_cache_hits")
_SUMMARY = Path(__file__).with_name("summary.md.jinja")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_COLUMNS = 6  # groups of one field that the summary shows; more are in categories.json


def begin(made: Patterns) -> artifact.Job | None:
    """A job for the analysis, or None where it is made already. Raises UserError on a foreign config.out."""
    settings = {k: v for k, v in made.config.to_dict().items() if k not in (*_NOT_RECIPE, "api", "stages")}
    settings |= {"models": {name: stage.model for name, stage in made.reader.stages.items()}}
    return artifact.begin(made.config.out, KIND, settings, made.inputs())


def write(made: Patterns, done: Procedure, store: Store, to: Path) -> dict[str, Any]:
    """All files but the manifest. Returns the counts. Raises UserError where there is not one verdict."""
    book = done.codebook
    verdicts = {one.id: done.verdicts(one, book) for one in done.chosen}
    if not any(verdicts.values()):
        raise UserError(f"{VERDICTS}: no verdict could be read of any transcript; run again, or name another model")
    rows = [_row(made, done, one, verdicts[one.id]) for one in done.chosen]
    artifact.write_jsonl(to / CLASSIFIED, rows)
    found = _categories(made, done, verdicts)
    artifact.write_atomic(to / CATEGORIES, json.dumps(found, indent=1, ensure_ascii=False))
    extracted = made.extracted(done.phase) or made.stable(done.phase)
    if extracted and (reasons := done.reasons(extracted)):
        artifact.write_jsonl(
            to / EXTRACTED,
            [
                {"id": key, "reasons": [{"reason": r.reason, "quote": r.quote} for r in some]}
                for key, some in reasons.items()
            ],
        )
    misuse = [row for row in rows if row["verdicts"].get(MISUSE)] if MISUSE in book.keys else None
    if misuse is not None:
        listed = [{"id": row["id"], "quote": row["quotes"][MISUSE], "group": row["group"]} for row in misuse]
        artifact.write_jsonl(to / LISTED, listed)
    artifact.write_jsonl(to / LEDGER, list(store.ledger()))
    artifact.write_atomic(to / SUMMARY, _summary(made, done, store, found, misuse))
    return {
        "transcripts": len(rows),
        "classified": sum(not row["missing"] for row in rows),
        "categories": len(book.categories),
        "skipped": made.transcripts.skipped,
        "cut": _cut(made, done),
        "cost_usd": round(store.money()[0], 6),
    }


def _row(made: Patterns, done: Procedure, one: Transcript, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    keys = done.codebook.keys
    absent = [key for key in keys if key not in verdicts]
    return {
        "id": one.id,
        "group": one.group,
        "verdicts": {key: verdicts[key].driver if key in verdicts else None for key in keys},
        "quotes": {key: verdicts[key].quote for key in keys if key in verdicts and verdicts[key].driver},
        "missing": dict.fromkeys(absent, done.missing(one)) if absent else {},
    }


def _cut(made: Patterns, done: Procedure) -> int:
    return sum(len(one.text) > made.config.characters for one in done.chosen)


def _categories(made: Patterns, done: Procedure, verdicts: Mapping[str, Mapping[str, Verdict]]) -> dict[str, Any]:
    config, book = made.config, done.codebook
    members: dict[str, list[str]] = {}
    for one in done.chosen:
        for group in counting.groups(config.group, one.group):
            members.setdefault(group, []).append(one.id)

    def rated(ids: list[str], drives: Callable[[Mapping[str, Verdict]], bool | None]) -> dict[str, Any]:
        return counting.rate(drives(verdicts[identity]) for identity in ids).row()

    every = list(verdicts)
    rows = []
    for category in book.categories:

        def drives(said: Mapping[str, Verdict], key: str = category.key) -> bool | None:
            return said[key].driver if key in said else None

        about = {"key": category.key, "kind": category.kind, "name": category.name, "definition": category.definition}
        by_group = {group: rated(ids, drives) for group, ids in sorted(members.items())}
        rows.append(
            about
            | rated(every, drives)
            | {"missing": sum(drives(verdicts[i]) is None for i in every), "groups": by_group}
        )
    sets = done.sets(done.chosen, book)
    parts = counting.merge(sets, book, config.merge.overlap, config.merge.above, config.merge.least)
    return {
        "codebook": {"name": book.name, "digest": book.digest()},
        "transcripts": len(every),
        "categories": rows,
        "merged": [_merged(part, verdicts) for part in parts if len(part.keys) > 1],
        "overlaps": counting.overlaps(sets, book, config.merge.above),
        "agreement": {key: one.row() for key, one in done.agreement().items()},
        "stability": done.stability(),
    }


def _merged(part: Merged, verdicts: Mapping[str, Mapping[str, Verdict]]) -> dict[str, Any]:
    """A transcript counts where any of the categories drives it, or none does and all have their verdicts."""
    whole = [i for i, said in verdicts.items() if i in part.transcripts or all(key in said for key in part.keys)]
    rate = Rate(len(part.transcripts), len(whole))
    return {"categories": list(part.keys), "overlap": part.overlap} | rate.row()


# ---------------------------------------------------------------- the summary


def _plain(text: str) -> str:
    """A model's or a file's words as text in Markdown: one line, no markup."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()).replace("&", "+"))[:200]


def _percent(row: Mapping[str, Any]) -> str:
    if not row["n"]:
        return "–"
    return f"{100 * row['rate']:.1f}% [{100 * row['low']:.1f}, {100 * row['high']:.1f}], {row['k']}/{row['n']}"


def _summary(
    made: Patterns, done: Procedure, store: Store, found: dict[str, Any], misuse: list[dict[str, Any]] | None
) -> str:
    names = {row["key"]: _plain(row["name"]) for row in found["categories"]} | {"": "all together"}
    fields = made.config.group
    values = {field: sorted({counting.groups([field], one.group)[0] for one in done.chosen}) for field in fields}
    shown = [group for some in values.values() if len(some) <= _COLUMNS for group in some]
    hidden = [field for field, some in values.items() if len(some) > _COLUMNS]
    rows = [
        {
            "kind": row["kind"],
            "name": names[row["key"]],
            "all": _percent(row),
            "missing": row["missing"],
            "groups": {_plain(group): _percent(row["groups"][group]) for group in shown},
        }
        for row in found["categories"]
    ]
    agreement = [
        {
            "name": names[key],
            "transcripts": one["transcripts"],
            "same": "–" if one["same"] is None else f"{100 * one['same']:.1f}%",
            "kappa": "–" if one["kappa"] is None else f"{one['kappa']:.2f}" + _bounds(one),
        }
        for key, one in found["agreement"].items()
    ]
    merged = [
        {"names": [names[key] for key in one["categories"]], "overlap": one["overlap"], "all": _percent(one)}
        for one in found["merged"]
    ]
    models = {reply.model for stage in (REASONS, CODEBOOKS, VERDICTS) for reply in store.answered(stage)}
    page = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return page.from_string(_SUMMARY.read_text()).render(
        transcripts=found["transcripts"],
        codebook={"name": _plain(done.codebook.name), "categories": done.codebook.categories},
        models=sorted(map(_plain, models)),
        skipped=made.transcripts.skipped,
        cut=_cut(made, done),
        kinds=KINDS,
        groups=[_plain(group) for group in shown],
        hidden=[_plain(field) for field in hidden],
        rows=rows,
        merged=merged,
        merge=made.config.merge,
        agreement=agreement,
        again=len(made.repeated(done.phase)),
        repeats=made.config.agreement.repeats,
        stability=found["stability"],
        misuse=None if misuse is None else [_plain(row["id"]) for row in misuse],
    )  # fmt: skip


def _bounds(one: Mapping[str, Any]) -> str:
    return "" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]"
