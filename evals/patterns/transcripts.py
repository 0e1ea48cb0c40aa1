"""Transcripts to be read for reasons: of Inspect logs, whatever their task, or JSONL rows {id, text, …}."""

import collections
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from inspect_ai.log import EvalLog, EvalSample, list_eval_logs, read_eval_log, read_eval_log_samples
from inspect_ai.model import ChatMessage, ContentReasoning, ContentText

from msm_jax import artifact, storage
from msm_jax.cli import UserError

_SUFFIXES = (".eval", ".json")
_OWN = ("id", "text", "context")
Scalar = str | int | float | bool


@dataclasses.dataclass(frozen=True)
class Transcript:
    """text: all that the model said, thoughts first, in which quotes must be found. context: what it was told before.
    group: what it may be counted by."""

    id: str
    text: str
    context: str
    group: dict[str, Scalar]


@dataclasses.dataclass(frozen=True)
class Transcripts:
    """skipped: reason → how many there are that hold nothing to read."""

    where: str
    rows: tuple[Transcript, ...]
    skipped: dict[str, int]

    def digest(self) -> str:
        return artifact.digest([[one.id, one.text, one.context, one.group] for one in self.rows])


def load(where: str) -> Transcripts:
    """Raises UserError naming the file (and row) of whatever is no transcript, and where there is none."""
    if not where:
        raise UserError("config.logs: name an Inspect log, a directory of logs, or JSONL rows {id, text, …}")
    path = storage.at(where)
    if not storage.is_dir(path) and not storage.is_file(path):
        raise UserError(f"config.logs = {where}: no such file or directory")
    skipped: collections.Counter[str] = collections.Counter()
    if storage.is_file(path) and where.endswith(".jsonl"):
        found = {one.id: one for one in _each_row(where)}
    elif storage.is_dir(path) or where.endswith(_SUFFIXES):
        found = _of_logs(where, skipped)
    else:
        raise UserError(
            f"config.logs = {where}: neither an Inspect log (.eval, .json), a directory of them, nor .jsonl"
        )
    if not found:
        why = "; ".join(f"{count} {reason}" for reason, count in skipped.items()) or "it is empty"
        raise UserError(f"{where}: no transcript to read ({why})")
    return Transcripts(where, tuple(found.values()), dict(skipped))


# ---------------------------------------------------------------- rows


def _each_row(path: str) -> Iterator[Transcript]:
    seen: set[str] = set()
    for number, row in enumerate(artifact.each_row(path), 1):
        try:
            one = _of_row(row)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from error
        if one.id in seen:
            raise UserError(f"{path}:{number}: id {one.id[:80]!a} occurs twice; ids must be unique")
        seen.add(one.id)
        yield one


def _of_row(row: Any) -> Transcript:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
        raise UserError("a transcript needs a string `id`")
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        raise UserError("a transcript needs a `text` that is not empty")
    if not isinstance(row.get("context", ""), str):
        raise UserError("`context` must be text: what the model was told")
    try:
        (row["text"] + row.get("context", "") + row["id"]).encode()
    except UnicodeEncodeError as error:
        raise UserError("half a surrogate pair in it; mend or remove the row") from error
    return Transcript(row["id"], row["text"], row.get("context", ""), _scalars(row, _OWN))


# ---------------------------------------------------------------- logs


def _of_logs(where: str, skipped: collections.Counter[str]) -> dict[str, Transcript]:
    """By id; of a sample that several logs of one task hold (it was tried again) the latest."""
    infos = list_eval_logs(where) if storage.is_dir(where) else []
    names = [info.name for info in sorted(infos, key=lambda info: info.mtime or 0)] or [where]
    if storage.is_dir(where) and not infos:
        raise UserError(f"config.logs = {where}: no Inspect log there")
    found: dict[str, Transcript] = {}
    for name in names:
        try:
            header = read_eval_log(name, header_only=True)
            for sample in read_eval_log_samples(name, False, "core", exclude_fields={"events", "store"}):
                one = _of_sample(header, sample)
                if isinstance(one, str):
                    skipped[one] += 1
                else:
                    found[one.id] = one
        except (UserError, MemoryError):
            raise
        except Exception as error:  # zip, JSON, schema, versions: whatever the reader meets
            why = " ".join(str(error).split())[:200]
            raise UserError(f"{name}: not an Inspect log that can be read ({type(error).__name__}: {why})") from error
    return found


def _of_sample(log: EvalLog, sample: EvalSample) -> Transcript | str:
    """The transcript, or why there is none."""
    if sample.error:
        return "ended in an error"
    said = [_said(message) for message in sample.messages if message.role == "assistant"]
    text = "\n\n".join(filter(None, said)) or sample.output.completion
    if not text.strip():
        return "without a text"
    before: list[str] = []
    for message in sample.messages:
        if message.role == "assistant":
            break
        before.append(f"[{message.role}]\n{message.text}")
    group = _scalars(log.eval.metadata or {}) | _scalars(sample.metadata) | _measures(sample)
    group |= {"task": log.eval.task, "model": log.eval.model, "sample": str(sample.id), "epoch": sample.epoch}
    said_before, text = (part.encode("utf-8", "replace").decode() for part in ("\n\n".join(before), text))
    return Transcript(f"{log.eval.task_id}/{sample.id}/{sample.epoch}", text, said_before, group)


def _said(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    thoughts = [part.reasoning for part in message.content if isinstance(part, ContentReasoning)]
    texts = [part.text for part in message.content if isinstance(part, ContentText)]
    return "\n\n".join(filter(None, [*thoughts, *texts]))


def _measures(sample: EvalSample) -> dict[str, Scalar]:
    """What the log's scorers found: measure → value."""
    found: dict[str, Scalar] = {}
    for name, score in (sample.scores or {}).items():
        found |= _scalars(score.value if isinstance(score.value, dict) else {name: score.value})
    return found


def _scalars(values: dict[str, Any], but: tuple[str, ...] = ()) -> dict[str, Scalar]:
    """Those of a dictionary's values that something can be counted by; NaN is none."""
    return {
        str(key): value
        for key, value in values.items()
        if key not in but and isinstance(value, Scalar) and not (isinstance(value, float) and math.isnan(value))
    }
