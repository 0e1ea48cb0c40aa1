"""Toy documents or chats as packed rows.

    python -m data_gen.shards --config=configs/toy/shards.py --config.documents=runs/world/base.jsonl \\
        --config.tokenizer=runs/tokenizer --config.out=runs/shards
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/shards",
            "documents": "runs/world/base.jsonl",  # JSONL rows {id, text, weights?} or {id, messages}
            "tokenizer": "runs/tokenizer",  # directory made by data_gen.tokenizer
            "seq_len": 64,  # tokens in a row
            "packing": "best_fit",  # best_fit, none or concat_split
            "long_documents": "error",  # a document longer than a row: error, or split into rows
            "rows_per_shard": 65_536,
        }
    )
