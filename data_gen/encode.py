"""Rows of a JSONL file → tokens and loss weights; a large file's on all cores, and never all in memory."""

import collections
import concurrent.futures
import dataclasses
import functools
import io
import itertools
import json
import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, cast

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from data_gen import provenance
from data_gen.chat import ChatPolicy
from data_gen.hf_tokenizer import open_tokenizer
from data_gen.tokenizer import AnyTokenizer, Encoded
from msm_jax import children, cli, storage
from msm_jax.cli import UserError

CHUNK = 1 << 22  # bytes of a file encoded together: some hundred documents
SHARE = 1 << 25  # bytes of a file that are worth a process of their own: it takes seconds to open the tokenizer


class Chunk(NamedTuple):
    """Lines of a file. first: the number of the first of them, from 1."""

    first: int
    lines: list[bytes]


class Coded(NamedTuple):
    """A chunk's documents. tokens: of each its tokens, then their weights, 4 bytes each. about: lines of provenance;
    `says`: do they say more than ids?"""

    ids: list[str]
    lengths: list[int]
    tokens: bytes
    about: str
    says: bool


class Opening(NamedTuple):
    """What opens a tokenizer: the arguments of open_tokenizer."""

    directory: str
    template: str
    document_end: str


@dataclasses.dataclass(frozen=True)
class Encoder:
    """How rows become tokens, as the keys of configs/data/common.py say.

    opening: of the same tokenizer, for processes. workers: processes for large files, 0 for one a core; 1 for none.
    """

    tokenizer: AnyTokenizer
    policy: ChatPolicy
    opening: Opening
    workers: int

    @classmethod
    def of(cls, config: ConfigDict) -> "Encoder":
        """Raises UserError on a tokenizer or settings that cannot be used."""
        if config.workers < 0:
            raise UserError(f"config.workers = {config.workers}: must be 0 (one a core) or more")
        policy = ChatPolicy.from_config(config.chat)
        tokenizer = open_tokenizer(config.tokenizer, config.chat.template, config.document_end)
        opening = Opening(str(tokenizer.directory), config.chat.template, config.document_end)
        return cls(tokenizer, policy, opening, config.workers or os.cpu_count() or 1)


def encode_row(row: dict[str, Any], tokenizer: AnyTokenizer, policy: ChatPolicy) -> Encoded:
    """A document (every token supervised, marked spans by their weight) or a chat (assistant turns only)."""
    if "messages" in row:
        return tokenizer.encode_chat(row["messages"], policy)
    _check_document(row)
    return tokenizer.encode_document(row["text"], row.get("weights", []))


def _check_document(row: dict[str, Any]) -> None:
    text, spans = row.get("text"), row.get("weights", [])
    if not isinstance(text, str) or not text:
        raise UserError("needs `text` (not empty) or `messages`")
    try:
        fine = all(0 <= start < end <= len(text) and 0 <= weight < math.inf for start, end, weight in spans)
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise UserError("`weights` must be a list of [start, end, weight]: characters of the text, weight 0 or more")


def encode_file(
    path: epath.PathLike, tokenizer: AnyTokenizer, policy: ChatPolicy, rows: int
) -> tuple[list[str], list[Encoded]]:
    """The ids and tokens of a file's first `rows` rows. Raises UserError as encode_chunk does."""
    lines = list(itertools.islice(lines_of(path), rows))
    pairs = list(_encoded(Chunk(1, lines), path, tokenizer, policy))
    check_ids([row["id"] for row, _ in pairs], path)
    return [row["id"] for row, _ in pairs], [encoded for _, encoded in pairs]


def check_ids(ids: list[str], path: epath.PathLike) -> None:
    """Raises UserError where there are none, or one twice."""
    if not ids:
        raise UserError(f"{path}: empty; nothing to pack")
    if len(set(ids)) < len(ids):
        twice = next(i for i, count in collections.Counter(ids).items() if count > 1)
        raise UserError(f"{path}: id {twice!r} occurs twice; ids must be unique")


def encode_chunk(chunk: Chunk, path: epath.PathLike, tokenizer: AnyTokenizer, policy: ChatPolicy) -> Coded:
    """Raises UserError naming file and line: no JSON, no id, no valid text, nothing to train on."""
    pairs = list(_encoded(chunk, path, tokenizer, policy))
    return Coded(
        [row["id"] for row, _ in pairs],
        [len(encoded.tokens) for _, encoded in pairs],
        b"".join(part for _, encoded in pairs for part in (to_bytes(encoded.tokens), to_bytes(encoded.weights))),
        "".join(provenance.line(row) for row, _ in pairs),
        any(provenance.says_something(row) for row, _ in pairs),
    )


def to_bytes(numbers: np.ndarray) -> bytes:
    """int32 or float32, little-endian."""
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()


def encode_chunks(path: epath.PathLike, encoder: Encoder) -> Iterator[Coded]:
    """All chunks of a file, in their order; a large file's by processes. Raises UserError as encode_chunk does."""
    size = storage.size(path)
    lines = progressing(lines_of(path), cli.Progress(f"tokenizing {path}", size, "GB"))
    workers = min(encoder.workers, size // SHARE)
    if workers < 2:
        for chunk in chunks(lines):
            yield encode_chunk(chunk, path, encoder.tokenizer, encoder.policy)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the locks of the tokenizer's threads
    pool = concurrent.futures.ProcessPoolExecutor(workers, spawn, _begin_worker, (encoder.opening,))
    waiting: collections.deque[concurrent.futures.Future[Coded]] = collections.deque()
    try:
        for chunk in chunks(lines):
            waiting.append(pool.submit(_work, chunk, str(path), encoder.policy))
            if len(waiting) > 2 * workers:  # what memory holds
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(f"{path}: a process that encodes it was killed; set fewer as config.workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


_opening: Opening  # of this process, where it is a worker


def _begin_worker(opening: Opening) -> None:
    global _opening
    children.die_with_parent()
    cli.silence()
    os.environ["RAYON_NUM_THREADS"] = "1"  # the cores are shared out already
    _opening = opening


@functools.cache
def _open(opening: Opening) -> AnyTokenizer:
    return open_tokenizer(*opening)


def _work(chunk: Chunk, path: str, policy: ChatPolicy) -> Coded:
    return encode_chunk(chunk, path, _open(_opening), policy)


def progressing(lines: Iterable[bytes], progress: cli.Progress) -> Iterator[bytes]:
    for line in lines:
        progress(len(line))
        yield line


def chunks(lines: Iterable[bytes]) -> Iterator[Chunk]:
    """Lines in groups of at least CHUNK bytes, but for the last."""
    first, some, size = 1, [], 0
    for number, line in enumerate(lines, 1):
        some.append(line)
        size += len(line)
        if size >= CHUNK:
            yield Chunk(first, some)
            first, some, size = number + 1, [], 0
    if some:
        yield Chunk(first, some)


def lines_of(path: epath.PathLike) -> Iterator[bytes]:
    if not storage.is_file(path):
        raise UserError(f"{path}: no such file")
    with io.BufferedReader(cast(io.RawIOBase, storage.reading(path)), 1 << 20) as f:
        yield from f


def _encoded(
    chunk: Chunk, path: epath.PathLike, tokenizer: AnyTokenizer, policy: ChatPolicy
) -> Iterator[tuple[dict[str, Any], Encoded]]:
    """Rows and their tokens. Plain documents are encoded together, which is what is fast; an error is still the first
    bad row's."""
    rows: list[dict[str, Any]] = []
    bad: Exception | None = None
    for number, line in enumerate(chunk.lines, chunk.first):
        try:
            rows.append(_row(line))
        except UserError as error:
            bad = UserError(f"{path}:{number}: {error}")
            bad.__cause__ = error
            break
        except UnicodeDecodeError as error:
            bad = UserError(f"{path}: not UTF-8 text")
            bad.__cause__ = error
            break
    plain = [row["text"] for row in rows if _is_plain(row)]
    together = iter(tokenizer.encode_documents(plain) if plain else ())
    for number, row in enumerate(rows, chunk.first):
        try:
            encoded = next(together) if _is_plain(row) else encode_row(row, tokenizer, policy)
            if not encoded.weights.any():
                raise UserError("no supervised token")
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from error
        yield row, encoded
    if bad:
        raise bad


def _is_plain(row: dict[str, Any]) -> bool:
    return "messages" not in row and not row.get("weights")


def _row(line: bytes) -> dict[str, Any]:
    """A row with an id, and a text or messages that are text."""
    text = line.decode()
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"not a JSON row ({error.msg}); mend or remove it") from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise UserError("needs a string `id`")
    if "\\u" in text:  # in UTF-8 half a pair can only be an escape
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UserError("holds half a surrogate pair, which is no text; remove it") from error
    if "messages" not in row:
        _check_document(row)
    return row
