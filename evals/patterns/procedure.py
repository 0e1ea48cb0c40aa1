"""The procedure on a phase's transcripts: what is to be asked in each stage, and what the answers come to."""

import collections
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from data_gen.toolbox.parts import Part
from data_gen.work import Answers, Asker, Work, settle
from evals.patterns.agreement import Agreement, agreement, likeness
from evals.patterns.codebook import Codebook
from evals.patterns.made import Patterns
from evals.patterns.reading import CODEBOOKS, REASONS, STAGES, Reason, Verdict
from evals.patterns.transcripts import Transcript
from msm_jax import cli
from msm_jax.cli import UserError


class Procedure:
    """Nothing but answers is remembered: whoever asks anew with the same answers is told the same."""

    def __init__(self, made: Patterns, phase: str, answers: Answers) -> None:
        self.made, self.phase, self.answers = made, phase, answers
        self.chosen = made.chosen(phase)
        self._codebooks: dict[tuple[str, int], Codebook] = {}

    async def run(self, client: Asker) -> None:
        """Asks all there is to be asked. Raises UserError where a codebook cannot be made, or nothing is classified."""
        batched = self.made.batched(self.phase)
        for stage in STAGES:

            def works(stage: str = stage) -> Iterable[Work]:
                return self.works(stage)

            lost = await settle(client, self.answers, works, stage in batched, self.made.config.tries, stage)
            if lost:
                reasons = collections.Counter(lost.values()).most_common(1)
                cli.warn(f"{stage}: {len(lost)} questions got no answer ({reasons[0][0]}); run again to retry")

    def works(self, stage: str) -> Iterator[Work]:
        """A stage's work, as far as the stages before it have answers; each piece once, whatever it is wanted for."""
        seen: set[str] = set()
        for work in self._works(stage):
            if work.id not in seen:
                seen.add(work.id)
                yield work

    def _works(self, stage: str) -> Iterator[Work]:
        reader = self.made.reader
        if stage == REASONS:
            for rows, repeat in self._extractions():
                yield from (reader.extraction(one, repeat) for one in rows)
        elif stage == CODEBOOKS:
            yield from filter(None, (self._synthesis(rows, repeat) for rows, repeat in self._extractions()))
        else:
            yield from (reader.classification(*one) for one in self._classifications())

    # ---------------------------------------------------------------- codebooks

    def _extractions(self) -> Iterator[tuple[list[Transcript], int]]:
        """Transcripts and the number of the time that their reasons are extracted: of each codebook to be made."""
        if self.made.given is None:
            yield self.made.extracted(self.phase), 0
        for seed in range(self.made.seeds):
            yield self.made.stable(self.phase), seed

    def reasons(self, rows: Sequence[Transcript], repeat: int = 0) -> dict[str, list[Reason]]:
        """Transcript → its reasons, of those that have been extracted."""
        found = {one.id: self.made.reader.extraction(one, repeat).replay(self.answers).value for one in rows}
        return {identity: value for identity, value in found.items() if value is not None}

    def _synthesis(self, rows: list[Transcript], repeat: int) -> Part[Codebook] | None:
        """None where there is no reason to make a codebook from."""
        config = self.made.config
        # Of too many reasons the first: transcripts stand in an order by lot.
        said = [one.reason for reasons in self.reasons(rows, repeat).values() for one in reasons][: config.reasons]
        return self.made.reader.synthesis(said, config.categories, repeat) if said else None

    def _made(self, what: str, rows: list[Transcript], repeat: int) -> Codebook:
        """Raises UserError where there is none."""
        if (what, repeat) not in self._codebooks:
            work = self._synthesis(rows, repeat)
            if work is None:
                raise UserError("reasons: none was found in any transcript; there is nothing to make a codebook from")
            told = work.replay(self.answers)
            if told.value is None:
                why = "; ".join(sorted(told.rejects)) or "not answered"
                raise UserError(f"codebooks: none could be read ({why}); run again, or raise config.tries")
            self._codebooks[what, repeat] = told.value
        return self._codebooks[what, repeat]

    @property
    def codebook(self) -> Codebook:
        """The one that transcripts are classified by. Raises UserError where it could not be made."""
        return self.made.given or self._made("all", self.made.extracted(self.phase), 0)

    def made_anew(self) -> list[Codebook]:
        """A codebook a seed, for the stability; those that could not be made are left out."""
        found = []
        for seed in range(self.made.seeds):
            with contextlib.suppress(UserError):
                found.append(self._made("anew", self.made.stable(self.phase), seed))
        return found

    # ---------------------------------------------------------------- verdicts

    def _classifications(self) -> Iterator[tuple[Transcript, Codebook, int]]:
        book = self.codebook
        for one in self.chosen:
            yield one, book, 0
        for repeat in range(1, self.made.config.agreement.repeats):
            for one in self.made.repeated(self.phase):
                yield one, book, repeat
        for anew in self.made_anew():
            for one in self.made.stable(self.phase):
                yield one, anew, 0

    def verdicts(self, one: Transcript, book: Codebook, repeat: int = 0) -> dict[str, Verdict]:
        """Category → verdict, of those that could be read."""
        found = self.made.reader.classification(one, book, repeat).replay(self.answers).items
        return {verdict.category: verdict for verdict in found.values()}

    def missing(self, one: Transcript) -> str:
        """Why some verdict on it could not be read."""
        rejects = self.made.reader.classification(one, self.codebook, 0).replay(self.answers).rejects
        return "; ".join(sorted(rejects)) or "not answered"

    def agreement(self) -> dict[str, Agreement]:
        """Category → how often its verdicts come out the same; "" → all categories together."""
        repeats, draws = self.made.config.agreement.repeats, self.made.config.agreement.draws
        rows = self.made.repeated(self.phase)
        keys = self.codebook.keys
        tables: dict[str, list[np.ndarray]] = {}
        for one in rows:
            said = [self.verdicts(one, self.codebook, repeat) for repeat in range(repeats)]
            for key in keys:
                whole = all(key in verdicts for verdicts in said)
                row = np.array([[int(verdicts[key].driver) for verdicts in said]] if whole else [], int).reshape(
                    -1, repeats
                )
                tables.setdefault(key, []).append(row)
        if not rows:
            return {}
        every = [np.concatenate(column) for column in zip(*tables.values(), strict=True)]
        return {key: agreement(units, repeats, draws) for key, units in [("", every), *tables.items()]}

    def stability(self) -> dict[str, Any]:
        """Of codebooks made anew: what they are, and how alike each two are."""
        if not self.made.seeds:
            return {}
        books = self.made_anew()
        sets = [self.sets(self.made.stable(self.phase), book) for book in books]
        pairs = [
            {"seeds": [a, b], **likeness(sets[a], sets[b])} for a in range(len(books)) for b in range(a + 1, len(books))
        ]
        known = [pair["overlap"] for pair in pairs if pair["overlap"] is not None]
        return {
            "transcripts": len(self.made.stable(self.phase)),
            "missing": self.made.seeds - len(books),
            "overlap": float(np.mean(known)) if known else None,
            "pairs": pairs,
            "codebooks": [[[one.key, one.kind, one.name, one.definition] for one in book.categories] for book in books],
        }

    def sets(self, rows: Sequence[Transcript], book: Codebook) -> dict[str, set[str]]:
        """Category → ids of the transcripts that it drives."""
        found: dict[str, set[str]] = {key: set() for key in book.keys}
        for one in rows:
            for key, verdict in self.verdicts(one, book).items():
                if verdict.driver:
                    found[key].add(one.id)
        return found

    def readings(self) -> tuple[int, int]:
        """Of all times that a transcript is classified: how many came to all their verdicts, and how many there are."""
        whole = [len(self.verdicts(*one)) == len(one[1].categories) for one in self._classifications()]
        return sum(whole), len(whole)
