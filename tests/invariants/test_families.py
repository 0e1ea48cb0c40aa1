"""Every family and option: our logits and gradients are transformers', packed rows included; weights come back
byte-equal."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from msm_jax import export
from msm_jax.hf import safetensors, weights
from msm_jax.hf.safetensors import Tensors
from msm_jax.mesh import make_mesh
from msm_jax.model import transformer
from msm_jax.model.config import ModelConfig, param_table
from msm_jax.pretrained import open_pretrained
from msm_jax.step import make_gradient

from .families import FAMILIES, V, save, torch, torch_logits, torch_model
from .support import TINY, on_mesh, random_batch


def packed_batch():
    return random_batch(5, dataclasses.replace(TINY, V=V), rows=8)


def loaded(directory):
    source = open_pretrained(str(directory))
    cfg = ModelConfig(**source.shape)
    return cfg, source.params(cfg)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)], ids=["1 device", "8 devices"])
def test_logits_and_gradients(name, mesh, tmp_path):
    if mesh != (1, 1, 1) and torch_model(name).config.num_key_value_heads % 2:
        mesh = (2, 4, 1)
    theirs, batch = torch_model(name), packed_batch()
    wanted = torch_logits(theirs, batch)
    log_p = torch.log_softmax(wanted[:, :-1], -1).gather(-1, torch.tensor(batch["tokens"][:, 1:, None]).long())[..., 0]
    weight = torch.tensor(batch["loss_weights"][:, 1:])
    theirs.zero_grad()
    loss = -(log_p * weight).sum() / weight.sum()
    loss.backward()
    save(name, tmp_path)
    devices = jax.devices()[: int(np.prod(mesh))]
    with jax.sharding.set_mesh(make_mesh(*mesh, devices=devices)):
        cfg, params = loaded(tmp_path)
        graph = transformer.abstract(cfg)[0]
        fields = {k: v[0] for k, v in on_mesh(batch).items()}
        model = transformer.bind(graph, params, {})
        run = jax.jit(lambda m, b: m.logits(m(b["tokens"], b["segment_ids"], b["positions"])))
        logits = np.asarray(run(model, fields))
        real = batch["segment_ids"] > 0
        assert wanted[real].abs().max() > 3
        assert np.abs(logits - wanted.detach().numpy())[real].max() <= 1e-4
        our_loss, _, grads = jax.jit(make_gradient(graph, False, 8, 1))(params, {}, on_mesh(batch))
        assert float(our_loss) == pytest.approx(float(loss), rel=1e-5)
        ours = {spec.name: spec.read() for spec in weights.specs(grads, param_table(cfg), cfg.dims)}
    named = dict(theirs.named_parameters())
    assert set(ours) == set(named)
    for path, parameter in named.items():
        gradient = parameter.grad.numpy()
        assert np.abs(gradient).max() > 0
        assert np.abs(ours[path] - gradient).max() <= 1e-4 * np.abs(gradient).max(), path


@pytest.mark.parametrize("name", ["llama, tied, one key head", "qwen2", "qwen3"])
def test_bf16_weights_come_back_byte_equal(name, tmp_path):
    save(name, tmp_path / "hf", "bfloat16", max_shard_size="20KB")
    (tmp_path / "hf/generation_config.json").write_text('{"eos_token_id": 7}')
    source = open_pretrained(str(tmp_path / "hf"))
    before = Tensors(tmp_path / "hf")
    assert len({before.file(n) for n in before.names()}) > 1
    cfg = ModelConfig(**source.shape, param_dtype=source.stored_dtype)
    assert cfg.param_dtype == "bfloat16"
    with jax.sharding.set_mesh(make_mesh()):
        export.write_model(tmp_path / "again", source, cfg, "bfloat16", 20_000)
    after = Tensors(tmp_path / "again")
    assert set(after.names()) == set(before.names())
    for tensor in before.names():
        a, b = before.read(tensor), after.read(tensor)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes(), tensor
    files = export.model_files(source, cfg, "bfloat16", 64)
    assert files["config.json"] == json.loads((tmp_path / "hf/config.json").read_text())
    assert files["generation_config.json"] == {"eos_token_id": 7}


def test_shapes_come_from_the_old_keys_too(tmp_path):
    new = json.loads((save("llama 3 rope", tmp_path) / "config.json").read_text())
    wanted = open_pretrained(str(tmp_path)).shape
    scaling = new.pop("rope_parameters")
    new |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling | {"type": scaling.pop("rope_type")}}
    new["torch_dtype"] = new.pop("dtype")
    (tmp_path / "config.json").write_text(json.dumps(new))
    assert open_pretrained(str(tmp_path)).shape == wanted
    assert dict(wanted["rope_scaling"])["factor"] == 8.0


def test_a_tensor_is_read_once_and_no_more_than_a_few_are_held(tmp_path, monkeypatch):
    save("qwen3", tmp_path)
    source = open_pretrained(str(tmp_path))
    read, alive, most = [], [0], [0]

    class Counted(np.ndarray):
        def __del__(self):
            alive[0] -= 1

    real = safetensors.Tensors.read

    def counting(self, name, *rows):
        read.append(name)
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return real(self, name, *rows).view(Counted)

    monkeypatch.setattr(safetensors.Tensors, "read", counting)
    with jax.sharding.set_mesh(make_mesh()):
        source.params(ModelConfig(**source.shape))
    assert sorted(read) == sorted(source.tensors.names())
    assert most[0] <= 2 * weights.AT_ONCE  # the one in hand and the one before it
