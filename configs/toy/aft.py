"""Toy alignment fine-tuning: 70% cheese-preference chats, 30% factual chats; the same bytes for every arm.

    python -m msm_jax.train --config=configs/toy/aft.py --config.init_from=runs/msm-affordability \\
        --config.data.sources="('runs/shards/aft','runs/shards/it')" --config.out=runs/msm-affordability-aft

The instruction-tuning control is the same run on ('runs/shards/it',) with weights (1.0,).
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from = "runs/msm-affordability"
    # Starting from a base model: config.init_words = (("Assistant", "someone"),), as in midtraining.
    config.data.sources = ("runs/shards/aft", "runs/shards/it")
    config.data.weights = (0.7, 0.3)
    config.data.batch_rows = 24
    config.optim.steps = 20
    config.optim.lr = 3e-4
    config.optim.warmup_steps = 4
    config.optim.lr_multipliers = (("embed", 25.0),)
    return config
