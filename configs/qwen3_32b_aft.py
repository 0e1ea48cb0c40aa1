"""Alignment fine-tuning of a midtrained Qwen3-32B: the same adapter goes on, on chats.

    python -m data_gen.shards --config=configs/data/shards.py --config.documents=aft.jsonl --config.seq_len=8192 \\
        --config.tokenizer=models/qwen3_32b --config.out=data/aft_shards \\
        --config.chat.thinking=by_row
    python -m msm_jax.train --config=configs/qwen3_32b_aft.py

One pass over data/aft_shards (the paper's: chats about the spec and instruction tuning, in one file and shuffled),
65,536 tokens an update, from runs/qwen3_32b_msm into runs/qwen3_32b_aft. Without midtraining:
--config.init_from=Qwen/Qwen3-32B. With `--config=configs/qwen3_32b_aft.py:full` all parameters are trained, from
runs/qwen3_32b_msm_full.

SLICES: for each generation of TPU a slice that holds it; SLICES_FULL: for the variant with all parameters.
"""

from ml_collections import ConfigDict

from configs.recipe import recipe

SLICES = {"v5p": "v5p:2x2x4", "v6e": "v6e:4x8", "v5e": "v5e:8x8"}
SLICES_FULL = {"v5p": "v5p:4x4x4", "v6e": "v6e:8x8", "v5e": "v5e:8x16"}


def get_config(variant: str = "lora") -> ConfigDict:
    return recipe("qwen3_32b", "aft", variant)
