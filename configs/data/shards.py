"""Documents or chats as packed rows, for a real model.

    python -m data_gen.shards --config=configs/data/shards.py --config.documents=documents.jsonl \\
        --config.tokenizer=Qwen3-8B --config.out=runs/shards
"""

from ml_collections import ConfigDict

from configs.data import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.update(
        {
            "out": "runs/shards",
            "seq_len": 4096,  # tokens in a row
            "packing": "best_fit",  # best_fit, none, concat_split or best_fit_split (fills 99%, cuts few documents)
            "long_documents": "split",  # a document longer than a row: error, or split into rows
            "rows_per_shard": 8_192,
            "workers": 0,  # processes for files from 64 MB on; 0: one a core; changes nothing in the result
        }
    )
    return config
