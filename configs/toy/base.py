"""The toy base model: a 180k-parameter language model of the base corpus, from scratch.

    python -m msm_jax.train --config=configs/toy/base.py --config.data.sources="('runs/shards/base',)" \\
        --config.out=runs/base
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.data.batch_rows = 18
    config.optim.steps = 2200
    config.optim.lr = 2e-3
    config.optim.end_fraction = 0.01
    config.optim.weight_decay = 0.00625
    # What an item or a person is must be written into one word's embedding: much faster at a higher rate.
    config.optim.lr_multipliers = (("embed", 8.0),)
    config.checkpoint.every_steps = 200
    return config
