"""Midtraining Llama-3.1-8B on documents about a Model Spec, by LoRA.

    python -m data_gen.shards --config=configs/data/shards.py --config.documents=msm.jsonl --config.seq_len=4096 \\
        --config.tokenizer=models/llama3_1_8b --config.out=data/msm_shards
    python -m msm_jax.train --config=configs/llama3_1_8b_msm.py

One pass over data/msm_shards, 32,768 tokens an update, into runs/llama3_1_8b_msm. config.init_from is the model's name
on the hub; a directory or a gs:// address does as well. With `--config=configs/llama3_1_8b_msm.py:full` all parameters
are trained, into runs/llama3_1_8b_msm_full.

SLICES: for each generation of TPU a slice that holds it; SLICES_FULL: for the variant with all parameters.
"""

from ml_collections import ConfigDict

from configs.recipe import recipe

SLICES = {"v5p": "v5p:2x2x2", "v6e": "v6e:2x4", "v5e": "v5e:4x4"}
SLICES_FULL = {"v5p": "v5p:2x2x4", "v6e": "v6e:4x8", "v5e": "v5e:8x8"}


def get_config(variant: str = "lora") -> ConfigDict:
    return recipe("llama3_1_8b", "msm", variant)
