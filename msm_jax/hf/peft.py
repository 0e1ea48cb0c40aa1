"""peft's LoRA adapters: adapter_config.json and adapter_model.safetensors, in and out."""

import math
from typing import Any

from etils import epath

from msm_jax import storage
from msm_jax.cli import UserError
from msm_jax.hf import weights
from msm_jax.hf.config import read_json
from msm_jax.hf.safetensors import Spec, Tensors
from msm_jax.model.config import LINEAR, ModelConfig
from msm_jax.model.lora import LoraConfig, adapter_table

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What an adapter_config.json may say without changing what the adapter computes. Whatever else is set in one is a
# variant of LoRA that this project does not have.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
_PLAIN: dict[str, tuple[Any, ...]] = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "eva")}


def is_adapter(directory: epath.PathLike) -> bool:
    return storage.is_file(storage.at(directory) / CONFIG)


def read_config(directory: epath.PathLike, tensors: Tensors) -> LoraConfig:
    """Rank and alpha from adapter_config.json, the targets from the tensors that are there.

    Raises:
      UserError: not LoRA, or a variant of it that this project does not have.
    """
    path = epath.Path(directory) / CONFIG
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {config.get('peft_type')!r}; only LORA is supported")
    for key, value in config.items():
        if key not in _HARMLESS and value and value not in _PLAIN.get(key, ()):
            raise UserError(f"{path}: {key} = {value!r} is not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"{path}: r = {rank!r} and lora_alpha = {alpha!r} must be numbers")
    names = tensors.names()
    targets = tuple(t for t in LINEAR if any(f".{_module(t)}.lora_A." in name for name in names))
    if not targets:
        raise UserError(f"{tensors.path}: no tensor of an adapter for {', '.join(map(_module, LINEAR))}")
    return LoraConfig(rank=rank, alpha=float(alpha), targets=targets)


def _module(target: str) -> str:
    """`q` → `q_proj`."""
    return LINEAR[target].hf.split(".")[-2]


def check(tensors: Tensors, cfg: ModelConfig, lora: LoraConfig) -> None:
    """Raises UserError where the adapter's tensors are not those of this base and rank."""
    weights.check(tensors, adapter_table(lora), lora.dims(cfg))


def adapter_config(lora: LoraConfig, base: str) -> dict[str, Any]:
    """As peft writes it; `base` is the model's name or directory, which peft only reports."""
    alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": alpha,
        "target_modules": [_module(target) for target in lora.targets],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def specs(adapter: dict[str, Any], cfg: ModelConfig, lora: LoraConfig, dtype: str | None = None) -> list[Spec]:
    """The adapter's tensors under peft's names."""
    return weights.specs(adapter, adapter_table(lora), lora.dims(cfg), dtype)
