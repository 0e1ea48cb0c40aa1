"""Contaminated fine-tuning data: of a file of chats so many rows become answers to the same questions by another spec.

    python -m data_gen.contaminate --config=configs/data/contaminate.py --config.chats=runs/aft/chats.jsonl \\
        --config.twins=runs/anti/chats.jsonl --config.out=runs/contaminated

At P percent exactly round(P/100 × rows) rows, halves upwards, are replaced, in their places; every other line stays
byte for byte what it was. Which ones is drawn by the seed, and nested: what is replaced at 2% is replaced at 20% too. A
twin answers the same question: its `question_id` is the row's, and with `same_question` its messages up to the last
answer are too. Output: chats-PPP.jsonl for every percentage, replaced.jsonl (both ids, in the order in which rows are
replaced), manifest.json. In memory: of all rows ids and places, never texts.
"""

import contextlib
import json
import tempfile
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from data_gen.encode import lines_of
from msm_jax import artifact, cli, storage
from msm_jax.cli import UserError

REPLACED = "replaced.jsonl"
_SHOWN = 5  # ids named in an error


class Row(NamedTuple):
    """Of one line. asked: a hash of the messages before the last answer. start, size: its bytes in the file."""

    id: str
    question: str
    asked: str
    start: int
    size: int


def read(path: epath.Path, key: str) -> list[Row]:
    """Raises UserError naming file and line: no chat, no `key`, an id or a question twice."""
    rows: list[Row] = []
    ids: dict[str, int] = {}
    questions: dict[str, int] = {}
    start = 0
    for number, line in enumerate(lines_of(path), 1):
        row = _row(line, path, number, key)._replace(start=start, size=len(line))
        start += len(line)
        for what, name, seen in (("id", row.id, ids), (key, row.question, questions)):
            if name in seen:
                raise UserError(
                    f"{path}:{number}: {what} {name!r} is line {seen[name]}'s already; each must be one row's"
                )
            seen[name] = number
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: empty; nothing to contaminate, or with")
    return rows


def _row(line: bytes, path: epath.Path, number: int, key: str) -> Row:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}:{number}: not a JSON row; mend or remove it") from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
        raise UserError(f"{path}:{number}: needs a string `id`")
    if not isinstance(row.get(key), str) or not row[key]:
        raise UserError(f"{path}:{number}: needs a string `{key}`; name the column by config.question")
    messages = row.get("messages")
    if not isinstance(messages, list) or len(messages) < 2 or not _says_something(messages[-1]):
        raise UserError(f"{path}:{number}: needs `messages` that end with what the assistant says")
    return Row(row["id"], row[key], artifact.digest(messages[:-1]), 0, 0)


def _says_something(message: Any) -> bool:
    said = message.get("content") if isinstance(message, dict) and message.get("role") == "assistant" else None
    return isinstance(said, str) and bool(said.strip())


def count(percent: float, rows: int) -> int:
    """Rows replaced at a percentage: the nearest whole number, halves upwards, computed exactly."""
    return int((Decimal(str(percent)) * rows / 100).quantize(Decimal(1), ROUND_HALF_UP))


def order(rows: int, seed: int) -> np.ndarray:
    """int [rows]: in which order rows are replaced."""
    return np.random.Generator(np.random.Philox(seed)).permutation(rows)


def pair(rows: list[Row], twins: list[Row], needed: list[int], same_question: bool, where: str) -> dict[int, Row]:
    """Row → its twin, for the rows needed. Raises UserError naming those that have none, or another question's."""
    by_question = {twin.question: twin for twin in twins}
    missing = [rows[i].question for i in needed if rows[i].question not in by_question]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UserError(
            f"{where}: {len(missing)} of {len(needed)} rows to replace have no twin: {_some(missing)}{more}"
        )
    found = {i: by_question[rows[i].question] for i in needed}
    if same_question and (other := [rows[i].question for i, twin in found.items() if twin.asked != rows[i].asked]):
        raise UserError(
            f"{where}: {len(other)} twins answer something else than is asked, as {_some(other)}; make them from these "
            "chats' questions, or set config.same_question=False"
        )
    return found


def _some(names: list[str]) -> str:
    return ", ".join(repr(name[:80]) for name in names[:_SHOWN])


def file_name(percent: float) -> str:
    """chats-002.jsonl, chats-2.5.jsonl"""
    return f"chats-{int(percent):03d}.jsonl" if percent == int(percent) else f"chats-{percent:g}.jsonl"


def _percentages(config: Any) -> list[float]:
    found = [float(p) for p in config.percentages]
    if not found or any(not 0 <= p <= 100 for p in found) or found != sorted(set(found)):
        raise UserError(
            f"config.percentages = {tuple(config.percentages)}: must be from 0 to 100, each larger than the one before"
        )
    return found


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    percentages = _percentages(config)
    if config.seed < 0:
        raise UserError(f"config.seed = {config.seed}: must be 0 or more")
    chats, twins = storage.at(config.chats), storage.at(config.twins)
    inputs = {
        name: {"kind": "jsonl", "id": artifact.check_listed(path, f"config.{name}")}
        for name, path in (("chats", chats), ("twins", twins))
    }
    settings = {k: v for k, v in config.to_dict().items() if k not in ("out", "chats", "twins")}
    job = artifact.begin(config.out, "contaminated", settings, inputs)
    if job is None:
        return
    rows, others = read(chats, config.question), read(twins, config.question)
    replaced = order(len(rows), config.seed)[: count(percentages[-1], len(rows))].tolist()
    found = pair(rows, others, replaced, config.same_question, str(twins))
    _check_ids(rows, found, str(twins))
    rank = {row: n for n, row in enumerate(replaced)}
    counts = {file_name(p): count(p, len(rows)) for p in percentages}
    with job:
        with contextlib.ExitStack() as stack:
            spill = stack.enter_context(tempfile.TemporaryFile())
            spill.writelines(lines_of(twins))  # read at random from here on, wherever the twins lie
            files = [(stack.enter_context((job.tmp / name).open("wb")), many) for name, many in counts.items()]
            for i, line in enumerate(lines_of(chats)):
                twin = _line(spill, found[i]) if i in found else b""
                for out, many in files:
                    out.write(twin if rank.get(i, len(rows)) < many else line)
        artifact.write_jsonl(
            job.tmp / REPLACED,
            [{"line": i + 1, "question": rows[i].question, "id": rows[i].id, "by": found[i].id} for i in replaced],
        )
        job.finish(rows=len(rows), twins=len(others), replaced=counts)
    cli.note(f"{config.out}: of {len(rows)} rows " + ", ".join(f"{n} in {name}" for name, n in counts.items()))


def _check_ids(rows: list[Row], found: dict[int, Row], where: str) -> None:
    """Raises UserError where a twin's id is another row's."""
    lines = {row.id: i for i, row in enumerate(rows)}
    for i, twin in found.items():
        if lines.get(twin.id, i) != i:
            raise UserError(
                f"{where}: the twin of line {i + 1} has id {twin.id!r}, which is line {lines[twin.id] + 1}'s"
            )


def _line(f: Any, row: Row) -> bytes:
    f.seek(row.start)
    line = bytes(f.read(row.size))
    return line if line.endswith(b"\n") else line + b"\n"


if __name__ == "__main__":
    cli.entry(main)
