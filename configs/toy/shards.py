"""Toy documents or chats as packed rows.

    python -m data_gen.shards --config=configs/toy/shards.py --config.documents=runs/world/base.jsonl \\
        --config.tokenizer=runs/tokenizer --config.out=runs/shards
"""

from ml_collections import ConfigDict

from configs.data import shards


def get_config() -> ConfigDict:
    config = shards.get_config()
    config.documents = "runs/world/base.jsonl"
    config.tokenizer = "runs/tokenizer"
    config.seq_len = 64
    config.long_documents = "error"
    config.rows_per_shard = 65_536
    return config
