"""A model as a Hugging Face directory or a peft adapter.

python -m msm_jax.export --config=configs/export.py --config.model=runs/aft --config.out=runs/aft-hf
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "out": "runs/hf",
            "model": "runs/base",  # a run, or anything config.init_from of a run takes
            "base": "",  # where the base of its adapter is now, if it was moved
            "format": "model",  # model: adapter merged; adapter: by itself, for peft and vLLM
            "dtype": "",  # of the tensors: float32, bfloat16; empty: as the model is kept
            "shard_gb": 5.0,  # most a safetensors file may hold, in 10⁹ bytes
            "max_positions": 64,  # only for models trained from scratch: what their config.json says
        }
    )
