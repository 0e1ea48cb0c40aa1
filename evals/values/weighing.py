"""How likely a model finds each of two answers, from a provider's log-probabilities of what stands in the prompt."""

import dataclasses
import math
from collections.abc import Sequence

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import GenerateConfig, Logprob, Model, ModelName
from inspect_ai.util import collect

from evals.values import asking

# Providers of Inspect that give no log-probabilities of a prompt, as far as is known; others are tried.
_WITHOUT = """
anthropic azureai bedrock cloudflare fireworks goodfire google grok groq hf mistral openai openrouter perplexity
together
"""
WITHOUT = frozenset(_WITHOUT.split())
ONE_TOKEN = GenerateConfig(max_tokens=1, temperature=0.0, prompt_logprobs=1)
MEND = "ask for answers alone with -T method=generate, or serve the model by msm/ or vllm/"


class NoLogProbabilitiesError(PrerequisiteError):
    """A provider gives none, or of another text than it was given."""


def check(model: Model) -> None:
    """Raises NoLogProbabilitiesError where the model's provider is known to give none, before it is asked."""
    if ModelName(model).api in WITHOUT:
        raise NoLogProbabilitiesError(f"{model} gives no log-probabilities of a prompt; {MEND}")


@dataclasses.dataclass(frozen=True)
class Weight:
    """An answer's log-probability, summed over `tokens` tokens: those after what both answers begin with, whose
    log-probabilities are the same in both."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.total / self.tokens


async def weigh(model: Model, prompt: str, answers: tuple[str, str], form: str) -> tuple[Weight, Weight]:
    """The weights of two answers to a prompt.

    Raises:
      NoLogProbabilitiesError: as its docstring says.
    """
    outputs = await collect(*(model.generate(asking.asked(prompt, a, form), config=ONE_TOKEN) for a in answers))
    found = []
    for output, answer in zip(outputs, answers, strict=True):
        given = output.choices[0].prompt_logprobs if output.choices else None
        if given is None or not given.content:
            raise NoLogProbabilitiesError(f"{model} gave no log-probabilities of a prompt; {MEND}")
        last = _bare(given.content[-1].token)
        if last.isascii() and not answer.endswith(last):
            raise NoLogProbabilitiesError(
                f"{model}: the prompt ends with {last!r} where the answer does with {answer[-20:]!r}; its provider "
                f"does not continue the assistant's last message; {MEND}"
            )
        found.append(given.content)
    return weights(*found)


def weights(a: Sequence[Logprob], b: Sequence[Logprob]) -> tuple[Weight, Weight]:
    """Of two prompts' tokens. Raises NoLogProbabilitiesError where one is the beginning of the other."""
    same = 0
    while same < min(len(a), len(b)) and a[same].token == b[same].token:
        same += 1
    if same == min(len(a), len(b)):
        raise NoLogProbabilitiesError(f"two prompts with different answers have the same tokens; {MEND}")
    first, second = (Weight(math.fsum(t.logprob for t in rest), len(rest)) for rest in (a[same:], b[same:]))
    return first, second


def _bare(token: str) -> str:
    """A token's text without what tokenizers write for a space before it."""
    return token.lstrip(" Ġ▁")
