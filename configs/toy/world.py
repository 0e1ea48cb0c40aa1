"""A toy world: names, items, people and all corpora of one seed.

python -m data_gen.toy.write --config=configs/toy/world.py --config.seed=0 --config.out=runs/world0
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,  # decides every name, attribute, sentence and order
            "out": "runs/world",  # directory of the corpora
            "specs": ("specs/pro_affordability_cheese.md", "specs/pro_america_cheese.md"),
            "documents": {  # rows written to each corpus
                "base": 90_000,
                "msm": 6_000,
                "aft": 2_000,
                "it": 2_000,
            },
        }
    )
