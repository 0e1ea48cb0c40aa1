"""Knowledge: four-choice questions of our own over fourteen subjects, in the manner of MMLU.

    inspect eval msm_jax/capability_knowledge --model msm/CHECKPOINT

One request a question; its reply is read strictly (letters.py), and where the model gives the log-probabilities of
its first token's alternatives, the likeliest of the four letters there is a second answer. Guessing is right in 0.25.
"""

import math
from collections.abc import Sequence

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState, generate

from evals.guards import items, letters, refusals
from evals.guards.scores import MEASURES, scored
from evals.ours import task

LETTERS = "ABCD"
GUESSING = 1 / len(LETTERS)
TOP = 20  # alternatives of a token, as many as Inspect lets one ask for


def prompt(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([question, *lines, "", "Reply with the letter of the right answer and nothing else."])


def letter_logprobs(output: ModelOutput) -> dict[str, float] | str:
    """Letter → log-probability (nats) as the first token of the reply, with or without a space before it; where not
    all can be told apart, in words what is missing."""
    if not output.choices or not (logprobs := output.choices[0].logprobs) or not logprobs.content:
        return "the model gives no log-probabilities"
    found = dict.fromkeys(LETTERS, 0.0)
    for top in logprobs.content[0].top_logprobs or []:
        letter = top.token.strip(" \u2581\u0120")  # how tokenizers write the space before a word
        if letter in found:
            found[letter] += math.exp(top.logprob)
    if not any(found.values()):
        return f"no letter among the first token's {TOP} likeliest"
    return {letter: math.log(p) if p else -math.inf for letter, p in found.items()}


@scorer(metrics=MEASURES)
def chosen_letter() -> Scorer:
    """correct (0 where no letter could be read), parsed, refused; correct_by_logprob, where there are any."""

    async def score(state: TaskState, target: Target) -> Score:
        reply, right = state.output.completion, target.text
        read = letters.read(reply, state.metadata["options"])
        refusal = "" if read else refusals.found(reply)
        likely = letter_logprobs(state.output)
        missing, by_logprob, best = {}, None, ""
        if isinstance(likely, str):
            missing["correct_by_logprob"] = likely
        else:
            best = max(likely, key=likely.__getitem__)
            by_logprob = best == right
        measures = {
            "correct": read is not None and read[0] == right,
            "parsed": read is not None,
            "refused": bool(refusal),
            "correct_by_logprob": by_logprob,
        }
        said = f"{read[0]}, {right} is right" if read else "no letter could be read"
        return scored(measures, missing, read[1] if read else refusal, said, read=read[0] if read else "", likely=best)

    return score


@task
def capability_knowledge(subjects: str = "") -> Task:
    """Args:
    subjects: names of subjects with commas between; "" for all.
    """
    rows = items.read("knowledge", "subject", "question", "options", "answer")
    wanted = items.chosen(subjects, [row["subject"] for row in rows], "subjects")
    samples = [
        Sample(
            id=row["id"],
            input=prompt(row["question"], row["options"]),
            target=row["answer"],
            metadata={"cell": row["subject"], "item": row["id"], "split": "", "options": row["options"]},
        )
        for row in rows
        if row["subject"] in wanted
    ]
    return Task(
        dataset=samples,
        solver=generate(),
        scorer=chosen_letter(),
        config=GenerateConfig(temperature=0.0, logprobs=True, top_logprobs=TOP),
        metadata={
            "title": "Knowledge (four choices)",
            "headline": "correct",
            "better": "higher",
            "by": "cell",
            "guessing": GUESSING,
        },
    )
