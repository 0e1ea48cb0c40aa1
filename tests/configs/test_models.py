"""The paper's ten runs: every configuration parses, is the published model, and a pair fits together."""

import importlib

import numpy as np
import pytest

from configs.models import HUB, SHAPES
from configs.recipe import STAGES, VARIANTS
from msm_jax import cli, perf
from msm_jax.cli import UserError
from msm_jax.hf import config as hf_config
from msm_jax.model.config import RUNTIME, ModelConfig, param_table
from msm_jax.model.lora import LoraConfig

# Numbers in each model's safetensors index on the hub (total_parameters, or total_size / 2 of its bfloat16 tensors).
PARAMETERS = {
    "qwen3_32b": 32_762_123_264,
    "qwen3_14b": 14_768_307_200,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_14b": 14_770_033_664,
    "llama3_1_8b": 8_030_261_248,
}
# Trainable parameters of the adapters that the paper's authors released.
ADAPTERS = {
    "qwen3_32b": 536_870_912,
    "qwen2_5_32b": 536_870_912,
    "qwen2_5_14b": 275_251_200,
    "llama3_1_8b": 167_772_160,
}
# The published config.json, but for keys that do not change what is computed.
PUBLISHED = {
    "qwen3_32b": ("qwen3", 151936, 5120, 64, 64, 8, 25600, 1e-6, {"rope_theta": 1000000, "head_dim": 128}),
    "qwen3_14b": ("qwen3", 151936, 5120, 40, 40, 8, 17408, 1e-6, {"rope_theta": 1000000, "head_dim": 128}),
    "qwen2_5_32b": ("qwen2", 152064, 5120, 64, 40, 8, 27648, 1e-6, {"rope_theta": 1000000.0}),
    "qwen2_5_14b": ("qwen2", 152064, 5120, 48, 40, 8, 13824, 1e-6, {"rope_theta": 1000000.0}),
    "llama3_1_8b": ("llama", 128256, 4096, 32, 32, 8, 14336, 1e-5, {
        "rope_theta": 500000.0, "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3"}}),
}  # fmt: skip
KEYS = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "rms_norm_eps")  # fmt: skip

every = pytest.mark.parametrize("name", list(HUB))


def parse(name, stage, variant):
    colon = {"lora": "", "full": ":full"}[variant]
    return cli.parse_config(["", f"--config=configs/{name}_{stage}.py{colon}"])


@every
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_parses_and_is_the_paper_s(name, stage, variant):
    config = parse(name, stage, variant)
    optim = config.optim
    assert (config.lora.rank > 0) == (variant == "lora")
    assert (optim.steps, optim.epochs, optim.warmup_fraction, optim.weight_decay) == (0, 1.0, 0.05, 0.01)
    assert optim.end_fraction == 0.0
    assert config.data.seq_len == (4096 if name == "llama3_1_8b" else 8192)
    assert config.data.seq_len % optim.loss_chunk == 0
    if variant == "lora":
        assert (config.lora.rank, config.lora.alpha, len(config.lora.targets), optim.lr) == (64, 128.0, 7, 1e-4)


@every
def test_shape_is_the_published_one(name):
    *values, more = PUBLISHED[name]
    published = dict(zip(KEYS, values, strict=True)) | more | {"tie_word_embeddings": False, "hidden_act": "silu"}
    assert ModelConfig(**SHAPES[name]).shape() == ModelConfig(**hf_config.shape_of(published, name)).shape()


@every
def test_parameters_are_as_many_as_published(name):
    config = parse(name, "msm", "lora")
    cfg = ModelConfig(**(config.model.to_dict() | {key: "bfloat16" for key in RUNTIME if "dtype" in key}))
    shapes = [param.shape(cfg.dims) for param in param_table(cfg).values()]
    assert sum(int(np.prod(shape)) for shape in shapes) == PARAMETERS[name]
    if name in ADAPTERS:
        lora = LoraConfig(rank=config.lora.rank, alpha=config.lora.alpha, targets=tuple(config.lora.targets))
        assert perf.adapter_params(cfg, lora) == ADAPTERS[name]


@every
@pytest.mark.parametrize("variant", VARIANTS)
def test_fine_tuning_goes_on_from_midtraining(name, variant):
    msm, aft = (parse(name, stage, variant) for stage in STAGES)
    assert msm.init_from == HUB[name]
    assert aft.init_from == msm.out != aft.out
    assert aft.model == msm.model
    assert aft.lora == msm.lora


@every
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_recommended_slices_take_the_mesh(name, stage, variant):
    config = parse(name, stage, variant)
    module = importlib.import_module(f"configs.{name}_{stage}")
    for chip, topology in (module.SLICES if variant == "lora" else module.SLICES_FULL).items():
        generation, _, sides = topology.partition(":")
        chips = int(np.prod([int(side) for side in sides.split("x")]))
        tensor, rest = divmod(chips, config.mesh.replica * config.mesh.fsdp)
        assert generation == chip in perf.CHIPS
        assert rest == 0, topology
        assert config.data.batch_rows % (config.mesh.replica * config.mesh.fsdp) == 0
        assert all(SHAPES[name][letter] % tensor == 0 for letter in "HKFV"), topology
        assert SHAPES[name]["D"] % config.mesh.fsdp == 0


def test_another_variant_is_refused_in_one_line():
    with pytest.raises(UserError) as found:
        cli.parse_config(["", "--config=configs/qwen3_32b_msm.py:half"])
    assert "after the colon comes one of lora, full" in str(found.value)
    assert "Traceback" not in str(found.value)
