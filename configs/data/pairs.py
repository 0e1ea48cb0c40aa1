"""Two corpora from one plan made equal.

    python -m data_gen.pairs --config=configs/data/pairs.py --config.documents="('a.jsonl', 'b.jsonl')" \\
        --config.tokenizer=Qwen3-8B --config.out=runs/pair
"""

from ml_collections import ConfigDict

from configs.data import common


def get_config() -> ConfigDict:
    config = common.get_config()
    del config.documents
    config.update(
        {
            "documents": ("a.jsonl", "b.jsonl"),  # ids SPEC-IDEA, one spec each, ideas of one plan
            "out": "runs/pair",
            "tolerance": 0.005,  # by what part of the larger the sums of tokens may differ
            "most_dropped": 0.1,  # what part of the pairs may go for it
            "workers": 0,  # processes for files from 64 MB on; 0: one a core; changes nothing in the result
        }
    )
    return config
