"""Are items of the evaluations in training data? By word n-grams, as a gate.

python -m evals.contamination --config=configs/evals/contamination.py --config.data=runs/shards
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": "runs/shards",  # packed rows, or a JSONL file of documents or chats; here or in a bucket
            "out": "runs/contamination",
            "directory": "",  # directory of JSONL items; empty: evals/items
            "tasks": ("agentic_misalignment",),  # tasks of evals/_registry.py whose prompts, as rendered, count too
            "ngram": 8,  # words that an item and a text must not share; a shorter text of an item counts as a whole
            "allowed": 0,  # items that may be hit before the gate fails
        }
    )
