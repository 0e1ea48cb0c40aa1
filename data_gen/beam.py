"""The same rows by Apache Beam, for corpora that one machine does not get through.

    python -m data_gen.beam --config=configs/data/shards.py --config.documents=documents.jsonl \\
        --config.tokenizer=Qwen3-8B --config.out=runs/shards [--runner=…, any option of a Beam pipeline]

Needs apache-beam, in an environment of its own: its pins do not go with this project's (constraints-beam.txt). Runs the
functions of data_gen.shards, element by element, and writes the same files byte by byte and the same manifest. With
workers on other machines all paths are in a bucket, and `documents` is read there by ranges of bytes.

Packing sees all lengths at once, in one worker (a side input: ids and lengths of all documents, some 100 bytes each).
The worker that writes a file of rows holds its tokens: rows_per_shard × seq_len × 8 bytes.
"""

import itertools
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from etils import epath
from ml_collections import ConfigDict

from data_gen import provenance, shards
from data_gen.chat import ChatPolicy
from data_gen.encode import Chunk, Encoder, Opening, check_ids, chunks, encode_chunk, lines_of
from data_gen.hf_tokenizer import open_tokenizer
from data_gen.tokenizer import Encoded
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.shards import SIDECAR

PARTS = "parts"  # below the place of the artefact: what workers tell the launcher
_SAID = re.compile(r"UserError: (.+?)(?:\\n|\n|$)")
_WHILE = re.compile(r" \[while running '[^']*'\]")


class Range(NamedTuple):
    """Bytes of the input that are whole lines. first: the number of the first, from 1."""

    number: int
    first: int
    start: int
    size: int


def ranges_of(path: epath.PathLike) -> Iterator[Range]:
    start = 0
    for number, chunk in enumerate(chunks(lines_of(path))):
        size = sum(map(len, chunk.lines))
        yield Range(number, chunk.first, start, size)
        start += size


def put(local: Path, place: str, name: str) -> dict[str, Any]:
    """A worker's file at its place; returns what the manifest says of it."""
    says = {"sha256": storage.sha256(local), "bytes": local.stat().st_size}
    path = storage.at(place) / name
    storage.make_directory(path.parent)
    storage.copy(local, path)
    return says


def tell(place: str, name: str, what: Any) -> None:
    """A worker's word to the launcher."""
    path = storage.at(place) / PARTS / name
    storage.make_directory(path.parent)
    storage.write_atomic(path, json.dumps(what))


class Encode(beam.DoFn):
    """Range → (document's number, its tokens and weights as bytes); aside, (number, id, tokens)."""

    def __init__(self, documents: str, place: str, opening: Opening, policy: ChatPolicy) -> None:
        self.documents, self.place, self.opening, self.policy = documents, place, opening, policy

    def setup(self) -> None:
        self.tokenizer = open_tokenizer(*self.opening)

    def process(self, some: Range) -> Iterator[Any]:
        with storage.reading(self.documents) as f:
            f.seek(some.start)
            lines = f.read(some.size).splitlines(keepends=True)
        coded = encode_chunk(Chunk(some.first, lines), self.documents, self.tokenizer, self.policy)
        tell(self.place, f"about-{some.number:08d}.json", {"says": coded.says, "about": coded.about})
        at = 0
        for number, (name, length) in enumerate(zip(coded.ids, coded.lengths, strict=True), some.first - 1):
            yield number, coded.tokens[at : at + 8 * length]
            yield beam.pvalue.TaggedOutput("lengths", (number, name, length))
            at += 8 * length


def assign(
    _: None, lengths: Iterable[tuple[int, str, int]], config: ConfigDict, place: str
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Packs; yields (document's number, (row, segment, start, length)) of every piece, and writes the sidecar."""
    known = sorted(lengths)
    ids, sizes = [name for _, name, _ in known], [length for *_, length in known]
    check_ids(ids, config.documents)
    rows = shards.pack(config, ids, sizes)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / SIDECAR
        with path.open("w") as f:
            f.writelines(shards.sidecar_line(row, ids) for row in rows)
        files = {SIDECAR: put(path, place, SIDECAR)}
    tell(place, "packed.json", {"files": files, "documents": len(ids), "tokens": sum(sizes)})
    for number, row in enumerate(rows):
        for segment, piece in enumerate(row):
            yield piece.document, (number, segment, piece.start, piece.length)


def cut(
    document: tuple[int, dict[str, Iterable[Any]]], rows_per_shard: int
) -> Iterator[tuple[int, tuple[int, int, bytes, bytes]]]:
    """A document and its pieces → (file's number, (row, segment, tokens, weights))."""
    (tokens,) = document[1]["tokens"]
    half = len(tokens) // 2
    for row, segment, start, length in document[1]["pieces"]:
        here = slice(4 * start, 4 * (start + length))
        yield row // rows_per_shard, (row, segment, tokens[:half][here], tokens[half:][here])


def write(shard: tuple[int, Iterable[tuple[int, int, bytes, bytes]]], seq_len: int, pad: int, place: str) -> None:
    """One file of rows."""
    number, pieces = shard
    by_row = itertools.groupby(sorted(pieces), key=lambda piece: piece[0])
    built = (
        shards.build_row(
            (Encoded(np.frombuffer(tokens, "<i4"), np.frombuffer(weights, "<f4")) for *_, tokens, weights in some),
            seq_len,
            pad,
        )
        for _, some in by_row
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / shards.file_name(number)
        weights = shards.write_rows(path, built)
        files = {path.name: put(path, place, path.name)}
    tell(place, f"{path.name}.json", {"files": files, "weights": weights})


def run(config: ConfigDict, place: str, encoder: Encoder, options: list[str]) -> None:
    """The pipeline. Raises UserError as data_gen.shards does."""
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # it logs a traceback of what it raises
    chosen = PipelineOptions(options)
    chosen.view_as(SetupOptions).save_main_session = False
    opening = encoder.opening._replace(directory=str(config.tokenizer))
    try:
        with beam.Pipeline(options=chosen) as pipeline:
            coded = (
                pipeline
                | "ranges" >> beam.Create(list(ranges_of(config.documents)))
                | "spread" >> beam.Reshuffle()
                | "encode"
                >> beam.ParDo(Encode(str(config.documents), place, opening, encoder.policy)).with_outputs(
                    "lengths", main="tokens"
                )
            )
            pieces = (
                pipeline
                | "once" >> beam.Create([None])
                | "pack" >> beam.FlatMap(assign, beam.pvalue.AsList(coded.lengths), config, place)
            )
            _ = (
                {"tokens": coded.tokens, "pieces": pieces}
                | "join" >> beam.CoGroupByKey()
                | "cut" >> beam.FlatMap(cut, config.rows_per_shard)
                | "gather" >> beam.GroupByKey()
                | "write" >> beam.Map(write, config.seq_len, encoder.tokenizer.pad, place)
            )
    except UserError as error:
        raise UserError(_WHILE.sub("", str(error))) from error
    except Exception as error:  # a runner elsewhere passes on the text alone
        found = _SAID.findall(str(error))
        if not found:
            raise
        raise UserError(_WHILE.sub("", found[-1])) from error


def finish(config: ConfigDict, job: artifact.Job, encoder: Encoder) -> dict[str, Any]:
    """Gathers what the workers told and completes the artefact; returns the manifest's counts."""
    parts = storage.at(job.place) / PARTS
    names = sorted(storage.files(parts))
    told = {name: json.loads(storage.read_text(parts / name)) for name in names if not name.startswith("about-")}
    weights = [weight for name in sorted(told) if name != "packed.json" for weight in told[name]["weights"]]
    about = [name for name in names if name.startswith("about-")]
    says = False
    with (job.tmp / provenance.FILE).open("w") as f:
        for name in about:
            part = json.loads(storage.read_text(parts / name))
            says |= part["says"]
            f.write(part["about"])
    if not says:
        (job.tmp / provenance.FILE).unlink()
    if storage.is_remote(parts):
        storage.delete(parts / name for name in names)
    else:
        shutil.rmtree(parts)
    encoder.tokenizer.copy_to(job.tmp)
    files = {name: entry for part in told.values() for name, entry in part["files"].items()}
    for name, size in storage.files(job.tmp).items():
        files[name] = {"sha256": storage.sha256(job.tmp / name), "bytes": size}
    packed = told["packed.json"]
    counts = shards.counts(config, encoder.tokenizer, packed["documents"], packed["tokens"], weights)
    return job.finish(dict(sorted(files.items())), **counts)["counts"]


def main(argv: list[str]) -> None:
    ours = [arg for arg in argv[1:] if arg.startswith("--config")]
    config = cli.parse_config([argv[0], *ours])
    job, encoder = shards.begin(config)
    if job is None:
        return
    with job:
        run(config, str(job.place), encoder, [arg for arg in argv[1:] if arg not in ours])
        made = finish(config, job, encoder)
    cli.note(
        f"{config.out}: {made['documents']} documents, {made['tokens']} tokens, {made['rows']} rows of {config.seq_len}"
    )


if __name__ == "__main__":
    from data_gen.beam import main as found  # workers find the functions by this name

    cli.entry(found)
