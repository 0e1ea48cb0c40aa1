"""Nats a token and bits a byte, against a model whose log-probabilities are known; and what is no measurement."""

import math

import pytest
from inspect_ai import eval
from inspect_ai.model import GenerateConfig, Logprob, Logprobs, ModelAPI, get_model, modelapi

from evals import _registry
from evals.guards import items, perplexity
from tests.evals.guards.running import run, scores
from tests.evals.mocks import says


@modelapi(name="uniform")
class Uniform(ModelAPI):
    """One token a byte, each of 1/256; `form` says what it does with a single assistant's message."""

    def __init__(self, model_name, base_url=None, api_key=None, config=GenerateConfig(), form=""):  # noqa: B008
        super().__init__(model_name, base_url, api_key, [], config)
        self.form = form

    async def generate(self, input, tools, tool_choice, config):
        [message] = input
        assert (message.role, config.prompt_logprobs, config.max_tokens) == ("assistant", 1, 1)
        data = message.text.encode()[1 if self.form == "no bos" else 0 :]
        tokens = [
            Logprob(token=chr(b), logprob=-math.log(256), bytes=None if self.form == "no bytes" else [b]) for b in data
        ]
        output = says("x")
        output.choices[0].prompt_logprobs = Logprobs(content=tokens)
        return output


def measured(form, where, limit):
    model = get_model("uniform/model", form=form, memoize=False)
    task = _registry.neutral_perplexity()
    return scores(eval(task, model=model, display="none", log_dir=str(where), limit=limit)[0])


@pytest.mark.parametrize("form", ["raw", "no bos", "no bytes"])
def test_a_uniform_model_costs_eight_bits_a_byte(form, tmp_path):
    found = measured(form, tmp_path, 3)
    for row in items.read("neutral_text")[:3]:
        score = found[row["id"]]
        assert score.value == pytest.approx({"nats_per_token": math.log(256), "bits_per_byte": 8.0})
        assert score.metadata["tokens"] == len(row["text"].encode()) - (form == "no bos")


def test_a_provider_without_them(tmp_path):
    [score] = run(_registry.neutral_perplexity(), lambda messages: "x", tmp_path, limit=1).values()
    assert all(math.isnan(value) for value in score.value.values())
    assert "gives no log-probabilities" in score.metadata["missing"]["bits_per_byte"]


@pytest.mark.parametrize(
    ("scored", "fine"),
    [
        ("A plain text.", True),
        (" plain text.", True),
        ("<|user|>A plain text.", False),
        ("A plain", False),
        ("", False),
    ],
)
def test_what_was_scored_must_be_the_text(scored, fine):
    """Where the provider tells the tokens' bytes: all of the text, or all but a first token."""
    output = says("x")
    output.choices[0].prompt_logprobs = Logprobs(
        content=[Logprob(token="?", logprob=-1.0, bytes=[b]) for b in scored.encode()]
    )
    found = perplexity.measured(output, "A plain text.")
    assert isinstance(found, tuple) == fine
    assert found[1] == len(scored) if fine else "log-probabilities" in found or "not the text alone" in found


def test_a_long_text_of_which_the_beginning_is_missing_is_none():
    output = says("x")
    output.choices[0].prompt_logprobs = Logprobs(content=[Logprob(token="?", logprob=-1.0, bytes=[97])] * 50)
    assert "not the text alone" in perplexity.measured(output, "a" * 200)
