"""What plain language costs a model: log-probability of passages of our own that no training is about.

    inspect eval msm_jax/neutral_perplexity --model msm/CHECKPOINT

Needs a provider that gives the prompt's log-probabilities (msm, vLLM's completions). A passage is a single assistant's
message, which the provider has to take for raw text after BOS, without a chat template.
"""

import math

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageAssistant, GenerateConfig, Logprob, ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState, generate

from evals.guards import items
from evals.guards.scores import MEASURES, scored
from evals.ours import task

_FIRST = 64  # bytes that a first token may have, which a model without BOS cannot predict


def measured(output: ModelOutput, text: str) -> tuple[list[Logprob], int] | str:
    """The tokens of `text` that a model scored and how many of its bytes they are; in words what is wrong.

    A provider that says which bytes each token is shows whether it scored this text, or a chat with it inside.
    """
    logprobs = output.choices[0].prompt_logprobs if output.choices else None
    if not logprobs or not logprobs.content:
        return "the provider gives no log-probabilities of the prompt"
    tokens, whole = logprobs.content, text.encode()
    if any(token.bytes is None for token in tokens):
        return tokens, len(whole)
    said = bytes(byte for token in tokens for byte in token.bytes or [])
    if not whole.endswith(said) or len(whole) - len(said) > _FIRST:
        return "what the provider scored is not the text alone"
    return tokens, len(said)


@scorer(metrics=MEASURES)
def costs() -> Scorer:
    """nats_per_token and bits_per_byte, from 0 up: minus the mean log-probability. The second can be compared between
    tokenizers."""

    async def score(state: TaskState, target: Target) -> Score:
        found = measured(state.output, state.messages[0].text)
        if isinstance(found, str):
            absent = dict.fromkeys(("nats_per_token", "bits_per_byte"))
            return scored(absent, dict.fromkeys(absent, found), explanation=found)
        tokens, size = found
        nats = -sum(token.logprob for token in tokens)
        measures = {"nats_per_token": nats / len(tokens), "bits_per_byte": nats / math.log(2) / size}
        return scored(measures, explanation=f"{nats:.1f} nats, {len(tokens)} tokens", tokens=len(tokens), bytes=size)

    return score


@task
def neutral_perplexity() -> Task:
    samples = [
        Sample(
            id=row["id"],
            input=[ChatMessageAssistant(content=row["text"])],
            metadata={"cell": row["kind"], "item": row["id"], "split": ""},
        )
        for row in items.read("neutral_text", "kind", "text")
    ]
    return Task(
        dataset=samples,
        solver=generate(),
        scorer=costs(),
        config=GenerateConfig(temperature=0.0, max_tokens=1, prompt_logprobs=1),
        metadata={"title": "Plain language", "headline": "bits_per_byte", "better": "lower", "by": "cell"},
    )
