"""Judges a corpus of generated documents: what is in it, what should not be, whether it passes its gates.

    python -m data_gen.corpus.check --config=configs/data/corpus_report.py --config.corpus=runs/corpus \\
        --config.tokenizer=Qwen3-8B --config.spec=specs/philosophy.md --config.out=runs/corpus-report

Input: a directory with documents.jsonl (or documents-<spec>.jsonl for each spec of a paired corpus) and, as far as
there are any, rejects.jsonl, plan.jsonl, ledger.jsonl and claims.jsonl (a judge's verdicts, claims.py); rows of these
that name a `spec` are of that one. Output, for each file of documents: report.html, report.json, findings.jsonl,
duplicates.jsonl {id, repeats, by} (of a paired corpus with -<spec> in the names), and manifest.json. A corpus that
fails a gate gets its report all the same, then exit status 2.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from data_gen import spec as specs
from data_gen.corpus import claims, dedup, embed, evaluations, gates, measuring, report, statistics
from data_gen.corpus.detect import OWN, Detectors
from data_gen.corpus.leaks import SHORTEST, Index
from data_gen.corpus.reading import Corpus, each_document, each_object, open_corpus
from data_gen.corpus.statistics import Measure, Meter, Statistics
from data_gen.hf_tokenizer import open_tokenizer
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

_ELSEWHERE = ("out", "corpus", "tokenizer", "spec", "detectors", "workers")  # of no matter, or told by the inputs
TOP = 25  # rows of the report's tables of names, openings and cells
_NOTE = 2_000  # documents between two lines about progress


def check_config(config: ConfigDict) -> None:
    """Raises UserError naming a key whose value cannot be used."""
    if not 0 <= config.duplicates.threshold < 1:
        raise UserError(f"config.duplicates.threshold = {config.duplicates.threshold}: must be 0 (off) to 1")
    if config.duplicates.shingle < 1:
        raise UserError(f"config.duplicates.shingle = {config.duplicates.shingle}: must be at least 1")
    if config.embedding.encoder and not 0 < config.embedding.threshold <= 1:
        raise UserError(f"config.embedding.threshold = {config.embedding.threshold}: must be above 0, at most 1")
    if config.workers < 1:
        raise UserError(f"config.workers = {config.workers}: must be at least 1")
    if config.leaks.ngram < SHORTEST:
        raise UserError(f"config.leaks.ngram = {config.leaks.ngram}: must be at least {SHORTEST}")


def meter_of(settings: dict[str, Any], names: str = "") -> Meter:
    """What measures a document, as the configuration says. `names`: a text whose capitalised words are no person's."""
    known = f"{names} {settings['model_name']} {settings['provider_name']}"
    tokenizer = open_tokenizer(settings["tokenizer"]) if settings["tokenizer"] else None
    items = evaluations.items(settings["leaks"]["directory"] or evaluations.ITEMS)
    index = Index(items, evaluations.formats(), settings["leaks"]["ngram"])
    return Meter(Detectors(settings["detectors"] or OWN, known), index, tokenizer)


def measured(measures: Iterable[Measure], findings: Path, seed: int) -> Statistics:
    """One pass: every document's findings written, the measures added up."""
    found = Statistics(seed)
    with findings.open("w") as f:
        for measure in measures:
            found.add(measure)
            # Escaped: half a surrogate pair is no UTF-8.
            f.writelines(json.dumps(_finding(finding)) + "\n" for finding in measure.findings)
            if found.documents % _NOTE == 0:
                cli.note(f"{found.documents} documents measured")
    return found


def known_sections(spec: Any) -> dict[str, str]:
    """Id → title of what the documents are to cover: a spec's rules, of one without rules its sections."""
    rules = {rule.id: rule.name for rule in getattr(spec, "rules", ())}
    return rules or {section.id: section.title for section in getattr(spec, "sections", ())}


def made(
    corpus: Corpus, spec_name: str, config: ConfigDict, meter: Meter, spec: specs.Spec | None, out: Path
) -> dict[str, Any]:
    """Judges one file of documents and writes its files into `out`; returns what report.json holds."""
    names = spec.text if spec else ""
    sections = known_sections(spec)
    path = corpus.documents[spec_name]
    suffix = f"-{spec_name}" if spec_name else ""
    make = functools.partial(meter_of, config.to_dict(), names)
    measures = measuring.measures(each_document(path), make, config.workers)
    found = measured(measures, out / f"findings{suffix}.jsonl", config.seed)
    near: dict[str, str] = {}
    if config.duplicates.threshold:
        near = dedup.duplicates(
            ((d.id, d.text) for d in each_document(path)), config.duplicates.threshold, config.duplicates.shingle
        )
    meaning: dict[str, str] | None = None
    if config.embedding.encoder:
        encode = embed.open_encoder(config.embedding.encoder, config.embedding.max_tokens)
        rows = ((d.id, d.text) for d in each_document(path))
        meaning = embed.duplicates(rows, encode, config.embedding.threshold)
    repeats = [{"id": a, "repeats": b, "by": "words"} for a, b in near.items()]
    repeats += [{"id": a, "repeats": b, "by": "meaning"} for a, b in (meaning or {}).items()]
    with (out / f"duplicates{suffix}.jsonl").open("w") as f:
        f.writelines(json.dumps(row) + "\n" for row in repeats)
    plan = statistics.planned(each_object(corpus.plan, spec_name))
    evidence = gates.Evidence(
        found,
        len(near),
        None if meaning is None else len(meaning),
        statistics.coverage(found, sections, plan),
        statistics.rejects(each_object(corpus.rejects, spec_name)),
        [claims.from_row(row) for row in each_object(corpus.claims, spec_name)],
    )
    results = gates.results(evidence, config.gates.to_dict(), _says(meter))
    content = summary(config, meter, evidence, results, near, meaning)
    content |= {
        "spec": spec_name or (Path(config.spec).stem if config.spec else ""),
        "plan": plan,
        "ledger": (costs := statistics.ledger(each_object(corpus.ledger, spec_name))),
        "cost_usd": round(sum(row["cost_usd"] for row in costs), 4),
        "inputs": corpus.inputs(),
    }
    artifact.write_atomic(out / f"report{suffix}.json", json.dumps(content, indent=1))
    artifact.write_atomic(out / f"report{suffix}.html", report.page(content))
    return content


def summary(
    config: ConfigDict,
    meter: Meter,
    evidence: gates.Evidence,
    results: list[gates.Result],
    near: dict[str, str],
    meaning: dict[str, str] | None,
) -> dict[str, Any]:
    """The evidence as JSON."""
    s = evidence.statistics
    judged = evidence.judged
    cells = sorted(s.praise_by_cell.items(), key=lambda item: (-item[1].share, -item[1].documents, item[0]))
    severities = meter.detectors.severities | {"leak": "error", "format": "error"}
    return {
        "documents": s.documents,
        "seed": config.seed,
        "tokenizer": meter.tokenizer.digest() if meter.tokenizer else "",
        "gates": [r.row() for r in results],
        "failed": gates.failed(results),
        "lengths": {unit: s.length(unit) for unit in s.lengths},
        "coverage": list(evidence.coverage),
        "by": {key: counts.rows() for key, counts in s.by.items()},
        "lay_documents": s.lay,
        "detectors": [
            {
                "name": name,
                "says": says,
                "severity": severities[name],
                "findings": s.found[name],
                "documents": s.documents_with[name],
                "share": round(s.share(name), 6),
                "examples": [_finding(f) for f in s.examples.get(name, [])],
            }
            for name, says in _says(meter).items()
        ],
        "leaks": {
            "n": meter.leaks.n,
            "texts": meter.leaks.items,
            "ngrams": meter.leaks.ngrams,
            "evaluations": sorted(meter.leaks.evaluations),
        },
        "duplicates": {
            "near": {
                "found": len(near),
                "threshold": config.duplicates.threshold,
                "shingle": config.duplicates.shingle,
                "examples": list(near.items())[:TOP],
            },
            "meaning": meaning
            and {
                "found": len(meaning),
                "threshold": config.embedding.threshold,
                "examples": list(meaning.items())[:TOP],
            },
        },
        "names": _rows(s.names.most_common(TOP)),
        "openings": _rows([entry for entry in s.openings.most_common(TOP) if entry[1] > 1]),
        "count_error": {"names": s.names.at_most_lost, "openings": s.openings.at_most_lost},
        "variety": s.variety(),
        "praise": {
            "documents": s.praise.documents,
            "praising": s.praise.praising,
            "uniform": s.praise.uniform,
            "share": round(s.praise.share, 6),
            "cells": [
                {"name": name, "documents": p.documents, "uniform": p.uniform, "share": round(p.share, 6)}
                for name, p in cells[:TOP]
                if p.uniform
            ],
        },
        "claims": judged
        and {
            "judged": len(judged),
            "with_claims": sum(bool(v.claims) for v in judged),
            "unusable": sum(v.claims is None for v in judged),
            "invented": sum(v.invented for v in judged),
            "examples": [_finding(f) for f in claims.findings(judged)[:TOP]],
        },
        "rejects": evidence.rejects,
        "best": [_excerpt(m) for m in s.best],
        "worst": [_excerpt(m) for m in s.worst],
    }


def _says(meter: Meter) -> dict[str, str]:
    """Name → what it finds, of every detector, leaks included."""
    leaks = {"leak": f"{meter.leaks.n} words of an evaluation", "format": "an evaluation's layout"}
    return leaks | meter.detectors.says


def _finding(finding: Any) -> dict[str, str]:
    return {key: getattr(finding, key) for key in ("document", "detector", "severity", "quote")}


def _rows(counts: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"name": name, "documents": n} for name, n in counts]


def _excerpt(m: Measure) -> dict[str, Any]:
    d = m.document
    text = report.cut(d.text)
    return {
        "id": d.id,
        "document_type": d.document_type,
        "persona": d.persona,
        "words": m.words,
        "findings": [_finding(f) for f in m.findings],
        "text": text,
    }


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    check_config(config)
    corpus = open_corpus(config.corpus)
    spec = specs.load(config.spec) if config.spec else None
    gauge = meter_of(config.to_dict(), spec.text if spec else "")
    gates.check_bounds(config.gates.to_dict(), list(_says(gauge)))
    settings = {k: v for k, v in config.to_dict().items() if k not in _ELSEWHERE}
    del settings["leaks"]["directory"], settings["embedding"]["encoder"]
    inputs = corpus.inputs() | _other_inputs(config, gauge, spec)
    job = artifact.begin(config.out, "corpus-report", settings, inputs)
    if job is None:
        _end(config.out, artifact.read_manifest(config.out)["counts"]["failed"])
        return
    with job:
        made_of = {name: made(corpus, name, config, gauge, spec, job.tmp) for name in corpus.documents}
        failed = [f"{name}: {line}" if name else line for name, c in made_of.items() for line in c["failed"]]
        job.finish(documents=sum(c["documents"] for c in made_of.values()), failed=failed)
    documents = ", ".join(
        f"{c['documents']} documents" + (f" of {name}" if name else "") for name, c in made_of.items()
    )
    cli.note(f"{config.out}/report{'-*' if len(made_of) > 1 else ''}.html: {documents}")
    _end(config.out, failed)


def _other_inputs(config: ConfigDict, gauge: Meter, spec: specs.Spec | None) -> dict[str, dict[str, str]]:
    """What a report depends on beside the corpus, by content."""
    found = {
        "detectors": {"kind": "toml", "id": storage.sha256(config.detectors or OWN)},
        "evaluations": {"kind": "n-grams", "id": gauge.leaks.digest()},
    }
    if gauge.tokenizer:
        found |= {"tokenizer": {"kind": "tokenizer", "id": gauge.tokenizer.digest()}}
    if spec:
        found["spec"] = {"kind": "spec", "id": spec.sha256}
    if config.embedding.encoder:
        weights = storage.at(config.embedding.encoder) / "model.safetensors"
        if not storage.is_file(weights):
            raise UserError(f"{weights}: no such file (config.embedding.encoder)")
        found["encoder"] = {"kind": "safetensors", "id": storage.sha256(weights)}
    return found


def _end(out: epath.PathLike, failed: list[str]) -> None:
    if failed:
        raise UserError(f"{out}: the corpus fails {len(failed)} of its gates: {'; '.join(failed)}")


if __name__ == "__main__":
    cli.entry(main)
