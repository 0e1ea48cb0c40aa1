"""A mix being made: its sources read, rows chosen, what is paid for asked. In memory: the rows examined."""

import dataclasses
import datetime
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_gen import phases, projection
from data_gen.api.client import Client
from data_gen.api.prices import Prices
from data_gen.api.store import Store
from data_gen.mixing import choosing, conflicts
from data_gen.mixing.identity import Conversation, Writer
from data_gen.mixing.recipe import Recipe
from data_gen.mixing.sources import Candidate, Desk, Source
from data_gen.work import Answers, settle
from msm_jax import cli
from msm_jax.cli import UserError

LEAST_JUDGED = 100  # replies, before it is said that a judge is of no use


@dataclasses.dataclass
class Mix:
    """sources: read, those a model writes empty at first. writer: of these."""

    recipe: Recipe
    sources: dict[str, Source]
    desk: Desk
    writer: Writer
    prices: Prices

    # ------------------------------------------------------------ choosing, which is free

    def available(self) -> dict[str, list[Candidate]]:
        """The rows of the sources in files, by all that can be known for free.

        Raises:
          UserError: there are too few, or too few tokens, for the recipe.
        """
        if not self.recipe.written:
            return self.choose()
        sizes = {name: size for name, size in self.recipe.sizes.items() if name not in self.recipe.written}
        return {name: self._first(self.sources[name], size.rows, size.tokens) for name, size in sizes.items()}

    def choose(self) -> dict[str, list[Candidate]]:
        """The rows of each source, as things stand. Raises UserError where there are too few."""
        sizes = self.recipe.sizes
        found = {name: self._first(self.sources[name], size.rows, size.tokens) for name, size in sizes.items()}
        if not self.recipe.tokens:
            return found
        windows = {
            name: source.alive(len(found[name]) + max(50, int(len(found[name]) * choosing.SPARE)))
            for name, source in self.sources.items()
        }
        lengths = [self._lengths(rows) for rows in windows.values()]
        taken = [np.arange(len(rows)) < len(found[name]) for name, rows in windows.items()]
        target, tolerance = self.recipe.tokens, self.recipe.config.tolerance
        masks = choosing.exchanged(lengths, taken, target, tolerance)
        self._check_tokens("config.tokens", sum(int(n[m].sum()) for n, m in zip(lengths, masks, strict=True)), target)
        return {
            name: [row for row, here in zip(rows, mask, strict=True) if here]
            for (name, rows), mask in zip(windows.items(), masks, strict=True)
        }

    def _first(self, source: Source, rows: int, tokens: int) -> list[Candidate]:
        if rows:
            found = source.alive(rows)
            if len(found) < rows:
                more = "raise config.identity.rounds" if source.name in self.recipe.written else "add files"
                raise UserError(
                    f"config.sources.{source.name}: {rows} rows are wanted, {len(found)} of {source.available} can be "
                    f"used ({_why(source)}); ask for fewer, or {more}"
                )
            return found
        tolerance = self.recipe.config.tolerance
        mask, there = choosing.by_tokens(lambda many: self._lengths(source.alive(many)), tokens, tolerance)
        if there < tokens * (1 - tolerance):
            raise UserError(
                f"config.sources.{source.name}: {tokens} tokens are wanted, the rows that can be used have {there} "
                f"({_why(source)}); ask for fewer, or add files"
            )
        found = [row for row, here in zip(source.alive(len(mask)), mask, strict=True) if here]
        self._check_tokens(f"config.sources.{source.name}", int(self._lengths(found).sum()), tokens)
        return found

    def _check_tokens(self, key: str, have: int, target: int) -> None:
        tolerance = self.recipe.config.tolerance
        if abs(have - target) > tolerance * target:
            raise UserError(
                f"{key}: {target} tokens within {100 * tolerance:g}% cannot be made of rows like these; the closest is "
                f"{have}; choose other sizes, or a larger config.tolerance"
            )

    def _lengths(self, rows: list[Candidate]) -> np.ndarray:
        counted = self.recipe.config.counted
        return np.array([row.tokens if counted == "all" else row.supervised for row in rows], np.int64)

    # ------------------------------------------------------------ what it costs

    def project(self, store: Store | None, judged: list[Candidate]) -> list[projection.Row]:
        """Requests and USD, of what was asked already too. judged: the rows known so far that will be judged."""
        config = self.recipe.config
        nodes: dict[str, int] = {}
        rounds: dict[str, int] = {}
        expected: dict[str, projection.Expected] = {}
        anthropic = config.api.provider == "anthropic"

        if rows := sum(self.recipe.sizes[name].rows for name in self.recipe.written):
            nodes["identity"] = len(self.writer.works(rows))
            rounds["identity"] = -(-self.writer.questions(rows) // nodes["identity"])
            expected["identity"] = projection.Expected(
                phases.price_of(config.api, self.writer.model),
                False,
                len(self.writer.system),
                900,
                config.identity.expect_output,
                anthropic,
            )
        if config.judge.on:
            written = [name for name in self.recipe.written if self.recipe.sources[name]["judge"]]
            nodes[conflicts.STAGE] = len(judged) + sum(self.recipe.sizes[name].rows for name in written)
            rounds[conflicts.STAGE] = 1
            mean = sum(row.tokens for row in judged) / max(1, len(judged)) if judged else 200
            expected[conflicts.STAGE] = projection.Expected(
                phases.price_of(config.api, self.judge_model), self.batched, len(self.judge_system), round(mean) + 40,
                config.judge.expect_output, anthropic,
            )  # fmt: skip
        measured = projection.measure(store.ledger()) if store else {}
        day = datetime.datetime.now(datetime.UTC).date()
        return projection.project(nodes, rounds, expected, measured, self.prices, config.judge.batch_cache_hits, day)

    @property
    def batched(self) -> bool:
        return bool(self.recipe.config.judge.batch) and self.recipe.config.api.provider == "anthropic"

    @property
    def judge_model(self) -> str:
        return str(self.recipe.config.judge.model or self.recipe.config.api.model)

    @property
    def judge_system(self) -> str:
        config = self.recipe.config
        return conflicts.system(self.recipe.spec, config.model_name, config.provider_name)

    def to_judge(self, rows: dict[str, list[Candidate]]) -> list[Candidate]:
        if not self.recipe.config.judge.on:
            return []
        return [row for name, some in rows.items() if self.recipe.sources[name]["judge"] for row in some]

    # ------------------------------------------------------------ asking

    async def ask(self, client: Client, answers: Answers) -> dict[str, list[Candidate]]:
        """The rows of the mix, when everything that has to be asked is answered. Raises UserError as `choose` does."""
        writings = [_Writing(self.sources[name], self.recipe.sizes[name].rows) for name in self.recipe.written]
        passed: set[str] = set()
        judged = unusable = 0
        while True:
            for writing in writings:
                await self._write(writing, client, answers)
            rows = self.choose()
            waiting = [row for row in self.to_judge(rows) if row.id not in passed]
            if not waiting:
                return rows
            await self._judge(waiting, client)
            for row in waiting:
                reason, quote = self._verdict(row, answers)
                judged += 1
                unusable += reason.startswith(conflicts.UNJUDGED)
                if reason:
                    self.sources[row.source].drop(row, reason, quote)
                else:
                    passed.add(row.id)
            most = self.recipe.config.judge.most_unjudged
            if judged >= LEAST_JUDGED and unusable > most * judged:
                raise UserError(
                    f"{self.judge_model}: of {judged} judgements {unusable} were of no use, more than "
                    f"config.judge.most_unjudged = {most} of them; look at the ledger, or choose another judge"
                )

    async def _judge(self, rows: list[Candidate], client: Client) -> None:
        requests = [self.question(row) for row in rows]
        async for _ in client.ask_all(requests, batch=self.batched, total=len(requests), label=conflicts.STAGE):
            pass

    def question(self, row: Candidate) -> Any:
        with_spec, most = bool(self.recipe.spec), self.recipe.config.judge.max_tokens
        return conflicts.request(row.messages, self.judge_system, with_spec, self.judge_model, most)

    def _verdict(self, row: Candidate, answers: Answers) -> tuple[str, str]:
        return conflicts.verdict(row.messages, answers(self.question(row).key), bool(self.recipe.spec))

    async def _write(self, writing: "_Writing", client: Client, answers: Answers) -> None:
        """Conversations until the source has its rows, or they were asked for as often as is allowed."""
        source = writing.source
        while (short := writing.size - len(source.alive(writing.size))) > 0:
            if writing.rounds == self.recipe.config.identity.rounds:
                cli.note(f"{source.name}: {short} of {writing.size} are missing after {writing.wanted} were asked for")
                return
            writing.wanted += short if not writing.rounds else math.ceil(1.2 * short) + 5
            writing.rounds += 1
            works = self.writer.works(writing.wanted)
            await settle(client, answers, lambda works=works: works, False, 2, source.name)  # type: ignore[misc]
            for one in self._conversations(works, answers):
                if one.user not in writing.seen:
                    writing.seen.add(one.user)
                    turns = [{"role": "user", "content": one.user}, {"role": "assistant", "content": one.assistant}]
                    source.add(
                        turns, f"{one.key}:{len(source.shelf)}", {"request": one.key, "model": self.writer.model}
                    )

    def _conversations(self, works: list[Any], answers: Answers) -> Iterator[Conversation]:
        for work in works:
            items = work.replay(answers).items
            yield from (items[slot] for slot in sorted(items))


@dataclasses.dataclass
class _Writing:
    """A source that is being written. wanted: conversations asked for so far; rounds: how often more were."""

    source: Source
    size: int
    wanted: int = 0
    rounds: int = 0
    seen: set[str] = dataclasses.field(default_factory=set)


def _why(source: Source) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in source.reasons().items()) or "no more are there"
