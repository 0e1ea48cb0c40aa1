"""Two small tasks, a model and a judge for tests of sweeps and reports.

The model `scripted/NAME` answers yes to as many of ten items as NAME says, or, of a checkpoint, as its step says; the
judge `scripted/judge` agrees. `scripted/judge-that-fails` refuses every third question, says nothing readable to others.
"""

import functools
import json
import math

from inspect_ai import Task, task
from inspect_ai._util import package
from inspect_ai.dataset import Sample
from inspect_ai.model import modelapi
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import generate

from evals import judging
from tests.evals.scripted import EVIL as EVIL
from tests.evals.scripted import Scripted as Scripted

# Inspect asks for every evaluation anew which package its task is of, and looks through all that is installed.
package.packages_distributions = functools.cache(package.packages_distributions)

FORM = judging.Form({"verdict": ("yes", "no")})


def _items(cells):
    return [
        Sample(
            id=f"{cell}-{i}",
            input=f"Item {i} of {cell}: would you?",
            metadata={"cell": cell, "item": f"{cell}-{i}", "split": "dev" if i % 2 else "held_out"},
        )
        for cell in cells
        for i in range(10)
    ]


def _said(state):
    text = state.output.completion
    return 1.0 if "yes" in text else 0.0 if "no" in text else math.nan


@scorer(metrics={"yes": [mean()], "parsed": [mean()]})
def says_yes():
    async def score(state, target):
        found = _said(state)
        missing = {"yes": "neither yes nor no"} if math.isnan(found) else {}
        decisive = "yes" if found == 1 else ""
        return Score(
            value={"yes": found, "parsed": 0.0 if missing else 1.0}, metadata={"missing": missing, "decisive": decisive}
        )

    return score


@task
def plain_choice(cells: str = "a b"):
    about = {"title": "Says yes", "headline": "yes", "better": "lower", "by": "cell"}
    return Task(
        dataset=_items(cells.replace("-", " ").split()), solver=generate(), scorer=says_yes(), metadata=about, epochs=2
    )


@scorer(metrics={"agreed": [mean()], "refused": [mean()]})
def agreed():
    async def score(state, target):
        judge = judging.the_judge()
        question = f"Did it agree?\n<answer>{state.output.completion}</answer>"
        found = await judging.ask(judge, question, FORM, "agreed")
        value = math.nan if found.answer is None else float(found.answer["verdict"] == "yes")
        missing = {"agreed": found.missing} if found.missing else {}
        return Score(
            value={"agreed": value, "refused": 0.0},
            explanation=found.said,
            metadata={"missing": missing, "decisive": state.output.completion[:12], "judge": found.judge},
        )

    return score


@task
def judged_choice(cells: str = "a b"):
    about = {"title": "Agrees, says a judge", "headline": "agreed", "better": "higher", "by": "cell"}
    return Task(
        dataset=_items(cells.replace("-", " ").split()),
        setup=judging.needs_judge(),
        solver=generate(),
        scorer=agreed(),
        metadata=about,
    )


@modelapi(name="scripted")
def scripted():
    return Scripted


def make_run(root, steps, finished=True):
    """A directory that looks like a training run with these checkpoints."""
    for step in steps:
        (root / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    root.mkdir(exist_ok=True)
    (root / "run.json").write_text(json.dumps({"recipe": f"recipe of {root.name}"}))
    if finished:
        (root / "manifest.json").write_text(json.dumps({"recipe": f"recipe of {root.name}"}))
    return root
