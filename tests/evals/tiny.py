"""A tiny random Qwen3 with bytes for a vocabulary and a chat template that knows thinking: a real Hugging Face
directory, made once a process."""

import functools
import json
import tempfile
from pathlib import Path
from unittest import mock

import jax
import pytest

from evals.provider import MsmAPI
from msm_jax.mesh import make_mesh
from tests.real_tokenizers import QWEN3, write

CONTEXT, V = 256, 272
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
_root = tempfile.TemporaryDirectory(prefix="msm_jax_tiny_")


@functools.cache
def torch_model():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.Qwen3Config(
        vocab_size=V, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(7)
    model = transformers.Qwen3ForCausalLM._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm" in name))
    return model.float().eval()


def write_tokenizer(directory, template=QWEN3):
    """Every byte is a token; Qwen's control tokens; <think> as Qwen3 has it, an added token that is not special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    backend = Tokenizer(models.BPE({letter: byte for byte, letter in bytes_to_unicode().items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK])
    return write(directory, backend, template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


@functools.cache
def directory(template=QWEN3) -> Path:
    out = write_tokenizer(Path(_root.name) / f"model{len(list(Path(_root.name).iterdir()))}", template)
    torch_model().save_pretrained(out)
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": [258]}))
    return out


@functools.cache
def api() -> MsmAPI:
    """The provider on it, without thoughts; two rows at a time."""
    with one_device():
        return MsmAPI(str(directory()), thinking="no_think", batch=2)


def sharing(other: MsmAPI) -> MsmAPI:
    """Another provider of the same weights, whose requests go the same way, so that nothing is compiled twice."""
    other.served._batcher.close()
    other.served._batcher = api().served._batcher
    return other


def one_device():
    """For models opened inside. That rows may be spread over devices is the sampler's own tests' to show."""
    mesh = functools.partial(make_mesh, devices=jax.devices()[:1])
    return mock.patch("msm_jax.pretrained.make_mesh", mesh)
