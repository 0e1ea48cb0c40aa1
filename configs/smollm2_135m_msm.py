"""Midtraining SmolLM2-135M-Instruct by LoRA: small enough for a laptop's CPU, and the same program as for 32B.

    make smollm2      # or, by hand: README.md, "A real model"
    python -m msm_jax.train --config=configs/smollm2_135m_msm.py \\
        --config.data.sources="('runs/smollm2/msm-rows',)" --config.out=runs/smollm2/msm

40 updates of 1,024 tokens, on whatever devices JAX finds: in float32 on a CPU, in bfloat16 on accelerators (there raise
config.data.batch_rows and config.optim.steps).
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.pretrained("models/smollm2-135m")
    config.lora.rank = 64  # rank, alpha and the seven targets are the paper's
    config.lora.alpha = 128.0
    config.data.sources = ("runs/smollm2/msm-rows",)
    config.data.batch_rows = 4
    config.optim.steps = 40
    config.optim.lr = 2e-4  # the paper's 1e-4 is for 8B to 32B
    config.optim.warmup_steps = 2  # 5%
    config.optim.end_fraction = 0.0
    config.optim.b2 = 0.999
    config.optim.weight_decay = 0.01
    config.optim.loss_chunk = 64
    config.checkpoint.every_steps = 20
    config.log.every_steps = 1
    return config
