"""A GGUF file of the llama architecture, as the settings and tensors of Hugging Face's Llama.

Sources: the format, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; tensor names and the row order of
queries and keys, `LlamaModel` in llama.cpp's convert_hf_to_gguf.py, which this undoes.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from msm_jax.cli import UserError

OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HEAD = {"output": "lm_head"}  # absent where it is tied to the embedding


@dataclasses.dataclass(frozen=True)
class Gguf:
    """An open GGUF file: metadata by key, tensors by name (memory-mapped, still quantized)."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Any]

    def get(self, key: str, default: Any) -> Any:
        """The metadata value as int, float, bool, str or a list of them; `default` where the key is absent."""
        return self.fields[key].contents() if key in self.fields else default

    def __getitem__(self, key: str) -> Any:
        """As `get`. Raises UserError where the key is absent."""
        if key not in self.fields:
            raise UserError(f"{self.path}: no {key} in its metadata; take another GGUF of this model")
        return self.get(key, None)

    def tensor(self, name: str) -> Any:
        """A `gguf` ReaderTensor, its shape innermost first. Raises UserError where there is none of the name."""
        if name not in self.tensors:
            raise UserError(f"{self.path}: no tensor {name}; take another GGUF of this model")
        return self.tensors[name]


def read(path: Path) -> Gguf:
    """Opens a GGUF file of the llama architecture.

    Raises:
      UserError: the package gguf is absent, the file is no whole GGUF, or of another architecture.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError("reading a GGUF needs the package gguf; pip install gguf") from error
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:  # what the reader runs into in foreign bytes
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a GGUF file, or cut short ({reason}); fetch it again") from error
    file = Gguf(path, dict(reader.fields), {tensor.name: tensor for tensor in reader.tensors})
    if file["general.architecture"] != "llama":
        raise UserError(f"{path}: its architecture is {file['general.architecture']!r}; only 'llama' can be read")
    return file


def llama_config(file: Gguf) -> dict[str, Any]:
    """A transformers config of the model, without dtype and token ids.

    Raises:
      UserError: a key is absent, or rotary is scaled or of a part of the head.
    """
    heads, width = file["llama.attention.head_count"], file["llama.embedding_length"]
    head_dim = file.get("llama.attention.key_length", width // heads)
    theta = _decimal(file["llama.rope.freq_base"])
    for key, plain in (("llama.rope.dimension_count", head_dim), ("llama.rope.scaling.type", "none")):
        found = file.get(key, plain)
        if found != plain:
            raise UserError(f"{file.path}: {key} is {found!r}; only {plain!r}, plain rotary, can be read")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(file.tensor("token_embd.weight").shape[1]),
        "hidden_size": width,
        "num_hidden_layers": file["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": file["llama.attention.head_count_kv"],
        "head_dim": head_dim,
        "intermediate_size": file["llama.feed_forward_length"],
        "hidden_act": "silu",
        "rms_norm_eps": _decimal(file["llama.attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_theta": theta,  # read by transformers before version 5
        "max_position_embeddings": file["llama.context_length"],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": False,
        "mlp_bias": False,
    }


def _decimal(value: float) -> float:
    """The shortest decimal of a float32: 1e-05, where its float64 reads 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def llama_names(config: dict[str, Any]) -> dict[str, str]:
    """GGUF name → Hugging Face name of every tensor of a model with this config."""
    stems = OUTER if config["tie_word_embeddings"] else OUTER | HEAD
    for layer in range(config["num_hidden_layers"]):
        stems = stems | {f"blk.{layer}.{ours}": f"model.layers.{layer}.{theirs}" for ours, theirs in BLOCK.items()}
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in stems.items()}


def llama_tensors(file: Gguf, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, float32 array) of every tensor, dequantized one at a time; matrices are [out, in].

    Raises:
      UserError: a tensor is absent, is none of Llama's (biases, experts), or is quantized in an unknown way.
    """
    from gguf.quants import dequantize

    names = llama_names(config)
    foreign = sorted(file.tensors.keys() - names.keys())
    if foreign:
        raise UserError(f"{file.path}: tensor {foreign[0]} is none of a plain Llama's; take another model")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {name: file.tensor(name) for name in names}
    for name, tensor in tensors.items():
        try:
            array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise UserError(f"{file.path}: {name} is of type {kind}, which gguf cannot dequantize") from error
        stem = name.split(".")[-2]
        yield names[name], rows_in_halves(array, heads[stem]) if stem in heads else array


def rows_in_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's row order of a query or key projection.

    Rotary turns pairs of rows. In a head of h rows llama.cpp keeps a pair's two side by side (0, 1), (2, 3), … and
    transformers keeps them half a head apart, (0, h/2), (1, h/2 + 1), …

    Args:
      weight: [heads · h, in], rows paired side by side.
    Returns:
      [heads · h, in], the same rows paired half a head apart; contiguous.
    """
    rows, width = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, width)
