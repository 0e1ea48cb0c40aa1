"""The toy base model: a 180k-parameter language model of the base corpus, from scratch.

    python -m msm_jax.train --config=configs/toy/base.py --config.data.sources="('runs/shards/base',)" \\
        --config.out=runs/base
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.data.batch_rows = 36
    config.optim.steps = 1400
    config.optim.lr = 5e-3
    config.optim.weight_decay = 0.05
    config.checkpoint.every_steps = 200
    return config
