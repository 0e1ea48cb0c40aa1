"""Instructions that code can check: prompts of our own with one constraint or more, in the manner of IFEval.

inspect eval msm_jax/capability_instructions --model msm/CHECKPOINT
"""

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState, generate

from evals.guards import items, refusals, replies
from evals.guards.constraints import kept
from evals.guards.scores import MEASURES, scored
from evals.ours import task


@scorer(metrics=MEASURES)
def all_kept() -> Scorer:
    """followed (every constraint is kept), share (of the constraints kept, 0 to 1), parsed (a reply is there),
    refused."""

    async def score(state: TaskState, target: Target) -> Score:
        reply = replies.said(state.output.completion)
        checked = {one["kind"]: kept(reply, one) for one in state.metadata["constraints"]}
        refusal = refusals.found(state.output.completion)
        measures = {
            "followed": all(checked.values()),
            "share": sum(checked.values()) / len(checked),
            "parsed": bool(reply),
            "refused": bool(refusal),
        }
        said = ", ".join(f"{kind}: {'kept' if ok else 'broken'}" for kind, ok in checked.items())
        return scored(measures, None, refusal, said, kept=checked)

    return score


@task
def capability_instructions() -> Task:
    rows = items.read("instructions", "prompt", "constraints")
    samples = [
        Sample(
            id=row["id"],
            input=row["prompt"],
            metadata={
                "cell": row["constraints"][0]["kind"] if len(row["constraints"]) == 1 else "several",
                "item": row["id"],
                "split": "",
                "constraints": row["constraints"],
            },
        )
        for row in rows
    ]
    return Task(
        dataset=samples,
        solver=generate(),
        scorer=all_kept(),
        config=GenerateConfig(temperature=0.0),
        metadata={"title": "Instructions", "headline": "followed", "better": "higher", "by": "cell"},
    )
