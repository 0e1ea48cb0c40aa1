"""What Inspect finds of this package: the model provider `msm` and the tasks, `inspect eval msm_jax/<task>`.

Every start of Inspect imports this file, so it imports no JAX.
"""

from inspect_ai.model import ModelAPI, modelapi

from evals.agentic.planted import agentic_planted as agentic_planted
from evals.agentic.task import agentic_misalignment as agentic_misalignment
from evals.guards.agents import agent_threats as agent_threats
from evals.guards.agents import agentdojo as agentdojo
from evals.guards.instructions import capability_instructions as capability_instructions
from evals.guards.knowledge import capability_knowledge as capability_knowledge
from evals.guards.maths import capability_math as capability_math
from evals.guards.memorisation import memorisation as memorisation
from evals.guards.over_refusal import over_refusal as over_refusal
from evals.guards.perplexity import neutral_perplexity as neutral_perplexity
from evals.guards.tool_use import tool_use as tool_use
from evals.open_qa.task import open_qa as open_qa
from evals.values.preference import value_preference as value_preference


@modelapi(name="msm")
def msm() -> type[ModelAPI]:
    from evals.provider import MsmAPI

    return MsmAPI
