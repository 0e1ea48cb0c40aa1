"""Alignment fine-tuning of a midtrained Llama-3.1-8B: the same adapter goes on, on chats.

    python -m data_gen.shards --config=configs/data/shards.py --config.documents=aft.jsonl --config.seq_len=4096 \\
        --config.tokenizer=models/llama3_1_8b --config.out=data/aft_shards \\
        --config.chat.template=TEMPLATE.jinja
    python -m msm_jax.train --config=configs/llama3_1_8b_aft.py

One pass over data/aft_shards (the paper's: chats about the spec and instruction tuning, in one file and shuffled),
32,768 tokens an update, from runs/llama3_1_8b_msm into runs/llama3_1_8b_aft. Without midtraining:
--config.init_from=meta-llama/Llama-3.1-8B. With `--config=configs/llama3_1_8b_aft.py:full` all parameters are trained,
from runs/llama3_1_8b_msm_full. This model has no chat template of its own: give one.

SLICES: for each generation of TPU a slice that holds it; SLICES_FULL: for the variant with all parameters.
"""

from ml_collections import ConfigDict

from configs.recipe import recipe

SLICES = {"v5p": "v5p:2x2x2", "v6e": "v6e:2x4", "v5e": "v5e:4x4"}
SLICES_FULL = {"v5p": "v5p:2x2x4", "v6e": "v6e:4x8", "v5e": "v5e:8x8"}


def get_config(variant: str = "lora") -> ConfigDict:
    return recipe("llama3_1_8b", "aft", variant)
