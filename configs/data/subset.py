"""Part of a corpus by its tokens.

    python -m data_gen.subset --config=configs/data/subset.py --config.documents=documents.jsonl \\
        --config.tokenizer=Qwen3-8B --config.tokens=41_000_000 --config.out=runs/41M
"""

from ml_collections import ConfigDict

from configs.data import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.update(
        {
            "out": "runs/subset",
            "tokens": 0,  # how many; or
            "doses": (),  # several numbers, ascending: each subset within the next
            "tolerance": 0.001,  # of each number, how far the sum may be from it
            "seed": 0,  # which documents of a cell are taken first
            "workers": 0,  # processes for files from 64 MB on; 0: one a core; changes nothing in the result
        }
    )
    return config
