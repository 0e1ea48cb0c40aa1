"""The rounds of a set of chats: questions, without repeats; responses; verdicts; and again for what is missing.

Each round is settled before the next is planned, and what it is follows from the answers to those before.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data_gen import backfill, reasons
from data_gen.api.request import Reply
from data_gen.chat_answers import Answering, Asking, Judging, Said, Verdict
from data_gen.chat_plan import Domain, Plan, Question
from data_gen.corpus import embed
from data_gen.work import Answers, Asker, Listing, Told, Work, settle


@dataclasses.dataclass(frozen=True)
class Limits:
    """How many domains a phase goes on with, and of how many questions of each; 0: all. rounds: of backfill."""

    domains: int = 0
    questions: int = 0
    rounds: int = 0


@dataclasses.dataclass(frozen=True)
class Sizes:
    target: int  # chats
    questions: int  # of a domain in a round, at most
    floor: float  # a pass rate is taken for no smaller


class Repeats:
    """Near-duplicates by meaning among questions that come round by round; the later of two goes."""

    def __init__(self, encode: embed.Encode, threshold: float) -> None:
        self._encode, self._threshold = encode, threshold
        self._ids: list[str] = []
        self._vectors = np.zeros((0, 1), np.float32)

    def add(self, questions: Sequence[Question]) -> dict[str, str]:
        """Id → id of the earlier question that it repeats."""
        if not questions:
            return {}
        new = embed.encoded((question.text for question in questions), self._encode)
        known = len(self._ids)
        vectors = np.concatenate([self._vectors, new]) if known else new
        ids = [*self._ids, *(question.id for question in questions)]
        found = {i: j for i, j in embed.repeats(vectors, self._threshold).items() if i >= known}
        stay = [i for i in range(len(ids)) if i not in found]
        self._ids, self._vectors = [ids[i] for i in stay], vectors[stay]
        return {ids[i]: ids[j] for i, j in found.items()}


@dataclasses.dataclass
class Round:
    """number: 0, then those of the backfill. asked: of each domain, in questions. gone: question id → why it is not
    asked. kept: questions that are, in the plan's order."""

    number: int
    asked: list[int]
    listings: list[tuple[Domain, Listing[Question]]]
    given: list[Question] = dataclasses.field(default_factory=list)
    questions: list[Question] = dataclasses.field(default_factory=list)
    gone: dict[str, str] = dataclasses.field(default_factory=dict)
    kept: list[Question] = dataclasses.field(default_factory=list)
    read: int = 0  # responses that could be
    passing: list[Question] = dataclasses.field(default_factory=list)
    passed: list[int] = dataclasses.field(default_factory=list)  # of each domain


@dataclasses.dataclass(frozen=True)
class Chat:
    """A question with all that became of it. judged: None where there was nothing to judge. leak: of an evaluation."""

    question: Question
    answered: Told
    judged: Told | None
    leak: str

    @property
    def passes(self) -> bool:
        return not self.leak and self.judged is not None and self.judged.value is not None and self.judged.value.passes

    @property
    def verdict(self) -> Verdict | None:
        return self.judged.value if self.judged else None

    @property
    def rejected(self) -> tuple[str, str]:
        """Stage and reason; empty where it passes."""
        if self.answered.value is None:
            return "responses", _why(self.answered)
        if self.leak:
            return "leaks", self.leak
        if self.verdict is None:
            assert self.judged is not None
            return "verdicts", _why(self.judged)
        return ("", "") if self.passes else ("filter", ", ".join(self.verdict.failed))

    @property
    def said(self) -> Said:
        assert isinstance(self.answered.value, Said)
        return self.answered.value


def _why(told: Told) -> str:
    return "; ".join(sorted(told.rejects)) or "not answered"


class Rounds:
    """given: questions that take the place of the first round's. leaks: what of an evaluation a text holds, or ""."""

    def __init__(
        self,
        plan: Plan,
        asking: Asking,
        answers: Answers,
        repeats: Repeats,
        sizes: Sizes,
        limits: Limits,
        domains: Callable[[], list[Domain]],
        leaks: Callable[[str], str],
        given: Sequence[Question] = (),
    ) -> None:
        self.plan, self.asking, self.answers, self.sizes, self.limits = plan, asking, answers, sizes, limits
        self._repeats, self._domains, self._leaks, self._given = repeats, domains, leaks, list(given)
        self._first = 1 + max((question.round for question in given), default=-1)
        self.done: list[Round] = []
        self.current: list[Question] = []  # that the round in progress asks

    @property
    def domains(self) -> list[Domain]:
        return self._domains()[: self.limits.domains or None]

    @property
    def passed(self) -> int:
        return sum(sum(one.passed) for one in self.done)

    @property
    def asked(self) -> int:
        return sum(sum(one.asked) for one in self.done)

    async def run(
        self,
        asker: Asker,
        batched: Sequence[str],
        tries: int,
        heard: Callable[[str, Reply], None],
        given_up: Callable[[str, dict[str, str]], None],
        begins: Callable[[str], None],
    ) -> None:
        """Asks until the target is reached, or the rounds are used up.

        Args:
          batched: stages that go through batches.
          heard: called with the stage of every new answer. given_up: with what got none. begins: with each stage.
        """

        async def settled(stage: str, works: Callable[[], Iterator[Work]]) -> None:
            begins(stage)
            label = stage if not self.done else f"{stage}, round {len(self.done) + 1}"

            def hear(reply: Reply) -> None:
                heard(stage, reply)

            lost = await settle(asker, self.answers, works, stage in batched, tries, label, hear)
            if lost:
                given_up(stage, lost)

        while (round_ := self._next()) is not None:
            await settled("questions", lambda r=round_: (listing for _, listing in r.listings))  # type: ignore[misc]
            self._read(round_)
            self.current = round_.kept
            await settled("responses", lambda r=round_: (Answering(self.asking, q) for q in r.kept))  # type: ignore[misc]
            await settled("verdicts", lambda r=round_: self._judgings(r))  # type: ignore[misc]
            order = {domain.id: i for i, domain in enumerate(self.domains)}
            for chat in self._chats(round_):
                round_.read += chat.answered.value is not None
                if chat.passes:
                    round_.passing.append(chat.question)
            counts = collections.Counter(order[question.domain.id] for question in round_.passing)
            round_.passed = [counts[i] for i in range(len(order))]
            self.done.append(round_)

    def _next(self) -> Round | None:
        number, domains = len(self.done), self.domains
        if number > self.limits.rounds:
            return None
        if not number and self._given:
            known = {domain.id for domain in domains}
            given = [question for question in self._given if question.domain.id in known]
            asked = collections.Counter(question.domain.id for question in given)
            return Round(0, [asked[domain.id] for domain in domains], [], given)
        if number:
            asked_of, passed_of = (
                [sum(column) for column in zip(*(getattr(one, name) for one in self.done), strict=True)]
                for name in ("asked", "passed")
            )
            most = [self.sizes.questions * (domain.description != "" or domain.taste is not None) for domain in domains]
            wanted = backfill.wanted(self.sizes.target, asked_of, passed_of, most, self.sizes.floor)
        else:
            wanted = [self.sizes.questions] * len(domains)
        if not any(wanted):
            return None
        earlier: dict[str, list[str]] = {domain.id: [] for domain in domains}
        for one in self.done:
            for question in one.questions:
                earlier[question.domain.id].append(question.text)
        listings = [
            (domain, self.plan.questions(domain, number + self._first, i + number, number, count, earlier[domain.id]))
            for i, (domain, count) in enumerate(zip(domains, wanted, strict=True))
            if count
        ]
        return Round(number, wanted, listings)

    def _read(self, round_: Round) -> None:
        """The round's questions, once they are settled: which are asked, and why the others are not."""
        round_.questions = list(round_.given)
        for _, listing in round_.listings:
            items = listing.replay(self.answers).items
            round_.questions += [items[slot] for slot in sorted(items)]
        clean = []
        for question in round_.questions:
            taste = question.domain.taste
            found = reasons.find_in_message(question.text, self.asking.names) if taste else []
            if found:
                round_.gone[question.id] = f"suggests a reason ({found[0].kind})"
            elif leak := self._leaks(question.text):
                round_.gone[question.id] = leak
            else:
                clean.append(question)
        repeated = self._repeats.add(clean)
        round_.gone |= {identity: f"repeats {earlier}" for identity, earlier in repeated.items()}
        taken: collections.Counter[str] = collections.Counter()
        for question in clean:
            taken[question.domain.id] += question.id not in repeated
            if question.id not in repeated and taken[question.domain.id] <= (self.limits.questions or 10**9):
                round_.kept.append(question)

    def _judgings(self, round_: Round) -> Iterator[Judging]:
        for question in round_.kept:
            said = Answering(self.asking, question).replay(self.answers).value
            if said is not None:
                yield Judging(self.asking, question, said)

    def _chats(self, round_: Round) -> Iterator[Chat]:
        yield from map(self.chat, round_.kept)

    def chat(self, question: Question) -> Chat:
        answered = Answering(self.asking, question).replay(self.answers)
        judged, leak = None, ""
        if answered.value is not None:
            judged = Judging(self.asking, question, answered.value).replay(self.answers)
            leak = self._leaks(f"{answered.value.reasoning}\n\n{answered.value.response}")
        return Chat(question, answered, judged, leak)
