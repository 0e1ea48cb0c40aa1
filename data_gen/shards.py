"""Tokenizes documents or chats, packs them, writes ArrayRecord rows.

    python -m data_gen.shards --config=configs/data/shards.py --config.documents=documents.jsonl \\
        --config.tokenizer=Qwen3-8B --config.out=runs/shards

The tokenizer is a directory: Hugging Face's, or one made by data_gen.tokenizer. Input rows: {id, text, weights?} or
{id, messages}, mixed as you like; `python -m data_gen.receipt` shows what becomes of the first. Output:
rows-NNNNN.array_record, rows.jsonl (row → segments → document ids), provenance.jsonl where the input says more of its
documents than ids (`python -m data_gen.whence` reads both), the tokenizer, manifest.json. A record is little-endian
int32 [4, S]: tokens, segment ids (1.., 0 is padding), positions within the segment, and the bits of the float32 loss
weights. In memory are a few megabytes of text, and of all documents ids and lengths; tokens wait in $TMPDIR, 8 bytes
each.
"""

import functools
import json
import math
import operator
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict

from data_gen import packing, provenance
from data_gen.encode import Encoder, check_ids, encode_chunks
from data_gen.encode import encode_row as encode_row
from data_gen.spill import Spill
from data_gen.tokenizer import AnyTokenizer, Encoded
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.shards import SIDECAR


def build_row(parts: Iterable[Encoded], seq_len: int, pad: int) -> np.ndarray:
    """int32 [4, S]; see the module's docstring. A segment's first token has nothing before it, so weight 0."""
    row = np.zeros((4, seq_len), np.int32)
    row[0] = pad
    weights = row[3].view(np.float32)
    at = 0
    for segment, part in enumerate(parts, 1):
        here = slice(at, at + len(part.tokens))
        row[0, here] = part.tokens
        row[1, here] = segment
        row[2, here] = np.arange(len(part.tokens))
        weights[here] = part.weights
        weights[at] = 0.0
        at = here.stop
    return row


def write_rows(path: Path, rows: Iterable[np.ndarray]) -> list[float]:
    """One file of rows; returns the sum of each row's loss weights."""
    weights = []
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        weights.append(float(row[3].view(np.float32).sum()))
        writer.write(row.astype("<i4").tobytes())
    writer.close()
    return weights


def sidecar_line(pieces: packing.Row, ids: Sequence[str]) -> str:
    return json.dumps([[ids[document], start, length] for document, start, length in pieces]) + "\n"


def begin(config: ConfigDict) -> tuple[artifact.Job | None, Encoder]:
    """What a configuration asks for, None where it is made already. Raises UserError on what it cannot ask for."""
    if config.seq_len < 2:
        raise UserError(f"config.seq_len = {config.seq_len}: must be at least 2")
    if config.rows_per_shard < 1:
        raise UserError(f"config.rows_per_shard = {config.rows_per_shard}: must be at least 1")
    if config.long_documents not in ("error", "split"):
        raise UserError(f"config.long_documents = {config.long_documents!r}: must be error or split")
    packing.check_method(config.packing)
    encoder = Encoder.of(config)
    documents_id = artifact.check_listed(storage.at(config.documents), "config.documents")
    inputs = {"documents": {"kind": "jsonl", "id": documents_id}} | encoder.tokenizer.inputs()
    settings = {k: v for k, v in config.to_dict().items() if k not in ("out", "documents", "tokenizer", "workers")}
    del settings["chat"]["template"]  # its content is among the inputs
    return artifact.begin(config.out, "shards", settings, inputs), encoder


def pack(config: ConfigDict, ids: Sequence[str], lengths: Sequence[int]) -> list[packing.Row]:
    """Raises UserError on a document longer than a row, where config.long_documents says so."""
    if config.long_documents == "error" and config.packing != "concat_split" and max(lengths) > config.seq_len:
        worst = int(np.argmax(lengths))
        raise UserError(
            f"{config.documents}:{worst + 1}: {ids[worst]!r} has {lengths[worst]} tokens, a row holds "
            f"{config.seq_len}; raise config.seq_len or set config.long_documents=split"
        )
    return packing.pack(lengths, config.seq_len, config.packing)


def file_name(number: int) -> str:
    return f"rows-{number:05d}.array_record"


def counts(
    config: ConfigDict, tokenizer: AnyTokenizer, documents: int, tokens: int, weights: list[float]
) -> dict[str, Any]:
    """What the manifest says of the rows. weights: of each row the sum of its loss weights."""
    return {
        "rows": len(weights),
        "shards": [file_name(n) for n in range(math.ceil(len(weights) / config.rows_per_shard))],
        "seq_len": config.seq_len,
        "documents": documents,
        "tokens": tokens,
        "supervised_weight": round(functools.reduce(operator.add, weights), 3),
        "fill": round(tokens / (len(weights) * config.seq_len), 4),
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.digest(),
        "bos": tokenizer.bos,
        "eos": tokenizer.eos,
        "pad": tokenizer.pad,
    }


def make(config: ConfigDict, job: artifact.Job, encoder: Encoder) -> dict[str, Any]:
    """Writes what begin() began; returns the manifest's counts."""
    documents, tokenizer = storage.at(config.documents), encoder.tokenizer
    with Spill() as spill:
        for coded in encode_chunks(documents, encoder):
            spill.add(coded)
        check_ids(spill.ids, documents)
        rows = pack(config, spill.ids, spill.lengths)
        with job:
            weights: list[float] = []
            for first in range(0, len(rows), config.rows_per_shard):
                path = job.tmp / file_name(first // config.rows_per_shard)
                some = rows[first : first + config.rows_per_shard]
                built = (build_row(map(spill.part, row), config.seq_len, tokenizer.pad) for row in some)
                weights += write_rows(path, built)
                job.done(path)
            with (job.tmp / SIDECAR).open("w") as f:
                f.writelines(sidecar_line(row, spill.ids) for row in rows)
            if spill.says_something:
                with (job.tmp / provenance.FILE).open("wb") as f:
                    spill.about.seek(0)
                    shutil.copyfileobj(spill.about, f)
            tokenizer.copy_to(job.tmp)
            return job.finish(**counts(config, tokenizer, len(spill.ids), sum(spill.lengths), weights))["counts"]


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    job, encoder = begin(config)
    if job is None:
        return
    made = make(config, job, encoder)
    cli.note(
        f"{config.out}: {made['documents']} documents, {made['tokens']} tokens, {made['rows']} rows of {config.seq_len}"
    )


if __name__ == "__main__":
    cli.entry(main)
