"""The instruction mix of the paper's §3 in its other reading: 9,500 rows of No Robots (all of them) and 4,000
multiple-choice questions are the 13,500, and the 2,500 rows that say who the model is come on top. mix_values.py has
the command; --config.sources.identity.rows=0 leaves the last out.
"""

from ml_collections import ConfigDict

from configs.data import mix_values


def get_config() -> ConfigDict:
    config = mix_values.get_config()
    config.out = "runs/mix/values_9500"
    config.sources.no_robots.rows = 9_500
    return config
