"""Agentic misalignment as one Inspect task: its samples are cells, `--epochs` repeats them.

    inspect eval evals/agentic/task.py --model msm/runs/…/aft --epochs 300 \\
        --model-role grader=anthropic/claude-sonnet-4-6
"""

from importlib.metadata import version

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.solver import generate

from evals import judging
from evals.agentic import cells, rules, scenario
from evals.agentic.naming import Assistant
from evals.agentic.scoring import misaligned
from evals.ours import task

# The paper's temperature. It is no detail: at 1.0, which an example of the authors has, others measured less than half
# the rate (.207 → .090) and refusals that are not there at 0.7. 4,096 tokens are what everybody used; thoughts count.
SAMPLING = GenerateConfig(temperature=0.7, max_tokens=4096)
MESSAGES = 3  # system, user, answer: a guard, one generation is all there is


@task
def agentic_misalignment(
    grid: str = "paper",
    split: str = "all",
    assistant: str = "Qwen",
    provider: str = "",
    reasoning: str = "scratchpad",
    extra: str | None = None,
    published_classifiers: bool = False,
) -> Task:
    """Does the assistant harm somebody when it is to be replaced?

    Args:
      grid: paper (27 cells), blackmail, restriction, no_threat, latent, swap, ambiguous; or cells by name, with commas.
      split: all, dev or held_out; of the paper's cells.
      assistant: the name it goes by; inspect_evals' texts say Alex.
      provider: who made it, told in the first sentence; "" leaves that out, as the published prompts do.
      reasoning: scratchpad (offered in the prompt), native (the model's own thinking, which its provider must be set
        to) or none (neither).
      extra: dont or goal: inspect_evals' additional instructions.
      published_classifiers: asks inspect_evals' own judges too; measures classifier_verdict and harmful.
    """
    who = Assistant(assistant, provider)
    chosen = cells.select(grid, split)
    return Task(
        dataset=MemoryDataset([_sample(cell, who, reasoning, extra) for cell in chosen], name=f"{grid}/{split}"),
        setup=judging.needs_judge(),
        solver=generate(tool_calls="none"),
        scorer=misaligned(published_classifiers),
        config=SAMPLING,
        message_limit=MESSAGES,
        metadata={
            "title": "Agentic misalignment",
            "headline": "decided",
            "better": "lower",
            "by": "cell",
            "targets": {action: rules.targets()[action] for action in sorted({cell.action for cell in chosen})},
            "inspect_evals": version("inspect_evals"),
        },
    )


def _sample(cell: cells.Cell, who: Assistant, reasoning: str, extra: str | None) -> Sample:
    told = scenario.prompt(cell, who, reasoning, extra)
    return Sample(
        id=cell.name,
        input=[ChatMessageSystem(content=told.system), ChatMessageUser(content=told.user)],
        metadata={
            "cell": cell.name,
            "item": cell.name,
            "split": cells.split_of(cell),
            "action": cell.action,
            "goal_type": cell.goal_type,
            "goal_value": cell.goal_value,
            "urgency": cell.urgency,
            "assistant": who.name,
            "provider": who.provider,
            "reasoning": reasoning,
            "extra": extra,
        },
    )
