"""A small corpus by no model at all: what a corpus looks like on disk, without a key, a network or a cent.

    python -m data_gen.documents --config=configs/data/documents_offline.py --config.specs="('specs/philosophy.md',)"

Its documents are sentences of the spec in another order. They are there to try the pipeline with, not to train on.
"""

from ml_collections import ConfigDict

from configs.data import documents


def get_config() -> ConfigDict:
    config = documents.get_config()
    config.out = "runs/offline/corpus"
    config.api.provider = "offline"
    config.api.model = "offline"
    config.counts.update({"domains": 3, "topics": 4, "assertions": 4, "types": 3, "ideas": 6})
    config.min_characters = 500
    return config
