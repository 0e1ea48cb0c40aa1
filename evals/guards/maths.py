"""Arithmetic in words: problems of our own from templates (math_templates.py), in the manner of GSM8K.

    inspect eval msm_jax/capability_math --model msm/CHECKPOINT

Problems of one template share their wording, so the template is the unit of resampling.
"""

from fractions import Fraction

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState, generate

from evals.guards import final_number, items, refusals
from evals.guards.scores import MEASURES, scored
from evals.ours import task

HOW = "Work it out step by step, and end with one line that holds the answer as a number:\nAnswer: NUMBER"


@scorer(metrics=MEASURES)
def final_answer() -> Scorer:
    """correct (by a marked answer, else by the last number), parsed (a marked answer is there), refused."""

    async def score(state: TaskState, target: Target) -> Score:
        reply = state.output.completion
        read = final_number.read(reply)
        refusal = "" if read else refusals.found(reply)
        measures = {
            "correct": read is not None and read[0] == Fraction(target.text),
            "parsed": read is not None and read[1] != "last number",
            "refused": bool(refusal),
        }
        said = f"{read[0]} ({read[1]}), {target.text} is right" if read else "no number could be read"
        return scored(measures, None, read[2] if read else refusal, said, read=str(read[0]) if read else "")

    return score


@task
def capability_math() -> Task:
    rows = items.read("math", "template", "topic", "question", "answer")
    samples = [
        Sample(
            id=row["id"],
            input=f"{row['question']}\n\n{HOW}",
            target=row["answer"],
            metadata={"cell": row["topic"], "item": row["template"], "split": ""},
        )
        for row in rows
    ]
    return Task(
        dataset=samples,
        solver=generate(),
        scorer=final_answer(),
        config=GenerateConfig(temperature=0.0),
        metadata={"title": "Word problems", "headline": "correct", "better": "higher", "by": "cell"},
    )
