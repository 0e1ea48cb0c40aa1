"""The texts of training data: of rows {id, text} or {id, messages}, or of packed rows as a model saw them.

Packed rows (data_gen.shards) are decoded with the tokenizer that lies beside them, control tokens included, so that
what is read is what was trained on; a document that was cut in pieces is read piece by piece.
"""

import hashlib
import heapq
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

_AT_ONCE = 64  # packed rows that are read together


class Text(NamedTuple):
    """where: the line of its file, or the packed row, counted from 1 and from 0."""

    id: str
    text: str
    where: int


def is_shards(path: epath.PathLike) -> bool:
    return storage.is_dir(path)


def identity(path: epath.PathLike) -> dict[str, str]:
    """Kind and id of data, as manifests name their inputs. Raises UserError where there is none."""
    if is_shards(path):
        return artifact.inputs_of(data=path)["data"]
    if not storage.is_file(storage.at(path)):
        raise UserError(f"{path}: no such file or directory")
    return {"kind": "jsonl", "id": storage.sha256(storage.at(path))}


def texts(path: epath.PathLike) -> Iterator[Text]:
    """All texts of a JSONL file or of a directory of packed rows, in their order.

    Raises:
      UserError: naming file and line of a row of another form; a directory that holds no packed rows.
    """
    yield from _packed(path) if is_shards(path) else _rows(path)


def _rows(path: epath.PathLike) -> Iterator[Text]:
    for number, row in enumerate(artifact.each_row(storage.at(path)), 1):
        yield Text(str(row.get("id", number)) if isinstance(row, dict) else "", _said(row, path, number), number)


def _said(row: Any, path: epath.PathLike, number: int) -> str:
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return row["text"]
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and isinstance(message.get("content"), str) for message in messages
    ):
        raise UserError(f"{path}:{number}: needs a string `text`, or `messages` with a string `content` each")
    return "\n\n".join(message["content"] for message in messages)


def _packed(directory: epath.PathLike) -> Iterator[Text]:
    shards, tokenizer = _open(directory)
    rows = shards.manifest["counts"]["rows"]
    progress = cli.Progress(f"reading {directory}", rows, "rows")
    for first in range(0, rows, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, rows))
        for number, row in zip(numbers, shards.read(numbers), strict=True):
            ids = shards.documents(number)
            for segment, tokens in enumerate(_segments(row)):
                yield Text(ids[segment], tokenizer.decode(tokens, special=True), number)
        progress(len(numbers))


def _open(directory: epath.PathLike) -> tuple[Any, Any]:
    from data_gen.hf_tokenizer import open_tokenizer
    from msm_jax.shards import open_shards

    return open_shards(directory, verify=False), open_tokenizer(directory)


def _segments(row: dict[str, np.ndarray]) -> Iterator[list[int]]:
    for segment in range(1, int(row["segment_ids"].max(initial=0)) + 1):
        yield row["tokens"][row["segment_ids"] == segment].tolist()


def sample(path: epath.PathLike, count: int, least: int, seed: int) -> list[Text]:
    """`count` documents of at least `least` words, drawn by a hash of seed and id: the same ones whatever their order.

    Of packed rows those are drawn that begin in a row, and only their rows are read.
    """

    def drawn(id: str) -> bytes:
        return hashlib.sha256(f"{seed}/{id}".encode("utf-8", "replace")).digest()

    if not is_shards(path):
        long = (text for text in _rows(path) if len(text.text.split()) >= least)
        return heapq.nsmallest(count, long, key=lambda text: drawn(text.id))
    from msm_jax.shards import SIDECAR

    shards, tokenizer = _open(path)
    begun = (
        (drawn(document), number, segment, document)
        for number, pieces in enumerate(artifact.each_row(shards.directory / SIDECAR))
        for segment, (document, start, length) in enumerate(pieces)
        if start == 0 and length >= least
    )
    # A word is a token or more, so some that have tokens enough fall short in words: draw more, and drop those.
    found: list[Text] = []
    for _, number, segment, document in heapq.nsmallest(4 * count, begun):
        tokens = list(_segments(shards.read([number])[0]))[segment]
        text = tokenizer.decode(tokens)
        if len(text.split()) >= least:
            found.append(Text(document, text, number))
        if len(found) == count:
            break
    return found


def dumps(row: dict[str, Any]) -> str:
    """One line of JSON, escaped: half a surrogate pair is no UTF-8."""
    return json.dumps(row) + "\n"
