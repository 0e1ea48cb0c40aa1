"""Checks directories of packed rows: whether they are what their manifests say, and whether every row makes sense.

    python -m data_gen.verify runs/w/base-rows gs://bucket/msm-rows

Every file's size and sha256; every record's size, segments, positions, loss weights and tokens; rows.jsonl against
the rows; provenance.jsonl against rows.jsonl; the manifest's totals. Of other artefacts (corpora, tokenizers, exports,
evaluations) the files alone. Prints a line for each problem, naming file and row (from 0), and for each directory
whether it is fine or damaged; the exit status is 1 where one is damaged.
"""

import itertools
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import numpy as np
from etils import epath

from data_gen import provenance
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.shards import FIELDS, SIDECAR, damages, fields_of

SHOWN = 20  # problems of a directory
_BATCH = 256  # rows read at once


class Record(NamedTuple):
    """A row as it lies in its file: its bytes, or what is wrong with it ("" where that is said of the whole file)."""

    where: str
    content: bytes | None
    wrong: str = ""


class Entry(NamedTuple):
    """A row's line in the sidecar: [document, start, length] of its segments, or what is wrong with it."""

    pieces: list[Any] | None
    wrong: str = ""


def problems(directory: epath.Path, manifest: dict[str, Any]) -> Iterator[str]:
    """A line for everything that is wrong with a finished artefact."""
    yield from damages(directory, manifest, verify=True)
    if manifest["kind"] == "shards":
        yield from row_problems(directory, manifest)


def row_problems(directory: epath.Path, manifest: dict[str, Any]) -> Iterator[str]:
    """What is wrong with rows and sidecar, and, where all could be read, with the manifest's totals."""
    counts = manifest["counts"]
    progress = cli.Progress(f"checking the rows of {directory}", counts["rows"], "rows")
    whole, tokens, supervised, documents = True, 0, 0.0, 0
    ids: set[str] = set()
    room = len(counts["shards"]) * manifest["config"]["rows_per_shard"]
    if room < counts["rows"]:
        yield f"{directory / artifact.MANIFEST}: says rows = {counts['rows']}, its files have room for {room}"
    entries = _entries(directory / SIDECAR, counts["rows"])
    for record, entry in zip(_records(directory, manifest), entries, strict=False):
        progress(1)
        wrong, lengths = record.wrong, None
        if record.content is not None and len(record.content) != 4 * len(FIELDS) * counts["seq_len"]:
            wrong = f"{len(record.content)} bytes, not {len(FIELDS)} times {counts['seq_len']} numbers"
        elif record.content is not None:
            row = fields_of(record.content, counts["seq_len"])
            yield from (f"{record.where}: {what}" for what in faults(row, counts["vocab_size"]))
            lengths = np.unique(row["segment_ids"][row["segment_ids"] > 0], return_counts=True)[1].tolist()
            tokens, supervised = tokens + sum(lengths), supervised + float(row["loss_weights"].sum())
        if entry.pieces is not None:
            documents += sum(start == 0 for _, start, _ in entry.pieces)
            ids.update(document for document, _, _ in entry.pieces)
            wrong = wrong or _unlike(lengths, [length for _, _, length in entry.pieces])
        if wrong:
            yield f"{record.where}: {wrong}"
        if entry.wrong:
            yield entry.wrong
        whole = whole and lengths is not None and entry.pieces is not None
    if provenance.FILE in manifest["files"]:
        yield from provenance_problems(directory / provenance.FILE, ids)
    if not whole:
        return
    found = {"tokens": tokens, "documents": documents, "supervised_weight": round(supervised, 3)}
    found["fill"] = round(tokens / (counts["rows"] * counts["seq_len"]), 4)
    for name, value in found.items():
        if not math.isclose(value, counts[name], rel_tol=1e-6, abs_tol=0.002 if name == "supervised_weight" else 0):
            yield f"{directory / artifact.MANIFEST}: says {name} = {counts[name]}, the rows have {value}"


def provenance_problems(path: epath.Path, ids: set[str]) -> Iterator[str]:
    """Where the lines of provenance are not of these documents, one each."""
    seen: set[str] = set()
    try:
        for number, row in enumerate(artifact.each_row(path), 1):
            document = row.get("id") if isinstance(row, dict) else None
            if not isinstance(document, str):
                yield f"{path}:{number}: not a document's line"
            elif document in seen:
                yield f"{path}:{number}: {document!r} a second time"
            elif document not in ids:
                yield f"{path}:{number}: {document!r} is in no row"
            else:
                seen.add(document)
    except UserError as error:
        if storage.is_file(path):  # a missing file has a line already
            yield str(error)
        return
    missing = sorted(ids - seen)
    if missing:
        yield f"{path}: nothing of {missing[0]!r}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")


def faults(row: dict[str, np.ndarray], vocab_size: int) -> Iterator[str]:
    """What about {field: [S]} is not as data_gen.shards lays rows out."""
    segments, weights = row["segment_ids"], row["loss_weights"]
    real = segments > 0
    steps = np.diff(segments, prepend=0)
    if not real[0]:
        yield "no token"
    elif (segments < 0).any() or real.sum() != np.trim_zeros(real, "b").size or not np.isin(steps[real], (0, 1)).all():
        yield "segments are not numbered 1, 2, … and then padding"
    else:
        at = np.arange(len(segments))
        begins = np.maximum.accumulate(np.where(steps != 0, at, 0))
        if (row["positions"] != np.where(real, at - begins, 0)).any():
            yield "positions do not count from 0 in every segment"
        if (weights[real & (steps != 0)] != 0).any():
            yield "a segment's first token has a loss weight"
    if not np.isfinite(weights).all() or (weights < 0).any():
        yield "a loss weight is negative or not finite"
    if (weights[~real] != 0).any():
        yield "padding has a loss weight"
    if (row["tokens"] < 0).any() or (row["tokens"] >= vocab_size).any():
        yield f"a token outside the vocabulary of {vocab_size}"


def _unlike(lengths: list[int] | None, listed: list[int]) -> str:
    """The first segment whose length is not the sidecar's; "" where there is none, or no row to compare."""
    pairs = itertools.zip_longest(lengths or listed, listed, fillvalue=0)
    wrong = (f"segment {n} has {a} tokens, {SIDECAR} says {b}" for n, (a, b) in enumerate(pairs, 1) if a != b)
    return next(wrong, "")


def _records(directory: epath.Path, manifest: dict[str, Any]) -> Iterator[Record]:
    """As many as the manifest says, in order."""
    counts, per_file = manifest["counts"], manifest["config"]["rows_per_shard"]
    for n, name in enumerate(counts["shards"]):
        path, numbers = directory / name, range(n * per_file, min((n + 1) * per_file, counts["rows"]))
        source, wrong = _open(path, len(numbers))
        for batch in (numbers[i : i + _BATCH] for i in range(0, len(numbers), _BATCH)):
            keys = [number - numbers.start for number in batch]
            for number, content in zip(batch, _read(source, keys), strict=True):
                if isinstance(content, bytes):
                    yield Record(f"{path}: row {number}", content)
                else:
                    where = f"{path}: row {number}" if source is not None else str(path)
                    yield Record(where, None, content or wrong)
                    wrong = ""  # of the file: said once


def _open(path: epath.Path, rows: int) -> tuple[Any, str]:
    """A file of rows; None and what is wrong where it cannot be read as one of so many."""
    if not storage.is_file(path):
        return None, ""  # a missing file has a line already
    try:
        source = grain.sources.ArrayRecordDataSource([str(path)])
    except RuntimeError as error:
        return None, f"not readable as ArrayRecord ({_short(error)})"
    return (source, "") if len(source) == rows else (None, f"{len(source)} rows, not {rows}")


def _read(source: Any, keys: list[int]) -> list[bytes | str]:
    """Records; in place of one that cannot be read the reason, "" where there is no source."""
    if source is None:
        return [""] * len(keys)
    try:
        return source.__getitems__(keys)
    except RuntimeError as error:
        if len(keys) == 1:
            return [f"cannot be read ({_short(error)})"]
        return [record for key in keys for record in _read(source, [key])]


def _entries(path: epath.Path, rows: int) -> Iterator[Entry]:
    """As many as there are rows, whatever the sidecar has; a sidecar of another length is said with the last one."""
    number, wrong = 0, ""
    last = Entry(None)
    try:
        for number, pieces in enumerate(artifact.each_row(path), 1):
            if number <= rows:
                entry = Entry(pieces) if _is_pieces(pieces) else Entry(None, f"{path}:{number}: not a row's segments")
                if number < rows:
                    yield entry
                else:
                    last = entry
        if number != rows:
            wrong = f"{path}: {number} lines for {rows} rows"
    except UserError as error:
        wrong = str(error) if storage.is_file(path) else ""  # a missing file has a line already
    yield from itertools.repeat(Entry(None), max(0, rows - 1 - number))
    yield Entry(last.pieces, last.wrong or wrong)


def _is_pieces(pieces: Any) -> bool:
    try:
        return all(isinstance(d, str) and isinstance(start, int) and isinstance(n, int) for d, start, n in pieces)
    except (TypeError, ValueError):
        return False


def _short(error: Exception) -> str:
    said = " ".join(str(error).split())
    return said if len(said) < 200 else said[:200] + "…"


def main(argv: list[str]) -> None:
    directories = argv[1:]
    if not directories or any(name.startswith("-") for name in directories):
        raise UserError("name the directories to check: python -m data_gen.verify DIR [DIR…]")
    damaged = False
    for directory in map(storage.at, directories):
        manifest = artifact.read_manifest(directory)
        if not all("bytes" in entry for entry in manifest["files"].values()):
            what = "parameters are compared with their manifest whenever they are loaded"
            raise UserError(
                f"{directory}: a {manifest['kind']}, whose {what}; this command checks shards and other files"
            )
        count = 0
        for count, problem in enumerate(problems(directory, manifest), 1):
            if count <= SHOWN:
                print(problem, flush=True)
        if count > SHOWN:
            print(f"{directory}: and {count - SHOWN} more")
        counts = manifest["counts"]
        what = f"{counts['rows']} rows, {counts['tokens']} tokens" if manifest["kind"] == "shards" else manifest["kind"]
        files = f"{len(manifest['files'])} files"
        verdict = f"damaged: {count} problems; make it again or copy it again" if count else f"fine ({what}, {files})"
        print(f"{directory}: {verdict}", flush=True)
        damaged = damaged or count > 0
    sys.exit(int(damaged))


if __name__ == "__main__":
    cli.entry(main)
