"""The sources of a mix: rows of files in an order drawn by the seed, each examined when it is its turn.

A row is examined once: is it a chat, does the template take it, is it short enough, is it there already, does it fall
under a pattern? Of a source in files, the rows wait in a temporary file; in memory are those that were examined.
"""

import collections
import dataclasses
import hashlib
import json
import tempfile
from array import array
from typing import Any

import numpy as np
from etils import epath

from data_gen.chat import ChatPolicy
from data_gen.import_hf import RejectError, rows_of
from data_gen.mixing.patterns import Patterns
from data_gen.mixing.shapes import SHAPES, Message, chat
from data_gen.tokenizer import AnyTokenizer
from msm_jax import artifact
from msm_jax.cli import UserError

CHARACTERS = 40  # a token has fewer: a longer text need not be counted


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A row that may be taken. number: in its source. origin: file and row, or what made it. tokens: all that a row of
    training data has; supervised: of them the assistant's. about: more provenance."""

    source: str
    number: int
    origin: str
    messages: list[Message]
    sha256: str
    tokens: int
    supervised: int
    about: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.source}-{self.number:06d}-{self.sha256[:12]}"


class Shelf:
    """Rows on a disk, by their numbers."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the shelf)
        self._ends = array("Q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, row: Any) -> None:
        self._file.seek(self._ends[-1])
        self._ends.append(self._ends[-1] + self._file.write(json.dumps(row).encode()))

    def __getitem__(self, number: int) -> Any:
        self._file.seek(self._ends[number])
        return json.loads(self._file.read(self._ends[number + 1] - self._ends[number]))


@dataclasses.dataclass
class Desk:
    """What rows are examined by, for all sources: an id a content, an origin one row of the mix."""

    tokenizer: AnyTokenizer
    policy: ChatPolicy
    patterns: Patterns | None
    seed: int
    seen: dict[str, str] = dataclasses.field(default_factory=dict)  # content or origin → who has it

    def claim(self, keys: list[str], who: str) -> None:
        """Raises RejectError where another row has the same content or comes from the same place."""
        for key in keys:
            if key in self.seen:
                raise RejectError(f"a duplicate of {self.seen[key]}")
        self.seen |= dict.fromkeys(keys, who)


class Source:
    """Rows to take from, in a seeded order.

    name, shape, variant, columns, where, max_tokens: as a recipe's source says. shelf: rows as they were read; origins:
    number → where it comes from.
    """

    def __init__(self, name: str, settings: dict[str, Any], max_tokens: int, desk: Desk) -> None:
        self.name, self.desk = name, desk
        self.shape, self.variant = settings["shape"], settings["variant"]
        self.max_tokens = settings["max_tokens"] or max_tokens
        self.searched = settings["patterns"]
        self.shelf = Shelf()
        self.rejects: dict[int, tuple[str, str]] = {}  # number → reason, words of the row
        self.examined = self.available = 0  # rows: looked at so far; there, but for those that `where` leaves out
        self._order = np.zeros(0, np.int64)
        self._alive: list[Candidate] = []
        self._files: list[tuple[int, str, str]] = []  # first number, what an origin begins with, path

    def read(self, files: dict[str, tuple[str, epath.Path]], columns: dict[str, str], where: dict[str, Any]) -> None:
        """files: name → (what its rows' origin begins with, path). Raises UserError on a file that cannot be read."""
        wanted = {name: columns[name] for name in SHAPES[self.shape].columns}
        for _, (origin, path) in files.items():
            self._files.append((len(self.shelf), origin, str(path)))
            for number, found in enumerate(rows_of(path)):
                kept = _kept(found, wanted, where)
                self.shelf.add([number, kept])
                self.available += kept is not None

    def add(self, messages: list[Message], origin: str, about: dict[str, Any]) -> None:
        """One more row, made rather than read."""
        self.shelf.add([origin, {"messages": messages, "about": about}])
        self.available += 1

    def alive(self, many: int) -> list[Candidate]:
        """The first `many` rows that may be taken, in the seeded order; fewer where there are no more."""
        order = self._drawn()
        while len(self._alive) < many and self.examined < len(order):
            number = int(order[self.examined])
            self.examined += 1
            try:
                self._alive.append(self._examine(number))
            except _Skipped:
                continue
            except RejectError as error:
                self.rejects[number] = (str(error), getattr(error, "quote", ""))
        return self._alive[:many]

    def drop(self, row: Candidate, reason: str, quote: str = "") -> None:
        """Takes back a row that was alive."""
        self._alive.remove(row)
        self.rejects[row.number] = (reason, quote)

    def reasons(self) -> dict[str, int]:
        return dict(collections.Counter(_general(reason) for reason, _ in self.rejects.values()).most_common())

    def _drawn(self) -> np.ndarray:
        """The order; rows that were added later come after those that were there."""
        there = len(self._order)
        if there < len(self.shelf):
            more = np.arange(there, len(self.shelf))
            key = hashlib.sha256(f"{self.desk.seed}/{self.name}/{there}".encode()).digest()[:8]
            np.random.Generator(np.random.Philox(int.from_bytes(key, "big"))).shuffle(more)
            self._order = np.concatenate([self._order, more])
        return self._order

    def _examine(self, number: int) -> Candidate:
        where, row = self.shelf[number]
        if row is None:
            raise _Skipped
        if isinstance(row, str):
            raise RejectError(row)
        about = row.pop("about", {})
        messages = chat(self.shape, row, self.variant, f"{self.desk.seed}/{self.name}/{number}")
        self._check_length(messages, 0)
        if self.searched and self.desk.patterns and (found := self.desk.patterns.conflict(messages)):
            raise ConflictError(*found)
        try:
            encoded = self.desk.tokenizer.encode_chat(messages, self.desk.policy)
        except UserError as error:
            raise RejectError(f"not for this template: {error}") from error
        self._check_length(messages, len(encoded.tokens))
        origin, place = self._places(number, where)
        digest = hashlib.sha256(json.dumps(messages, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        supervised = int((np.asarray(encoded.weights) > 0).sum())
        candidate = Candidate(self.name, number, origin, messages, digest, len(encoded.tokens), supervised, about)
        self.desk.claim([alike(messages), f"place {place}"], candidate.id)
        return candidate

    def origin(self, number: int) -> str:
        """Where a row comes from: FILE:ROW, or the request that made it."""
        return self._places(number, self.shelf[number][0])[0]

    def _places(self, number: int, where: int | str) -> tuple[str, str]:
        """The origin as it is told, and the place by which two sources of one file are held apart."""
        if isinstance(where, str):
            return where, where
        told, path = next(names for first, *names in reversed(self._files) if first <= number)
        return f"{told}:{where}", f"{path}:{where}"

    def _check_length(self, messages: list[Message], tokens: int) -> None:
        if (
            tokens > self.max_tokens
            or sum(len(message["content"]) for message in messages) > CHARACTERS * self.max_tokens
        ):
            raise RejectError(f"more than {self.max_tokens:,} tokens")


class ConflictError(RejectError):
    """A row that falls under a pattern. quote: the words that do."""

    def __init__(self, rule: str, quote: str) -> None:
        super().__init__(f"pattern: {rule}")
        self.quote = quote


class _Skipped(Exception):  # noqa: N818
    """A row that `where` leaves out."""


def _kept(found: Any, columns: dict[str, str], where: dict[str, Any]) -> Any:
    """The columns that the shape reads; None of a row that `where` leaves out, a reason of one that is none."""
    if isinstance(found, RejectError):
        return str(found)
    if not isinstance(found, dict):
        return "not an object of columns"
    if any(found.get(column) != value for column, value in where.items()):
        return None
    row = {name: found[column] for name, column in columns.items() if column in found}
    try:
        json.dumps(row)
    except (TypeError, ValueError):
        return "a column that is no JSON"
    return row


def alike(messages: list[Message]) -> str:
    """What two chats share that differ in case, spaces or punctuation only."""
    said = [[m["role"], "".join(c for c in m["content"].casefold() if c.isalnum())] for m in messages]
    return artifact.digest(said)[:32]


def _general(reason: str) -> str:
    """A reason without what it says of one row."""
    return next((start for start in ("a duplicate", "not for this template") if reason.startswith(start)), reason)
