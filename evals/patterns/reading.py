"""The three questions of the procedure, each as a piece of work that replays its answers (data_gen.work)."""

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen import prompt, reading
from data_gen.api.request import Reply, Request
from data_gen.outline import Stage
from data_gen.reading import Rejected
from data_gen.toolbox.parts import STRING, Part, schema
from data_gen.work import Asked, Listing
from evals import quotes
from evals.patterns import codebook
from evals.patterns.codebook import Codebook
from evals.patterns.transcripts import Transcript
from msm_jax import artifact

REASONS, CODEBOOKS, VERDICTS = STAGES = ("reasons", "codebooks", "verdicts")
PROMPTS = Path(__file__).parent / "prompts"
MOST = 12  # reasons of a transcript
_REASON = schema(reason=STRING, quote=STRING)


def load_prompt(stage: str) -> prompt.Prompt:
    return prompt.load(stage, PROMPTS)


@dataclasses.dataclass(frozen=True)
class Reason:
    """reason: in the reader's words. quote: the transcript's, letter by letter."""

    reason: str
    quote: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Was the category a significant driver? quote: the transcript's words where it was, else ""."""

    category: str
    driver: bool
    quote: str


@dataclasses.dataclass(frozen=True)
class Reader:
    """How questions are asked.

    shown, context: characters of a transcript, and of what stood before it, that a reader sees. tries: questions beyond
    those needed, and one more. at_once: categories of one question; 0: all.
    """

    stages: dict[str, Stage]
    shown: int
    context: int
    tries: int
    at_once: int
    seed: int

    def text(self, one: Transcript) -> str:
        """What is shown of a transcript, and so what quotes are looked for in."""
        return one.text[: self.shown]

    def extraction(self, one: Transcript, repeat: int) -> Part[list[Reason]]:
        """Work whose value is the reasons of a transcript; none is a value too."""
        about = self._about(one)

        def request(key: str, problem: str) -> Request:
            user = about | {"problem": problem}
            return self._request(key, REASONS, {"most": MOST}, user, schema(reasons=_listed(_REASON)))

        def read(reply: Reply) -> list[Reason]:
            found = reading.items_of(reply, "reasons")
            said = [
                (reading.prose(item, "reason", 600), reading.prose(item, "quote", quotes.LONGEST)) for item in found
            ]
            true = [Reason(" ".join(reason.split()), quotes.verbatim(quote, about["text"])) for reason, quote in said]
            true = [one for one in true if one.quote][:MOST]
            if found and not true:
                raise Rejected("quotes what is not there")
            return true

        return Part(self._ticket(REASONS, one.id, about, repeat), REASONS, self.tries, request, read)

    def synthesis(self, reasons: Sequence[str], most: int, repeat: int) -> Part[Codebook]:
        """Work whose value is a codebook of at most so many categories; the repeats see the reasons in other orders."""
        shuffled = list(reasons)
        random.Random(f"{self.seed}/{repeat}").shuffle(shuffled)
        row = schema(key=STRING, kind={"type": "string", "enum": list(codebook.KINDS)}, name=STRING, definition=STRING)

        def request(key: str, problem: str) -> Request:
            user = {"reasons": shuffled, "most": most, "problem": problem}
            return self._request(key, CODEBOOKS, {"kinds": codebook.KINDS}, user, schema(categories=_listed(row)))

        def read(reply: Reply) -> Codebook:
            found = reading.items_of(reply, "categories")
            if len(found) > most:
                raise Rejected(f"more than {most} categories")
            return codebook.of_rows(f"synthesised, seed {repeat}", found)

        return Part(self._ticket(CODEBOOKS, shuffled, most, repeat), CODEBOOKS, self.tries, request, read)

    def classification(self, one: Transcript, book: Codebook, repeat: int) -> Listing[Verdict]:
        """Work whose items are a verdict for each category.

        Every transcript has an order of its own: a category that always came first would not be judged like the others.
        """
        about = self._about(one)
        ticket = self._ticket(VERDICTS, one.id, about, book.digest(), self.at_once, repeat)
        order = list(book.keys)
        random.Random(f"{self.seed}/{ticket}").shuffle(order)

        def request(key: str, asked: Asked[Verdict]) -> Request:
            wanted = [order[slot] for slot in asked.slots]
            category = {"type": "string", "enum": wanted}
            row = schema(category=category, why=STRING, driver={"type": "boolean"}, quote=STRING)
            user = about | {"wanted": wanted, "problem": asked.problem}
            system = {"categories": book.categories}
            return self._request(key, VERDICTS, system, user, schema(drivers=_listed(row)))

        def read(item: Any, key: str) -> tuple[int, Verdict]:
            if (
                not isinstance(item, dict)
                or item.get("category") not in order
                or not isinstance(item.get("driver"), bool)
            ):
                raise Rejected("not of the schema")
            slot, passage = order.index(item["category"]), ""
            if item["driver"]:
                quote = reading.prose(item, "quote", quotes.LONGEST)
                passage = quotes.verbatim(quote, about["text"])
                if not passage:
                    raise Rejected("quotes what is not there")
            return slot, Verdict(item["category"], item["driver"], passage)

        count = len(order)
        at_once = self.at_once or count
        name = lambda verdict: verdict.category  # noqa: E731
        return Listing(ticket, VERDICTS, "drivers", count, at_once, self.tries - 1, request, read, name)

    def _about(self, one: Transcript) -> dict[str, Any]:
        """Transcript and context, within a tag that neither can know beforehand."""
        text = self.text(one)
        fence = hashlib.sha256(text.encode()).hexdigest()[:12]
        return {"context": one.context[: self.context], "text": text, "fence": fence}

    def _ticket(self, stage: str, *what: Any) -> str:
        """What a question's key is made of: all that it depends upon."""
        return artifact.digest([load_prompt(stage).sha256, self.seed, *what])[:24]

    def _request(
        self, key: str, stage: str, system: dict[str, Any], user: dict[str, Any], wanted: dict[str, Any]
    ) -> Request:
        file, who = load_prompt(stage), self.stages[stage]
        said = file.system(**system), file.user(**user)
        return Request(key, stage, who.model, *said, who.max_tokens, wanted, who.effort)


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": row}
