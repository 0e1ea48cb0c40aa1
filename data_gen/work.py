"""Work: what is wanted of a model, and which question has to be asked next for it, given all answers there are.

Nothing but answers is ever remembered. A piece of work replays the answers to its questions and knows where it stands,
so a killed command goes on by being run again, and raising a count asks only for what is missing.
"""

import collections
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from data_gen import reading
from data_gen.api.request import Reply, Request
from data_gen.reading import Rejected

T = TypeVar("T")
Answers = Callable[[str], Reply | None]  # the store's answer to a key


class Asker(Protocol):
    """The part of data_gen.api.client.Client that work needs."""

    def ask_all(self, requests: Iterable[Request], batch: bool = False, *, label: str) -> AsyncGenerator[Any, None]: ...


class Work(Protocol):
    """id: of the node it is for."""

    @property
    def id(self) -> str: ...

    def next(self, answers: Answers) -> Request | None:
        """The question to ask now; None where the work is done, or its tries are used up."""


@dataclasses.dataclass(frozen=True)
class Asked(Generic[T]):
    """What one question of a listing asks for: the slots to fill, what is there already, what was wrong before."""

    slots: list[int]
    have: list[T]
    problem: str


@dataclasses.dataclass(frozen=True)
class Replay(Generic[T]):
    """Where a listing stands. items: slot → item, each with the key of the reply it came in."""

    items: dict[int, T]
    rejects: collections.Counter[str]  # reason → replies or items
    request: Request | None


@dataclasses.dataclass(frozen=True)
class Listing(Generic[T]):
    """`count` items of one node, asked for `at_once` at a time until they are there or the tries are used up.

    request: (key, what is asked) → the question. read: (item, key, slots asked for, items there are) → (slot or None
    for the next, the item), or Rejected. whole: what is wrong with items together, empty if nothing; a reply after
    which something is wrong is not taken.
    """

    id: str
    stage: str
    field: str  # of the JSON reply
    count: int
    at_once: int
    tries: int  # questions beyond those that are needed if all goes well
    request: Callable[[str, Asked[T]], Request]
    read: Callable[[Any, str], tuple[int | None, T]]
    name: Callable[[T], str]
    whole: Callable[[list[T]], str] = lambda items: ""

    def key(self, number: int) -> str:
        return f"{self.stage}_{self.id}_r{number}"

    def next(self, answers: Answers) -> Request | None:
        return self.replay(answers).request

    def replay(self, answers: Answers) -> Replay[T]:
        items: dict[int, T] = {}
        rejects: collections.Counter[str] = collections.Counter()
        problem = ""
        for number in range(-(-self.count // self.at_once) + self.tries):
            missing = [slot for slot in range(self.count) if slot not in items][: self.at_once]
            if not missing:
                break
            reply = answers(self.key(number))
            if reply is None:
                have = [items[slot] for slot in sorted(items)]
                return Replay(items, rejects, self.request(self.key(number), Asked(missing, have, problem)))
            found, reasons = self._read(reply, items, missing)
            problem = self.whole([*items.values(), *found.values()]) if found else ""
            if problem:
                reasons[problem] += 1
            else:
                items |= found
                problem = "; ".join(reasons)
            rejects += reasons
        return Replay(items, rejects, None)

    def _read(self, reply: Reply, have: dict[int, T], missing: list[int]) -> tuple[dict[int, T], "Counted"]:
        """The reply's good items by slot, and what was wrong with the others."""
        reasons: Counted = collections.Counter()
        found: dict[int, T] = {}
        try:
            raw = reading.items_of(reply, self.field)
        except Rejected as error:
            reasons[str(error)] += 1
            return found, reasons
        names = {reading.alike(self.name(item)) for item in have.values()}
        free = [slot for slot in range(self.count) if slot not in have]
        for entry in raw:
            try:
                slot, item = self.read(entry, reply.key)
                if reading.alike(self.name(item)) in names:
                    raise Rejected("duplicate")
                if slot is None:
                    slot = next((s for s in free if s not in found), None)
                    if slot is None:
                        break  # more than was asked for
                elif slot not in missing or slot in found:
                    raise Rejected("numbers something that was not asked for")
            except Rejected as error:
                reasons[str(error)] += 1
                continue
            found[slot] = item
            names.add(reading.alike(self.name(item)))
        return found, reasons


Counted = collections.Counter[str]


@dataclasses.dataclass(frozen=True)
class Told:
    """Where a question to a model stands. value: what was read, None where there is nothing (yet). asked: all keys."""

    value: Any
    reply: Reply | None
    request: Request | None  # that was answered by `reply`
    rejects: Counted
    asked: tuple[str, ...]
    next: Request | None


def told(
    stem: str,
    tries: int,
    answers: Answers,
    read: Callable[[Reply], Any],
    request: Callable[[str, str], Request],
) -> Told:
    """The question under `stem`, asked until its reply can be read or the tries are used up.

    read: raises Rejected. request: (key, what was wrong with the reply before) → the question.
    """
    rejects: Counted = collections.Counter()
    asked: list[str] = []
    problem = ""
    for number in range(tries):
        key = f"{stem}_a{number}"
        reply = answers(key)
        if reply is None:
            return Told(None, None, None, rejects, tuple(asked), request(key, problem))
        asked.append(key)
        try:
            value = read(reply)
        except Rejected as error:
            problem = str(error)
            rejects[problem] += 1
            continue
        return Told(value, reply, request(key, problem), rejects, tuple(asked), None)
    return Told(None, None, None, rejects, tuple(asked), None)


async def settle(
    asker: Asker,
    answers: Answers,
    works: Callable[[], Iterable[Work]],
    batch: bool,
    tries: int,
    label: str,
    heard: Callable[[Reply], None] = lambda reply: None,
) -> dict[str, str]:
    """Asks until no piece of work has a question left, in rounds: all first tries, then what is missing.

    Args:
      works: gives the pieces of work, anew each round; they are not held.
      tries: how often a question may stay unanswered (an errored or expired item of a batch).
      label: what the line about progress calls the questions.
      heard: called with every new answer.

    Returns:
      Key → reason of the questions that were given up.
    """
    failures: collections.Counter[str] = collections.Counter()
    given_up: dict[str, str] = {}

    def pending() -> Iterable[Request]:
        for work in works():
            request = work.next(answers)
            if request is not None and request.key not in given_up:
                yield request

    asked = True
    while asked:
        asked = False
        # Closed whatever happens here: what is in flight is then awaited and kept.
        async with contextlib.aclosing(asker.ask_all(pending(), batch=batch, label=label)) as answered:
            async for answer in answered:
                asked = True
                if isinstance(answer, Reply):
                    heard(answer)
                    continue
                failures[answer.key] += 1
                if failures[answer.key] >= tries:
                    given_up[answer.key] = f"not answered: {answer.kind}"
    return given_up
