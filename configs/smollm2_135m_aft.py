"""Alignment fine-tuning of a midtrained SmolLM2-135M-Instruct: the same adapter goes on, on chats.

    python -m msm_jax.train --config=configs/smollm2_135m_aft.py --config.init_from=runs/smollm2/msm \\
        --config.data.sources="('runs/smollm2/aft-rows',)" --config.out=runs/smollm2/aft

20 updates of 1,024 tokens.
"""

from ml_collections import ConfigDict

from configs import smollm2_135m_msm


def get_config() -> ConfigDict:
    config = smollm2_135m_msm.get_config()
    config.init_from = "runs/smollm2/msm"
    config.data.sources = ("runs/smollm2/aft-rows",)
    config.optim.steps = 20
    config.optim.warmup_steps = 1
    return config
