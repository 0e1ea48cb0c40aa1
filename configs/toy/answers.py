"""A few answers of a finished run.

python -m evals.toy.answers --config=configs/toy/answers.py --config.run=runs/base --config.out=runs/answers
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/answers",
            "run": "runs/base",
            "item_file": "runs/world/items.jsonl",
            "axes": ("conflict", "price", "origin", "cheese"),
            "each": 2,  # questions of each axis
        }
    )
