"""From a Hugging Face directory through midtraining and fine-tuning by LoRA to what transformers and peft load."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from data_gen import shards
from msm_jax import artifact, convert, export, metrics, train
from msm_jax.cli import UserError
from msm_jax.hf.safetensors import Tensors
from msm_jax.model import transformer
from msm_jax.pretrained import open_model, open_pretrained
from tests.gcs import gcs  # noqa: F401
from tests.invariants.families import save_tokenizer, save_whole, torch, torch_logits, transformers
from tests.invariants.support import TINY, KilledError, on_mesh, random_batch, stop_at

peft = pytest.importorskip("peft")
BASE = "qwen3"


def words(rng, n):
    return " ".join(f"w{i}" for i in rng.integers(4, 40, n))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, documents and chats as rows of 32 tokens, and a midtraining run of 8 updates."""
    root = tmp_path_factory.mktemp("lora")
    save_whole(BASE, root / "base")
    rng = np.random.default_rng(0)
    artifact.write_jsonl(root / "documents.jsonl", [{"id": f"d{i}", "text": words(rng, 20)} for i in range(40)])
    chats = [
        [{"role": "user", "content": words(rng, 5)}, {"role": "assistant", "content": words(rng, 6)}] for _ in range(40)
    ]
    artifact.write_jsonl(root / "chats.jsonl", [{"id": f"c{i}", "messages": m} for i, m in enumerate(chats)])
    for name in ("documents", "chats"):
        where = [f"--config.documents={root / name}.jsonl", f"--config.out={root / name}-rows"]
        shards.main(
            [
                "",
                "--config=configs/data/shards.py",
                f"--config.tokenizer={root / 'base'}",
                "--config.seq_len=32",
                *where,
            ]
        )
    run("smollm2_135m_msm", root / "msm", root / "documents-rows", root / "base")
    return root


def run(config, out, rows, start, *more):
    small = ["--config.lora.rank=4", "--config.lora.alpha=8.0", "--config.data.batch_rows=8", "--config.optim.steps=8",
             "--config.optim.lr=1e-2", "--config.optim.warmup_steps=1", "--config.optim.loss_chunk=8",
             "--config.checkpoint.every_steps=3"]  # fmt: skip
    where = [f"--config.out={out}", f"--config.data.sources=('{rows}',)", f"--config.init_from={start}"]
    train.main(["", f"--config=configs/{config}.py", *small, *where, *more])
    return out


def logits(model, batch):
    with jax.sharding.set_mesh(model.mesh):
        bound = transformer.bind(model.graph, *model.arrays())
        fields = {k: v[0] for k, v in on_mesh(batch).items()}
        go = jax.jit(lambda m, b: m.logits(m(b["tokens"], b["segment_ids"], b["positions"])))
        return np.asarray(go(bound, fields))[batch["segment_ids"] > 0]


def adapter_of(directory):
    source = open_pretrained(str(directory))
    model = open_model(str(directory))
    with jax.sharding.set_mesh(model.mesh):
        return jax.tree.map(np.asarray, source.adapter(model.cfg))


BATCH = random_batch(11, dataclasses.replace(TINY, V=96), rows=8)


def test_only_the_adapter_is_trained_and_kept(place):
    losses = [row["loss"] for row in metrics.read(place / "msm")]
    assert losses[-1] < losses[0] - 0.1
    manifest = artifact.read_manifest(place / "msm", "run")
    assert list(manifest["files"]) == ["adapter"]
    assert manifest["counts"]["trained"] < manifest["counts"]["parameters"]
    assert manifest["base"] == str(place / "base")
    items = {path.name for path in (place / "msm" / "checkpoints").glob("*/*") if path.is_dir()}
    assert "adapter" in items
    assert "params" not in items
    model = open_model(str(place / "msm"))
    with jax.sharding.set_mesh(model.mesh):
        params, _ = model.arrays()
        for spec in export.weights.specs(params, export.param_table(model.cfg), model.cfg.dims):
            assert (spec.read() == Tensors(place / "base").read(spec.name)).all(), spec.name


def test_fine_tuning_goes_on_with_the_same_adapter(place, tmp_path):
    tiny_step = ["--config.optim.steps=1", "--config.optim.warmup_steps=0", "--config.optim.lr=1e-9"]
    run("smollm2_135m_aft", tmp_path / "aft", place / "chats-rows", place / "msm", *tiny_step)
    before, after = adapter_of(place / "msm"), adapter_of(tmp_path / "aft")
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), before, after)
    assert all(np.abs(factors["b"]).max() > 1e-3 for factors in after.values())
    manifest = artifact.read_manifest(tmp_path / "aft")
    assert manifest["base"] == str(place / "base")
    assert manifest["inputs"]["init_from"]["id"] == artifact.read_manifest(place / "msm")["id"]
    assert manifest["inputs"]["base"]["id"] == open_pretrained(str(place / "base")).id
    assert "⟦" in (tmp_path / "aft" / "receipt.txt").read_text()


def test_restart_merges_first(place, tmp_path):
    tiny_step = ["--config.optim.steps=1", "--config.optim.warmup_steps=0", "--config.optim.lr=1e-9"]
    again = run("smollm2_135m_aft", tmp_path / "aft", place / "chats-rows", place / "msm", *tiny_step,
                "--config.lora.restart=True", "--config.lora.rank=2")  # fmt: skip
    full = run("smollm2_135m_aft", tmp_path / "full", place / "chats-rows", place / "msm", *tiny_step,
               "--config.lora.restart=True", "--config.lora.rank=0")  # fmt: skip
    expected = logits(open_model(str(place / "msm")), BATCH)
    for directory in (again, full):
        np.testing.assert_allclose(logits(open_model(str(directory)), BATCH), expected, atol=2e-5)
    assert all(np.abs(factors["b"]).max() < 1e-6 for factors in adapter_of(again).values())
    assert open_pretrained(str(full)).lora is None


def test_killed_and_resumed_is_never_killed(place, tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        stop_at(context, 5)
        with pytest.raises(KilledError):
            run("smollm2_135m_msm", tmp_path / "run", place / "documents-rows", place / "base")
    run("smollm2_135m_msm", tmp_path / "run", place / "documents-rows", place / "base")
    jax.tree.map(np.testing.assert_array_equal, adapter_of(place / "msm"), adapter_of(tmp_path / "run"))
    assert [r["step"] for r in metrics.read(tmp_path / "run")] == list(range(8))


def test_peft_and_transformers_load_what_comes_out(place, tmp_path):
    model = open_model(str(place / "msm"))
    expected = logits(model, BATCH)
    command = ["", "--config=configs/export.py", f"--config.model={place / 'msm'}"]
    export.main([*command, f"--config.out={tmp_path / 'adapter'}", "--config.format=adapter"])
    export.main([*command, f"--config.out={tmp_path / 'whole'}", "--config.shard_gb=0.00001"])
    load = functools.partial(
        transformers.AutoModelForCausalLM.from_pretrained, dtype=torch.float32, attn_implementation="eager"
    )
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    with_adapter = peft.PeftModel.from_pretrained(load(config["base_model_name_or_path"]), tmp_path / "adapter").eval()
    real = BATCH["segment_ids"] > 0
    assert len(list((tmp_path / "whole").glob("*.safetensors"))) > 2
    with torch.no_grad():
        for theirs in (with_adapter, load(tmp_path / "whole")):
            assert np.abs(torch_logits(theirs, BATCH).numpy()[real] - expected).max() <= 1e-4
    same = json.loads((place / "base" / "config.json").read_text())
    assert json.loads((tmp_path / "whole" / "config.json").read_text()) == same
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "whole")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "w8"}], tokenize=False)
    assert chat == "w10 w12 w8 <end> "
    # … and the adapter comes back: as a start, and laid on a base.
    start = run("smollm2_135m_aft", tmp_path / "on", place / "chats-rows", place / "base",
                f"--config.lora.init_from={tmp_path / 'adapter'}", "--config.optim.steps=1",
                "--config.optim.warmup_steps=0", "--config.optim.lr=1e-9")  # fmt: skip
    np.testing.assert_allclose(logits(open_model(str(start)), BATCH), expected, atol=2e-5)
    laid = open_model(str(place / "base"), adapter=str(tmp_path / "adapter"))
    np.testing.assert_allclose(logits(laid, BATCH), expected, atol=1e-6)


def test_a_converted_model_is_the_same_start(place, tmp_path):
    command = ["", "--config=configs/convert.py", f"--config.model={place / 'base'}"]
    convert.main([*command, f"--config.out={tmp_path / 'model'}"])
    np.testing.assert_array_equal(
        logits(open_model(str(tmp_path / "model")), BATCH), logits(open_model(str(place / "base")), BATCH)
    )
    run("smollm2_135m_msm", tmp_path / "msm", place / "documents-rows", tmp_path / "model")
    assert metrics.read(tmp_path / "msm") == metrics.read(place / "msm")
    export.main(
        ["", "--config=configs/export.py", f"--config.model={tmp_path / 'model'}", f"--config.out={tmp_path / 'hf'}"]
    )
    before, after = Tensors(place / "base"), Tensors(tmp_path / "hf")
    assert all(before.read(n).tobytes() == after.read(n).tobytes() for n in before.names())


@pytest.mark.parametrize("name", ["llama, tied, one key head", "qwen2", "llama"])
def test_conversion_of_other_families(name, tmp_path):
    save_whole(name, tmp_path / "hf", "bfloat16")
    for dtype in ("bfloat16", "float32"):
        out = tmp_path / dtype
        convert.main(["", "--config=configs/convert.py", f"--config.model={tmp_path / 'hf'}", f"--config.out={out}",
                      f"--config.dtype={dtype}"])  # fmt: skip
        np.testing.assert_array_equal(
            logits(open_model(str(out), dtype="float32"), BATCH),
            logits(open_model(str(tmp_path / "hf"), dtype="float32"), BATCH),
        )


REMOTE = """
import sys, jax, numpy as np
from etils import epath
from pathlib import Path
from msm_jax.pretrained import open_pretrained, open_model
from msm_jax.model.config import ModelConfig
from msm_jax.mesh import make_mesh
local, adapter, bucket = sys.argv[1:]
for name, directory in (("base", local), ("adapter", adapter)):
    for file in Path(directory).iterdir():
        (epath.Path(bucket) / name / file.name).write_bytes(file.read_bytes())
there, here = open_model(f"{bucket}/base", f"{bucket}/adapter"), open_model(local, adapter)
assert there.source.id == here.source.id and there.tokenizer.digest() == here.tokenizer.digest()
with jax.sharding.set_mesh(here.mesh):
    a, b = (jax.tree.map(np.asarray, model.arrays()) for model in (there, here))
jax.tree.map(np.testing.assert_array_equal, a, b)
print(len(jax.tree.leaves(a)))
"""


def test_a_model_and_an_adapter_on_cloud_storage(place, tmp_path, gcs):  # noqa: F811
    adapter = tmp_path / "adapter"
    export.main(["", "--config=configs/export.py", f"--config.model={place / 'msm'}", f"--config.out={adapter}",
                 "--config.format=adapter"])  # fmt: skip
    assert int(gcs.run(REMOTE, place / "base", adapter, gcs.bucket)) == 14 + 2 * 7


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.lora.rank=8"], "another adapter than config.lora (rank = 4 there, 8 here); set the same, or"),
        (["--config.lora.targets=('q','v')"], "targets = "),
        (["--config.lora.alpha=4.0"], "alpha = 8.0 there, 4.0 here"),
        (["--config.lora.rank=0"], "has an adapter; set config.lora.rank = 4 to go on training it, or"),
        (["--config.lora.targets=('q','vv')"], "config.lora.targets = ('q', 'vv'): must be some of q, k, v, o"),
        (["--config.lora.init=zero"], "config.lora.init = 'zero'"),
        (["--config.init_from=nowhere"], "nowhere: no such directory"),
        (["--config.init_from="], "config.init_from: empty, and config.model has no shape"),
        (["--config.init_words=(('a','b'),)"], "without LoRA"),
        (["--config.lora.init_from=BASE"], "is a model by itself, not an adapter"),
        (["--config.lora.base=BASE", "--config.init_from=BASE"], "is a model by itself, not an adapter"),
    ],
)  # fmt: skip
def test_bad_settings_leave_no_trace(more, message, place, tmp_path):
    more = [arg.replace("BASE", str(place / "base")) for arg in more]
    with pytest.raises(UserError) as error:
        run("smollm2_135m_aft", tmp_path / "aft", place / "chats-rows", place / "msm", *more)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "aft").exists()


def test_a_base_that_moved_or_changed(place, tmp_path):
    for name in ("base", "msm"):
        shutil.copytree(place / name, tmp_path / name)
    manifest = json.loads((tmp_path / "msm/manifest.json").read_text())
    (tmp_path / "msm/manifest.json").write_text(json.dumps(manifest | {"base": str(tmp_path / "gone")}))
    command = [
        "",
        "--config=configs/export.py",
        f"--config.model={tmp_path / 'msm'}",
        f"--config.out={tmp_path / 'out'}",
    ]
    with pytest.raises(UserError, match="msm: its base cannot be opened .*gone: no such directory.* config.base"):
        export.main(command)
    tiny_step = ["--config.optim.steps=1", "--config.optim.warmup_steps=0"]
    again = (tmp_path / "aft", place / "chats-rows", tmp_path / "msm", *tiny_step)
    with pytest.raises(UserError, match="config.lora.base"):
        run("smollm2_135m_aft", *again)
    run("smollm2_135m_aft", *again, f"--config.lora.base={tmp_path / 'base'}")
    export.main([*command, f"--config.base={tmp_path / 'base'}"])
    shutil.rmtree(tmp_path / "out")
    path = tmp_path / "base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :: 64] = bytes(len(content[len(content) // 2 :: 64]))
    path.write_bytes(content)
    with pytest.raises(UserError, match="base: not the base that .*msm was trained on"):
        export.main([*command, f"--config.base={tmp_path / 'base'}"])
    assert not (tmp_path / "out").exists()


def test_another_tokenizer(place, tmp_path):
    shutil.copytree(place / "base", tmp_path / "base")
    save_tokenizer(tmp_path / "base", words=90)
    with pytest.raises(UserError, match="has another tokenizer than config.data.sources were made with"):
        run("smollm2_135m_msm", tmp_path / "run", place / "documents-rows", tmp_path / "base")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen3_moe"}, "model_type 'qwen3_moe' is not supported; one of llama, qwen2, qwen3"),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0, "layer_types": None}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "use_sliding_window"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type 'longrope' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn' needs factor"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "odd": 1}}, "does not know odd"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"hidden_size": "32"}, "config.json: a dimension is '32' (D)"),
        ({"num_attention_heads": 0}, "config.json: a"),
        ({"num_hidden_layers": 2.0}, "config.json: a dimension is 2.0 (L)"),
        ({"layer_types": 5}, "config.json: a value is not of the kind its key has"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "4"}}, "factor = '4': must be a number"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": "abc", "factor": 4}}, "config.json: a value is not"),
        ({"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight is missing"),
        ({"num_hidden_layers": 1}, "tensor model.layers.1.input_layernorm.weight is none of this model's"),
        ({"intermediate_size": 50}, "tensor model.layers.0.mlp.gate_proj.weight is [48, 32], expected [50, 32]"),
    ],
)  # fmt: skip
def test_a_config_that_is_not_ours(change, message, place, tmp_path):
    shutil.copytree(place / "base", tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as error:
        open_pretrained(str(tmp_path / "base"))
    assert message in str(error.value)
    assert str(tmp_path / "base") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"model.norm.weight": t["model.norm.weight"].astype(np.int8)}), "tensor model.norm.weight has dtype I8"),
        (lambda t: t.pop("model.norm.weight"), "tensor model.norm.weight is missing"),
        (lambda t: t.update({"model.vision.weight": t["model.norm.weight"]}), "model.vision.weight is none of this model's"),
        (lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:-1].copy()}), "model.norm.weight is [31], expected [32]"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_the_models(change, message, place, tmp_path):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(place / "base", tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(UserError) as error:
        open_pretrained(str(tmp_path / "base"))
    assert message in str(error.value)
    assert str(tmp_path / "base") in str(error.value)
