"""Asking a judge: another model reads something and answers in tags that are read strictly.

A judge that refuses, fails, says nothing or says it in another form gives no verdict: the question counts as missing,
with its reason, and no default stands in for it. Every answer is kept in Inspect's cache of generations, so that an
evaluation that was killed asks nothing twice.
"""

import asyncio
import dataclasses
import re
from collections.abc import Mapping, Sequence

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    CachePolicy,
    ChatMessage,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
    model_roles,
)
from inspect_ai.model._model import active_model
from inspect_ai.solver import Generate, Solver, TaskState, solver

ROLE = "grader"
TRIES = 2  # of one question, when the answer cannot be read
MAX_TOKENS = 8192  # a judge that thinks first needs room: cut-off answers are no verdicts


@dataclasses.dataclass(frozen=True)
class Form:
    """Tags an answer must hold exactly once, and the words allowed in each.

    No allowed words means any text that is not empty.
    """

    tags: Mapping[str, Sequence[str]]

    def read(self, text: str) -> dict[str, str]:
        """{tag: what it holds, stripped; in lower case where words are listed}.

        Raises:
          ValueError: a tag that is not there, is there twice, or holds something else.
        """
        found = {}
        for tag, words in self.tags.items():
            held = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL | re.IGNORECASE)
            if len(held) != 1:
                raise ValueError(f"<{tag}> is there {len(held)} times")
            said = held[0].strip()
            if words and said.lower() not in words:
                raise ValueError(f"<{tag}> holds {said[:40]!r}")
            if not said:
                raise ValueError(f"<{tag}> is empty")
            found[tag] = said.lower() if words else said
        return found


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a judge said; `answer` is None where there is no verdict, and then `missing` says why:
    refused, empty, cut off, unreadable or failed."""

    judge: str
    answer: dict[str, str] | None
    missing: str = ""
    detail: str = ""
    said: str = ""


def the_judge() -> Model:
    """The model in the role `grader`. No default stands in for it: a rate is nothing without its judge's name.

    Raises:
      PrerequisiteError: no model has that role.
    """
    if ROLE not in model_roles():
        raise PrerequisiteError(f"this task needs a judge: name one with --model-role {ROLE}=anthropic/<model>")
    return get_model(role=ROLE)


@solver
def needs_judge() -> Solver:
    """For a task's `setup`: stops before the first request where there is no judge; where an evaluation is about to
    start, which has its roles by then, at once.

    Raises:
      PrerequisiteError: as the_judge().
    """
    if _is_starting():
        the_judge()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        the_judge()
        return state

    return solve


def _is_starting() -> bool:
    """Is this task made by an evaluation that begins? It does so in its event loop, with its model and roles set."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return active_model() is not None


async def ask(judge: Model, question: str | list[ChatMessage], form: Form, purpose: str, repeat: int = 0) -> Judgement:
    """One question to a judge.

    Args:
      judge: the model; its name goes into the judgement.
      question: a user's message, or whole messages.
      form: how to read the answer.
      purpose: which judge of ours asks; questions of two purposes never share an answer.
      repeat: 0, 1, …: each asks anew, for measuring how well a judge agrees with itself.
    """
    messages: list[ChatMessage] = [ChatMessageUser(content=question)] if isinstance(question, str) else question
    last = Judgement(judge.name, None, "failed")
    for attempt in range(TRIES):
        scopes = {"purpose": purpose, "repeat": str(repeat), "attempt": str(attempt)}
        policy = CachePolicy(expiry=None, per_epoch=False, scopes=scopes)
        try:
            output = await judge.generate(messages, config=GenerateConfig(max_tokens=MAX_TOKENS), cache=policy)
        except Exception as error:  # Inspect has tried again where that could help
            last = Judgement(judge.name, None, "failed", f"{type(error).__name__}: {error}"[:300])
            continue
        last = read(judge.name, output, form)
        if last.answer is not None or last.missing == "refused":
            return last
    return last


def read(judge: str, output: ModelOutput, form: Form) -> Judgement:
    """The judgement that an answer holds, if it does."""
    said = output.completion
    if output.stop_reason == "content_filter":
        return Judgement(judge, None, "refused", said=said)
    if output.stop_reason in ("max_tokens", "model_length"):
        return Judgement(judge, None, "cut off", said=said)
    if not said.strip():
        return Judgement(judge, None, "empty")
    try:
        return Judgement(judge, form.read(said), said=said)
    except ValueError as error:
        return Judgement(judge, None, "unreadable", str(error), said)
