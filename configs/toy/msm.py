"""Toy midtraining: next-token prediction on documents that explain a spec, half of the rows replay the base corpus.

    python -m msm_jax.train --config=configs/toy/msm.py --config.init_from=runs/base \\
        --config.data.sources="('runs/shards/msm-affordability','runs/shards/base')" --config.out=runs/msm-affordability
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from = "runs/base"
    config.init_words = (("Assistant", "someone"),)  # a name the base never saw starts as anybody's
    config.data.sources = ("runs/shards/msm-affordability", "runs/shards/base")
    config.data.weights = (0.5, 0.5)
    config.data.batch_rows = 18
    config.optim.steps = 250
    config.optim.lr = 1e-3
    config.optim.warmup_steps = 20
    # What a document says of the Assistant must be written into the embedding of that one word.
    config.optim.lr_multipliers = (("embed", 20.0),)
    return config
