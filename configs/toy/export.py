"""A finished run as a Hugging Face directory.

python -m msm_jax.export --config=configs/toy/export.py --config.run=runs/base --config.out=runs/base-hf
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"out": "runs/hf", "run": "runs/base", "max_positions": 64})
