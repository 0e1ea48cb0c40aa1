"""A run of ours, exported: the logits, the tokenizer and the chat template are the same under transformers."""

import jax
import numpy as np
import pytest

from msm_jax import export
from msm_jax.model import transformer
from msm_jax.pretrained import open_model
from msm_jax.sharding import BATCH

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def test_export_of_a_run(tiny_run, tmp_path):
    export.main(["", "--config=configs/export.py", f"--config.model={tiny_run}", f"--config.out={tmp_path / 'hf'}"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    run = open_model(str(tiny_run))
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
        ours_model = transformer.bind(run.graph, *run.arrays())
        tokens = np.tile(ids, (run.mesh.size, 1))
        spec = jax.NamedSharding(run.mesh, jax.P(BATCH, None))
        place = [
            jax.device_put(x, spec)
            for x in (tokens, np.ones_like(tokens), np.tile(np.arange(len(ids)), (run.mesh.size, 1)))
        ]
        ours = np.asarray(ours_model.logits(ours_model(*place)))[0]
    with torch.no_grad():
        np.testing.assert_allclose(ours, model(torch.tensor(ids[None])).logits[0].numpy(), rtol=0, atol=1e-4)
