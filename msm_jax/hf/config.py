"""config.json ↔ ModelConfig: what of a Hugging Face config this decoder can be, and an error for the rest."""

import json
from pathlib import Path
from typing import Any

from etils import epath

from msm_jax import storage
from msm_jax.cli import UserError
from msm_jax.model import rope
from msm_jax.model.config import LETTERS, ModelConfig

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Raises UserError where there is no such file or it holds no JSON object."""
    path = storage.at(path)
    try:
        text = storage.read_text(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; is {path.parent} a whole Hugging Face directory?") from error
    except (IsADirectoryError, NotADirectoryError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); copy it again") from error
    return parse_json(str(path), text)


def parse_json(where: str, text: str) -> dict[str, Any]:
    """Raises UserError where the text is no JSON object; `where` is for messages."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not readable as JSON ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: not a JSON object; copy it again")
    return found


def shape_of(config: dict[str, Any], path: epath.PathLike) -> dict[str, Any]:
    """ModelConfig's shape fields, from the keys of transformers 5 or the older ones; `path` is for messages.

    Raises:
      UserError: naming the key that is missing or asks for what this decoder does not have.
    """
    try:
        shape = _shape_of(config, path)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: a value is not of the kind its key has ({error}); copy it again") from error
    for letter in LETTERS:
        if not isinstance(shape[letter], int) or shape[letter] < 1:
            raise UserError(f"{path}: a dimension is {shape[letter]!r} ({letter}); must be a whole number above 0")
    return shape


def _shape_of(config: dict[str, Any], path: epath.PathLike) -> dict[str, Any]:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{path}: model_type {family!r} is not supported; one of {', '.join(FAMILIES)}")

    def key(name: str, *default: Any) -> Any:
        if config.get(name) is not None:
            return config[name]
        if default:
            return default[0]
        raise UserError(f"{path}: has no {name!r}; copy it again")

    refuse = {
        "hidden_act": key("hidden_act", "silu") != "silu",
        "attention_bias": family != "qwen2" and bool(key("attention_bias", False)),
        "mlp_bias": bool(key("mlp_bias", False)),
        "quantization_config": key("quantization_config", None) is not None,
        "use_sliding_window": _slides(config),
        "partial_rotary_factor": key("partial_rotary_factor", 1.0) != 1.0,
    }
    for name, refused in refuse.items():
        if refused:
            raise UserError(f"{path}: {name} = {config.get(name)!r} is not supported")
    theta, scaling = _rope(config, path)
    heads = key("num_attention_heads")
    return {
        "V": key("vocab_size"),
        "D": key("hidden_size"),
        "L": key("num_hidden_layers"),
        "H": heads,
        "K": key("num_key_value_heads", heads),
        "h": key("head_dim", 128 if family == "qwen3" else key("hidden_size") // heads),
        "F": key("intermediate_size"),
        "rope_theta": theta,
        "rope_scaling": tuple(sorted(scaling.items())),
        "norm_eps": key("rms_norm_eps", 1e-6),
        "qk_norm": family == "qwen3",
        "qkv_bias": family == "qwen2",
        "tie_embeddings": bool(key("tie_word_embeddings", False)),
    }


def _slides(config: dict[str, Any]) -> bool:
    """Is a sliding window in use? Qwen configs carry its width also where it is not."""
    if config.get("layer_types") is not None:
        return set(config["layer_types"]) != {"full_attention"}
    windowed = config.get("use_sliding_window", False) and config.get("sliding_window") is not None
    return bool(windowed and config.get("max_window_layers", 0) < config.get("num_hidden_layers", 0))


def _rope(config: dict[str, Any], path: epath.PathLike) -> tuple[float, dict[str, Any]]:
    """θ, and the scaling under today's names ({} where plain)."""
    new = config.get("rope_parameters")
    given = dict(new or config.get("rope_scaling") or {})
    theta = given.pop("rope_theta", config.get("rope_theta") or 10_000.0)
    legacy = given.pop("type", "default")
    kind = given.setdefault("rope_type", legacy)
    if given.pop("partial_rotary_factor", 1.0) not in (None, 1.0):
        raise UserError(f"{path}: partial_rotary_factor is not supported")
    if kind in ("llama3", "yarn"):
        given.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    scaling = {name: value for name, value in given.items() if value is not None}
    rope.check(scaling, f"{path}: {'rope_parameters' if new else 'rope_scaling'}")
    return float(theta), {} if kind == "default" else scaling


def config_json(cfg: ModelConfig, special: dict[str, int], max_positions: int) -> dict[str, Any]:
    """A transformers config of a model that was not imported; `special` are its bos/eos/pad ids."""
    family = "qwen3" if cfg.qk_norm else "qwen2" if cfg.qkv_bias else "llama"
    if family == "qwen2" and cfg.h * cfg.H != cfg.D:
        raise UserError(f"config.model.h = {cfg.h}: Hugging Face's Qwen2 has D / H = {cfg.D}/{cfg.H}")
    return {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "vocab_size": cfg.V,
        "hidden_size": cfg.D,
        "num_hidden_layers": cfg.L,
        "num_attention_heads": cfg.H,
        "num_key_value_heads": cfg.K,
        "head_dim": cfg.h,
        "intermediate_size": cfg.F,
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": cfg.rope_theta} | dict(cfg.rope_scaling),
        "rope_theta": cfg.rope_theta,  # this and the next are read by transformers before version 5
        "rope_scaling": dict(cfg.rope_scaling) or None,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": cfg.tie_embeddings,
        "attention_bias": cfg.qkv_bias,
        "use_sliding_window": False,
        **special,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The same config for weights of another dtype, under whichever of the two keys it has."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return config | dict.fromkeys(keys, dtype)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
