"""The files of a corpus: documents with all that led to them, rejects with reasons, plan, ledger, report."""

import collections
import contextlib
import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_gen import inventory, pairs, parquet
from data_gen.api.store import Store
from data_gen.chat import ChatPolicy
from data_gen.corpus import check, dedup, embed, gates
from data_gen.corpus.reading import open_corpus
from data_gen.encode import Encoder, Opening
from data_gen.generation import Generation
from data_gen.hf_tokenizer import open_tokenizer
from data_gen.outline import Limits, Outline
from data_gen.projection import Row
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

REPORT = "report"
TOLERANCE = 0.005  # of a pair: by what part of the larger corpus's tokens the two may differ
_NOT_RECIPE = ("out", "work", "phase", "approve", "probe", "pilot", "specs", "tokenizer", "batch", "batch_cache_hits")


def begin(made: Generation) -> artifact.Job | None:
    """A job for the corpus, or None where it is made already. Raises UserError on a foreign config.out."""
    settings = {k: v for k, v in made.config.to_dict().items() if k not in (*_NOT_RECIPE, "api", "stages")}
    settings |= {"models": {name: stage.model for name, stage in made.stages.items()}}
    return artifact.begin(made.config.out, "corpus", settings, made.inputs())


def check_settings(made: Generation) -> None:
    """Raises UserError where the report's settings cannot be used: before anything is paid for."""
    settings = _report_config(made)
    check.check_config(settings)
    gates.check_bounds(settings.gates.to_dict(), list(check._says(check.meter_of(settings.to_dict()))))
    if len(made.specs) > 1 and not made.config.tokenizer:
        raise UserError("config.tokenizer: a pair is balanced in tokens; name a tokenizer's directory")


def summary(made: Generation, outline: Outline, limits: Limits) -> dict[str, Any]:
    """planned, kept, rejected: documents; reasons: of rejected replies and of missing documents."""
    replies: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    kept = 0
    for _, row, rejected in _written(made, outline, limits, replies):
        kept += row is not None
        if rejected:
            reasons[rejected["reason"]] += 1
    for missing in inventory.missing_nodes(outline, limits):
        reasons[f"{missing['stage']}: {missing['reason']}"] += missing["documents"]
    rejected_documents = sum(reasons.values())
    return {
        "planned": kept + rejected_documents,
        "kept": kept,
        "rejected": rejected_documents,
        "reasons": dict(reasons.most_common()),
        "rejected_replies": dict(replies.most_common()),
    }


def _written(
    made: Generation, outline: Outline, limits: Limits, replies: collections.Counter[str]
) -> Iterator[tuple[Any, Any, Any]]:
    """inventory.written, where a document of a pair whose twin is missing is rejected too."""
    tries, least, variants = made.config.tries, made.config.min_characters, len(outline.specs)
    together: list[tuple[Any, Any, Any]] = []
    for entry in inventory.written(outline, limits, tries, least, replies):
        together.append(entry)
        if len(together) == variants:
            whole = all(row is not None for _, row, _ in together)
            for writing, row, rejected in together:
                if row is not None and not whole:
                    yield writing, None, inventory.rejected(writing.id, "its twin is missing", [row["request"]])
                else:
                    yield writing, row, rejected
            together = []


def write_documents(made: Generation, outline: Outline, limits: Limits, to: Path) -> dict[str, Any]:
    """documents.jsonl (of a pair documents-SPEC.jsonl), rejects.jsonl, plan.jsonl. Returns the counts."""
    files = document_files(made)
    replies: collections.Counter[str] = collections.Counter()
    drafts = {name: to / f".{path}" for name, path in files.items()}
    counts: collections.Counter[str] = collections.Counter()
    with (to / "rejects.jsonl").open("w") as out:

        def reject(row: dict[str, Any]) -> None:
            counts["rejected"] += row["documents"]
            _write(out, row)

        for missing in inventory.missing_nodes(outline, limits):
            reject(missing)
        with contextlib.ExitStack() as stack:
            opened = {name: stack.enter_context(path.open("w")) for name, path in drafts.items()}
            for _, row, rejected in _written(made, outline, limits, replies):
                if rejected:
                    reject(rejected)
                else:
                    _write(opened[row["spec"]], row)
        for reason, dropped in _to_drop(made, drafts):
            _filter(
                drafts, dropped, lambda row, why: reject(inventory.rejected(row["id"], why, [row["request"]])), reason
            )
    for name, path in drafts.items():
        counts["documents"] += sum(1 for _ in path.open())
        path.rename(to / files[name])
    with (to / "plan.jsonl").open("w") as out:
        for row in inventory.plan_rows(outline, limits):
            _write(out, row)
    return {**counts, "rejected_replies": dict(replies.most_common())}


def write_ledger(store: Store, to: Path) -> None:
    """ledger.jsonl: once nothing more is asked."""
    with (to / "ledger.jsonl").open("w") as out:
        for row in store.ledger():
            _write(out, row)


def document_files(made: Generation) -> dict[str, str]:
    """Spec → its file of documents."""
    if len(made.specs) == 1:
        return {made.specs[0].name: "documents.jsonl"}
    return {one.name: f"documents-{one.name}.jsonl" for one in made.specs}


def _to_drop(made: Generation, drafts: dict[str, Path]) -> Iterator[tuple[str, dict[str, str]]]:
    """Reason, and idea → the rest of it: near-duplicates, then what unbalances a pair. Each looks at what is left."""
    words, meaning = made.config.check.duplicates, made.config.check.embedding

    def repeats(search: Callable[[Iterator[tuple[str, str]]], dict[str, str]]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, path in drafts.items():
            rows = ((row["id"], row["text"]) for row in artifact.each_row(path))
            found |= {_idea(name, later): earlier for later, earlier in search(rows).items()}
        return found

    if words.threshold:
        yield "near-duplicate of ", repeats(lambda rows: dedup.duplicates(rows, words.threshold, words.shingle))
    if meaning.encoder:
        encode = embed.open_encoder(meaning.encoder, meaning.max_tokens)
        yield "near-duplicate in meaning of ", repeats(lambda rows: embed.duplicates(rows, encode, meaning.threshold))
    if len(drafts) == 2 and made.config.tokenizer:
        yield "dropped to balance the pair", dict.fromkeys(_surplus(made, *drafts.values()), "")


def _surplus(made: Generation, a: Path, b: Path) -> list[str]:
    """The ideas without which a pair's two corpora hold equally many tokens, nearly."""
    one, two = (pairs.read(path, _encoder(made)) for path in (a, b))
    tokens_a, tokens_b = (np.array([corpus.tokens[idea] for idea in one.ideas]) for corpus in (one, two))
    return [one.ideas[n] for n in pairs.too_many(tokens_a, tokens_b, TOLERANCE)]


def _encoder(made: Generation) -> Encoder:
    tokenizer = open_tokenizer(made.config.tokenizer, "", made.config.document_end)
    return Encoder(tokenizer, ChatPolicy(), Opening(str(tokenizer.directory), "", made.config.document_end), 1)


def _idea(spec_name: str, document: str) -> str:
    return document.removeprefix(f"{spec_name}-")


def _filter(
    drafts: dict[str, Path], dropped: dict[str, str], gone: Callable[[dict[str, Any], str], None], why: str
) -> None:
    """Rewrites the drafts without the documents of the ideas dropped."""
    if not dropped:
        return
    for name, path in drafts.items():
        kept = path.with_name(path.name + ".kept")
        with kept.open("w") as out:
            for row in artifact.each_row(path):
                idea = _idea(name, row["id"])
                if idea in dropped:
                    gone(row, why + dropped[idea])
                else:
                    _write(out, row)
        kept.rename(path)


def _write(out: IO[str], row: dict[str, Any]) -> None:
    out.write(json.dumps(row, ensure_ascii=False) + "\n")


# ---------------------------------------------------------------- the report


def _report_config(made: Generation) -> Any:
    config = copy.deepcopy(made.config.check)
    with config.unlocked():
        config.update(
            {"corpus": "", "out": "", "spec": "", "tokenizer": made.config.tokenizer, "seed": made.config.seed}
        )
        config.update({"model_name": made.config.model_name, "provider_name": made.config.provider_name})
    return config


def report(made: Generation, directory: Path, to: Path) -> list[str]:
    """Writes the report on a directory's documents into `to`. Returns what fails its gates."""
    to.mkdir(parents=True, exist_ok=True)
    config = _report_config(made)
    corpus = open_corpus(directory)
    failed = []
    for one in made.specs:
        name = one.name if len(made.specs) > 1 else ""
        content = check.made(corpus, name, config, check.meter_of(config.to_dict(), one.text), one, to)
        failed += [f"{name}: {line}" if name else line for line in content["failed"]]
    if len(made.specs) == 2 and made.config.tokenizer:
        a, b = (directory / path for path in document_files(made).values())
        rows = pairs.check(a, b, _encoder(made), TOLERANCE)
        artifact.write_atomic(to / "pair.json", json.dumps(rows, indent=1))
        failed += [f"{row['gate']} is {row['measured']}, at most {row['bound']}" for row in rows if not row["passed"]]
    return failed


def write(
    made: Generation,
    outline: Outline,
    judge: Callable[[Path], None],
    store: Store,
    job: artifact.Job,
    work: Path,
    projected: list[Row],
) -> None:
    """The whole corpus, as the artefact config.out. Raises UserError where it fails its gates; the work remains."""
    with job:
        counts = write_documents(made, outline, Limits(), job.tmp)
        judge(job.tmp)
        write_ledger(store, job.tmp)
        failed = report(made, job.tmp, work / REPORT)
        if failed:
            raise UserError(
                f"{work / REPORT}: the corpus fails {len(failed)} of its gates: {'; '.join(failed)}; read the report, "
                "then change what it names, or a bound under config.check.gates"
            )
        (job.tmp / REPORT).mkdir()
        for path in sorted((work / REPORT).iterdir()):
            storage.copy(path, job.tmp / REPORT / path.name)
        for name in document_files(made).values():
            parquet.write(job.tmp / name, job.tmp / name.replace(".jsonl", ".parquet"))
        cost = {"projected": [dataclasses.asdict(row) for row in projected], "ledger": store.totals()}
        artifact.write_atomic(job.tmp / "cost.json", json.dumps(cost, indent=1))
        specs = {one.name: {"sha256": one.sha256, "digest": one.digest} for one in made.specs}
        job.finish(**counts, planned=inventory.planned(outline), specs=specs, cost_usd=round(store.money()[0], 6))
    kept, lost = counts["documents"], counts.get("rejected", 0)
    cli.note(f"{made.config.out}: {kept} documents, {lost} rejected; see {REPORT}/report.html")
