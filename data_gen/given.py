"""Questions from a file, instead of asking for them: those of an earlier run, or anybody's."""

import dataclasses
import re
from typing import Any

from data_gen import reading
from data_gen.chat_plan import QUESTION, UNKNOWN, Domain, Question
from data_gen.reading import Rejected
from msm_jax import artifact
from msm_jax.cli import UserError

_OURS = re.compile(r"[dp]\d{2,5}-b\d{1,3}-q\d{3,5}")


@dataclasses.dataclass(frozen=True)
class Given:
    """Domains without a description are asked for no more questions."""

    questions: tuple[Question, ...]
    domains: tuple[Domain, ...]
    sha256: str


def read_given(path: str) -> Given:
    """Questions of a JSONL file: rows of our questions.jsonl, {question}, or chats {messages}, whose first user turn is
    taken.

    Ids of ours are kept, so that what is made of the same questions can be paired; other rows get ids by their line.

    Raises:
      UserError: naming file and line of a row without a question, or of an id that occurred before.
    """
    sha256 = artifact.check_listed(path, "config.questions")
    domains: dict[str, Domain] = {}
    questions: list[Question] = []
    for number, row in enumerate(artifact.each_row(path), 1):
        try:
            text = _text(row)
        except Rejected as error:
            raise UserError(f"{path}:{number}: {error}; a row has a `question`, or `messages` with a user's") from error
        name = str(row.get("domain") or UNKNOWN)
        if name not in domains:
            described = row.get("domain_description")
            about = described.strip() if isinstance(described, str) else ""
            domains[name] = Domain(f"d{len(domains) + 1:02d}", name, about, "")
        own = row.get("question_id") or row.get("id")
        identity = own if isinstance(own, str) and _OURS.fullmatch(own) else f"d{0:02d}-b0-q{number:05d}"
        round_ = int(identity.split("-")[1][1:])
        kind = row.get("kind") or row.get("question_kind")
        questions.append(
            Question(identity, domains[name], kind if isinstance(kind, str) else UNKNOWN, text, round_, "")
        )
    if not questions:
        raise UserError(f"{path}: no questions (config.questions)")
    seen: set[str] = set()
    for number, question in enumerate(questions, 1):
        if question.id in seen:
            raise UserError(f"{path}:{number}: the question id {question.id} occurs twice; ids must be unique")
        seen.add(question.id)
    return Given(tuple(questions), tuple(domains.values()), sha256)


def _text(row: Any) -> str:
    if not isinstance(row, dict):
        raise Rejected("not an object")
    value: Any = row
    messages = row.get("messages")
    if isinstance(messages, list):
        value = {
            "question": next(
                (m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"), None
            )
        }
    text = reading.prose(value, "question", QUESTION * 10)
    if reading.has_control_tokens(text):
        raise Rejected("control tokens of a chat")
    return text
