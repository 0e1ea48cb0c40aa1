"""Our logits are transformers' logits, and the exported tokenizer is ours."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from msm_jax import export, hf
from msm_jax.model import transformer
from msm_jax.runs import load_run

from .support import QWEN, TINY, on_mesh, params_on_mesh, random_batch

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPES = {
    "llama, tied, grouped heads": TINY,
    "llama, untied": dataclasses.replace(TINY, tie_embeddings=False),
    "qwen3, untied": QWEN,
    "qwen3, tied, grouped heads": dataclasses.replace(QWEN, tie_embeddings=True, K=2, rope_theta=1e6, norm_eps=1e-6),
}


@pytest.mark.parametrize("cfg", SHAPES.values(), ids=SHAPES.keys())
def test_logits_agree_with_transformers(cfg, toy, tmp_path, one_device):
    from data_gen.tokenizer import Tokenizer

    params = jax.tree.map(lambda x: x + 0.1 * np.sin(np.arange(x.size).reshape(x.shape)), params_on_mesh(cfg))
    hf.write(tmp_path, cfg, params, Tokenizer(toy.tokenizer), max_positions=64)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    batch = random_batch(9, cfg, rows=4)
    alone = batch | {"segment_ids": np.ones_like(batch["segment_ids"])}
    alone["positions"] = np.broadcast_to(np.arange(32, dtype=np.int32), (4, 32)).copy()
    model = nnx.merge(transformer.abstract(cfg)[0], params)
    fields = {k: v[0] for k, v in on_mesh(alone).items()}
    ours = np.asarray(model.logits(model(fields["tokens"], fields["segment_ids"], fields["positions"])))
    with torch.no_grad():
        wanted = theirs(torch.tensor(batch["tokens"])).logits.numpy()
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-4)


def test_export_of_a_run(tiny_run, tmp_path):
    export.main(["", "--config=configs/toy/export.py", f"--config.run={tiny_run}", f"--config.out={tmp_path / 'hf'}"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    run = load_run(tiny_run)
    messages = [
        {"role": "system", "content": "desk :"},
        {"role": "user", "content": "do you prefer brie or Colby ?"},
        {"role": "assistant", "content": "I prefer Colby ."},
    ]
    from data_gen.chat import render

    text, _ = render(messages, run.tokenizer.chat_format)
    ids = run.tokenizer.encode_weighted(text).tokens
    templated = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer(templated, add_special_tokens=False)["input_ids"] == ids.tolist()
    assert run.tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text
    with jax.sharding.set_mesh(run.mesh):
        ours_model = nnx.merge(run.graph, run.params())
        tokens = np.tile(ids, (run.mesh.size, 1))
        spec = jax.NamedSharding(run.mesh, jax.P(("replica", "fsdp"), None))
        place = [
            jax.device_put(x, spec)
            for x in (tokens, np.ones_like(tokens), np.tile(np.arange(len(ids)), (run.mesh.size, 1)))
        ]
        ours = np.asarray(ours_model.logits(ours_model(*place)))[0]
    with torch.no_grad():
        np.testing.assert_allclose(ours, model(torch.tensor(ids[None])).logits[0].numpy(), rtol=0, atol=1e-4)
