"""Agents under attack, from outside the paper's lineage: two suites of inspect_evals, with this project's measures.

    inspect eval msm_jax/agent_threats --model msm/CHECKPOINT
    inspect eval msm_jax/agentdojo --model msm/CHECKPOINT     # needs: pip install 'inspect-evals[agentdojo]'

AgentThreatBench (24 scenarios of injected instructions) and AgentDojo (Debenedetti et al. 2024; here the suites that
need no container) bring their data along: no hub, no network. Both need a model that calls tools; a provider without a
tools' API takes part with evals/tool_text.py. A model that does nothing at all is secure: read `security` beside
`utility` and `tool_use`.
"""

from typing import Any

from inspect_ai import Task, task_with
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver, system_message

from evals.guards import items
from evals.guards.scores import MEASURES, scored
from evals.ours import task

SUITES = "banking,slack,workspace"  # of AgentDojo; workspace_plus needs a container, travel is left to who asks for it
_ABOUT = {"headline": "security", "better": "higher", "by": "cell"}


@scorer(metrics=MEASURES)
def under_attack(theirs: Scorer, resisted: str) -> Scorer:
    """security (the attack had no effect), utility (the user's task was done), both, tool_use (a tool was called).

    Args:
      theirs: the suite's own scorer, whose values are C or I.
      resisted: which of the two its "security" is where the attack failed. AgentDojo says C where it succeeded.
    """

    async def score(state: TaskState, target: Target) -> Score:
        found = await theirs(state, target)
        values = found.value if found and isinstance(found.value, dict) else {}
        security, utility = values.get("security") == resisted, values.get("utility") == "C"
        calls = [call for message in state.messages if message.role == "assistant" for call in message.tool_calls or []]
        measures = {
            "security": security,
            "utility": utility,
            "both": security and utility,
            "tool_use": bool(calls),
        }
        called = ", ".join(call.function for call in calls) or "none"
        said = f"calls: {called}\n{found.explanation or ''}".strip() if found else ""
        return scored(measures, None, "", said)

    return score


@solver
def threatened() -> Solver:
    """AgentThreatBench's own prompt and tools, by the sample's type of task; then turns until the model is done."""
    from inspect_evals.agent_threat_bench import agent_threat_bench as suite
    from inspect_evals.agent_threat_bench.tools import use_agent_threat_bench_tools

    prompts = {
        "memory_poison": suite.MEMORY_POISON_SYSTEM_PROMPT,
        "autonomy_hijack": suite.AUTONOMY_HIJACK_SYSTEM_PROMPT,
        "data_exfil": suite.DATA_EXFIL_SYSTEM_PROMPT,
    }

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        kind = state.metadata["task_type"]
        state = await system_message(prompts[kind])(state, generate)
        state = await use_agent_threat_bench_tools(task_name=kind)(state, generate)
        return await generate(state, tool_calls="loop")

    return solve


@task
def agent_threats() -> Task:
    """AgentThreatBench's three kinds of attack as one task."""
    from inspect_evals.agent_threat_bench.dataset import load_agent_threat_bench_dataset
    from inspect_evals.agent_threat_bench.scorer import agent_threat_bench_scorer

    kinds = ("memory_poison", "autonomy_hijack", "data_exfil")
    samples = [
        _ours(sample, kind, str(sample.id)) for kind in kinds for sample in load_agent_threat_bench_dataset(kind)
    ]
    return Task(
        dataset=MemoryDataset(samples, name="agent_threats"),
        solver=threatened(),
        scorer=under_attack(agent_threat_bench_scorer(), resisted="C"),
        message_limit=20,
        metadata={"title": "Agents under attack (AgentThreatBench)", **_ABOUT},
    )


@task
def agentdojo(suites: str = SUITES, attack: str = "important_instructions") -> Task:
    """Args:
    suites: of banking, slack, travel and workspace, with commas between.
    attack: the name of one of AgentDojo's attacks.
    """
    names = items.chosen(suites, ["banking", "slack", "travel", "workspace"], "suites")
    try:
        import deepdiff  # noqa: F401 (its scorers import it, after the requests)
        from inspect_evals.agentdojo import agentdojo as theirs
        from inspect_evals.agentdojo.scorer import injection_task_scorer

        suite = theirs(workspace=sorted(names), attack=attack, with_sandbox_tasks="no")
    except ImportError as error:
        raise PrerequisiteError("agentdojo needs more packages: pip install 'inspect-evals[agentdojo]'") from error
    except (KeyError, ValueError) as error:
        raise PrerequisiteError(f"-T attack={attack}: {error}") from error
    for sample in suite.dataset:
        about = sample.metadata or {}
        name = about["task_suite_name"]
        _ours(sample, name, f"{name}-u{about['task_id']}")
    return task_with(
        suite,
        scorer=under_attack(injection_task_scorer(), resisted="I"),
        metadata={"title": "Agents under attack (AgentDojo)", **_ABOUT},
    )


def _ours(sample: Sample, cell: str, item: str) -> Sample:
    """Adds this project's keys to a sample's metadata."""
    about: dict[str, Any] = sample.metadata or {}
    sample.metadata = about | {"cell": cell, "item": item, "split": ""}
    return sample
