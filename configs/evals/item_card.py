"""The data card of the value items: counts, balance, what their surface gives away, and every rule that they break.

python -m evals.values.card --config=configs/evals/item_card.py
python -m evals.values.card --config=configs/evals/item_card.py --config.out=evals/items/README.md
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "directory": "",  # of value_*.jsonl; empty: evals/items
            "specs": "specs",  # directory of the specs whose words the items must not share
            "names": (),  # values; empty: every one that has a file there
            "out": "",  # file to write; empty: printed
        }
    )
