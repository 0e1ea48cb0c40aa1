"""Our parameters as Hugging Face tensors: names and layouts come from the one parameter table."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from data_gen.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from msm_jax.cli import UserError
from msm_jax.model.config import ModelConfig, Param, param_table
from msm_jax.model.transformer import Params


def tensors(cfg: ModelConfig, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, float32 array) of every tensor; matrices become [out, in]."""
    for path, param in param_table(cfg).items():
        group, _, name = path.rpartition(".")
        array = np.asarray((params["layers"] if group else params)[name], np.float32)
        if group:
            yield from ((param.hf.format(layer), _to_hf(cfg, param, array[layer])) for layer in range(cfg.L))
        else:
            yield param.hf, _to_hf(cfg, param, array)


def _to_hf(cfg: ModelConfig, param: Param, array: np.ndarray) -> np.ndarray:
    if ">" not in param.dims:
        return array
    return np.ascontiguousarray(array.reshape(param.fan_in(cfg), -1).T)


def config_json(cfg: ModelConfig, max_positions: int) -> dict[str, Any]:
    """A transformers config: Qwen3 where queries and keys are normed, else Llama."""
    kind, architecture = ("qwen3", "Qwen3ForCausalLM") if cfg.qk_norm else ("llama", "LlamaForCausalLM")
    return {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": cfg.V,
        "hidden_size": cfg.D,
        "num_hidden_layers": cfg.L,
        "num_attention_heads": cfg.H,
        "num_key_value_heads": cfg.K,
        "head_dim": cfg.h,
        "intermediate_size": cfg.F,
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": cfg.rope_theta},
        "rope_theta": cfg.rope_theta,  # read by transformers before version 5
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": cfg.tie_embeddings,
        "attention_bias": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def hf_tokenizer(tokenizer: Tokenizer) -> HfTokenizer:
    """A whole-word sentencepiece model as a `tokenizers` one with the same ids.

    Raises:
      UserError: the model is not of whole words (another kind is exported with its own tokenizer.json).
    """
    pieces = [tokenizer.sp.id_to_piece(i) for i in range(tokenizer.vocab_size)]
    words = [piece for i, piece in enumerate(pieces) if i > PAD]
    if not all(word.startswith("▁") for word in words):
        raise UserError(f"{tokenizer.directory}: only whole-word sentencepiece models can be exported")
    vocab = {piece: i for i, piece in enumerate(pieces)}
    result = HfTokenizer(models.WordLevel(vocab, unk_token=pieces[UNK]))
    result.normalizer = normalizers.Replace("\n", " ")
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    result.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    result.add_special_tokens([pieces[i] for i in (UNK, BOS, EOS, PAD)])
    result.post_processor = processors.TemplateProcessing(
        single=f"{pieces[BOS]} $A", special_tokens=[(pieces[BOS], BOS)]
    )
    return result


def write(directory: Path, cfg: ModelConfig, params: Params, tokenizer: Tokenizer, max_positions: int) -> None:
    """model.safetensors, configs and tokenizer files, as transformers' `from_pretrained` reads them."""
    save_file(dict(tensors(cfg, params)), str(directory / "model.safetensors"), metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)
    special = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    files: dict[str, Any] = {
        "config.json": config_json(cfg, max_positions),
        "generation_config.json": special,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_positions,
        }
        | {
            f"{name}_token": tokenizer.sp.id_to_piece(i)
            for name, i in (("unk", UNK), ("bos", BOS), ("eos", EOS), ("pad", PAD))
        },
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=1))
    (directory / "chat_template.jinja").write_text(tokenizer.chat_format.jinja())
    hf_tokenizer(tokenizer).save(str(directory / "tokenizer.json"))
    tokenizer.copy_to(directory)
