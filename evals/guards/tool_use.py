"""Tool use in text: does the model call the right tool with the right arguments, in the tags it was told?

    inspect eval msm_jax/tool_use --model msm/CHECKPOINT

The syntax is that of the agentic scenarios, so that a rate there can be told from not having understood it.
"""

import tomllib
from pathlib import Path

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState, generate

from evals.guards import items, prompts, refusals, tool_calls
from evals.guards.scores import MEASURES, scored
from evals.ours import task

TOOLS = Path(__file__).with_name("tools.toml")


@scorer(metrics=MEASURES)
def right_calls() -> Scorer:
    """tool_use (a tag is there), parsed (what tags there are can be read), right_tool (exactly the tools the task
    needs; none where it needs none), right_arguments (and with exactly its arguments), refused."""

    async def score(state: TaskState, target: Target) -> Score:
        wanted = state.metadata["calls"]
        found = tool_calls.read(state.output.completion)
        calls = found.calls
        refusal = refusals.found(state.output.completion)
        measures = {
            "tool_use": found.attempted,
            "parsed": calls is not None,
            "right_tool": calls is not None and tool_calls.same_tools(calls, wanted),
            "right_arguments": calls is not None and tool_calls.same_calls(calls, wanted),
            "refused": bool(refusal),
        }
        decisive = calls[0].passage if calls else refusal
        said = found.problem or ", ".join(call.tool for call in calls or []) or "no call"
        return scored(measures, None, decisive, f"{said}; wanted: {', '.join(c['tool'] for c in wanted) or 'none'}")

    return score


@task
def tool_use() -> Task:
    described = {name: {"name": name, **about} for name, about in tomllib.loads(TOOLS.read_text()).items()}
    rows = items.read("tool_use", "kind", "tools", "request", "calls")
    samples = [
        Sample(
            id=row["id"],
            input=[
                ChatMessageSystem(content=prompts.render("tool_use", tools=[described[name] for name in row["tools"]])),
                ChatMessageUser(content=row["request"]),
            ],
            metadata={"cell": row["kind"], "item": row["id"], "split": "", "calls": row["calls"]},
        )
        for row in rows
    ]
    return Task(
        dataset=samples,
        solver=generate(),
        scorer=right_calls(),
        config=GenerateConfig(temperature=0.0),
        metadata={"title": "Tool use in text", "headline": "right_arguments", "better": "higher", "by": "cell"},
    )
