"""Where the tokens of packed rows come from: from a row's segments back to the sections of a Model Spec.

    python -m data_gen.whence --config=configs/data/whence.py --config.rows=runs/shards --config.row=17
    python -m data_gen.whence --config=configs/data/whence.py --config.rows=runs/shards --config.document=ID

Prints each row segment by segment: which of the row's tokens it is, which of the document's, and all that
provenance.jsonl knows of that document. Rows count from 0, as a training run's records do.
"""

from collections.abc import Iterator
from typing import Any

from etils import epath

from data_gen import provenance
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.shards import SIDECAR

# What is said first and how it is called; whatever else a document has follows under its own name.
NAMED = {
    "spec": "spec",
    "sections": "sections",
    "domain": "domain",
    "subdomain": "subdomain",
    "rule": "rule",
    "assertions": "assertions",
    "document_type": "type",
    "idea": "idea",
    "prompt_sha256": "prompt",
    "model": "model",
}
_WITH = {"spec": "spec_sha256", "domain": "domain_id", "subdomain": "subdomain_id"}


def facts(row: dict[str, Any]) -> Iterator[str]:
    """Lines `name: value` of a line of provenance; what is empty is left out."""
    for key, name in NAMED.items():
        said = [_worded(row[k]) for k in (key, _WITH.get(key, "")) if k and row.get(k) not in (None, "", [])]
        if said:
            yield f"{name}: {said[0]}" + (f" ({said[1]})" if len(said) > 1 else "")
    for key in sorted(row.keys() - {"id", *NAMED, *_WITH.values()}):
        if row[key] not in (None, "", []):
            yield f"{key}: {_worded(row[key])}"


def _worded(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_worded, value))
    if isinstance(value, dict):
        return ", ".join(f"{k} {_worded(v)}" for k, v in value.items())
    return " ".join(str(value).split())


def report(number: int, pieces: list[Any], known: dict[str, dict[str, Any]], only: str = "") -> str:
    """A row: a heading, then each segment, or those of `only` one document, with what is known of it."""
    lines, at = [f"row {number}: {len(pieces)} segments, {sum(n for *_, n in pieces)} tokens"], 0
    for segment, (document, start, length) in enumerate(pieces, 1):
        where = f"tokens {at}–{at + length - 1}" if length > 1 else f"token {at}"
        at += length
        if only not in ("", document):
            continue
        lines.append(f"  segment {segment}: {where}: {document}, from its token {start} on")
        lines += [f"    {fact}" for fact in facts(known.get(document, {}))] or ["    (nothing is known beyond the id)"]
    return "\n".join(lines)


def rows_of(directory: epath.Path, rows: set[int], document: str) -> dict[int, list[Any]]:
    """Number → [document, start, length] of the segments, of these rows and of those with tokens of a document."""
    found = {}
    for number, pieces in enumerate(artifact.each_row(directory / SIDECAR)):
        if number in rows or (document and any(name == document for name, *_ in pieces)):
            found[number] = pieces
    return found


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    rows, document = set(config.row), config.document
    if bool(rows) == bool(document):
        raise UserError("say which: either --config.row=NUMBER (or several, as (3,17)) or --config.document=ID")
    directory = storage.at(config.rows)
    count = artifact.read_manifest(directory, "shards")["counts"]["rows"]
    for row in sorted(rows):
        if not 0 <= row < count:
            raise UserError(f"config.row = {row}: {directory} has rows 0 to {count - 1}")
    found = rows_of(directory, rows, document)
    if not found:
        raise UserError(f"config.document = {document!r}: no row of {directory} holds it")
    names = {document} if document else {name for pieces in found.values() for name, *_ in pieces}
    known = provenance.of(directory, names)
    for number, pieces in found.items():
        print(report(number, pieces, known, document))


if __name__ == "__main__":
    cli.entry(main)
