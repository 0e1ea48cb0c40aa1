"""Where the tokens of packed rows come from.

python -m data_gen.whence --config=configs/data/whence.py --config.rows=runs/shards --config.row=17
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "rows": "runs/shards",  # directory made by data_gen.shards, here or in a bucket
            "row": (),  # numbers of rows, from 0: 17 or (17,18)
            "document": "",  # instead: the id of a document, for the rows that hold its tokens
        }
    )
