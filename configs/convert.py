"""A Hugging Face directory as a checkpoint of ours.

python -m msm_jax.convert --config=configs/convert.py --config.model=Qwen3-32B --config.out=models/qwen3-32b
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "models/base",
            "model": "Qwen3-32B",  # a directory (local or gs://) or a hub name
            "dtype": "",  # of the checkpoint: float32, bfloat16; empty: as the model is kept
        }
    )
