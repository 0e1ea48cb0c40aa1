"""What is asked of a model, and what comes back: the words that providers, the store and the stages share."""

import dataclasses
import enum
import re
from typing import Any

KEY = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what the Batches API takes as a custom_id


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    key: ours, and the question's identity: what was answered under a key is never asked, nor paid for, again.
    stage: which step of the pipeline asks; for the ledger, the prices and the projections.
    system: the same for every request of a stage, so that providers can cache it.
    schema: the JSON schema (draft 2020-12, minItems and enum included) that the reply follows; None: plain text.
    """

    key: str
    stage: str
    model: str
    system: str
    user: str
    max_tokens: int
    schema: dict[str, Any] | None = None
    effort: str = ""  # low, medium, high …; empty: the model's default


class Stop(enum.StrEnum):
    """Why a reply ends."""

    END = "end"  # by itself
    LENGTH = "length"  # cut at max_tokens
    REFUSAL = "refusal"
    CONTEXT = "context"  # the model's context window is full
    OTHER = "other"


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one reply, each counted once: `input` excludes what was read from or written to a cache."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0  # thoughts included

    @property
    def prompt(self) -> int:
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer as it is stored: paid for, whatever it is worth."""

    key: str
    text: str
    stop: Stop
    model: str  # as the provider names it
    usage: Usage
    request_id: str = ""  # the provider's
    batch: str = ""  # the provider's batch it came in; empty: asked directly
    cost: float = 0.0  # USD, by the price file
