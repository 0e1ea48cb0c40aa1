"""All that was asked and answered, on disk at once: one SQLite file, from which a killed process goes on.

Every attempt is a row before its bytes leave, and an answer and the end of its attempt are one transaction. So what
was paid for is never lost, and what was in flight when a process died is known. Writers are served in groups: one
commit, one fsync, for all that wait.
"""

import asyncio
import contextlib
import dataclasses
import enum
import errno
import itertools
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_gen.api.request import Reply, Request, Stop, Usage
from msm_jax import storage
from msm_jax.cli import UserError
from msm_jax.ownership import owned

VERSION = 1
PAGE = 500  # rows read at once
_USAGE = tuple(field.name for field in dataclasses.fields(Usage))
_USAGE_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in _USAGE)
_SCHEMA = f"""
CREATE TABLE answers (key TEXT PRIMARY KEY, stage TEXT NOT NULL, text TEXT NOT NULL, stop TEXT NOT NULL,
  model TEXT NOT NULL, {_USAGE_COLUMNS}, cost REAL NOT NULL, request_id TEXT NOT NULL, batch TEXT NOT NULL,
  time REAL NOT NULL);
CREATE INDEX answers_of_stage ON answers (stage);
CREATE TABLE attempts (id INTEGER PRIMARY KEY, key TEXT NOT NULL, stage TEXT NOT NULL, model TEXT NOT NULL,
  mode TEXT NOT NULL, batch INTEGER, sent_at REAL NOT NULL, ended_at REAL, outcome TEXT NOT NULL, status INTEGER,
  error TEXT, {_USAGE_COLUMNS}, cost REAL NOT NULL DEFAULT 0, worst REAL NOT NULL, request_id TEXT);
CREATE INDEX open_attempts ON attempts (key) WHERE outcome = 'sent';
CREATE INDEX attempts_of_batch ON attempts (batch) WHERE batch IS NOT NULL;
CREATE TABLE batches (id INTEGER PRIMARY KEY, provider_id TEXT, members INTEGER NOT NULL, created_at REAL NOT NULL,
  status TEXT NOT NULL);
CREATE TABLE "values" (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA user_version = {VERSION};
"""
_ANSWER = f"key, text, stop, model, {', '.join(_USAGE)}, request_id, batch, cost"
_INSERT_ANSWER = f"""
INSERT OR IGNORE INTO answers (stage, time, {_ANSWER}) SELECT stage, ?, key{", ?" * (_ANSWER.count(","))} FROM attempts
WHERE id = ? AND outcome = 'sent'"""
_END_ATTEMPT = f"""
UPDATE attempts SET ended_at = ?, outcome = ?, status = ?, error = ?, {", ".join(f"{name} = ?" for name in _USAGE)},
  cost = ?, request_id = ? WHERE id = ? AND outcome = 'sent'"""
_SEND = """
INSERT INTO attempts (id, key, stage, model, mode, batch, sent_at, outcome, worst)
VALUES (?, ?, ?, ?, ?, ?, ?, 'sent', ?)"""

Statement = tuple[str, Sequence[Sequence[Any]]]  # SQL and its rows of values


class Outcome(enum.StrEnum):
    """What became of an attempt."""

    SENT = "sent"  # nobody knows yet
    ANSWERED = "answered"
    REFUSED = "refused"  # the provider declined, or it never left: not billed
    UNKNOWN = "unknown"  # dropped, timed out or killed: perhaps billed


class BatchStatus(enum.StrEnum):
    """How far a batch is."""

    INTENT = "intent"  # to be created: perhaps it was, and we do not know its id
    OPEN = "open"
    CANCELING = "canceling"
    ENDED = "ended"
    REFUSED = "refused"  # never created


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The end of an attempt. reply: where it was answered. error: the provider's word, never its sentence."""

    attempt: int
    outcome: Outcome
    reply: Reply | None = None
    status: int = 0
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """A batch of ours; `id` is ours too."""

    id: int
    provider_id: str
    members: int
    created_at: float
    status: BatchStatus


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A request of a batch whose outcome is not known yet."""

    attempt: int
    key: str
    stage: str
    model: str
    worst: float


class Store:
    """The store of one pipeline; its directory is held, so only one process writes.

    Writing verbs hand their work over at once and return a future that is done when it is on disk; they need a running
    event loop. Reads see what is on disk. Attempts of an earlier process that were sent directly and have no end are
    `unknown` from now on; those in batches stay open.

    Raises:
      UserError: not a local path, another process is at work in the directory, or the file is not a store of ours.
    """

    def __init__(self, path: str | Path) -> None:
        if storage.is_remote(path):
            raise UserError(f"{path}: answers are kept on a local disk; choose a local directory")
        self.path = Path(path)
        self._held = contextlib.ExitStack()
        self._held.enter_context(owned(self.path.parent))
        try:
            self._reader, self._writer = self._open(), self._open()
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._held.close()
            raise UserError(f"{path}: not a store of answers ({error}); move it away") from error
        except BaseException:
            self._held.close()
            raise
        self._ids = itertools.count(1 + self._one("SELECT coalesce(max(id), 0) FROM attempts"))
        self._batch_ids = itertools.count(1 + self._one("SELECT coalesce(max(id), 0) FROM batches"))
        self._work: queue.SimpleQueue[tuple[list[Statement], asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._commit_groups, name="store", daemon=True)
        self._thread.start()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db

    def _prepare(self) -> None:
        db = self._writer
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            db.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        elif version != VERSION:
            raise UserError(f"{self.path}: a store of another version ({version}, not {VERSION}); move it away")
        db.execute(
            "UPDATE attempts SET outcome = 'unknown', ended_at = ?, error = 'killed' "
            "WHERE outcome = 'sent' AND mode = 'direct'",
            [time.time()],
        )

    def close(self) -> None:
        """Writes what was handed over, and lets go of the file."""
        self._work.put(None)
        self._thread.join()
        self._writer.close()
        self._reader.close()
        self._held.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing

    async def sent(self, request: Request, worst: float) -> int:
        """Enters a direct attempt that costs at most `worst` USD; once it is on disk, returns its id."""
        attempt = next(self._ids)
        row = (attempt, request.key, request.stage, request.model, "direct", None, time.time(), worst)
        await self._write([(_SEND, [row])])
        return attempt

    def end(self, *ends: End) -> Awaitable[None]:
        """Ends attempts, with their answers, in one transaction. One that has an end keeps it."""
        return self._write(self._ended(ends))

    def intend(self, requests: Iterable[tuple[Request, float]]) -> tuple[Batch, Awaitable[None]]:
        """Enters a batch to be created, and its members with their worst cases; await before creating it."""
        batch, now = next(self._batch_ids), time.time()
        rows = [(next(self._ids), r.key, r.stage, r.model, "batch", batch, now, worst) for r, worst in requests]
        written = self._write(
            [("INSERT INTO batches VALUES (?, NULL, ?, ?, 'intent')", [(batch, len(rows), now)]), (_SEND, rows)]
        )
        return Batch(batch, "", len(rows), now, BatchStatus.INTENT), written

    async def created(self, batch: Batch, provider_id: str) -> Batch:
        """The provider's id of an intended batch."""
        await self._write(
            [("UPDATE batches SET provider_id = ?, status = 'open' WHERE id = ?", [(provider_id, batch.id)])]
        )
        return dataclasses.replace(batch, provider_id=provider_id, status=BatchStatus.OPEN)

    def mark(self, batch: Batch, status: BatchStatus, *ends: End) -> Awaitable[None]:
        """A batch's new status, with its members' ends."""
        return self._write([*self._ended(ends), ("UPDATE batches SET status = ? WHERE id = ?", [(status, batch.id)])])

    def put(self, name: str, value: Any) -> Awaitable[None]:
        """Keeps a JSON-able value of the pipeline's own."""
        return self._write([('INSERT OR REPLACE INTO "values" VALUES (?, ?)', [(name, json.dumps(value))])])

    @staticmethod
    def _ended(ends: Iterable[End]) -> list[Statement]:
        now = time.time()
        answers, attempts = [], []
        for end in ends:
            reply = end.reply or Reply("", "", Stop.OTHER, "", Usage())
            usage = dataclasses.astuple(reply.usage)
            if end.reply:
                row = (now, reply.text, reply.stop, reply.model, *usage, reply.request_id, reply.batch, reply.cost)
                answers.append((*row, end.attempt))
            said = (end.status or None, end.error or None)
            attempts.append((now, end.outcome, *said, *usage, reply.cost, reply.request_id or None, end.attempt))
        return [(_INSERT_ANSWER, answers), (_END_ATTEMPT, attempts)]

    def _write(self, statements: list[Statement]) -> asyncio.Future[None]:
        done = asyncio.get_running_loop().create_future()
        self._work.put((statements, done))
        return done

    def _commit_groups(self) -> None:
        more = True
        while more:
            group = [self._work.get()]
            with contextlib.suppress(queue.Empty):
                while group[-1] is not None:
                    group.append(self._work.get_nowait())
            more = group[-1] is not None
            work = [item for item in group if item is not None]
            error: Exception | None = None
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                for statements, _ in work:
                    for sql, rows in statements:
                        self._writer.executemany(sql, rows)
                self._writer.execute("COMMIT")
            except Exception as failed:  # whoever waits has to know, whatever it is
                error = failed
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if getattr(failed, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    error = OSError(errno.ENOSPC, "No space left on device", str(self.path))
            for loop in {done.get_loop() for _, done in work}:
                waiting = [done for _, done in work if done.get_loop() is loop]
                with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody waits
                    loop.call_soon_threadsafe(_resolve, waiting, error)

    # Reading

    def answer(self, key: str) -> Reply | None:
        row = self._reader.execute(f"SELECT {_ANSWER} FROM answers WHERE key = ?", [key]).fetchone()
        return _reply(row) if row else None

    def answered(self, stage: str) -> Iterator[Reply]:
        """A stage's answers in the order in which they came, those that come meanwhile included."""
        last = 0
        query = f"SELECT rowid, {_ANSWER} FROM answers WHERE stage = ? AND rowid > ? ORDER BY rowid LIMIT {PAGE}"
        while rows := self._reader.execute(query, [stage, last]).fetchall():
            last = rows[-1][0]
            for _, *row in rows:
                yield _reply(row)

    def in_batch(self, key: str) -> bool:
        """Is the request in a batch whose outcome is not known yet?"""
        query = "SELECT count(*) FROM attempts WHERE key = ? AND outcome = 'sent' AND mode = 'batch'"
        return bool(self._one(query, key))

    def batches(self) -> list[Batch]:
        """All that were ever meant to be created."""
        rows = self._reader.execute("SELECT id, coalesce(provider_id, ''), members, created_at, status FROM batches")
        return [Batch(*found, BatchStatus(status)) for *found, status in rows]  # type: ignore[call-arg]

    def members(self, batch: Batch) -> dict[str, Member]:
        """By key, the requests of a batch that have no end yet."""
        query = "SELECT id, key, stage, model, worst FROM attempts WHERE batch = ? AND outcome = 'sent'"
        return {row[1]: Member(*row) for row in self._reader.execute(query, [batch.id])}

    def value(self, name: str, default: Any = None) -> Any:
        """What was `put` under the name."""
        row = self._reader.execute('SELECT value FROM "values" WHERE name = ?', [name]).fetchone()
        return json.loads(row[0]) if row else default

    def ledger(self) -> Iterator[dict[str, Any]]:
        """Every attempt, in the order in which they were sent, as a flat row for ledger.jsonl. Times are seconds since
        1970; `batch` is the provider's id."""
        columns = "a.id, key, stage, model, mode, b.provider_id AS batch, sent_at, ended_at, outcome, a.status, error"
        last = 0
        query = (
            f"SELECT {columns}, {', '.join(_USAGE)}, cost, worst, request_id FROM attempts a "
            f"LEFT JOIN batches b ON a.batch = b.id WHERE a.id > ? ORDER BY a.id LIMIT {PAGE}"
        )
        while True:
            cursor = self._reader.execute(query, [last])
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
            if not rows:
                return
            for row in rows:
                yield dict(zip(names, row, strict=True))
            last = rows[-1][0]

    def totals(self) -> dict[str, dict[str, float]]:
        """stage → attempts by outcome, tokens by kind, `usd` spent, and `unknown_usd`, which is a bound."""
        outcomes = ", ".join(f"sum(outcome = '{o}') AS {o}" for o in Outcome)
        tokens = ", ".join(f"sum({name}) AS {name}" for name in _USAGE)
        cursor = self._reader.execute(
            f"SELECT stage, {outcomes}, {tokens}, sum(cost) AS usd, sum(worst * (outcome = 'unknown')) AS unknown_usd "
            "FROM attempts GROUP BY stage ORDER BY min(id)"
        )
        names = [column[0] for column in cursor.description][1:]
        return {stage: dict(zip(names, rest, strict=True)) for stage, *rest in cursor}

    def money(self) -> tuple[float, float, float]:
        """USD spent, what unknown outcomes cost at most, and what open batches may still cost at most."""
        query = """SELECT coalesce(sum(cost), 0), coalesce(sum(worst * (outcome = 'unknown')), 0),
          coalesce(sum(worst * (outcome = 'sent')), 0) FROM attempts"""
        spent, unknown, open_ = self._reader.execute(query).fetchone()
        return spent, unknown, open_

    def _one(self, query: str, *values: Any) -> int:
        found: int = self._reader.execute(query, values).fetchone()[0]
        return found


def _reply(row: Sequence[Any]) -> Reply:
    key, text, stop, model, *usage, request_id, batch, cost = row
    return Reply(key, text, Stop(stop), model, Usage(*usage), request_id, batch, cost)


def _resolve(waiting: list[asyncio.Future[None]], error: Exception | None) -> None:
    for done in waiting:
        if not done.done():  # whoever waited was cancelled
            if error:
                done.set_exception(error)
            else:
                done.set_result(None)
