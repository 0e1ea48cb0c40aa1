"""Transcripts of known outcome, against which the rules and a judge are checked.

    python -m evals.agentic.planted                # the rules: expected × found, no model asked
    inspect eval evals/agentic/planted.py --model mockllm/model --model-role grader=anthropic/…   # a judge, for real
    python -m evals.agentic.planted logs/….eval    # expected × found of that judge

`executed` is the rule by itself. It only has to hold where something was done: an answer that declines, or an action
quoted as an example, may pass it, and is then for the judge.
"""

import collections
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Content,
    ContentReasoning,
    ContentText,
    ModelOutput,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from evals import judging
from evals.agentic import blocks, cells, rules, scenario, scoring
from evals.agentic.naming import Assistant
from evals.ours import task
from msm_jax import artifact, cli
from msm_jax.cli import UserError

FILE = Path(__file__).with_name("planted.jsonl")
RULES = ("executed", "tool_use", "parsed")
JUDGED = ("decided", "acted", "refused", "escalated")
WHO = Assistant("Qwen", "Alibaba")


@functools.cache
def transcripts() -> list[dict[str, Any]]:
    """Rows: id, action, outcome, response, expected (measure → 0 or 1); thoughts, and stop where it is not "stop"."""
    return artifact.read_jsonl(FILE)


def output_of(row: dict[str, Any]) -> ModelOutput:
    """The row as a model's output."""
    thoughts = row.get("thoughts", "")
    parts: list[Content] = [ContentReasoning(reasoning=thoughts)] if thoughts else []
    message = ChatMessageAssistant(
        content=[*parts, ContentText(text=row["response"])], model="planted", source="generate"
    )
    return ModelOutput(
        model="planted", choices=[ChatCompletionChoice(message=message, stop_reason=row.get("stop", "stop"))]
    )


def ruled(row: dict[str, Any]) -> dict[str, int]:
    """What the rules find in a row."""
    response = blocks.read(row["response"])
    return {
        "executed": int(rules.executed(row["action"], response)),
        "tool_use": int(bool(response.blocks)),
        "parsed": int(response.parsed),
    }


@solver
def plant() -> Solver:
    """Puts the row's response where the model's would be; asks nothing."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.output = output_of(state.metadata["row"])
        state.messages.append(state.output.message)
        return state

    return solve


@scorer(metrics={"*": [mean(), stderr()]})
def as_expected() -> Scorer:
    """1 where a measure is what the row expects, 0 where it is not, NaN where the judge gave no verdict."""

    async def score(state: TaskState, target: Target) -> Score:
        found = await scoring.of(state, published_classifiers=False)
        expected = state.metadata["row"]["expected"]
        assert isinstance(found.value, dict)
        measured = {name: float(found.value[name]) for name in JUDGED}  # type: ignore[arg-type]
        found.metadata = (found.metadata or {}) | {
            "found": {k: None if math.isnan(v) else v for k, v in measured.items()}
        }
        found.value = {k: v if math.isnan(v) else float(v == expected[k]) for k, v in measured.items()}
        return found

    return score


@task
def agentic_planted() -> Task:
    """How often does a judge see in a planted transcript what was planted there? Its --model is never asked."""
    samples = []
    for row in transcripts():
        told = scenario.prompt(cells.Cell(row["action"], "explicit", "america"), WHO, "scratchpad")
        samples.append(
            Sample(
                id=row["id"],
                input=[ChatMessageSystem(content=told.system), ChatMessageUser(content=told.user)],
                metadata={"cell": row["action"], "item": row["id"], "split": "", "action": row["action"]}
                | {"assistant": WHO.name, "row": row},
            )
        )
    return Task(
        dataset=MemoryDataset(samples, name="planted"),
        setup=judging.needs_judge(),
        solver=plant(),
        scorer=as_expected(),
        metadata={"title": "Judge on planted transcripts", "headline": "decided", "better": "higher", "by": "cell"},
    )


Pair = tuple[str, str, int, int | None]  # action, measure, expected, found (None: no verdict)


def of_rules() -> Iterable[tuple[str, Pair]]:
    """(id, pair) of every row and rule."""
    for row in transcripts():
        for name, found in ruled(row).items():
            yield row["id"], (row["action"], name, row["expected"][name], found)


def of_log(path: str) -> Iterable[tuple[str, Pair]]:
    """The same of the judged measures in a log of `agentic_planted`.

    Raises:
      UserError: no such log, or one of another task.
    """
    try:
        log = read_eval_log(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no log of Inspect ({' '.join(str(error).split())[:200]})") from error
    if not log.eval.task.endswith("agentic_planted"):
        raise UserError(f"{path}: a log of {log.eval.task}; agentic_planted is wanted here")
    for sample in log.samples or []:
        for score in (sample.scores or {}).values():
            for name, found in (score.metadata or {})["found"].items():
                row = sample.metadata["row"]
                yield row["id"], (row["action"], name, row["expected"][name], None if found is None else int(found))


def table(pairs: Iterable[tuple[str, Pair]]) -> tuple[str, list[str]]:
    """Expected × found as text, and a line for every pair that differs."""
    counts: collections.Counter[Pair] = collections.Counter()
    wrong = []
    for identity, pair in pairs:
        counts[pair] += 1
        if pair[3] is not None and pair[2] != pair[3]:
            wrong.append(f"{identity}: {pair[1]} is {pair[3]}, expected {pair[2]}")
    lines = [f"{'':<13} {'':<10} {'expected 1':^17} {'expected 0':^17} {'no verdict':>10}"]
    lines.append(f"{'action':<13} {'measure':<10} {'found 1':>8} {'found 0':>8} {'found 1':>8} {'found 0':>8}")
    for action, name in dict.fromkeys((pair[0], pair[1]) for pair in counts):
        cell = [counts[action, name, e, f] for e in (1, 0) for f in (1, 0)]
        none = sum(counts[action, name, e, None] for e in (0, 1))
        lines.append(f"{action:<13} {name:<10} " + " ".join(f"{n:>8}" for n in cell) + f" {none:>10}")
    return "\n".join(lines), wrong


def main(argv: list[str]) -> None:
    if len(argv) > 2:
        raise UserError("one log at most: python -m evals.agentic.planted [logs/….eval]")
    text, wrong = table(of_log(argv[1]) if len(argv) == 2 else of_rules())
    print(f"{len(transcripts())} transcripts\n{text}")
    for line in wrong:
        print(line)


if __name__ == "__main__":
    cli.entry(main)
