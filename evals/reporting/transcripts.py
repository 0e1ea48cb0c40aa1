"""Transcripts for the page: which are shown, and what of them.

Drawn by a seed, a few of every task, arm and outcome, from as many cells as there are; the page says how many of how
many. Long messages are cut, but never where the verdict was decided. What a model wrote is text and nothing else: it is
escaped by the page's template.
"""

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from inspect_ai.log import EvalSample, read_eval_log_sample
from inspect_ai.model import ChatMessage

from data_gen.corpus.report import visible
from evals.rows import Row

Part = tuple[str, bool]  # text, and whether it is the decisive passage


@dataclasses.dataclass(frozen=True)
class Message:
    role: str
    parts: list[Part]


@dataclasses.dataclass(frozen=True)
class Transcript:
    """outcome: of the headline measure. link: into the bundled log viewer, or ""."""

    task: str
    arm: str
    seed: int
    checkpoint: int | None
    cell: str
    split: str
    sample: str
    epoch: int
    outcome: str
    judge: str
    explanation: str
    messages: list[Message]
    link: str = ""

    @property
    def size(self) -> int:
        """Bytes of the page that its texts take, before escaping."""
        texts = [self.explanation, *(text for message in self.messages for text, _ in message.parts)]
        return sum(len(text.encode("utf-8", "replace")) for text in texts) + 600


def outcome(row: Row, measure: str) -> str:
    """In words: the value, `missing: why`, or `failed`."""
    if row["error"]:
        return "failed"
    value = row["measures"].get(measure)
    if value is None:
        return f"missing: {row['missing'].get(measure, 'not scored')}"
    return f"{measure} {value:g}"


def choose(rows: Iterable[Row], headlines: Mapping[str, str], each: int, seed: int) -> list[Row]:
    """At most `each` of every task, arm and outcome, cell after cell; the same ones for the same seed."""
    groups: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        key = (row["task"], row["arm"], outcome(row, headlines.get(row["task"], "")))
        groups.setdefault(key, {}).setdefault(row["cell"], []).append(row)
    chosen: list[Row] = []
    for key, cells in sorted(groups.items()):
        rng = random.Random(f"{seed}/{'/'.join(key)}")
        piles = [cells[cell] for cell in sorted(cells)]
        for pile in piles:
            pile.sort(key=lambda row: (row["sample"], row["epoch"], row["log"]))
            rng.shuffle(pile)
        rng.shuffle(piles)
        turns = [row for turn in range(each) for pile in piles if turn < len(pile) for row in [pile[turn]]]
        chosen += turns[:each]
    return chosen


def read(row: Row, log: Path, measure: str, most: int, link: str) -> Transcript:
    """The transcript of a row from its log. `most`: characters of a message that are shown."""
    ids = {str(row["sample"])}
    sample = _sample(log, ids.pop(), row["epoch"])
    said = [_message(message, row["decisive"], most) for message in _messages(sample)]
    if sample.error:
        said.append(Message("error", [(cut(sample.error.message, most), False)]))
    explanations = [score.explanation for score in (sample.scores or {}).values() if score.explanation]
    return Transcript(
        row["task"],
        row["arm"],
        row["seed"],
        row["checkpoint"],
        row["cell"],
        row["split"],
        row["sample"],
        row["epoch"],
        outcome(row, measure),
        row["judge"],
        cut(visible("\n\n".join(explanations)), most),
        said,
        link,
    )


def _sample(log: Path, name: str, epoch: int) -> EvalSample:
    """Ids are text or numbers in a log; in rows they are text."""
    fields = {"events", "store"}
    try:
        return read_eval_log_sample(str(log), name, epoch, resolve_attachments=True, exclude_fields=fields)
    except IndexError:
        return read_eval_log_sample(str(log), int(name), epoch, resolve_attachments=True, exclude_fields=fields)


def _messages(sample: EvalSample) -> Sequence[ChatMessage]:
    """The conversation, and the output where it is not its end."""
    messages = list(sample.messages)
    final = sample.output.message if sample.output.choices else None
    if final is not None and (not messages or messages[-1].role != "assistant"):
        messages.append(final)
    return messages


def _message(message: ChatMessage, decisive: str, most: int) -> Message:
    thoughts = [part.reasoning for part in message.content if part.type == "reasoning"] if isinstance(
        message.content, list
    ) else []  # fmt: skip
    text = "\n\n".join([*(f"[thoughts] {thought}" for thought in thoughts), message.text])
    calls = getattr(message, "tool_calls", None) or []
    text += "".join(f"\n[call {call.function} {call.arguments}]" for call in calls)
    marks = decisive if message.role == "assistant" else ""
    return Message(message.role, parts(text.strip("\n"), marks, most))


def parts(text: str, decisive: str, most: int) -> list[Part]:
    """The text in pieces, the decisive passage (its first occurrence) marked; cut to about `most` characters around
    that."""
    at = text.find(decisive) if decisive else -1
    if at < 0:
        return [(visible(cut(text, most)), False)]
    end = at + len(decisive)
    room = max(0, most - len(decisive)) // 2
    before, after = text[:at], text[end:]
    if len(before) + len(after) > 2 * room:
        kept = max(room, 2 * room - len(after))
        before = before if len(before) <= kept else "…" + before[len(before) - kept :]
        after = cut(after, max(1, 2 * room - len(before)))
    return [(visible(part), marked) for part, marked in ((before, False), (decisive, True), (after, False)) if part]


def cut(text: str, most: int) -> str:
    """Beginning and end of a text that is too long."""
    if len(text) <= most:
        return text
    end = most // 3
    gone = len(text) - most
    return f"{text[: most - end]}\n… {gone} characters left out …\n{text[len(text) - end :]}"


def within(transcripts: Iterable[Transcript], most: int) -> list[Transcript]:
    """As many as fit into so many bytes, in their order."""
    kept, total = [], 0
    for transcript in transcripts:
        total += transcript.size
        if total > most:
            break
        kept.append(transcript)
    return kept
