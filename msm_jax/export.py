"""Writes a model as transformers, peft and vLLM load it: a Hugging Face directory, or an adapter.

    python -m msm_jax.export --config=configs/export.py --config.model=runs/aft --config.out=runs/aft-hf

A LoRA run's adapter is merged into the parameters in float32 on the way, or with --config.format=adapter written by
itself. The model is read onto the devices; from there tensors go to disk one by one, and to a bucket file by file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from etils import epath

from data_gen.tokenizer import Tokenizer
from msm_jax import artifact, cli
from msm_jax.cli import UserError
from msm_jax.hf import config as hf_config
from msm_jax.hf import peft, safetensors, weights
from msm_jax.hf import tokenizer as hf_tokenizer
from msm_jax.mesh import make_mesh
from msm_jax.model.config import ModelConfig, param_table
from msm_jax.model.transformer import Params
from msm_jax.pretrained import Pretrained, inputs_of, open_pretrained

FORMATS = ("model", "adapter")
DTYPES = ("", "float32", "bfloat16")


Done = Callable[[epath.Path], None]  # hears of every file when it is written, and may take it away


def write_model(
    out: Path, source: Pretrained, cfg: ModelConfig, dtype: str, shard_bytes: int, done: Done | None = None
) -> None:
    """model*.safetensors with the adapter merged; call under a mesh."""
    write_params(out, source, cfg, source.params(cfg), source.adapter(cfg), dtype, shard_bytes, done)


def write_params(
    out: Path,
    source: Pretrained,
    cfg: ModelConfig,
    params: Params,
    adapter: Params,
    dtype: str,
    shard_bytes: int,
    done: Done | None = None,
) -> None:
    """The same of arrays that are there already."""
    tensors = weights.specs(params, param_table(cfg), cfg.dims, dtype, adapter, source.lora)
    safetensors.write(out, tensors, shard_bytes, progress=_progress(tensors), done=done)


def write_adapter(out: Path, source: Pretrained, cfg: ModelConfig, dtype: str) -> None:
    """adapter_model.safetensors and adapter_config.json; call under a mesh."""
    assert source.lora is not None
    tensors = peft.specs(source.adapter(cfg), cfg, source.lora, dtype)
    safetensors.write(out, tensors, name="adapter_model", progress=_progress(tensors))
    hf_config.write_json(out / peft.CONFIG, peft.adapter_config(source.lora, source.base.published))


def _progress(tensors: list[safetensors.Spec]) -> cli.Progress:
    return cli.Progress("writing tensors", sum(spec.nbytes for spec in tensors), "GB")


def model_files(source: Pretrained, cfg: ModelConfig, dtype: str, max_positions: int) -> dict[str, dict[str, Any]]:
    """config.json and generation_config.json: an imported model's own, else made from its shape."""
    files = {name: hf_config.parse_json(name, text) for name, text in source.hf_files().items()}
    if not files:
        tokenizer = source.tokenizer()
        ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
        special = {name: token for name, token in ids.items() if token is not None}
        files = {
            "config.json": hf_config.config_json(cfg, special, max_positions),
            "generation_config.json": special,
        }
    return files | {"config.json": hf_config.with_dtype(files["config.json"], dtype)}


def main(argv: list[str]) -> None:
    config = cli.parse_config(argv)
    if config.format not in FORMATS:
        raise UserError(f"config.format = {config.format!r}: one of {', '.join(FORMATS)}")
    if config.dtype not in DTYPES:
        raise UserError(f"config.dtype = {config.dtype!r}: float32, bfloat16, or empty for the model's own")
    if not 0 < config.shard_gb < float("inf"):
        raise UserError(f"config.shard_gb = {config.shard_gb}: must be above 0")
    source = open_pretrained(config.model, base=config.base)
    if config.format == "adapter" and source.lora is None:
        raise UserError(f"{config.model}: has no adapter; export it with --config.format=model")
    settings = {key: config[key] for key in ("format", "dtype", "shard_gb", "max_positions")}
    tokenizer = source.tokenizer()
    job = artifact.begin(config.out, "hf", settings, inputs_of(source, tokenizer))
    if job is None:
        return
    kept = source.lora.dtype if source.lora and config.format == "adapter" else source.stored_dtype
    dtype = config.dtype or kept
    cfg = ModelConfig(**source.shape, param_dtype=source.stored_dtype)
    with job, jax.sharding.set_mesh(make_mesh()):
        if isinstance(tokenizer, Tokenizer):
            hf_tokenizer.write(job.tmp, tokenizer, config.max_positions)
        else:
            tokenizer.copy_to(job.tmp)
        if config.format == "model":
            for name, content in model_files(source, cfg, dtype, config.max_positions).items():
                hf_config.write_json(job.tmp / name, content)
            write_model(job.tmp, source, cfg, dtype, int(config.shard_gb * 1e9), job.done)
        else:
            write_adapter(job.tmp, source, cfg, dtype)
        job.finish(format=config.format, dtype=dtype)
    cli.note(f"{config.out}: written")


if __name__ == "__main__":
    cli.entry(main)
