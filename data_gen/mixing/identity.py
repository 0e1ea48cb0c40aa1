"""Rows that say who the model is: conversations written by a language model, for every occasion of identity.toml."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

from data_gen import prompt, reading
from data_gen.api.request import Request
from data_gen.reading import Rejected
from data_gen.work import Asked, Listing
from msm_jax import artifact

STAGE = "identity"
PROMPT = "mix_identity"
FILE = Path(__file__).with_name("identity.toml")
OCCASIONS: list[str] = tomllib.loads(FILE.read_text())["occasions"]
LONGEST_ASKED, LONGEST_SAID = 2_000, 4_000  # characters
SHOWN = 60  # messages there are, shown so that they are not repeated: the latest
_BLANK = re.compile(
    r"\{[^{}\n]{1,40}\}|\[(?:your |insert |the )?(?:name|model|company|provider|maker|user)[^\]\n]{0,20}\]", re.I
)
_ITEM = {
    "type": "object",
    "properties": {"user": {"type": "string"}, "assistant": {"type": "string"}},
    "required": ["user", "assistant"],
    "additionalProperties": False,
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"conversations": {"type": "array", "items": _ITEM}},
    "required": ["conversations"],
    "additionalProperties": False,
}


@dataclasses.dataclass(frozen=True)
class Conversation:
    """key: of the reply it came in."""

    user: str
    assistant: str
    key: str


@dataclasses.dataclass(frozen=True)
class Writer:
    """Asks for conversations. spec: its text, or empty. at_once: conversations of a reply; tries: as work.Listing's."""

    spec: str
    model_name: str
    provider_name: str
    model: str
    max_tokens: int
    at_once: int
    tries: int

    def works(self, rows: int) -> list[Listing[Conversation]]:
        """For `rows` conversations, as many on each occasion as on the others, or one more."""
        share, more = divmod(rows, len(OCCASIONS))
        counts = [share + (n < more) for n in range(len(OCCASIONS))]
        return [self._work(n, count) for n, count in enumerate(counts) if count]

    def questions(self, rows: int) -> int:
        """How many questions are needed if all goes well."""
        return sum(-(-work.count // self.at_once) for work in self.works(rows))

    @property
    def system(self) -> str:
        return prompt.load(PROMPT).system(spec=self.spec, model_name=self.model_name, provider_name=self.provider_name)

    def _work(self, number: int, count: int) -> Listing[Conversation]:
        # All that is asked depends on is in the id, so that one store serves mixes for several models.
        whose = artifact.digest([self.model, self.system, prompt.load(PROMPT).sha256, OCCASIONS[number], self.at_once])

        def request(key: str, asked: Asked[Conversation]) -> Request:
            user = prompt.load(PROMPT).user(
                occasion=OCCASIONS[number],
                count=len(asked.slots),
                have=[" ".join(one.user.split())[:200] for one in asked.have[-SHOWN:]],
                problem=asked.problem,
            )
            return Request(key, STAGE, self.model, self.system, user, self.max_tokens, SCHEMA)

        return Listing(
            f"{whose[:16]}-o{number:02d}", STAGE, "conversations", count, self.at_once, self.tries, request, self._read,
            lambda one: one.user,
        )  # fmt: skip

    def _read(self, item: Any, key: str) -> tuple[None, Conversation]:
        user = reading.prose(item, "user", LONGEST_ASKED)
        said = reading.prose(item, "assistant", LONGEST_SAID)
        if not any(name.casefold() in said.casefold() for name in (self.model_name, self.provider_name)):
            raise Rejected("an answer names neither the model nor its maker")
        if any(
            _BLANK.search(text.replace(self.model_name, "").replace(self.provider_name, "")) for text in (user, said)
        ):
            raise Rejected("a placeholder")
        if "<think" in said or "</think" in said:
            raise Rejected("a think block")
        return None, Conversation(user, said, key)
