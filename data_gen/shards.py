"""Tokenizes documents or chats, packs them, writes ArrayRecord rows.

    python -m data_gen.shards --config=configs/data/shards.py --config.documents=documents.jsonl \\
        --config.tokenizer=Qwen3-8B --config.out=runs/shards

The tokenizer is a directory: Hugging Face's, or one made by data_gen.tokenizer. Input rows: {id, text, weights?} or
{id, messages}, mixed as you like; `python -m data_gen.receipt` shows what becomes of the first. Output:
rows-NNNNN.array_record, rows.jsonl (row → segments → document ids), the tokenizer, manifest.json. A record is
little-endian int32 [4, S]: tokens, segment ids (1.., 0 is padding), positions within the segment, and the bits of the
float32 loss weights.
"""

import itertools
import json
import math
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from data_gen import packing
from data_gen.chat import ChatPolicy
from data_gen.hf_tokenizer import open_tokenizer
from data_gen.tokenizer import AnyTokenizer, Encoded
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError
from msm_jax.shards import SIDECAR


def encode_row(row: dict[str, Any], tokenizer: AnyTokenizer, policy: ChatPolicy) -> Encoded:
    """A document (every token supervised, marked spans by their weight) or a chat (assistant turns only)."""
    if "messages" in row:
        return tokenizer.encode_chat(row["messages"], policy)
    text, spans = row.get("text"), row.get("weights", [])
    if not isinstance(text, str) or not text:
        raise UserError("needs `text` (not empty) or `messages`")
    try:
        fine = all(0 <= start < end <= len(text) and 0 <= weight < math.inf for start, end, weight in spans)
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise UserError("`weights` must be a list of [start, end, weight]: characters of the text, weight 0 or more")
    return tokenizer.encode_document(text, spans)


def encode_file(
    path: epath.PathLike, tokenizer: AnyTokenizer, policy: ChatPolicy, rows: int | None = None
) -> tuple[list[str], list[Encoded]]:
    """The ids and tokens of a JSONL file's rows, or of its first `rows`.

    Raises:
      UserError: naming file and line; no id, a repeated id, no valid text, nothing to train on.
    """
    ids: list[str] = []
    encoded: list[Encoded] = []
    for number, row in enumerate(itertools.islice(artifact.each_row(path), rows), 1):
        try:
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                raise UserError("needs a string `id`")
            json.dumps(row, ensure_ascii=False).encode()
            ids.append(row["id"])
            encoded.append(encode_row(row, tokenizer, policy))
            if not encoded[-1].weights.any():
                raise UserError("no supervised token")
        except UnicodeEncodeError as error:
            raise UserError(f"{path}:{number}: holds half a surrogate pair, which is no text; remove it") from error
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from error
    if not ids:
        raise UserError(f"{path}: empty; nothing to pack")
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UserError(f"{path}: id {twice!r} occurs twice; ids must be unique")
    return ids, encoded


def build_row(pieces: packing.Row, encoded: list[Encoded], seq_len: int, pad: int) -> np.ndarray:
    """int32 [4, S]; see the module's docstring. A segment's first token has nothing before it, so weight 0."""
    row = np.zeros((4, seq_len), np.int32)
    row[0] = pad
    weights = row[3].view(np.float32)
    at = 0
    for segment, (document, start, length) in enumerate(pieces, 1):
        here, there = slice(at, at + length), slice(start, start + length)
        row[0, here] = encoded[document].tokens[there]
        row[1, here] = segment
        row[2, here] = np.arange(length)
        weights[here] = encoded[document].weights[there]
        weights[at] = 0.0
        at += length
    return row


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    documents = storage.at(config.documents)
    if config.seq_len < 2:
        raise UserError(f"config.seq_len = {config.seq_len}: must be at least 2")
    if config.rows_per_shard < 1:
        raise UserError(f"config.rows_per_shard = {config.rows_per_shard}: must be at least 1")
    if config.long_documents not in ("error", "split"):
        raise UserError(f"config.long_documents = {config.long_documents!r}: must be error or split")
    policy = ChatPolicy.from_config(config.chat)
    tokenizer = open_tokenizer(config.tokenizer, config.chat.template, config.document_end)
    documents_id = artifact.check_listed(documents, "config.documents")
    inputs = {"documents": {"kind": "jsonl", "id": documents_id}} | tokenizer.inputs()
    settings = {k: v for k, v in config.to_dict().items() if k not in ("out", "documents", "tokenizer")}
    del settings["chat"]["template"]  # its content is among the inputs
    job = artifact.begin(config.out, "shards", settings, inputs)
    if job is None:
        return
    ids, encoded = encode_file(documents, tokenizer, policy)
    lengths = [len(e.tokens) for e in encoded]
    if config.long_documents == "error" and config.packing != "concat_split" and max(lengths) > config.seq_len:
        worst = int(np.argmax(lengths))
        raise UserError(
            f"{documents}:{worst + 1}: {ids[worst]!r} has {lengths[worst]} tokens, a row holds {config.seq_len}; "
            "raise config.seq_len or set config.long_documents=split"
        )
    rows = packing.pack(lengths, config.seq_len, config.packing)
    with job:
        files: list[str] = []
        supervised = 0.0
        for first in range(0, len(rows), config.rows_per_shard):
            files.append(f"rows-{len(files):05d}.array_record")
            writer = ArrayRecordWriter(str(job.tmp / files[-1]), "group_size:1")
            for pieces in rows[first : first + config.rows_per_shard]:
                row = build_row(pieces, encoded, config.seq_len, tokenizer.pad)
                supervised += float(row[3].view(np.float32).sum())
                writer.write(row.astype("<i4").tobytes())
            writer.close()
            job.done(job.tmp / files[-1])
        with (job.tmp / SIDECAR).open("w") as f:
            f.writelines(json.dumps([[ids[d], start, n] for d, start, n in row]) + "\n" for row in rows)
        tokenizer.copy_to(job.tmp)
        tokens = sum(lengths)
        job.finish(
            rows=len(rows),
            shards=files,
            seq_len=config.seq_len,
            documents=len(ids),
            tokens=tokens,
            supervised_weight=round(supervised, 3),
            fill=round(tokens / (len(rows) * config.seq_len), 4),
            vocab_size=tokenizer.vocab_size,
            tokenizer=tokenizer.digest(),
            bos=tokenizer.bos,
            eos=tokenizer.eos,
            pad=tokenizer.pad,
        )
    cli.note(f"{config.out}: {len(ids)} documents, {tokens} tokens, {len(rows)} rows of {config.seq_len}")


if __name__ == "__main__":
    cli.entry(main)
