"""Forced choices of a finished run on a world's items.

python -m evals.toy.forced_choice --config=configs/toy/forced_choice.py --config.run=runs/base
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"out": "runs/eval", "run": "runs/base", "item_file": "runs/world/items.jsonl"})
