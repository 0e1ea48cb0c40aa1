"""peft's adapters under our code and ours under peft's: the same logits; merged is unmerged."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from msm_jax import export
from msm_jax.cli import UserError
from msm_jax.mesh import make_mesh
from msm_jax.model import transformer
from msm_jax.model.config import LINEAR, ModelConfig
from msm_jax.model.lora import LoraConfig
from msm_jax.pretrained import open_pretrained

from .families import save, torch, torch_logits, torch_model, transformers
from .support import on_mesh, random_batch

peft = pytest.importorskip("peft")
BASES = ["llama 3 rope", "qwen2", "qwen3"]


def batch_of(cfg):
    return random_batch(6, cfg, rows=8)


def our_logits(source, cfg, batch, merged=False):
    lora = None if merged else source.lora
    params = source.merged(cfg) if merged else source.params(cfg)
    model = transformer.bind(transformer.abstract(cfg, lora)[0], params, {} if merged else source.adapter(cfg))
    fields = {k: v[0] for k, v in on_mesh(batch).items()}
    run = jax.jit(lambda m, b: m.logits(m(b["tokens"], b["segment_ids"], b["positions"])))
    return np.asarray(run(model, fields))


def make_peft(base_dir, out, rank=4, alpha=12, targets=tuple(LINEAR)):
    """An adapter by peft itself, with b away from zero."""
    base = transformers.AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, attn_implementation="eager")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=[f"{t}_proj" for t in targets],
                             task_type="CAUSAL_LM")  # fmt: skip
    torch.manual_seed(3)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(out)
    return model.eval()


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("targets", [tuple(LINEAR), ("q", "down")], ids=["seven", "two"])
def test_an_adapter_of_peft(name, targets, tmp_path):
    save(name, tmp_path / "base")
    theirs = make_peft(tmp_path / "base", tmp_path / "adapter", targets=targets)
    source = open_pretrained(str(tmp_path / "adapter"), base=str(tmp_path / "base"))
    cfg = ModelConfig(**source.shape)
    assert source.lora == LoraConfig(4, 12.0, targets)
    batch = batch_of(cfg)
    with torch.no_grad():
        wanted = torch_logits(theirs, batch).numpy()
        plain = torch_logits(torch_model(name), batch).numpy()
    real = batch["segment_ids"] > 0
    assert np.abs(wanted - plain)[real].max() > 0.1
    with jax.sharding.set_mesh(make_mesh(2, 2, 2)):
        unmerged, merged = our_logits(source, cfg, batch), our_logits(source, cfg, batch, merged=True)
        assert np.abs(unmerged - wanted)[real].max() <= 1e-4
        assert np.abs(merged - unmerged)[real].max() <= 1e-5 * np.abs(unmerged).max()
        export.write_adapter(tmp_path_of(tmp_path, "again"), source, cfg, None)
        export.write_model(tmp_path_of(tmp_path, "merged"), source, cfg, "float32", 10**9)
    before, after = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("adapter", "again"))
    assert before.keys() == after.keys()
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)
    (tmp_path / "merged/config.json").write_text((tmp_path / "base/config.json").read_text())
    whole = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        assert np.abs(torch_logits(whole, batch).numpy() - wanted)[real].max() <= 1e-4


def tmp_path_of(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


@pytest.mark.parametrize("name", BASES)
def test_an_adapter_of_ours_under_peft(name, tmp_path):
    save(name, tmp_path / "base")
    base = open_pretrained(str(tmp_path / "base"))
    cfg, lora = ModelConfig(**base.shape), LoraConfig(8, 16.0, init="gaussian")
    batch = batch_of(cfg)

    class Fresh(type(base)):  # the base with an adapter of ours on it
        def __init__(self):
            self.__dict__ |= base.__dict__
            self.lora = lora

        base = property(lambda self: base)

        def adapter(self, cfg):
            fresh = transformer.initialize_adapter(cfg, lora, 7)
            return jax.tree.map(lambda x: x + 0.05 * np.cos(np.arange(x.size).reshape(x.shape)), fresh)

    with jax.sharding.set_mesh(make_mesh(2, 2, 2)):
        source = Fresh()
        ours = our_logits(source, cfg, batch)
        export.write_adapter(tmp_path_of(tmp_path, "adapter"), source, cfg, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float32, attn_implementation="eager"
    )
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    real = batch["segment_ids"] > 0
    with torch.no_grad():
        wanted = torch_logits(theirs, batch).numpy()
    assert np.abs(wanted - torch_logits(torch_model(name), batch).detach().numpy())[real].max() > 0.1
    assert np.abs(ours - wanted)[real].max() <= 1e-4


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda d: change(d / "adapter_config.json", use_dora=True), ["adapter_config.json", "use_dora", "True"]),
        (lambda d: change(d / "adapter_config.json", use_rslora=True), ["use_rslora"]),
        (lambda d: change(d / "adapter_config.json", peft_type="LOHA"), ["adapter_config.json", "LOHA", "LORA"]),
        (lambda d: change(d / "adapter_config.json", r=6), ["lora_A", "[4, 32]", "[6, 32]", "adapter_model"]),
        (lambda d: change(d / "adapter_config.json", alora_invocation_tokens=[5]), ["alora_invocation_tokens", "[5]"]),
        (lambda d: change(d / "adapter_config.json", init_lora_weights="pissa"), ["init_lora_weights", "pissa"]),
        (lambda d: change(d / "adapter_config.json", a_variant_to_come={"x": 1}), ["a_variant_to_come"]),
        (lambda d: change(d / "adapter_config.json", lora_alpha=float("nan")), ["lora_alpha = nan"]),
        (lambda d: change(d / "adapter_config.json", r="many"), ["r = 'many'", "numbers"]),
        (lambda d: change(d / "adapter_config.json", modules_to_save=["lm_head"]), ["modules_to_save", "lm_head"]),
        (lambda d: (d / "adapter_model.safetensors").unlink(), ["adapter_model.safetensors", "no such file"]),
        (lambda d: rename(d, "lora_B", "lora_C"), ["lora_B", "missing"]),
        (lambda d: rename(d, "layers.1", "layers.7"), ["layers.1", "missing"]),
    ],
)  # fmt: skip
def test_what_is_refused(break_it, words, tmp_path):
    save("qwen3", tmp_path / "base")
    make_peft(tmp_path / "base", tmp_path / "adapter")
    break_it(tmp_path / "adapter")
    with pytest.raises(UserError) as error:
        open_pretrained(str(tmp_path / "adapter"), base=str(tmp_path / "base"))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def rename(directory, old, new):
    path = directory / "adapter_model.safetensors"
    save_file({k.replace(old, new): v for k, v in load_file(path).items()}, path)


def test_an_adapter_of_another_base(tmp_path):
    save("qwen3", tmp_path / "qwen3")
    save("llama", tmp_path / "llama")
    make_peft(tmp_path / "qwen3", tmp_path / "adapter")
    with pytest.raises(UserError, match=r"adapter_model.safetensors: tensor .*q_proj.* is \[.*\], expected \[.*\]"):
        open_pretrained(str(tmp_path / "adapter"), base=str(tmp_path / "llama"))
    # Without a base given, the one that adapter_config.json names is taken.
    assert open_pretrained(str(tmp_path / "adapter")).base.reference == str(tmp_path / "qwen3")
